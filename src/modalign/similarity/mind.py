"""The modality-independent neighbourhood descriptors: MIND (2012) and MIND-SSC (2013), in 2D and 3D.

Both describe each voxel by how alike the patches around it are within its own image, so that descriptors of different
modalities can be compared by their squared difference.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from modalign.similarity.filters import box_mean, box_mean_adjoint, gaussian_mean, weighted_mean

Offset = tuple[int, ...]


def mind_ssc(image: Tensor, radius: int = 2, dilation: int = 2, sigma: float | None = None) -> Tensor:
    """The self-similarity context of every voxel (Heinrich et al. 2013, Eq. 3-4), between 0 and 1.

    Patches centred on neighbouring pairs of the six (2D: four) nearest neighbours are compared with each other; the
    centre voxel itself takes no part. ``exp(-(D - min D) / V)`` with D the mean squared patch difference and V its mean
    over the pairs, held within [0.001, 1000] times the image's mean V.

    Args:
        image: (B, 1, *S) with two or three spatial axes, any intensity unit.
        radius: half width of the box-shaped patches in voxels.
        dilation: distance of the neighbours from the centre in voxels.
        sigma: weigh the patches by a Gaussian of that standard deviation in voxels, in place of the box.

    Returns:
        (B, C, *S): 12 channels in 3D, 4 in 2D.
    """
    neighbours = _nearest_neighbours(image.ndim - 2, dilation)
    adjacent = 2 * dilation**2
    pairs = [(p, q) for p, q in combinations(neighbours, 2) if _squared_distance(p, q) == adjacent]
    padded = functional.pad(image, [dilation] * 2 * (image.ndim - 2), mode="replicate")
    if sigma is None:
        return _Contrast.apply(_PatchDistances.apply(padded, pairs, dilation, radius))
    squared = [(_shifted(padded, p, dilation) - _shifted(padded, q, dilation)).square() for p, q in pairs]
    return _Contrast.apply(gaussian_mean(torch.cat(squared, dim=1), sigma))


class _PatchDistances(torch.autograd.Function):
    """The mean squared differences of box-shaped patches, (B, 1, *S + 2 * pad) to (B, number of pairs, *S).

    Pair after pair in both directions, so that what is worked on stays in the cache; automatic differentiation would
    fill an array of zeros for every slice.
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, pairs: Sequence[tuple[Offset, Offset]], pad: int, radius: int) -> Tensor:
        ctx.save_for_backward(padded)
        ctx.pairs, ctx.pad, ctx.radius = pairs, pad, radius
        distances = padded.new_empty(len(padded), len(pairs), *(n - 2 * pad for n in padded.shape[2:]))
        for (p, q), distance in zip(pairs, distances.split(1, dim=1), strict=True):
            distance.copy_(box_mean((_shifted(padded, p, pad) - _shifted(padded, q, pad)).square_(), radius))
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (padded,) = ctx.saved_tensors
        result = torch.zeros_like(padded)
        for (p, q), gradient in zip(ctx.pairs, gradients[0].split(1, dim=1), strict=True):
            difference = _shifted(padded, p, ctx.pad) - _shifted(padded, q, ctx.pad)
            pull = difference.mul_(box_mean_adjoint(gradient, ctx.radius))
            _shifted(result, p, ctx.pad).add_(pull, alpha=2)
            _shifted(result, q, ctx.pad).sub_(pull, alpha=2)
        return result, None, None, None


class _Contrast(torch.autograd.Function):
    """``exp(-(D - min D) / V)`` of patch distances D, (B, C, *S), with V their held mean over the channels."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        distance = distance - distance.amin(1, keepdim=True)
        mean = distance.mean(1, keepdim=True)
        level = mean.mean(tuple(range(1, mean.ndim)), keepdim=True)
        held = torch.minimum(torch.maximum(mean, 0.001 * level), 1000 * level)
        # A constant image has no variance at all: the tiny addend makes its descriptor 1 instead of not-a-number.
        variance = held + 1e-12
        distance /= variance
        descriptor = torch.exp(-distance)
        ctx.save_for_backward(distance, descriptor, variance, held == mean)
        return descriptor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        distance, descriptor, variance, free = ctx.saved_tensors
        pull = (gradients[0] * descriptor).div_(variance)
        # The level, at which the variance is held, counts as a constant.
        by_mean = (pull * distance).sum(1, keepdim=True).mul_(free) / distance.shape[1]
        result = by_mean - pull
        least = (distance == 0).to(result.dtype)
        shared = result.sum(1, keepdim=True) / least.sum(1, keepdim=True)
        return (result.addcmul_(least, shared, value=-1),)


def mind(
    image: Tensor,
    offsets: Sequence[Sequence[int]] | None = None,
    sigma: float = 0.5,
    patch_radius: int | None = None,
    floor: float = 1e-5,
) -> Tensor:
    """The neighbourhood descriptor of every voxel (Heinrich et al. 2012, Eq. 4-6), at most 1.

    ``exp(-D(x, x + r) / V(x))`` with D the Gaussian-weighted squared difference of the patches at x and ``x + r``,
    and V the mean of D over the nearest neighbours; divided by its maximum over the offsets r.

    Args:
        image: (B, 1, *S) with two or three spatial axes.
        offsets: the search region r in voxels, array axis order; by default the six (2D: four) nearest neighbours.
        sigma: standard deviation of the patch weights in voxels.
        patch_radius: where the patch weights are cut off, in voxels; by default at 3 sigma.
        floor: added to V, in squared intensity; keeps flat regions finite.

    Returns:
        (B, number of offsets, *S).
    """
    neighbours = _nearest_neighbours(image.ndim - 2, 1)
    region = neighbours if offsets is None else [tuple(offset) for offset in offsets]
    reach = max(1, *(abs(component) for offset in region for component in offset))
    padded = functional.pad(image, [reach] * 2 * (image.ndim - 2), mode="replicate")
    every = list(dict.fromkeys([*region, *neighbours]))
    squared = torch.cat([(image - _shifted(padded, offset, reach)).square() for offset in every], dim=1)
    distance = dict(zip(every, gaussian_mean(squared, sigma, patch_radius).unbind(1), strict=True))
    variance = torch.stack([distance[offset] for offset in neighbours], 1).mean(1, keepdim=True) + floor
    descriptor = torch.exp(-torch.stack([distance[offset] for offset in region], 1) / variance)
    return descriptor / descriptor.amax(1, keepdim=True).clamp(min=1e-12)


def mind_loss(fixed: Tensor, warped: Tensor, mask: Tensor | None = None, radius: int = 2, dilation: int = 2) -> Tensor:
    """The mean squared difference of two images' MIND-SSC descriptors, from 0 to 1.

    Args:
        fixed: (B, 1, *S).
        warped: (B, 1, *S), in any other contrast.
        mask: weights (B, 1, *S) on the fixed grid.
        radius: half width of the patches in voxels.
        dilation: distance of the compared patches from the centre in voxels.
    """
    return weighted_mean((mind_ssc(fixed, radius, dilation) - mind_ssc(warped, radius, dilation)).square(), mask)


def _nearest_neighbours(dimension: int, distance: int) -> list[Offset]:
    return [
        tuple(sign * distance if axis == own else 0 for axis in range(dimension))
        for own in range(dimension)
        for sign in (-1, 1)
    ]


def _squared_distance(p: Sequence[int], q: Sequence[int]) -> int:
    return sum((a - b) ** 2 for a, b in zip(p, q, strict=True))


def _shifted(padded: Tensor, offset: Sequence[int], pad: int) -> Tensor:
    """The image at ``x + offset``, cut from the image padded by `pad` voxels on every side."""
    cut = [slice(pad + o, size - pad + o) for o, size in zip(offset, padded.shape[2:], strict=True)]
    return padded[(slice(None), slice(None), *cut)]
