"""ConvexAdam in 2D and 3D: discrete coupled convex optimisation, then Adam, on MIND-SSC descriptors."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from modalign.similarity.filters import box_mean
from modalign.similarity.mind import mind_ssc
from modalign.spatial.warp import warp

_COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_CONSISTENCY_ROUNDS = 15


def convex_adam(
    fixed: np.ndarray,
    moving: np.ndarray,
    mind_radius: int = 1,
    mind_dilation: int = 2,
    smoothness: float = 1.25,
    grid_spacing: int = 6,
    search_radius: int = 4,
    iterations: int = 80,
    adam_grid_spacing: int = 2,
    as_released: bool = False,
    device: str = "cpu",
) -> np.ndarray:
    """The field that ConvexAdam finds between two images of any contrast (Siebert et al. 2021).

    Descriptors are averaged over cells of `grid_spacing` voxels, and every displacement up to `search_radius` cells is
    given its cost; costs and smoothness are minimised in turn with growing coupling (Heinrich et al. 2014), in both
    directions, and the two fields are made inverse to each other. Adam then refines displacements on cells of
    `adam_grid_spacing` voxels, smoothed by three box filters, under a penalty on their squared differences.

    The released package mixes two conventions for positions, so that its lookups are scaled by n / (n - 1) on an axis
    of n cells; it stretches fields whose cells don't fill the image; and its box filters and lookups take what lies
    outside for zero, which holds the field down along the border. `as_released` repeats all three, cell by cell.

    Args:
        fixed: (X, Y) or (X, Y, Z).
        moving: the same shape.
        mind_radius: half width of the descriptor's patches, in voxels.
        mind_dilation: distance of the compared patches, in voxels.
        smoothness: weight of the squared differences of the displacements between neighbouring cells.
        grid_spacing: cells of the discrete search, in voxels; less along axes too short for four cells.
        search_radius: in cells.
        iterations: of Adam, learning rate 1; the field is the one that the last iteration evaluates.
        adam_grid_spacing: cells of the refinement, in voxels; less along axes too short for four cells.
        as_released: compute as the package convexAdam 0.2.0 does. Before Adam both agree to rounding; Adam's first
            steps have the size of a cell whatever the gradient, so that rounding then shows in the field.
        device: cpu or cuda.

    Returns:
        (2, X, Y) or (3, X, Y, Z), float32, in voxels: ``moving(x + field(x))`` looks like ``fixed(x)``.
    """
    shape = fixed.shape
    cells, fine = (_cells(shape, spacing, as_released) for spacing in (grid_spacing, adam_grid_spacing))
    images = [torch.as_tensor(i, dtype=torch.float32, device=device)[None, None] for i in (fixed, moving)]
    if not as_released:
        whole = [int(np.lcm(a, b)) for a, b in zip(cells, fine, strict=True)]
        images = [_pad_to_multiple(i, whole) for i in images]
    with torch.no_grad():
        features = [mind_ssc(i, mind_radius, mind_dilation) for i in images]
        coarse = [_pool(f, cells) for f in features]
        there = _coupled_convex(coarse[0], coarse[1], search_radius, as_released)
        back = _coupled_convex(coarse[1], coarse[0], search_radius, as_released)
        field = _inverse_consistent(there, back, as_released)
        field = _resize(_scaled(field, cells), images[0].shape[2:])
        f, m = (_pool(feature, fine) for feature in features)
        start = _resize(field, f.shape[2:]) / _column(fine, field)
    field = _refine(f, m, start, smoothness, iterations, as_released)
    field = _resize(_scaled(field, fine), images[0].shape[2:])
    crop = (slice(None), *[slice(n) for n in shape])
    return field[0].cpu().numpy()[crop].astype(np.float32)


def _cells(shape: Sequence[int], spacing: int, as_released: bool) -> list[int]:
    return [spacing if as_released else max(1, min(spacing, n // 4)) for n in shape]


def _pool(features: Tensor, cells: Sequence[int]) -> Tensor:
    pool = functional.avg_pool2d if features.ndim == 4 else functional.avg_pool3d
    return pool(features, list(cells))


def _box(values: Tensor, as_released: bool) -> Tensor:
    return box_mean(values, 1, padding="constant" if as_released else "replicate")


def _lookup(values: Tensor, field: Tensor, as_released: bool) -> Tensor:
    if not as_released:
        return warp(values, field)
    sizes = field.new_tensor(field.shape[2:])
    return warp(values, _scaled(field, (sizes / (sizes - 1).clamp(min=1)).tolist()), padding="zeros")


def _coupled_convex(fixed: Tensor, moving: Tensor, radius: int, as_released: bool) -> Tensor:
    """The displacements, in cells, (1, nD, *S), that balance the descriptors' difference with smoothness."""
    dimension = fixed.ndim - 2
    offsets = list(product(range(-radius, radius + 1), repeat=dimension))
    padded = functional.pad(moving, [radius] * 2 * dimension)
    sizes = fixed.shape[2:]
    cost = fixed.new_empty(len(offsets), *sizes)
    for k, offset in enumerate(offsets):
        window = [slice(radius + o, radius + o + n) for o, n in zip(offset, sizes, strict=True)]
        difference = (fixed - padded[(slice(None), slice(None), *window)]).square().sum(1, keepdim=True)
        cost[k] = _box(_box(difference, as_released), as_released)[0, 0]
    cost = cost.flatten(1)
    table = fixed.new_tensor(offsets).T

    def smooth(best: Tensor) -> Tensor:
        return _box(table[:, best].reshape(1, dimension, *sizes), as_released)

    field = smooth(cost.argmin(0))
    for coupling in _COUPLING:
        nearby = field.reshape(dimension, -1)
        best = [
            (c + coupling * (table[:, :, None] - d[:, None]).square().sum(0)).argmin(0)
            for c, d in zip(cost.split(1024, 1), nearby.split(1024, 1), strict=True)
        ]
        field = smooth(torch.cat(best))
    return field


def _inverse_consistent(there: Tensor, back: Tensor, as_released: bool) -> Tensor:
    """The first of two fields after each has been averaged, again and again, with minus the other at its positions."""
    for _ in range(_CONSISTENCY_ROUNDS):
        there, back = (
            (there - _lookup(back, there, as_released)) / 2,
            (back - _lookup(there, back, as_released)) / 2,
        )
    return there


def _refine(
    fixed: Tensor, moving: Tensor, start: Tensor, smoothness: float, iterations: int, as_released: bool
) -> Tensor:
    """Adam on the displacements, in cells, (1, nD, *S), that three box filters turn into the field."""
    parameters = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([parameters], lr=1)
    field = start
    for _ in range(iterations):
        optimiser.zero_grad()
        field = _box(_box(_box(parameters, as_released), as_released), as_released)
        difference = (_lookup(moving, field, as_released) - fixed).square()
        # The mean over the channels, times the twelve of 3D also in 2D, so that the smoothness weighs the same.
        loss = 12 * difference.mean()
        for axis in range(2, field.ndim):
            # An axis of a single cell has no differences, and an empty mean would be NaN.
            if field.shape[axis] > 1:
                loss = loss + smoothness * field.diff(dim=axis).square().mean()
        loss.backward()
        optimiser.step()
    return field.detach()


def _resize(field: Tensor, size: Sequence[int]) -> Tensor:
    mode = "bilinear" if field.ndim == 4 else "trilinear"
    return functional.interpolate(field, size=tuple(size), mode=mode, align_corners=False)


def _column(factors: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(factors).reshape(1, -1, *[1] * (like.ndim - 2))


def _scaled(field: Tensor, factors: Sequence[float]) -> Tensor:
    return field * _column(factors, field)


def _pad_to_multiple(image: Tensor, multiples: Sequence[int]) -> Tensor:
    pads = [(-n) % m for n, m in zip(image.shape[2:], multiples, strict=True)]
    return functional.pad(image, [p for pad in reversed(pads) for p in (0, pad)], mode="replicate")
