"""From scattered displacements to a dense field: thin-plate splines, and rigid motions that ignore outliers."""

import math
from collections.abc import Sequence

import numpy as np
import scipy.linalg
import torch
from torch.nn import functional

from modalign.errors import ModalignError

_GRID_STEP = 3
_CHUNK_VALUES = 4_000_000


def thin_plate_field(
    points: np.ndarray, displacements: np.ndarray, shape: Sequence[int], smoothing: float = 0.0
) -> np.ndarray:
    """The thin-plate spline through the given displacements, with the kernel ``r^2 log r`` in 2D and 3D.

    Evaluated at every third voxel and interpolated linearly in between. Takes n^3 operations for n points.

    Args:
        points: (n, nD) in voxels, not all on one line or plane.
        displacements: (n, nD) in voxels.
        shape: voxels of the field.
        smoothing: added to the kernel's diagonal, in units of the image's half diagonal squared; 0 interpolates.

    Returns:
        (nD, *shape), float32, in voxels.

    Raises:
        ModalignError: too few points, or all on one line or plane.
    """
    count, dimension = points.shape
    centre = (np.asarray(shape) - 1) / 2
    scale = max(float(np.linalg.norm(centre)), 1.0)
    nodes = (points - centre) / scale
    affine = np.concatenate([np.ones((count, 1)), nodes], axis=1)
    if count <= dimension or np.linalg.matrix_rank(affine) <= dimension:
        raise ModalignError(f"{count} keypoints in a line or plane don't determine a field: choose a smaller nms_width")
    system = np.zeros((count + dimension + 1,) * 2)
    system[:count, :count] = _kernel(torch.from_numpy(nodes), torch.from_numpy(nodes)).numpy()
    system[:count, :count] += smoothing * np.eye(count)
    system[:count, count:], system[count:, :count] = affine, affine.T
    right = np.concatenate([displacements, np.zeros((dimension + 1, dimension))])
    weights = scipy.linalg.solve(system, right, assume_a="sym", overwrite_a=True)

    coarse = [max(2, math.ceil(n / _GRID_STEP)) if n > 1 else 1 for n in shape]
    axes = [np.linspace(0, n - 1, k) for n, k in zip(shape, coarse, strict=True)]
    grid = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dimension) - centre) / scale
    spline, linear = torch.from_numpy(weights[:count]).float(), torch.from_numpy(weights[count:])
    knots = torch.from_numpy(nodes)
    values = torch.cat(
        [
            linear[0] + part @ linear[1:] + (_kernel(part.float(), knots.float()) @ spline)
            for part in grid.split(max(1, _CHUNK_VALUES // count))
        ]
    )
    field = values.T.reshape(1, dimension, *coarse).float()
    mode = {2: "bilinear", 3: "trilinear"}[dimension]
    return functional.interpolate(field, tuple(shape), mode=mode, align_corners=True)[0].numpy()


def _kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``r^2 log r`` between two sets of points, (n, m)."""
    squared = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
    return torch.special.xlogy(squared, squared).div_(2)


def rigid_field(points: np.ndarray, displacements: np.ndarray, shape: Sequence[int], rounds: int = 5) -> np.ndarray:
    """The rotation and shift that fit the better half of the displacements best (least trimmed squares).

    Args:
        points: (n, nD) in voxels.
        displacements: (n, nD) in voxels.
        shape: voxels of the field.
        rounds: of fitting and choosing the half with the smallest residuals.

    Returns:
        (nD, *shape), float32, in voxels.
    """
    dimension = points.shape[1]
    targets = points + displacements
    chosen = np.arange(len(points))
    for _ in range(rounds):
        rotation, shift = rigid_fit(points[chosen], targets[chosen])
        residual = np.linalg.norm(points @ rotation.T + shift - targets, axis=1)
        chosen = np.sort(np.argsort(residual, kind="stable")[: max(dimension + 1, len(points) // 2)])
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    moved = np.tensordot(rotation, voxels, axes=1) + shift.reshape(-1, *[1] * dimension)
    return (moved - voxels).astype(np.float32)


def rigid_fit(points: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation matrix and shift with the least squared error of ``rotation @ points + shift`` (Kabsch 1976)."""
    middle, goal = points.mean(0), targets.mean(0)
    left, _, right = np.linalg.svd((points - middle).T @ (targets - goal))
    signs = np.ones(points.shape[1])
    signs[-1] = np.sign(np.linalg.det(left @ right))
    rotation = (left * signs @ right).T
    return rotation, goal - rotation @ middle
