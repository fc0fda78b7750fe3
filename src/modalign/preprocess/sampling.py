"""Resampling for preparation: whole grids at once, with a clear rule for what lies outside the scan."""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage as ndi

from modalign.volumes import Grid, Volume, apply_affine

HOUNSFIELD = ("ct", "cbct")
_HALF_VOXEL = 0.5 + 1e-6


def background(volume: Volume, modality: str) -> float:
    """What surrounds the patient: the lowest value, for raw CT not below -1024 HU (scanners pad with less)."""
    lowest = float(volume.data.min())
    return max(lowest, -1024.0) if modality in HOUNSFIELD else lowest


def sample(data: np.ndarray, positions: np.ndarray, order: int = 1, fill: float | None = None) -> np.ndarray:
    """Values at `positions` (3, ...) in voxel indices.

    A scan reaches half a voxel beyond its outermost voxel centres. Further out comes `fill`, or the border value if
    `fill` is None. Orders: 0 nearest (labels, keeps the integer type), 1 linear, 3 cubic.
    """
    data = data if order == 0 else data.astype(np.float32, copy=False)
    values = ndi.map_coordinates(data, positions, order=order, mode="nearest", output=data.dtype)
    if fill is not None:
        for axis, size in enumerate(data.shape):
            values[(positions[axis] < -_HALF_VOXEL) | (positions[axis] > size - 1 + _HALF_VOXEL)] = fill
    return values


def sample_at(volume: Volume, points_mm: np.ndarray, order: int = 1, fill: float | None = None) -> np.ndarray:
    """Values of `volume` at world positions `points_mm` (3, ...), RAS mm; `fill` as in :func:`sample`."""
    return sample(volume.data, apply_affine(np.linalg.inv(volume.affine), points_mm), order, fill)


def sample_vectors(vectors: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A vector field (3, X, Y, Z) at `positions` (3, ...) in voxel indices, linear, border repeated, float32."""
    return np.stack([sample(component, positions) for component in vectors])


def resample(volume: Volume, grid: Grid, order: int = 1, fill: float | None = None) -> Volume:
    """The same image on another grid of the same world; `fill` as in :func:`sample`.

    Images are smoothed first along axes that lose resolution (Gaussian, sigma = (factor - 1) / 2 voxels) so that
    nothing aliases; label maps (order 0) never are.
    """
    if volume.grid.same_as(grid):
        return Volume(volume.data.copy(), grid.affine.copy())
    to_source = np.linalg.inv(volume.affine) @ grid.affine
    data = volume.data
    if order > 0:
        factor = np.linalg.norm(to_source[:3, :3], axis=1)
        sigma = np.where(np.array(volume.shape) > 1, np.maximum(factor - 1, 0) / 2, 0)
        data = data.astype(np.float32, copy=False)
        if sigma.max() > 0.05:
            data = ndi.gaussian_filter(data, sigma, mode="nearest")
    matrix = to_source[:3, :3]
    diagonal = np.diag(matrix)
    if np.abs(matrix - np.diag(diagonal)).max() > 1e-5 / max(grid.shape):
        positions = apply_affine(to_source, np.indices(grid.shape, dtype=np.float64))
        return Volume(sample(data, positions, order, fill), grid.affine.copy())
    # No positions in memory, three times as fast.
    values = ndi.affine_transform(
        data,
        np.diag(diagonal),
        to_source[:3, 3],
        output_shape=grid.shape,
        order=order,
        mode="nearest",
        output=data.dtype,
    )
    if fill is not None:
        for axis, size in enumerate(volume.shape):
            line = diagonal[axis] * np.arange(grid.shape[axis]) + to_source[axis, 3]
            outside = (line < -_HALF_VOXEL) | (line > size - 1 + _HALF_VOXEL)
            np.moveaxis(values, axis, 0)[outside] = fill
    return Volume(values, grid.affine.copy())


def kept_voxels(grid: Grid, field_of_view_mm: Sequence[float | None] | None) -> np.ndarray:
    """How many voxels, with fractions, lie along each axis in a field of view of at most so many mm; None is all."""
    most = [np.inf if mm is None else mm for mm in field_of_view_mm or (None, None, None)]
    return np.minimum(grid.shape, np.array(most) / grid.spacing)


def resized_grid(
    grid: Grid, size: tuple[int, int, int], field_of_view_mm: Sequence[float | None] | None = None
) -> Grid:
    """A grid of `size` voxels over the same field of view, voxel edges included, or over the middle of it.

    `field_of_view_mm` is how much of each axis to keep at most; None keeps all.
    """
    ratio = kept_voxels(grid, field_of_view_mm) / np.array(size)
    affine = grid.affine.copy()
    affine[:3, :3] = affine[:3, :3] * ratio
    affine[:3, 3] += grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2 - ratio * (np.array(size) - 1) / 2)
    return Grid(size, affine)


def respaced_grid(grid: Grid, spacing_mm: np.ndarray) -> Grid:
    """A grid with `spacing_mm` about the same centre, as many voxels as the field of view holds (rounded)."""
    ratio = np.asarray(spacing_mm, dtype=float) / grid.spacing
    x, y, z = (max(round(n / r), 1) for n, r in zip(grid.shape, ratio, strict=True))
    affine = grid.affine.copy()
    affine[:3, :3] = affine[:3, :3] * ratio
    start = (np.array(grid.shape) - 1) / 2 - ratio * (np.array([x, y, z]) - 1) / 2
    affine[:3, 3] += grid.affine[:3, :3] @ start
    return Grid((x, y, z), affine)
