"""Which pixels look at which part of the reference: the plan by which windowed attention becomes matrix products.

Linear interpolation at n + t, n integer and t in [0, 1), is a sum over the corners c of a cell: sum_c w_c(t) k(n + c).
All samples of a pixel's window have the same t. So the logit of a sample is q . sum_c w_c k(n + c) = (w x q) . K(n), of
the outer product w x q and of K, the keys of the corners stacked along the channels; and the attended value is what
attention to values stacked alike gives, contracted with w. This is attention on the integer grid, and exact: neither
keys nor values nor weights of the attention are ever interpolated.

Pixels whose windows start in the same small cell need the same box of keys, hardly larger than one window. Their logits
with the whole box are one matrix product, from which a mask cuts the windows.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from modalign.spatial.warp import identity

CELL = {2: 8, 3: 4}
"""Width of the cells in voxels, by dimension: wider makes better matrix products, narrower masks less of them."""


@dataclass(frozen=True)
class Plan:
    """Pixels sorted into tiles, each of which looks into one box of the padded reference.

    Attributes:
        order: (P,) flat indices into the P pixels of all images, tile by tile.
        weights: (2^nD, P) of the corners for each pixel, in that order.
        phase: (P,) where in its cell a pixel's window starts, a flat index, in that order.
        tiles: (T, 3 + nD): image, first pixel in that order, number of pixels, first voxel of the box along each axis.
        mask: (cell^nD, box^nD): 0 in the window that starts in that voxel of the cell, minus infinity outside.
        box: voxels of a box along each axis.
        padding: zeros before and after the reference along each axis.
    """

    order: Tensor
    weights: Tensor
    phase: Tensor
    tiles: Tensor
    mask: Tensor
    box: int
    padding: tuple[tuple[int, int], ...]

    def pad(self, image: Tensor) -> Tensor:
        """Zeros around an image (..., *S), as far out as any window starts or ends."""
        return functional.pad(image, [n for pair in reversed(self.padding) for n in pair])

    def unpad(self, padded: Tensor) -> Tensor:
        """The image inside."""
        return functional.pad(padded, [-n for pair in reversed(self.padding) for n in pair])


def make_plan(field: Tensor, window: int, most_pixels: int) -> Plan:
    """Sort pixels by the cell in which their windows start.

    Args:
        field: (B, nD, *S) in voxels, array axis order.
        window: samples along each axis, at offsets from ``-((window - 1) // 2)`` to ``window // 2``.
        most_pixels: in a tile; cells with more are split.
    """
    shape = tuple(field.shape[2:])
    cell = CELL[len(shape)]
    start, fraction = window_starts(field, window)
    start = start + window + 1
    grid = [(n + window + 1) // cell + 1 for n in shape]
    images = torch.arange(len(field), device=field.device).reshape(-1, 1, *[1] * len(shape)).expand_as(start[:, :1])
    cell_number = _flat(torch.cat([images, start // cell], dim=1), [len(field), *grid])
    cell_number, order = cell_number.flatten().sort(stable=True)
    tiles = _tiles(cell_number, grid, cell, most_pixels)
    phase = _flat(start % cell, [cell] * len(shape)).flatten()[order]
    weights = corner_weights(fraction).movedim(1, 0).flatten(1)[:, order]
    padding = tuple((window + 1, g * cell - n - 1) for g, n in zip(grid, shape, strict=True))
    return Plan(order, weights, phase, tiles, _mask(field, cell, window), cell - 1 + window, padding)


def window_starts(field: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """First voxel of each pixel's window, and the fraction of a voxel by which its samples lie beyond voxels.

    Windows altogether outside the image are moved to just outside: either way they see nothing but zeros.

    Returns:
        Starts (B, nD, *S), integers from ``-(window + 1)`` to the image's size, and fractions (B, nD, *S) in [0, 1).
    """
    sizes = field.new_tensor(field.shape[2:]).reshape(1, -1, *[1] * (field.ndim - 2))
    behind = (window - 1) // 2
    position = identity(field.shape[2:], field.device, field.dtype) + field
    position = position.clamp(min=behind - window - 1.0).minimum(sizes + behind)
    voxel = position.floor()
    # A field that is not a number has to show in the output, by way of the fraction; an index can't carry it.
    return voxel.nan_to_num().long() - behind, position - voxel


def corners(dimension: int) -> list[tuple[int, ...]]:
    """The corners of a unit cell, the origin first, the last axis fastest."""
    return list(itertools.product((0, 1), repeat=dimension))


def corner_weights(fraction: Tensor) -> Tensor:
    """Weights of linear interpolation between :func:`corners`, (B, nD, *S) to (B, 2^nD, *S)."""
    sides = (1 - fraction, fraction)
    axes = range(fraction.shape[1])
    return torch.stack([torch.stack([sides[c[a]][:, a] for a in axes]).prod(0) for c in corners(len(axes))], dim=1)


def logit_scale(query: Tensor, heads: int) -> float:
    """The factor by which products of queries (B, C, *S) and keys become logits to base 2."""
    return (query.shape[1] / heads) ** -0.5 / math.log(2)


def by_pixel(image: Tensor, plan: Plan, heads: int) -> Tensor:
    """(B, C, *S) as (heads, C / heads, P), pixels in the plan's order."""
    return image.flatten(2).unflatten(1, (heads, -1)).permute(1, 2, 0, 3).flatten(2)[..., plan.order]


def from_pixels(pixels: Tensor, plan: Plan, like: Tensor) -> Tensor:
    """The reverse of :func:`by_pixel`, in the shape of `like`."""
    unsorted = torch.empty_like(pixels)
    unsorted[..., plan.order] = pixels
    return unsorted.unflatten(2, (len(like), -1)).permute(2, 0, 1, 3).reshape(like.shape)


def _flat(index: Tensor, sizes: Sequence[int]) -> Tensor:
    """Row-major numbers of indices that run along axis 1."""
    flat = torch.zeros_like(index[:, 0])
    for along_axis, size in zip(index.unbind(1), sizes, strict=True):
        flat = flat * size + along_axis
    return flat


def _tiles(cell_number: Tensor, grid: Sequence[int], cell: int, most_pixels: int) -> Tensor:
    numbers, counts = cell_number.unique_consecutive(return_counts=True)
    pieces = (counts + most_pixels - 1) // most_pixels
    of_cell = torch.repeat_interleave(pieces)
    piece = torch.arange(len(of_cell), device=pieces.device) - (pieces.cumsum(0) - pieces)[of_cell]
    first = (counts.cumsum(0) - counts)[of_cell] + piece * most_pixels
    count = (counts[of_cell] - piece * most_pixels).clamp(max=most_pixels)
    columns, rest = [], numbers[of_cell]
    for size in reversed(grid):
        columns.append(rest % size * cell)
        rest = rest // size
    return torch.stack([rest, first, count, *reversed(columns)], dim=1)


def _mask(like: Tensor, cell: int, window: int) -> Tensor:
    dimension = like.ndim - 2
    start, voxel = torch.arange(cell)[:, None], torch.arange(cell - 1 + window)
    along_axis = (voxel >= start) & (voxel < start + window)
    inside = along_axis
    for _ in range(dimension - 1):
        inside = (inside[:, None, :, None] & along_axis[None, :, None, :]).flatten(2).flatten(0, 1)
    return torch.zeros(inside.shape).masked_fill_(~inside, -math.inf).to(like)
