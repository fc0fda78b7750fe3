"""Stationary velocity fields: integration by scaling and squaring, and change of resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from modalign.spatial.warp import warp


def integrate(velocity: Tensor, steps: int = 7) -> Tensor:
    """The displacement after unit time along a stationary velocity field, by scaling and squaring.

    ``u = v / 2^steps``, then `steps` times ``u(x) <- u(x) + u(x + u(x))`` (Arsigny et al. 2006; VoxelMorph and LapIRN
    take 7 steps). With 0 steps the velocity itself is the displacement.

    Args:
        velocity: (B, nD, *S) in voxels per unit time, array axis order.
        steps: number of squarings, 0 or more.

    Returns:
        (B, nD, *S) in voxels, in float32 or better: half precision rounds each of the sums.
    """
    if steps < 0:
        raise ValueError(f"the number of squaring steps can't be negative: {steps}")
    displacement = velocity.to(torch.promote_types(velocity.dtype, torch.float32)) / 2**steps
    for _ in range(steps):
        displacement = displacement + warp(displacement, displacement)
    return displacement


def resize_field(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample a field to another number of voxels over the same extent, and rescale its values to the new voxels.

    The centres of the corner voxels stay where they are, so along each axis the values grow by
    ``(new - 1) / (old - 1)`` and a linear field stays exactly the same map.

    Args:
        field: (B, nD, *S) in voxels of its own grid, array axis order.
        shape: the new spatial shape.

    Returns:
        (B, nD, *shape) in voxels of the new grid.
    """
    old, new = tuple(field.shape[2:]), tuple(shape)
    if old == new:
        return field
    factor = torch.tensor([max(n - 1, 1) / max(o - 1, 1) for o, n in zip(old, new, strict=True)])
    factor = factor.to(field).reshape(1, -1, *[1] * len(new))
    mode = {2: "bilinear", 3: "trilinear"}[len(new)]
    return functional.interpolate(field, new, mode=mode, align_corners=True) * factor
