"""What every displacement of every keypoint costs: squared differences of descriptor patches."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

_CHUNK_VALUES = 4_000_000


def search_radii(shape: Sequence[int], radius: int, step: int) -> tuple[int, ...]:
    """The search radius along each axis in steps: `radius`, or as far as half the image reaches, but at least one."""
    return tuple(max(1, min(radius, (n - 1) // (2 * step))) for n in shape)


def patch_costs(
    fixed: Tensor, moving: Tensor, points: np.ndarray, radii: Sequence[int], step: int, patch_radius: int
) -> Tensor:
    """The squared difference of two descriptors, summed over channels and averaged over a patch.

    Compares the patch around each point p in `fixed` with those around ``p + step * d`` in `moving`, for all whole d
    up to the search radius. Patches are sampled every `step` voxels. Beyond an image, its border voxels repeat.

    Written as ``|f|^2 + |m|^2 - 2 f m``, whose last term is one matrix product per point for all displacements along
    the last axis, and sums of shifted results along the others.

    Args:
        fixed: (C, *S) with two or three spatial axes.
        moving: (C, *S).
        points: (n, nD) voxel indices.
        radii: the search radius along each axis, in steps.
        step: distance of neighbouring displacements, and of the patch's samples, in voxels.
        patch_radius: half width of the patches in voxels.

    Returns:
        (n, 2 radii[0] + 1, ...): the costs, by displacement from the negative to the positive radius.
    """
    channels, shape = fixed.shape[0], fixed.shape[1:]
    fixed_rows = fixed.flatten(1).T.contiguous()
    moving_rows = moving.flatten(1).T
    # One more channel carries |m|^2, so that the product sums it over the patch along the way.
    moving_rows = torch.cat([moving_rows, moving_rows.square().sum(1, keepdim=True)], 1)
    patch = 2 * patch_radius // step + 1
    labels = [2 * r + 1 for r in radii]
    extents = [label + patch - 1 for label in labels]
    start = torch.as_tensor(points, device=fixed.device) - patch_radius
    reach = torch.tensor(radii, device=fixed.device) * step
    chunk = max(1, _CHUNK_VALUES // (math.prod(extents[:-1]) * labels[-1] * patch * (channels + 1)))
    # In place of |m|^2 on the fixed side stands -1/2, since everything is multiplied by -2.
    half = fixed_rows.new_full((1, patch ** len(shape), 1), -0.5)
    costs = []
    for corner in start.split(chunk):
        template = fixed_rows[_lattice(corner, [patch] * len(shape), step, shape)]
        own = template.square().sum((1, 2))
        template = torch.cat([template, half.expand(len(corner), -1, -1)], 2)
        template = template.reshape(len(corner), -1, patch * (channels + 1))
        region = moving_rows[_lattice(corner - reach, extents, step, shape)]
        windows = region.reshape(len(corner), -1, extents[-1], channels + 1).unfold(2, patch, 1).transpose(3, 4)
        windows = windows.reshape(len(corner), -1, patch * (channels + 1))
        products = (windows @ template.transpose(1, 2)).reshape(len(corner), *extents[:-1], labels[-1], -1)
        products = products.movedim(-1, 0).contiguous()
        total = own.reshape(-1, *[1] * len(shape)).expand(-1, *labels).clone()
        for part, offsets in zip(products, product(range(patch), repeat=len(shape) - 1), strict=True):
            cut = [slice(o, o + n) for o, n in zip(offsets, labels[:-1], strict=True)]
            total.sub_(part[(slice(None), *cut)], alpha=2)
        costs.append(total.clamp_(min=0) / patch ** len(shape))
    return torch.cat(costs)


def _lattice(corner: Tensor, extents: Sequence[int], step: int, shape: Sequence[int]) -> Tensor:
    """Flat voxel indices (n, prod(extents)) of the lattices that start at `corner` (n, nD), held inside the image."""
    flat = corner.new_zeros(len(corner), *[1] * len(shape))
    for axis, (extent, size) in enumerate(zip(extents, shape, strict=True)):
        along = corner[:, axis, None] + step * torch.arange(extent, device=corner.device)
        view = [len(corner), *[extent if a == axis else 1 for a in range(len(shape))]]
        flat = flat * size + along.clamp(0, size - 1).reshape(view)
    return flat.flatten(1)


def expected_displacement(marginals: Tensor, step: int, gamma: float) -> Tensor:
    """The mean displacement in voxels, (n, nD), under the probabilities ``softmax(-gamma * marginals)``.

    Args:
        marginals: (n, *labels), labels from the negative to the positive radius.
        step: voxels between neighbouring labels.
        gamma: how sharply the lowest cost wins.
    """
    probabilities = torch.softmax(-gamma * marginals.flatten(1), 1).reshape(marginals.shape)
    axes = range(1, marginals.ndim)
    means = []
    for axis in axes:
        size = marginals.shape[axis]
        values = torch.arange(size, device=marginals.device, dtype=marginals.dtype) - size // 2
        means.append(probabilities.sum([a for a in axes if a != axis]) @ values)
    return step * torch.stack(means, 1)
