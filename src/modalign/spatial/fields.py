"""Displacement fields: what they mean, how they are stored, how they are applied with SciPy.

Inside the code a field is an array (3, X, Y, Z) in voxels of the fixed grid, array axis order, with
``warped(x) = moving(x + u(x))``. On disk it is an ITK displacement field: a NIfTI file of shape (X, Y, Z, 1, 3) with
vectors in LPS millimetres, which antsApplyTransforms, SimpleITK and 3D Slicer read as they are.
"""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import scipy.ndimage as ndi

from modalign.errors import DataError
from modalign.files import replacing
from modalign.volumes import Grid, Volume, apply_affine

_LPS = np.array([-1.0, -1.0, 1.0])


def field_to_mm(field: np.ndarray, grid: Grid) -> np.ndarray:
    """A field in voxels of `grid` as displacements in RAS mm, (3, X, Y, Z)."""
    return np.tensordot(grid.affine[:3, :3], field, axes=1)


def field_from_mm(field: np.ndarray, grid: Grid) -> np.ndarray:
    """Displacements in RAS mm as a field in voxels of `grid`, (3, X, Y, Z)."""
    return np.tensordot(np.linalg.inv(grid.affine[:3, :3]), field, axes=1)


def itk_field_image(field: np.ndarray, grid: Grid) -> nib.Nifti1Image:
    """A field (voxels of `grid`) as an ITK displacement field in LPS mm: NIfTI, (X, Y, Z, 1, 3), float32."""
    if field.shape != (3, *grid.shape):
        raise ValueError(f"expected a field of shape {(3, *grid.shape)}, got {field.shape}")
    vectors = np.moveaxis(field_to_mm(field, grid), 0, -1)[:, :, :, None, :] * _LPS
    image = nib.Nifti1Image(vectors.astype(np.float32), grid.affine)
    image.header.set_intent("vector")
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code=1)
    image.set_qform(grid.affine, code=1)
    return image


def write_itk_field(path: Path | str, field: np.ndarray, grid: Grid) -> None:
    """Write a field (voxels of `grid`) as an ITK displacement field in LPS mm, float32."""
    image = itk_field_image(field, grid)
    with replacing(path) as temporary:
        nib.save(image, temporary)


def read_itk_field(path: Path | str, grid: Grid | None = None) -> np.ndarray:
    """Read an ITK displacement field as voxels of its own grid, (3, X, Y, Z), float32.

    Raises:
        DataError: the file isn't a displacement field, or doesn't lie on `grid`.
    """
    image: Any = nib.load(path)
    if len(image.shape) != 5 or image.shape[3:] != (1, 3):
        raise DataError(f"{path} has shape {image.shape}: an ITK displacement field has shape (X, Y, Z, 1, 3)")
    own = Grid(image.shape[:3], image.affine)
    if grid is not None and not own.same_as(grid, tolerance_mm=1e-2):
        raise DataError(f"{path} does not lie on the grid of the fixed image (shape {own.shape}, not {grid.shape}?)")
    vectors = np.asarray(image.dataobj, dtype=np.float32)[:, :, :, 0, :] * _LPS
    return field_from_mm(np.moveaxis(vectors, -1, 0), own).astype(np.float32)


def sampling_positions(field: np.ndarray | None, grid: Grid, moving: Grid) -> np.ndarray:
    """Where in the moving array each fixed voxel looks: voxel indices of `moving`, (3, X, Y, Z)."""
    positions = grid.indices() if field is None else grid.indices() + field
    if grid.same_as(moving):
        return positions
    return apply_affine(np.linalg.inv(moving.affine) @ grid.affine, positions)


def warp_volume(
    moving: Volume, field: np.ndarray | None, grid: Grid, order: int = 1, outside: float | str = "edge"
) -> Volume:
    """Sample `moving` at ``x + field(x)`` for every voxel x of `grid`.

    Args:
        moving: the image to warp, on its own grid.
        field: (3, X, Y, Z) in voxels of `grid`; None resamples without moving anything.
        grid: the fixed grid.
        order: 0 nearest (labels), 1 linear, 3 cubic B-spline.
        outside: the value beyond the moving image, or "edge" to repeat its border.
    """
    positions = sampling_positions(field, grid, moving.grid)
    data = moving.data if order == 0 else moving.data.astype(np.float32)
    mode, value = ("nearest", 0.0) if outside == "edge" else ("grid-constant", float(outside))
    warped = ndi.map_coordinates(data, positions, order=order, mode=mode, cval=value, output=data.dtype)
    return Volume(warped, grid.affine.copy())


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The field of ``x -> (x + first(x)) + second(x + first(x))``: look up `first`, then `second`.

    Warping by the result equals warping by `second`, then by `first`. Both are (3, X, Y, Z) on one grid.
    """
    grid = np.stack(np.meshgrid(*map(np.arange, first.shape[1:]), indexing="ij")) + first
    moved = np.stack([ndi.map_coordinates(c, grid, order=1, mode="nearest") for c in second])
    return (first + moved).astype(np.float32)


def invert(field: np.ndarray, iterations: int = 50, tolerance: float = 1e-3) -> np.ndarray:
    """The inverse field by fixed-point iteration: ``v(x) = -u(x + v(x))``, (3, X, Y, Z) in voxels.

    Converges where the field's derivatives are below one; stops once no voxel moves by more than `tolerance`.
    """
    identity = np.stack(np.meshgrid(*map(np.arange, field.shape[1:]), indexing="ij"))
    inverse = np.zeros_like(field, dtype=np.float64)
    for _ in range(iterations):
        updated = -np.stack([ndi.map_coordinates(c, identity + inverse, order=1, mode="nearest") for c in field])
        change = float(np.abs(updated - inverse).max())
        inverse = updated
        if change < tolerance:
            break
    return inverse.astype(np.float32)


def affine_field(matrix: np.ndarray, grid: Grid) -> np.ndarray:
    """The field, in voxels of `grid`, of a 4 x 4 affine that maps fixed RAS mm to moving RAS mm."""
    indices = grid.indices()
    return (apply_affine(np.linalg.inv(grid.affine) @ matrix @ grid.affine, indices) - indices).astype(np.float32)
