"""The way back: from a prepared case to the original fixed scan's grid, and to Hounsfield units."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modalign.cases import Case, Intensity, load_case
from modalign.errors import ConfigError, DataError
from modalign.files import check_writable
from modalign.preprocess import maps
from modalign.preprocess.elastic import grid_of
from modalign.preprocess.sampling import sample_at, sample_vectors
from modalign.spatial.fields import field_from_mm, field_to_mm, read_itk_field, write_itk_field
from modalign.volumes import Grid, Volume, apply_affine, read_volume, write_volume


def restore_files(case_folder: Path, out: Path, image: Path | None = None, field: Path | None = None) -> None:
    """Write an alignment of a prepared case as it is between the ORIGINAL scans.

    Args:
        case_folder: a case of a case store, with ``case.json`` and ``fixed.nii.gz``.
        out: folder for ``image.nii.gz`` (HU, or the moving scan's own units) and ``field.nii.gz`` (ITK displacement
            field, LPS mm), both on the original fixed grid.
        image: an aligned image on the prepared fixed grid.
        field: the ITK displacement field of an alignment, on that grid.

    Raises:
        ConfigError: neither image nor field is given.
        DataError: a file is missing, or doesn't lie on the prepared fixed grid.
        WriteError: `out` can't be written to.
    """
    if image is None and field is None:
        raise ConfigError("nothing to restore: name an aligned image (--image), its field (--field), or both")
    case = load_case(case_folder, ("fixed", "moving"))
    check_writable(out)
    if image is not None:
        aligned = read_volume(image)
        if not aligned.grid.same_as(case.grid, tolerance_mm=1e-2):
            raise DataError(
                f"{image} does not lie on the grid of {case_folder / 'fixed.nii.gz'}: give the image that a method "
                "made of this case"
            )
        write_volume(out / "image.nii.gz", restore(aligned, case))
    if field is not None:
        if not field.is_file():
            raise DataError(f"{field} does not exist: the method may have made an image without a field")
        restored = restore_field(read_itk_field(field, case.grid), case.grid, case)
        write_itk_field(out / "field.nii.gz", restored, grid_of(case.record["original"]["fixed"]))


def restore(image: Volume, case: Case | Mapping[str, Any], order: int = 1, outside: float | None = None) -> Volume:
    """An aligned image on the ORIGINAL fixed grid, in physical units of the moving modality (HU for CT).

    Undoes resampling, cropping, padding, flips and synthetic deformation of the fixed scan, and the linear intensity
    maps. What was clipped stays clipped; where histograms were standardised, the unit stays that scale.

    Args:
        image: stored intensities of the moving modality on the prepared fixed grid.
        case: the prepared case, or its case.json.
        order: of the interpolation, 1 linear, 3 cubic, 0 nearest.
        outside: the physical value beyond the prepared field of view; None takes the moving scan's background.
    """
    record = case.record if isinstance(case, Case) else case
    intensity = case.moving_intensity if isinstance(case, Case) else Intensity(**case["moving_intensity"])
    grid = grid_of(record["original"]["fixed"])
    points = maps.invert(record["transforms"]["fixed"], maps.world_points(grid))
    fill = record["background"]["moving"] if outside is None else (outside - intensity.offset) / intensity.scale
    values = intensity.to_physical(sample_at(image, points, order, fill).astype(np.float64))
    return Volume(values.astype(np.float32), grid.affine.copy())


def restore_field(field: np.ndarray, prepared: Grid, case: Case | Mapping[str, Any]) -> np.ndarray:
    """A field on the prepared fixed grid as a field between the ORIGINAL scans.

    Args:
        field: (3, X, Y, Z) in voxels of `prepared`, array axis order.
        prepared: the prepared fixed grid.
        case: the prepared case, or its case.json.

    Returns:
        (3, X, Y, Z) float32 in voxels of the original fixed grid: ``original fixed voxel x`` corresponds to the world
        position of ``x + field(x)`` in the original moving scan. Beyond the prepared field of view the field's border
        is repeated.
    """
    record = case.record if isinstance(case, Case) else case
    grid = grid_of(record["original"]["fixed"])
    original = maps.world_points(grid)
    points = maps.invert(record["transforms"]["fixed"], original)
    positions = apply_affine(np.linalg.inv(prepared.affine), points)
    partners = points + sample_vectors(field_to_mm(field, prepared), positions)
    partners = maps.apply(record["transforms"]["moving"], partners)
    return field_from_mm(partners - original, grid).astype(np.float32)
