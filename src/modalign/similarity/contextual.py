"""The contextual loss (Mechrez et al. 2018): every feature of one image has a like one somewhere in the other.

Where in the image it is doesn't matter, so that misaligned images can be compared. RbG, Eq. 9 in words; the formula is
that of Mechrez, as in its released code. The printed one, a mean of smallest cosine distances, is there as well.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

TILE_ELEMENTS = {"cpu": 2**19, "cuda": 2**24}
"""Similarities held at a time: on a CPU as many as stay in its cache."""
FLAT = 1e-5
"""Added to the smallest distance, by which distances are divided."""
LEAST_LOG = -50.0
"""Of a similarity and the largest of its row: less makes no difference, and exponentials that are hardly numbers any
more are ten times slower."""


def contextual_loss(
    image: Sequence[Tensor],
    target: Sequence[Tensor],
    bandwidth: float = 0.5,
    parts: int = 2,
    offset: Sequence[float] = (),
    form: Literal["relative", "nearest"] = "relative",
) -> Tensor:
    """``-log CX``, averaged over the batch and added up over the layers' feature maps; 0 or more.

    It is about 0 if each feature of the target has one of the image very near, compared with all others of the target.
    In the form ``nearest`` it is the mean over the target's features of the smallest cosine distance, ``1 - cosine``,
    to a feature of the image, between 0 and 2: the printed Eq. 9 of RbG, but for a constant and for the sign that its
    words ask for. There the features' mean stays, and neither bandwidth nor relative distances matter.

    Args:
        image: features of the first image, (B, C, *S) each.
        target: features of the second one, (B, C, *T) each; their mean is taken off both.
        bandwidth: h of the similarities ``exp((1 - d / min d) / h)``.
        parts: cut both into as many parts along each axis, and compare each with its counterpart alone; 2, quadrants,
            as released.
        offset: move the cuts by this share of a part along each axis; the last part then goes on at the first border.
            Cuts that stay where they are leave traces in generated images.
        form: see above.

    Raises:
        ValueError: feature maps don't fit together, or are smaller than the number of parts.
    """
    if any(min(maps.shape[2:]) < parts for maps in (*image, *target)):
        raise ValueError(f"feature maps smaller than {parts} voxels can't be cut into {parts} parts: take fewer parts")
    if len(image) != len(target):
        raise ValueError(f"{len(image)} feature maps can't be compared with {len(target)}")
    losses = []
    for maps in zip(image, target, strict=True):
        # In float32 also under mixed precision: smallest distances are divided by.
        i, t = (_cut(x, parts, offset).flatten(2).transpose(1, 2).float() for x in maps)
        with torch.autocast(i.device.type, enabled=False):
            losses.append(_nearest(i, t) if form == "nearest" else _relative(i, t, bandwidth))
    return torch.stack(losses).sum()


def _relative(image: Tensor, target: Tensor, bandwidth: float) -> Tensor:
    mean = target.mean((0, 1))
    first, second = (functional.normalize(x - mean, dim=2, eps=1e-8) for x in (image, target))
    return -contextual_similarity(first, second, bandwidth).log().mean()


def _nearest(image: Tensor, target: Tensor) -> Tensor:
    first, second = (functional.normalize(x, dim=2, eps=1e-8) for x in (image, target))
    with torch.no_grad():
        tiles = _tiles(second.shape[1], first)
        nearest = [torch.bmm(second[:, start:stop], first.transpose(1, 2)).argmax(2) for start, stop in tiles]
    # Only the nearest features take part in the gradient, so that the table of all cosines needn't be kept.
    found = first.gather(1, torch.cat(nearest, 1)[..., None].expand(-1, -1, first.shape[2]))
    return 1 - (found * second).sum(2).mean()


def _cut(maps: Tensor, parts: int, offset: Sequence[float]) -> Tensor:
    """(B, C, H, W) cut into its parts, (parts^2 B, C, H // parts, W // parts); rows that are left over are left out."""
    for axis in range(2, maps.ndim):
        size = maps.shape[axis] // parts
        if offset:
            maps = maps.roll(-round(offset[axis - 2] * size), axis)
        maps = torch.cat([maps.narrow(axis, part * size, size) for part in range(parts)])
    return maps


def contextual_similarity(first: Tensor, second: Tensor, bandwidth: float = 0.5) -> Tensor:
    """How much of `second` is found in `first`: the mean over j of ``max_i CX_ij``, (B,), between 0 and 1.

    ``CX_ij = softmax_j((1 - d_ij / (min_j d_ij + 1e-5)) / bandwidth)``, ``d = (1 - cosine) / 2``.

    Nothing of size N x M is kept: tiles of rows are compared one after the other, and the gradient computes only those
    rows again that hold the maximum of some column.

    Args:
        first: (B, N, C), L2-normalised.
        second: (B, M, C), L2-normalised.
        bandwidth: see above.

    Mixed precision is left out: rounded cosines of like features would make all of them alike.
    """
    with torch.autocast(first.device.type, enabled=False):
        return _Contextual.apply(first, second, bandwidth)


class _Contextual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, bandwidth: float) -> Tensor:
        found = [_best(first[some], second[some], bandwidth) for some in _samples(first, second)]
        best, winner = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(first, second, winner, best)
        ctx.bandwidth = bandwidth
        return best.mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        first, second, winner, best = ctx.saved_tensors
        # d mean_j best_j = best_j / M d log best_j, and best_j is the softmax of row winner_j at column j.
        weight = best * (gradient / second.shape[1])[:, None]
        of_first = torch.zeros_like(first)
        of_second = torch.zeros_like(second) if ctx.needs_input_grad[1] else None
        with torch.autocast(first.device.type, enabled=False):
            for some in _samples(first, second):
                add_to = of_first[some], None if of_second is None else of_second[some]
                _add_gradients(first[some], second[some], winner[some], weight[some], ctx.bandwidth, *add_to)
        return of_first, of_second, None


def _best(first: Tensor, second: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """``max_i CX_ij`` and the i where it is, (B, M) each."""
    best = first.new_full(second.shape[:2], -1)
    winner = torch.zeros(second.shape[:2], dtype=torch.long, device=first.device)
    for start, stop in _tiles(first.shape[1], second):
        similarity = _similarity(first[:, start:stop], second, bandwidth)[0]
        highest = similarity.amax(1)
        # Which row it is comes from a search of the maximum: faster than a maximum that keeps its place.
        sample, row, column = (similarity == highest[:, None]).nonzero(as_tuple=True)
        where = torch.zeros_like(winner)
        where[sample, column] = row
        better = highest > best
        best = torch.where(better, highest, best)
        winner = torch.where(better, where + start, winner)
    return best, winner


def _add_gradients(
    first: Tensor,
    second: Tensor,
    winner: Tensor,
    weight: Tensor,
    bandwidth: float,
    of_first: Tensor,
    of_second: Tensor | None,
) -> None:
    """Add the gradients of ``sum_j weight_j log CX[winner_j, j]`` by `first` and by `second` to the last two."""
    rows, place = _winners(winner, first.shape[1])
    for start, stop in _tiles(rows.shape[1], second):
        index = rows[:, start:stop, None].expand(-1, -1, first.shape[2])
        mine = torch.where((place >= start) & (place < stop), weight, 0)
        x = first.gather(1, index)
        slope = _slope(x, second, (place - start).clamp(0, stop - start - 1), mine, bandwidth)
        of_first.scatter_(1, index, torch.bmm(slope, second))
        if of_second is not None:
            of_second.baddbmm_(slope.transpose(1, 2), x)


def _winners(winner: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The rows that hold a maximum, (B, n), for each sample in rising order, with others behind them in samples that
    have fewer; and where in them each of `winner` (B, M) is."""
    won = torch.zeros(len(winner), rows, dtype=torch.long, device=winner.device).scatter_(1, winner, 1)
    order = won.argsort(dim=1, descending=True, stable=True)
    return order[:, : int(won.sum(1).max())], (won.cumsum(1) - 1).gather(1, winner)


def _slope(x: Tensor, y: Tensor, row: Tensor, weight: Tensor, bandwidth: float) -> Tensor:
    """The gradient of ``sum_j weight_j log CX[row_j, j]`` by the cosines of `x` (B, n, C) and `y` (B, M, C)."""
    similarity, distance, smallest = _similarity(x, y, bandwidth, keep=True)
    totals = weight.new_zeros(x.shape[:2]).scatter_add_(1, row, weight)
    slope = similarity.mul_(-totals[:, :, None]).scatter_add_(1, row[:, None], weight[:, None])
    scale = bandwidth * (smallest + FLAT)
    # d_ij is divided by the smallest of its row, which therefore takes part in the gradient of all of them.
    through_smallest = (slope * distance).sum(2) / (scale * (smallest + FLAT))
    slope.mul_(0.5 / scale[:, :, None])
    slope.scatter_add_(2, distance.argmin(2, keepdim=True), -0.5 * through_smallest[:, :, None])
    return slope.masked_fill_(distance <= 0, 0)


def _similarity(x: Tensor, y: Tensor, bandwidth: float, keep: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """CX (B, n, M) of rows `x` with all of `y`; the distances, where they are to be kept, and the smallest of each
    row."""
    half = x.new_tensor(0.5).expand(len(x), x.shape[1], y.shape[1])
    distance = torch.baddbmm(half, x, y.transpose(1, 2), alpha=-0.5).clamp_(min=0)
    smallest = distance.amin(2, keepdim=True)
    # A softmax doesn't change when the same number is added to a row, so the 1 of 1 - d / min d drops out.
    beyond = distance - smallest if keep else distance.sub_(smallest)
    likeness = beyond.mul_((-1 / bandwidth) / (smallest + FLAT)).clamp_(min=LEAST_LOG).exp_()
    return likeness.div_(likeness.sum(2, keepdim=True)), distance, smallest[:, :, 0]


def _samples(first: Tensor, second: Tensor) -> list[slice]:
    """As many samples at a time as make a tile, and at least one."""
    step = max(1, TILE_ELEMENTS[first.device.type] // (first.shape[1] * second.shape[1]))
    return [slice(start, start + step) for start in range(0, len(first), step)]


def _tiles(rows: int, other: Tensor) -> list[tuple[int, int]]:
    """First row and the one after the last of each tile, of rows compared with all of `other` (B, M, C)."""
    step = max(1, TILE_ELEMENTS[other.device.type] // (len(other) * other.shape[1]))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
