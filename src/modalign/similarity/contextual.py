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

TILE_ELEMENTS = 2**22
"""Similarities held at a time; 16 MiB of float32."""
FLAT = 1e-5
"""Added to the smallest distance, by which distances are divided."""


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
        tiles = _tiles(second.shape[1], first.shape[0] * first.shape[1])
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
        batch, rows = first.shape[:2]
        columns = second.shape[1]
        best = first.new_full((batch, columns), -torch.inf)
        winner = torch.zeros(batch, columns, dtype=torch.long, device=first.device)
        for start, stop in _tiles(rows, batch * columns):
            likelihood = _log_similarity(first[:, start:stop], second, bandwidth)[0]
            highest, where = likelihood.max(1)
            better = highest > best
            best = torch.where(better, highest, best)
            winner = torch.where(better, where + start, winner)
        ctx.save_for_backward(first, second, winner, best)
        ctx.bandwidth = bandwidth
        return best.exp().mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        first, second, winner, best = ctx.saved_tensors
        of_first = torch.zeros_like(first) if ctx.needs_input_grad[0] else None
        of_second = torch.zeros_like(second) if ctx.needs_input_grad[1] else None
        # d mean_j exp(best_j) = exp(best_j) / M d best_j, and best_j is the log-softmax of row winner_j at column j.
        weight = best.exp() * (gradient / second.shape[1])[:, None]
        with torch.autocast(first.device.type, enabled=False):
            for one in range(len(first)):
                rows, place = torch.unique(winner[one], return_inverse=True)
                for start, stop in _tiles(len(rows), second.shape[1]):
                    mine = (place >= start) & (place < stop)
                    x, y = first[one, rows[start:stop]], second[one]
                    slope = _slope(x, y, place[mine] - start, mine, weight[one, mine], ctx.bandwidth)
                    if of_first is not None:
                        of_first[one, rows[start:stop]] = slope @ y
                    if of_second is not None:
                        of_second[one] += slope.T @ x
        return of_first, of_second, None


def _slope(x: Tensor, y: Tensor, row: Tensor, mine: Tensor, weight: Tensor, bandwidth: float) -> Tensor:
    """The gradient of ``sum_j weight_j log CX[row_j, j]`` (over the columns `mine`) by the cosines of `x` and `y`."""
    likelihood, distance, smallest, nearest = (part[0] for part in _log_similarity(x[None], y[None], bandwidth))
    totals = weight.new_zeros(len(x)).index_add_(0, row, weight)
    slope = likelihood.exp_().mul_(-totals[:, None])
    slope[row, mine.nonzero()[:, 0]] += weight
    scale = bandwidth * (smallest + FLAT)
    # d_ij is divided by the smallest of its row, which therefore takes part in the gradient of all of them.
    through_smallest = (slope * distance).sum(1) / (scale * (smallest + FLAT))
    slope = slope / -scale[:, None]
    slope[torch.arange(len(x), device=x.device), nearest] += through_smallest
    return slope.mul_(-0.5).masked_fill_(distance <= 0, 0)


def _log_similarity(x: Tensor, y: Tensor, bandwidth: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log CX (B, n, M) of rows `x` with all of `y`; the distances, and the smallest of each row and where it is."""
    distance = torch.bmm(x, y.transpose(1, 2)).mul_(-0.5).add_(0.5).clamp_(min=0)
    smallest, nearest = distance.min(2)
    # A softmax doesn't change when the same number is added to a row, so the 1 of 1 - d / min d drops out.
    logits = distance / ((smallest + FLAT) * -bandwidth)[:, :, None]
    return logits.log_softmax(2), distance, smallest, nearest


def _tiles(rows: int, elements_per_row: int) -> list[tuple[int, int]]:
    step = max(1, TILE_ELEMENTS // elements_per_row)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
