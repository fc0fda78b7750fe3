"""How well one image is a function of the other: the correlation ratio of whole images, and of overlapping regions."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from modalign.similarity.parzen import Window, parzen_taps

_CHUNK_VALUES = 1_500_000
_SMALLEST_VARIANCE = 1e-6


def correlation_ratio(
    fixed: Tensor, warped: Tensor, mask: Tensor | None = None, bins: int = 32, window: Window = "polynomial"
) -> Tensor:
    """The share of the fixed image's variance that the warped intensities leave unexplained, from 0 to 1.

    ``sum_a p(a) Var(fixed | a) / Var(fixed)`` over the bins a of the warped intensity: one minus the correlation ratio
    of Roche et al. 1998. 0 if the fixed image is a function of the warped one.

    Args:
        fixed: (1, 1, *S), from 0 to 1.
        warped: (1, 1, *S), from 0 to 1, clipped beyond; the loss is differentiable in it alone.
        mask: weights (1, 1, *S).
        bins: of the warped intensity.
        window: the Parzen kernel, see :func:`modalign.similarity.parzen.parzen_taps`.
    """
    whole = [torch.ones(1, n, device=fixed.device, dtype=fixed.dtype) for n in fixed.shape[2:]]
    weights = torch.ones_like(fixed) if mask is None else mask.to(fixed.dtype)
    return _unexplained(fixed, warped, weights, whole, bins, window, fixed_windows=False)


def srwcr(
    fixed: Tensor,
    warped: Tensor,
    mask: Tensor | None = None,
    bins: int = 32,
    stride: int = 4,
    window: Window = "polynomial",
) -> Tensor:
    """The spatially region-weighted correlation ratio of Gong et al. 2019, from 0 to 1, lowest at alignment.

    ``sum_r n_r Var(fixed | a, r) / (Var_r(fixed) + 1e-6) / sum_r n_r``: the unexplained variance in regions weighted
    by cubic B-splines of 4 strides' width, every stride. The fixed intensity goes through Parzen windows as well, which
    adds a constant to both variances and settles regions without contrast at 1.

    For every region and bin a of the warped image only the sum of weights n and the sum of fixed intensities m matter,
    since the regional variance within bins is ``sum b^2 - sum_a m^2 / n``. Both are sums over three axes in turn.

    Args:
        fixed: (1, 1, *S), from 0 to 1, clipped beyond.
        warped: (1, 1, *S), from 0 to 1, clipped beyond; the loss is differentiable in it alone.
        mask: weights (1, 1, *S).
        bins: of each intensity.
        stride: distance of the regions in voxels.
        window: the Parzen kernel, see :func:`modalign.similarity.parzen.parzen_taps`.
    """
    regions = [region_weights(n, stride, fixed.device, fixed.dtype) for n in fixed.shape[2:]]
    weights = torch.ones_like(fixed) if mask is None else mask.to(fixed.dtype)
    return _unexplained(fixed, warped, weights, regions, bins, window, fixed_windows=True)


@lru_cache(maxsize=32)
def region_weights(size: int, stride: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The weights (regions, size) of one axis: cubic B-splines of 4 strides' width, centred on every stride's border.

    The first region is centred on the image's border, half a voxel before the first voxel.
    """
    with torch.inference_mode(False):
        centres = torch.arange(size // stride + 1, device=device, dtype=dtype)[:, None]
        t = ((torch.arange(size, device=device, dtype=dtype) + 0.5) / stride - centres).abs()
        return torch.where(t < 1, 2 / 3 - t.square() + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6)


def _unexplained(
    fixed: Tensor,
    warped: Tensor,
    mask: Tensor,
    regions: Sequence[Tensor],
    bins: int,
    window: Window,
    fixed_windows: bool,
) -> Tensor:
    if fixed.shape[:2] != (1, 1):
        raise ValueError(f"correlation ratios take one pair of one channel at a time, not shape {tuple(fixed.shape)}")
    shape = fixed.shape[2:]
    mean, square = fixed.detach().flatten().clamp(0, 1), fixed.detach().flatten().clamp(0, 1).square()
    if fixed_windows:
        taps = parzen_taps(mean, bins, window)
        offsets = torch.arange(len(taps.weights), device=fixed.device)[:, None]
        values = (taps.first + offsets).to(fixed.dtype) / (taps.slots - 1)
        mean, square = (taps.weights * values).sum(0), (taps.weights * values.square()).sum(0)
    weights = mask.detach().flatten()
    sums = torch.stack([weights, weights * mean, weights * square], -1).reshape(*shape, 3)
    count, first, second = _sum_regions(sums, regions).unbind(-1)
    explained = _Explained.apply(warped.flatten(), mean, weights, tuple(shape), tuple(regions), bins, window)
    safe = count.clamp(min=1e-12)
    variance = (second / safe - (first / safe).square()).clamp(min=0)
    within = second - explained
    return (within / (variance + _SMALLEST_VARIANCE)).sum() / count.sum().clamp(min=1e-8)


def _sum_regions(values: Tensor, regions: Sequence[Tensor]) -> Tensor:
    """Weighted sums over each region: (*S, C) to (*regions, C)."""
    for axis, matrix in enumerate(regions):
        values = torch.tensordot(matrix, values, dims=([1], [axis])).movedim(0, axis)
    return values


class _Explained(torch.autograd.Function):
    """``sum_a m_a^2 / n_a`` of every region, in slabs along the second axis, from weights that are never kept."""

    @staticmethod
    def forward(
        ctx: Any,
        warped: Tensor,
        values: Tensor,
        weights: Tensor,
        shape: tuple[int, ...],
        regions: tuple[Tensor, ...],
        bins: int,
        window: Window,
    ) -> Tensor:
        first, second, *rest = regions
        slots = parzen_taps(warped[:1], bins, window).slots
        columns = 2 * slots
        tail = warped.numel() // (shape[0] * shape[1])
        total = warped.new_zeros(len(second), len(first) * tail * columns)
        grids = [v.reshape(shape[0], shape[1], tail) for v in (warped, values, weights)]
        for slab, rows in _slabs(second, shape[0] * tail * columns):
            warped_part, values_part, weights_part = (g[:, slab].reshape(-1) for g in grids)
            spread = _spread(warped_part, values_part, weights_part, bins, window)
            along_first = first @ spread.reshape(shape[0], -1)
            # (regions, slab, tail * columns) with the slab in front.
            moved = along_first.reshape(len(first), -1, tail * columns).transpose(0, 1)
            total[rows] += second[rows, slab] @ moved.reshape(moved.shape[0], -1)
        moments = total.reshape(len(second), len(first), *shape[2:], columns).transpose(0, 1)
        for axis, matrix in enumerate(rest, 2):
            moments = torch.tensordot(matrix, moments, dims=([1], [axis])).movedim(0, axis)
        counts, sums = moments.split(slots, -1)
        mean = sums / counts.clamp(min=1e-12)
        ctx.save_for_backward(warped, values, weights, mean, *regions)
        ctx.shape, ctx.bins, ctx.window, ctx.slots = shape, bins, window, slots
        return (mean * sums).sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        warped, values, weights, mean, *regions = ctx.saved_tensors
        shape, columns = ctx.shape, 2 * ctx.slots
        first, second, *rest = regions
        outer = gradients[0][..., None]
        slopes = torch.cat([-outer * mean.square(), 2 * outer * mean], -1)
        for axis, matrix in enumerate(rest, 2):
            slopes = torch.tensordot(matrix, slopes, dims=([0], [axis])).movedim(0, axis)
        tail = warped.numel() // (shape[0] * shape[1])
        slopes = slopes.transpose(0, 1).reshape(len(second), -1)
        result = torch.empty_like(warped).reshape(shape[0], shape[1], tail)
        grids = [v.reshape(shape[0], shape[1], tail) for v in (warped, values, weights)]
        for slab, rows in _slabs(second, shape[0] * tail * columns):
            moved = (second[rows, slab].T @ slopes[rows]).reshape(-1, len(first), tail * columns)
            spread = first.T @ moved.transpose(0, 1).reshape(len(first), -1)
            warped_part, values_part, weights_part = (g[:, slab].reshape(-1) for g in grids)
            slopes_part = spread.reshape(-1, columns)
            pulled = _pulled(warped_part, values_part, weights_part, slopes_part, ctx.bins, ctx.window)
            result[:, slab] = pulled.reshape(shape[0], -1, tail)
        return result.reshape(-1), None, None, None, None, None, None


def _slabs(matrix: Tensor, values_per_row: int) -> list[tuple[slice, slice]]:
    """Portions of an axis, and the regions that each portion reaches."""
    size = matrix.shape[1]
    width = max(1, min(size, _CHUNK_VALUES // values_per_row))
    portions = []
    for start in range(0, size, width):
        slab = slice(start, min(start + width, size))
        reached = matrix[:, slab].any(1).nonzero()
        portions.append((slab, slice(int(reached[0]), int(reached[-1]) + 1)))
    return portions


def _columns(first: Tensor, taps: int, slots: int) -> Tensor:
    """The 2 T columns (N, 2 T) in which a voxel's weights and weighted values stand."""
    offsets = torch.arange(taps, device=first.device)
    return first[:, None] + torch.cat([offsets, offsets + slots])


def _spread(warped: Tensor, values: Tensor, weights: Tensor, bins: int, window: Window) -> Tensor:
    """Per voxel, its weight for every bin and the same times its value: (N, 2 slots), nearly all zero."""
    taps = parzen_taps(warped, bins, window)
    counted = taps.weights * weights
    spread = warped.new_zeros(len(warped), 2 * taps.slots)
    columns = _columns(taps.first, len(taps.weights), taps.slots)
    return spread.scatter_(1, columns, torch.cat([counted, counted * values]).T)


def _pulled(warped: Tensor, values: Tensor, weights: Tensor, slopes: Tensor, bins: int, window: Window) -> Tensor:
    """The derivative by each voxel's intensity, given those by its entries in :func:`_spread`."""
    taps = parzen_taps(warped, bins, window)
    columns = _columns(taps.first, len(taps.weights), taps.slots)
    by_count, by_sum = slopes.gather(1, columns).T.reshape(2, len(taps.weights), -1)
    return (taps.slopes * (by_count + by_sum * values)).sum(0) * weights
