"""How far two maps are from being each other's inverse: penalties to minimise."""

import numpy as np
import torch
from torch import Tensor

from modalign.spatial.warp import identity, warp


def inconsistency(forward: Tensor, backward: Tensor) -> Tensor:
    """The mean squared inverse consistency error of both orders of composition (ICON; Greer et al. 2021, Eq. 4).

    Args:
        forward: (B, nD, *S) in voxels, array axis order.
        backward: (B, nD, *S) in voxels.

    Returns:
        A scalar, in squares of the image's extent: ``mean |x - phi_f(phi_b(x))|^2`` over voxels and axes, both orders
        added.
    """
    extent = _extent(forward)
    errors = [inner + warp(outer, inner) for outer, inner in ((forward, backward), (backward, forward))]
    return sum((error / extent).square().mean() for error in errors)  # type: ignore[return-value]


def gradient_of_inconsistency(
    forward: Tensor, backward: Tensor, random: np.random.Generator, delta: float = 1e-3
) -> Tensor:
    """The mean squared gradient of the inverse consistency error, at random points (GradICON; Tian et al. 2023, Eq. 9).

    With ``e(x) = x - phi_f(phi_b(x))``, the mean over points and components of ``|e(x + delta d) - e(x)|^2 / delta^2``,
    summed over the directions d of the axes. It leaves the maps free to differ from inverses by a translation, and
    suffices to keep them smooth. Every second voxel along each axis is a point, moved by normal noise of two voxels.

    Args:
        forward: (B, nD, *S) in voxels, array axis order.
        backward: (B, nD, *S) in voxels.
        random: places the points.
        delta: step of the differences, as a fraction of the image's extent.

    Returns:
        A scalar without unit.
    """
    dimension, extent = forward.ndim - 2, _extent(forward)
    points = identity(forward.shape[2:], forward.device, forward.dtype)
    points = points[(slice(None), slice(None), *[slice(None, None, 2)] * dimension)]
    points = points.expand(forward.shape[0], *points.shape[1:])
    noise = torch.from_numpy(random.standard_normal(points.shape, dtype=np.float32)).to(points)
    points = points + 2 * noise

    def error(points: Tensor) -> Tensor:
        inner = _moved(backward, points)
        return (points - _moved(forward, inner)) / extent

    here, penalty = error(points), forward.new_zeros(())
    for axis in range(dimension):
        step = torch.zeros_like(extent)
        step[:, axis] = delta * extent[:, axis]
        penalty = penalty + ((error(points + step) - here) / delta).square().mean()
    return penalty


def _moved(field: Tensor, points: Tensor) -> Tensor:
    """Where the map of `field` takes `points`, both (B, nD, ...) in voxels."""
    return points + warp(field, points - identity(points.shape[2:], points.device, points.dtype))


def _extent(field: Tensor) -> Tensor:
    """Voxels between the centres of the first and the last voxel along each axis, (1, nD, 1, ...)."""
    sizes = torch.tensor([max(n - 1, 1) for n in field.shape[2:]])
    return sizes.to(field).reshape(1, -1, *[1] * (field.ndim - 2))
