"""Contours as they come: one integer map, a 4D stack of masks, or one mask file per structure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from modalign.datasets.base import LabelFiles
from modalign.errors import DataError
from modalign.volumes import NIFTI_SUFFIXES, Grid, Volume, read_volume

TOLERANCE_MM = 0.05
"""How far the corners of two grids may lie apart and still be one grid; headers round to single precision."""


def is_stack(path: Path) -> bool:
    """Whether a label file is a 4D stack of masks."""
    if not path.name.endswith(NIFTI_SUFFIXES):
        return False
    try:
        image: Any = nib.load(path)
    except Exception:
        return False  # Reading it as a volume says what is wrong with it.
    return len(image.shape) == 4 and image.shape[3] > 1


def read_stack(path: Path) -> Volume:
    """A 4D stack of masks (X, Y, Z, L) as one map: value i where mask i holds, 1 to L; later masks lie on top.

    Raises:
        DataError: the masks have values other than 0 to 1.
    """
    image: Any = nib.load(path)
    masks = np.asarray(image.dataobj)
    if not np.isfinite(masks).all() or masks.min() < 0 or masks.max() > 1:
        raise DataError(
            f"{path} has 4 axes, so it has to be a stack of masks with values from 0 to 1, "
            f"not {masks.min():g} to {masks.max():g}. Save an integer map with 3 axes instead"
        )
    return Volume(stacked_masks(masks), image.affine)


def stacked_masks(masks: np.ndarray) -> np.ndarray:
    """Masks (X, Y, Z, L) with values from 0 to 1 as one uint8 or uint16 map (X, Y, Z), thresholded at a half."""
    labels = np.zeros(masks.shape[:3], dtype=np.uint8 if masks.shape[3] < 256 else np.uint16)
    for value in range(masks.shape[3]):
        labels[masks[..., value] > 0.5] = value + 1
    return labels


def read_labels(files: LabelFiles, grid: Grid, names: Mapping[int, str]) -> Volume:
    """The contours of a scan as one integer map on its grid.

    Args:
        files: an integer map, a 4D stack of masks, or (structure, mask file) pairs, of which later ones lie on top.
        grid: the grid of the scan.
        names: structure name of every value; (structure, mask file) pairs get the value of their name.

    Raises:
        DataError: a file lies on another grid, has values that aren't labels, or a structure isn't among `names`.
    """
    if isinstance(files, Path):
        labels = read_stack(files) if is_stack(files) else _read_map(files)
        if not labels.grid.same_as(grid, TOLERANCE_MM):
            raise DataError(f"{files} {_elsewhere(labels.grid, grid)}")
        return labels
    values = {name: value for value, name in names.items()}
    data = np.zeros(grid.shape, dtype=np.uint8 if max(values.values(), default=0) < 256 else np.uint16)
    for name, path in files:
        if name not in values:
            raise DataError(f"{path} is a mask of {name!r}; the structures are: {', '.join(values) or 'none'}")
        mask = read_volume(path)
        data[_place(path, mask.grid, grid)][mask.data > 0] = values[name]
    return Volume(data, grid.affine.copy())


def _read_map(path: Path) -> Volume:
    volume = read_volume(path)
    data = volume.data
    if not np.isfinite(data).all() or data.min() < 0 or (data.dtype.kind == "f" and (data != np.rint(data)).any()):
        raise DataError(f"{path} has values that aren't labels: whole numbers from 0 (background) are needed")
    largest = int(data.max())
    return volume.like(data.astype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32))


def _place(path: Path, mask: Grid, grid: Grid) -> tuple[slice, ...]:
    """Where a mask lies in the scan's grid. Segmentations (.seg.nrrd) are often cropped to what they contain."""
    origin = np.linalg.solve(grid.affine, mask.affine[:, 3])[:3]
    start = np.rint(origin).astype(int)
    stop = start + mask.shape
    cropped = Grid(mask.shape, grid.affine @ _translation(start))
    if (start < 0).any() or (stop > grid.shape).any() or not mask.same_as(cropped, TOLERANCE_MM):
        raise DataError(f"{path} {_elsewhere(mask, grid)}")
    return tuple(slice(a, b) for a, b in zip(start, stop, strict=True))


def _translation(offset: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def _elsewhere(own: Grid, grid: Grid) -> str:
    def words(g: Grid) -> str:
        origin = ", ".join(f"{v:.4g}" for v in g.affine[:3, 3])
        spacing = " x ".join(f"{v:.4g}" for v in g.spacing)
        return f"{' x '.join(map(str, g.shape))} voxels of {spacing} mm from ({origin}), {g.orientation}"

    return (
        f"does not lie on the grid of its scan: {words(own)}, but the scan has {words(grid)}. "
        "Resample the labels to the scan with nearest-neighbour interpolation"
    )
