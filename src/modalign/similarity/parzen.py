"""Parzen windows over intensity: which histogram bins a voxel belongs to, and how that changes with its intensity."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Window = Literal["polynomial", "bspline"]
_CHUNK_VOXELS = 16_384


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
            joint += (gaussian_weights(f, bins, sigma_ratio) * m) @ gaussian_weights(w, bins, sigma_ratio).T
        return joint

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        fixed, warped, mask = ctx.saved_tensors
        bins, sigma_ratio = ctx.bins, ctx.sigma_ratio
        result = torch.empty_like(warped)
        for f, w, m, out in zip(*(v.split(_CHUNK_VOXELS) for v in (fixed, warped, mask, result)), strict=True):
            weights = gaussian_weights(w, bins, sigma_ratio)
            pull = gradients[0].T @ gaussian_weights(f, bins, sigma_ratio)
            # The slope of exp(-(x - c)^2 / 2 s^2) / sum is weight * (c - mean c) / s^2.
            centres = torch.arange(bins, device=w.device, dtype=w.dtype)
            weighted = weights * pull
            mean = centres @ weights
            slope = centres @ weighted - mean * weighted.sum(0)
            inside = (w >= 0) & (w <= 1)
            out.copy_(slope * (bins - 1) / sigma_ratio**2 * m * inside)
        return None, result, None, None, None


def gaussian_weights(values: Tensor, bins: int, sigma_ratio: float) -> Tensor:
    """Gaussian weights (bins, N) of every intensity for every bin, adding up to 1 over the bins."""
    centres = torch.arange(bins, device=values.device, dtype=values.dtype)[:, None]
    return torch.softmax(((values.clamp(0, 1) * (bins - 1) - centres) / sigma_ratio).square_().mul_(-0.5), 0)
