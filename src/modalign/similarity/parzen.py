"""Parzen windows over intensity: which histogram bins a voxel belongs to, and how that changes with its intensity."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from modalign.similarity.filters import at_least_float32

Window = Literal["polynomial", "bspline"]
_CHUNK_VOXELS = 32_768


@dataclass(frozen=True)
class Taps:
    """The few bins that each of N intensities touches.

    Attributes:
        first: (N,) index of the first of them; the others follow.
        weights: (T, N) how much each bin gets; sums to 1.
        slopes: (T, N) the derivative of the weights by the intensity.
        slots: number of bins in all.
    """

    first: Tensor
    weights: Tensor
    slopes: Tensor
    slots: int


def parzen_taps(values: Tensor, bins: int, window: Window = "polynomial") -> Taps:
    """The bins that each intensity touches, of `bins` evenly spaced ones with centres from 0 to 1.

    ``polynomial``: the second-order kernel of Xu et al. 2008, two bins each: ``1 - 0.1 t - 1.8 t^2`` for a distance t
    below half a bin, ``1.9 - 3.7 t + 1.8 t^2`` up to a whole one. ``bspline``: the quadratic B-spline, three bins each,
    one more bin at either end.

    Args:
        values: (N,) intensities; beyond 0 and 1 they are clipped.
        bins: 2 or more.
        window: the kernel.
    """
    if bins < 2:
        raise ValueError(f"a histogram needs 2 bins or more, not {bins}")
    position = values.clamp(0, 1) * (bins - 1)
    # Where an intensity is clipped, nothing depends on it.
    scale = (bins - 1) * ((values >= 0) & (values <= 1)).to(values.dtype)
    if window == "polynomial":
        first = position.floor().clamp(max=bins - 2)
        t = position - first
        upper = torch.where(t < 0.5, 0.1 * t + 1.8 * t.square(), -0.9 + 3.7 * t - 1.8 * t.square())
        slope = torch.where(t < 0.5, 0.1 + 3.6 * t, 3.7 - 3.6 * t) * scale
        return Taps(first.long(), torch.stack([1 - upper, upper]), torch.stack([-slope, slope]), bins)
    if window == "bspline":
        first = (position + 0.5).floor().clamp(max=bins - 1)
        t = position - first
        weights = torch.stack([(0.5 - t).square() / 2, 0.75 - t.square(), (0.5 + t).square() / 2])
        slopes = torch.stack([t - 0.5, -2 * t, t + 0.5]) * scale
        return Taps(first.long(), weights, slopes, bins + 2)
    raise ValueError(f"there is no Parzen window {window!r}; choose polynomial or bspline")


def joint_histogram(fixed: Tensor, warped: Tensor, mask: Tensor, bins: int, sigma_ratio: float = 0.5) -> Tensor:
    """The joint distribution of two images under Gaussian Parzen windows, differentiable in `warped`.

    Works through the voxels in portions and computes their weights again in the backward pass, so that no array of
    bins times voxels is ever kept.

    Args:
        fixed: any shape, from 0 to 1, clipped beyond.
        warped: the same shape.
        mask: the same shape; weights of the voxels.
        bins: evenly spaced, with centres from 0 to 1.
        sigma_ratio: standard deviation of the windows in bin widths.

    Returns:
        (bins of fixed, bins of warped), adding up to 1; all zero where the mask is empty.
    """
    fixed, warped = at_least_float32(fixed), at_least_float32(warped)
    # A half-precision product of this many voxels doesn't add up to one.
    with torch.autocast(warped.device.type, enabled=False):
        return _JointHistogram.apply(fixed.flatten(), warped.flatten(), mask.flatten(), bins, sigma_ratio)


class _JointHistogram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fixed: Tensor, warped: Tensor, mask: Tensor, bins: int, sigma_ratio: float) -> Tensor:
        mask = mask.to(warped.dtype)
        mask = mask / mask.sum().clamp(min=1e-8)
        ctx.save_for_backward(fixed, warped, mask)
        ctx.bins, ctx.sigma_ratio = bins, sigma_ratio
        joint = warped.new_zeros(bins, bins)
        for f, w, m in zip(*(v.split(_CHUNK_VOXELS) for v in (fixed, warped, mask)), strict=True):
            joint += (gaussian_weights(f, bins, sigma_ratio) * m[:, None]).T @ gaussian_weights(w, bins, sigma_ratio)
        return joint

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        fixed, warped, mask = ctx.saved_tensors
        bins, sigma_ratio = ctx.bins, ctx.sigma_ratio
        reach = _gaussian_reach(sigma_ratio)
        offsets = torch.arange(-reach, reach + 1, device=warped.device)
        # Bins beyond either end have no weight, and what is read for them doesn't matter.
        padded = torch.nn.functional.pad(gradients[0], (reach, reach))
        result = torch.empty_like(warped)
        for f, w, m, out in zip(*(v.split(_CHUNK_VOXELS) for v in (fixed, warped, mask, result)), strict=True):
            nearest, weights = _gaussian_taps(w, bins, sigma_ratio)
            pull = gaussian_weights(f, bins, sigma_ratio) @ padded
            weighted = weights * pull.gather(1, nearest[:, None] + (offsets + reach)).T
            # The slope of exp(-(x - c)^2 / 2 s^2) / sum is weight * (c - mean c) / s^2.
            along = offsets.to(w.dtype)
            slope = along @ weighted - (along @ weights) * weighted.sum(0)
            inside = (w >= 0) & (w <= 1)
            out.copy_(slope * (bins - 1) / sigma_ratio**2 * m * inside)
        return None, result, None, None, None


def gaussian_weights(values: Tensor, bins: int, sigma_ratio: float) -> Tensor:
    """Gaussian weights (N, bins) of every intensity for every bin, adding up to 1 over the bins.

    Bins more than 7 standard deviations away, with weights below 1e-10, get none.
    """
    reach = _gaussian_reach(sigma_ratio)
    nearest, weights = _gaussian_taps(values, bins, sigma_ratio)
    spread = values.new_zeros(len(values), bins + 2 * reach)
    spread.scatter_(1, nearest[:, None] + torch.arange(2 * reach + 1, device=values.device), weights.T)
    return spread[:, reach : reach + bins]


def _gaussian_reach(sigma_ratio: float) -> int:
    """How many bins on either side of the nearest one may lie within 7 standard deviations."""
    return math.ceil(7 * sigma_ratio - 0.5)


def _gaussian_taps(values: Tensor, bins: int, sigma_ratio: float) -> tuple[Tensor, Tensor]:
    """The nearest bin (N,), and the weights (2 reach + 1, N) of the bins around it, zero for those that don't exist.

    At t from the nearest bin, the weight ``exp(-(k - t)^2 / 2 s^2)`` is that of bin k - 1 times
    ``exp((t - 1/2) / s^2) exp((1 - k) / s^2)``: two exponentials for a voxel instead of one for each bin.
    """
    reach, precision = _gaussian_reach(sigma_ratio), 1 / sigma_ratio**2
    position = values.clamp(0, 1) * (bins - 1)
    nearest = position.round()
    up, down = (torch.exp((side - 0.5) * precision) for side in (position - nearest, nearest - position))
    weights = values.new_empty(2 * reach + 1, len(values))
    weights[reach] = 1
    for k in range(1, reach + 1):
        factor = math.exp((1 - k) * precision)
        torch.mul(weights[reach + k - 1], up, out=weights[reach + k]).mul_(factor)
        torch.mul(weights[reach - k + 1], down, out=weights[reach - k]).mul_(factor)
    for k in range(1, reach + 1):
        weights[reach + k].masked_fill_(nearest > bins - 1 - k, 0)
        weights[reach - k].masked_fill_(nearest < k, 0)
    return nearest.long(), weights.div_(weights.sum(0))
