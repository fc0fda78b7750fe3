"""The way back: from a prepared case to the original fixed scan's grid, and to Hounsfield units."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from modalign.cases import Case, Intensity
from modalign.preprocess import maps
from modalign.preprocess.elastic import grid_of
from modalign.preprocess.sampling import sample_at, sample_vectors
from modalign.spatial.fields import field_from_mm, field_to_mm
from modalign.volumes import Grid, Volume, apply_affine


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
