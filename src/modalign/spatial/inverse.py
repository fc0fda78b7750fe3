"""The way back of a displacement field: from the moving scan to the fixed one."""

from typing import TYPE_CHECKING

import numpy as np

from modalign.volumes import Grid, apply_affine

if TYPE_CHECKING:
    import torch


def inverse_field(
    field: np.ndarray, grid: Grid, moving: Grid, iterations: int = 40, tolerance_mm: float = 0.005
) -> tuple[np.ndarray, np.ndarray]:
    """The field on the moving grid that leads back: where each moving voxel lies in the fixed scan.

    Solves ``x + field(x) = y`` for every moving voxel y: the affine map nearest to the field gives the start and the
    direction of every step, so that rotations and scalings are no obstacle; what is left has to have derivatives below
    one. Beyond the fixed grid, the displacements of its border go on.

    Args:
        field: (3, X, Y, Z) in voxels of `grid`, with ``warped(x) = moving(x + field(x))``.
        grid: the fixed grid.
        moving: the moving grid, (X', Y', Z') voxels.
        iterations: at most.
        tolerance_mm: stops where no moving voxel in view is farther off than this.

    Returns:
        The inverse (3, X', Y', Z') in voxels of `moving`, float32, and what is left of the equation in mm,
        (X', Y', Z'), NaN where the voxel lies outside the fixed grid. It stays large where the field folds.
    """
    import torch

    from modalign.spatial.warp import identity, warp

    to_fixed = np.linalg.inv(grid.affine) @ moving.affine
    goal = torch.from_numpy(apply_affine(to_fixed, moving.indices())).float()[None]
    displacement = torch.from_numpy(np.ascontiguousarray(field, dtype=np.float32))[None]
    matrix, shift = _nearest_affine(field, grid)
    back = torch.from_numpy(np.linalg.inv(matrix)).float()
    voxels_to_mm = torch.from_numpy(grid.affine[:3, :3]).float()
    own = identity(moving.shape, goal.device, goal.dtype)
    size = torch.tensor(grid.shape).reshape(1, 3, 1, 1, 1)

    found = _apply(back, goal - torch.from_numpy(shift).float().reshape(1, 3, 1, 1, 1))
    for _ in range(iterations):
        rest = goal - found - warp(displacement, found - own)
        off_mm = _apply(voxels_to_mm, rest).norm(dim=1)[0]
        outside = ((found < -0.5) | (found > size - 0.5)).any(1)[0]
        if float(off_mm.masked_fill(outside, 0).max()) < tolerance_mm:
            break
        found = found + _apply(back, rest)
    moved = apply_affine(np.linalg.inv(to_fixed), found[0].double().numpy()) - moving.indices()
    return moved.astype(np.float32), off_mm.masked_fill(outside, torch.nan).numpy()


def _apply(matrix: "torch.Tensor", points: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.einsum("ij,bj...->bi...", matrix, points)


def _nearest_affine(field: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The matrix and shift nearest to ``x -> x + field(x)`` in least squares; axes of one voxel stay as they are."""
    step = [max(1, n // 24) for n in grid.shape]
    every = tuple(slice(None, None, s) for s in step)
    points = grid.indices()[(slice(None), *every)].reshape(3, -1)
    shifts = np.asarray(field, dtype=float)[(slice(None), *every)].reshape(3, -1)
    design = np.concatenate([points, np.ones((1, points.shape[1]))])
    # The minimum-norm solution leaves the derivative along an axis of one voxel at zero.
    solution = np.linalg.lstsq(design.T, shifts.T, rcond=None)[0].T
    matrix = np.eye(3) + solution[:, :3]
    if np.linalg.cond(matrix) > 1e3:
        return np.eye(3), shifts.mean(1)
    return matrix, solution[:, 3]
