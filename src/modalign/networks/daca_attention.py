"""Attention of every pixel to a window of a reference around where a displacement field points, exact and tiled."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modalign.networks.daca_reference import gather_all_attention
from modalign.networks.daca_windows import Plan, by_pixel, corners, from_pixels, logit_scale, make_plan

FEW_SAMPLES = 9
"""Samples of a window up to which gathering them takes less time than planning tiles that share voxels, on a CPU."""
MOST_PIXELS = 128
"""Pixels of a tile at most, so that its logits stay in a core's cache."""


def deformable_window_attention(
    query: Tensor, key: Tensor, value: Tensor, field: Tensor, window: int, heads: int
) -> Tensor:
    """Multi-head attention of pixel p to the reference at ``p + field(p) + o``, for all offsets o of a window.

    Offsets run from ``-((window - 1) // 2)`` to ``window // 2`` along each axis: -13 to 14 for 28. Keys and values
    between voxels are those of linear interpolation, with zeros outside the image: a sample there is not masked, its
    logit is 0 and its value is 0. Logits are scaled by ``1 / sqrt(channels of a head)``.

    Args:
        query: (B, C, *S), two or three spatial axes; head h has channels ``h C / heads`` to ``(h + 1) C / heads``.
        key: (B, C, *S).
        value: (B, C, *S).
        field: (B, nD, *S) in voxels of this grid, array axis order; gets no gradient.
        window: samples along each axis.
        heads: divides the channels.

    Returns:
        (B, C, *S) of the query's type. Half precision is computed in float32, on a GPU with the mantissas of tf32.

    Raises:
        ValueError: shapes, heads or window don't fit.

    Source: DACA of RegistFormer (eq. 1) and RbG (eqs. 6 and 7), with the offsets of the released code.
    """
    dimension, shape = query.ndim - 2, tuple(query.shape)
    if dimension not in (2, 3) or key.shape != shape or value.shape != shape:
        message = "query, key and value have one shape (B, C, *S) with two or three spatial axes"
        raise ValueError(f"{message}, not {shape}, {tuple(key.shape)} and {tuple(value.shape)}")
    if tuple(field.shape) != (shape[0], dimension, *shape[2:]):
        raise ValueError(f"the field has shape {tuple(field.shape)}, not {(shape[0], dimension, *shape[2:])}")
    if heads < 1 or shape[1] % heads:
        raise ValueError(f"{shape[1]} channels can't be split into {heads} heads")
    if window < 1:
        raise ValueError(f"a window has at least 1 sample along each axis, not {window}")
    working = torch.float64 if query.dtype == torch.float64 else torch.float32
    tensors = [tensor.to(working) for tensor in (query, key, value, field.detach())]
    with torch.autocast(query.device.type, enabled=False):
        fused = _fused_kernels(query.device) if working == torch.float32 and query.is_cuda else None
        if fused is None:
            few = window**dimension <= FEW_SAMPLES
            attention: Callable[..., Tensor] = gather_all_attention if few else _WindowAttention.apply
            return attention(*tensors, window, heads).to(query.dtype)
        precision = "ieee" if query.dtype == working else "tf32"
        return fused(*tensors, window, heads, precision).to(query.dtype)


@cache
def _fused_kernels(device: torch.device) -> Callable[..., Tensor] | None:
    """The Triton version, where Triton is installed and the GPU is one that it supports."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from modalign.networks.daca_triton import triton_window_attention
    except ImportError:
        return None
    return triton_window_attention


class _WindowAttention(torch.autograd.Function):
    """Tile by tile; only inputs, output and normalisation are kept, the backward pass computes the weights again.

    Logits are to base 2, because PyTorch's exp2 is several times faster than its exp. Keys and values go through the
    same steps, and so they are one tensor of twice the heads; backwards, so are queries and the output's gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, field: Tensor, window: int, heads: int) -> Tensor:
        plan = make_plan(field, window, MOST_PIXELS)
        queries = by_pixel(query * logit_scale(query, heads), plan, heads)
        references = plan.pad(_by_head(heads, key, value))
        attended, normalisation = torch.empty_like(queries), torch.empty_like(queries[:, 0])
        for image, pixels, box in _tiles(plan):
            corner_weights = plan.weights[:, None, pixels]
            keys, values = _stacked(references[image], box).split(heads)
            local = _spread(queries[..., pixels], corner_weights)
            logits = torch.baddbmm(plan.mask[plan.phase[pixels]], local.mT, keys)
            largest = logits.amax(-1, keepdim=True)
            weights = logits.sub_(largest).exp2_()
            total = weights.sum(-1, keepdim=True)
            attended[..., pixels] = _gathered(values @ weights.mT, corner_weights).div_(total.mT)
            normalisation[:, pixels] = total.log2_().add_(largest).squeeze(-1)
        output = from_pixels(attended, plan, query)
        ctx.save_for_backward(query, key, value, field, output, normalisation)
        ctx.window, ctx.heads = window, heads
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, field, output, normalisation = ctx.saved_tensors
        (gradient,), heads = gradients, ctx.heads
        plan, scale = make_plan(field, ctx.window, MOST_PIXELS), logit_scale(query, heads)
        d_attended = by_pixel(gradient, plan, heads)
        # The mean of the weights' gradients under the attention, which the softmax subtracts.
        mean = (d_attended * by_pixel(output, plan, heads)).sum(1)
        known = torch.cat([mean, normalisation]).neg_()[..., None]
        pairs = torch.cat([d_attended, by_pixel(query * scale, plan, heads)])
        references = plan.pad(_by_head(heads, value, key))
        d_queries, d_references = torch.empty_like(d_attended), torch.zeros_like(references)
        with torch.autocast(query.device.type, enabled=False):
            for image, pixels, box in _tiles(plan):
                corner_weights = plan.weights[:, None, pixels]
                local, reference = _spread(pairs[..., pixels], corner_weights), _stacked(references[image], box)
                products = torch.baddbmm(known[:, pixels], local.mT, reference)
                d_logits, weights = products.split(heads)
                weights.add_(plan.mask[plan.phase[pixels]]).exp2_()
                d_logits.mul_(weights)
                d_queries[..., pixels] = _gathered(reference[heads:] @ d_logits.mT, corner_weights)
                # Gradients of values take the other half of the products than values do, those of keys likewise.
                _add_unstacked(d_references[image], box, torch.cat([local[heads:], local[:heads]]) @ products)
        d_key, d_value = plan.unpad(d_references).unflatten(1, (2, -1)).flatten(2, 3).unbind(1)
        # The logits' gradients lack the factor of base 2, which the queries contain.
        d_query = from_pixels(d_queries, plan, query) * (scale * math.log(2))
        return d_query, d_key * math.log(2), d_value, None, None, None


def _by_head(heads: int, *images: Tensor) -> Tensor:
    """Images (B, C, *S) as (B, images * heads, C / heads, *S)."""
    return torch.cat([image.unflatten(1, (heads, -1)) for image in images], dim=1)


def _tiles(plan: Plan) -> Iterator[tuple[int, slice, list[tuple[slice, ...]]]]:
    """For each tile its image, its pixels, and the boxes of the reference that are the corners of its voxels' cells."""
    shifts = corners(plan.tiles.shape[1] - 3)
    for image, first, count, *start in plan.tiles.tolist():
        boxes = [tuple(slice(a + s, a + s + plan.box) for a, s in zip(start, shift, strict=True)) for shift in shifts]
        yield image, slice(first, first + count), boxes


def _spread(tensor: Tensor, corner_weights: Tensor) -> Tensor:
    """Channels once for every corner, times its weight: (heads, C, pixels) to (heads, corners * C, pixels)."""
    return (tensor[:, None] * corner_weights).flatten(1, 2)


def _gathered(stacked: Tensor, corner_weights: Tensor) -> Tensor:
    """The transpose of :func:`_spread`."""
    return (stacked.unflatten(1, (len(corner_weights), -1)) * corner_weights).sum(1)


def _stacked(padded: Tensor, boxes: list[tuple[slice, ...]]) -> Tensor:
    """For each voxel of a box the channels of all corners: (heads, C, *S) to (heads, corners * C, voxels)."""
    return torch.cat([padded[(slice(None), slice(None), *box)] for box in boxes], dim=1).flatten(2)


def _add_unstacked(padded: Tensor, boxes: list[tuple[slice, ...]], stacked: Tensor) -> None:
    """The transpose of :func:`_stacked`, added to what is there."""
    for box, part in zip(boxes, stacked.chunk(len(boxes), dim=1), strict=True):
        view = padded[(slice(None), slice(None), *box)]
        view += part.reshape(view.shape)
