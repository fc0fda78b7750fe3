"""DACA's windowed attention fused into two Triton kernels, for CUDA; needs triton, which comes with PyTorch there.

Plan and products are those of :mod:`modalign.networks.daca_attention`, but a tile's logits never leave the chip: the
forward pass keeps a running maximum and sum (as FlashAttention does), the backward pass computes weights again from
the normalisation and adds gradients of keys and values atomically, so their last digits change from run to run.
"""

# mypy: disable-error-code=no-untyped-def

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from modalign.networks.daca_windows import CELL, Plan, by_pixel, from_pixels, logit_scale, make_plan

BLOCK_PIXELS, BLOCK_VOXELS = 64, 32
"""Sizes of the products; with these, registers and 37 kB of shared memory suffice on GPUs from 2020 on."""


def triton_window_attention(
    query: Tensor, key: Tensor, value: Tensor, field: Tensor, window: int, heads: int, precision: str = "ieee"
) -> Tensor:
    """What :func:`modalign.networks.daca_attention.deformable_window_attention` gives, for float32 tensors on CUDA.

    Args:
        query, key, value, field, window, heads: as there.
        precision: of the products: "ieee" (float32) or "tf32" (tensor cores, 10 bits of mantissa); sums are float32.
    """
    return _TritonAttention.apply(query, key, value, field, window, heads, precision)


class _TritonAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, field: Tensor, window: int, heads: int, precision: str
    ) -> Tensor:
        plan, scale = make_plan(field, window, BLOCK_PIXELS), logit_scale(query, heads)
        weights, queries, keys, values = _laid_out(plan, query * scale, key, value, heads)
        attended, normalisation = torch.empty_like(queries), torch.empty_like(queries[:, 0])
        _forward[(len(plan.tiles), heads)](
            *(queries, keys, values, weights, plan.phase, plan.tiles, attended, normalisation),
            *_sizes(plan, keys),
            **_constants(plan, query, heads, window, precision),
            num_warps=8,
            num_stages=1,
        )
        output = from_pixels(attended, plan, query)
        ctx.save_for_backward(query, key, value, field, output, normalisation)
        ctx.arguments = window, heads, precision, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, field, output, normalisation = ctx.saved_tensors
        window, heads, precision, scale = ctx.arguments
        plan = make_plan(field, window, BLOCK_PIXELS)
        weights, queries, keys, values = _laid_out(plan, query * scale, key, value, heads)
        d_attended = by_pixel(gradients[0], plan, heads).contiguous()
        mean = (d_attended * by_pixel(output, plan, heads)).sum(1).contiguous()
        d_queries, d_keys, d_values = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        _backward[(len(plan.tiles), heads)](
            *(queries, keys, values, weights, plan.phase, plan.tiles),
            *(d_attended, normalisation, mean, d_queries, d_keys, d_values),
            *_sizes(plan, keys),
            **_constants(plan, query, heads, window, precision),
            num_warps=8,
            num_stages=1,
        )
        d_query = from_pixels(d_queries, plan, query) * (scale * math.log(2))
        return d_query, plan.unpad(d_keys) * math.log(2), plan.unpad(d_values), *[None] * 4


@triton.jit
def _forward(
    queries, keys, values, weights, phase, tiles, attended, normalisation,
    pixels, size_0, size_1, size_2,
    DIMENSION: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr, WINDOW: tl.constexpr, CELL: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_VOXELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of one head: `attended` and `normalisation` of its pixels."""
    CORNERS: tl.constexpr = 2**DIMENSION
    BOX: tl.constexpr = CELL - 1 + WINDOW
    VOXELS: tl.constexpr = BOX**DIMENSION
    head = tl.program_id(1)
    base, first, count = _tile(tiles, head, tl.num_programs(1), size_0, size_1, size_2, DIMENSION, CHANNELS)
    row = tl.arange(0, BLOCK_PIXELS)
    present = row < count
    stacked = tl.arange(0, CORNERS * PADDED)
    channel, corner = stacked % PADDED, stacked // PADDED
    source = _source(channel, corner, size_0, size_1, size_2, DIMENSION)
    weight = tl.load(weights + first + corner[None, :] * pixels + row[:, None], mask=present[:, None], other=0.0)
    plane = head.to(tl.int64) * pixels
    own = plane * CHANNELS + first
    query = weight * _of_pixels(queries + own, row, present, channel, pixels, CHANNELS)
    start = tl.load(phase + first + row, mask=present, other=0).to(tl.int32)
    largest = tl.full((BLOCK_PIXELS,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_PIXELS,), tl.float32)
    sums = tl.zeros((BLOCK_PIXELS, CORNERS * PADDED), tl.float32)
    for begin in range(0, VOXELS, BLOCK_VOXELS):
        voxel = begin + tl.arange(0, BLOCK_VOXELS)
        offset = _offset(voxel, size_1, size_2, BOX, DIMENSION)
        there = (voxel < VOXELS)[None, :] & (channel < CHANNELS)[:, None]
        key = tl.load(keys + base + source[:, None] + offset[None, :], mask=there, other=0.0)
        value = tl.load(values + base + source[:, None] + offset[None, :], mask=there, other=0.0)
        inside = _inside(start, voxel, BOX, CELL, WINDOW, DIMENSION) & (voxel < VOXELS)[None, :]
        logits = tl.where(inside, tl.dot(query, key, input_precision=PRECISION), float("-inf"))
        larger = tl.maximum(largest, tl.max(logits, 1))
        # Before the first voxel of a window its maximum is minus infinity, from which nothing can be subtracted.
        finite = tl.where(larger == float("-inf"), 0.0, larger)
        attention = tl.exp2(logits - finite[:, None])
        shrink = tl.exp2(largest - finite)
        total = total * shrink + tl.sum(attention, 1)
        sums = sums * shrink[:, None] + tl.dot(attention, tl.trans(value), input_precision=PRECISION)
        largest = larger
    tl.store(normalisation + plane + first + row, largest + tl.log2(total), mask=present)
    _store(attended + own, sums / total[:, None] * weight, row, present, pixels, CHANNELS, PADDED, CORNERS)


@triton.jit
def _backward(
    queries, keys, values, weights, phase, tiles, d_attended, normalisation, mean, d_queries, d_keys, d_values,
    pixels, size_0, size_1, size_2,
    DIMENSION: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr, WINDOW: tl.constexpr, CELL: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_VOXELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of one head: `d_queries` of its pixels, and their part of `d_keys` and `d_values`."""
    CORNERS: tl.constexpr = 2**DIMENSION
    BOX: tl.constexpr = CELL - 1 + WINDOW
    VOXELS: tl.constexpr = BOX**DIMENSION
    head = tl.program_id(1)
    base, first, count = _tile(tiles, head, tl.num_programs(1), size_0, size_1, size_2, DIMENSION, CHANNELS)
    row = tl.arange(0, BLOCK_PIXELS)
    present = row < count
    stacked = tl.arange(0, CORNERS * PADDED)
    channel, corner = stacked % PADDED, stacked // PADDED
    source = _source(channel, corner, size_0, size_1, size_2, DIMENSION)
    weight = tl.load(weights + first + corner[None, :] * pixels + row[:, None], mask=present[:, None], other=0.0)
    plane = head.to(tl.int64) * pixels
    own = plane * CHANNELS + first
    query = weight * _of_pixels(queries + own, row, present, channel, pixels, CHANNELS)
    gradient = weight * _of_pixels(d_attended + own, row, present, channel, pixels, CHANNELS)
    start = tl.load(phase + first + row, mask=present, other=0).to(tl.int32)
    norm = tl.load(normalisation + plane + first + row, mask=present, other=0.0)
    average = tl.load(mean + plane + first + row, mask=present, other=0.0)
    d_query = tl.zeros((BLOCK_PIXELS, CORNERS * PADDED), tl.float32)
    for begin in range(0, VOXELS, BLOCK_VOXELS):
        voxel = begin + tl.arange(0, BLOCK_VOXELS)
        offset = _offset(voxel, size_1, size_2, BOX, DIMENSION)
        address = source[:, None] + offset[None, :]
        there = (voxel < VOXELS)[None, :] & (channel < CHANNELS)[:, None]
        key = tl.load(keys + base + address, mask=there, other=0.0)
        value = tl.load(values + base + address, mask=there, other=0.0)
        inside = _inside(start, voxel, BOX, CELL, WINDOW, DIMENSION) & (voxel < VOXELS)[None, :] & present[:, None]
        logits = tl.dot(query, key, input_precision=PRECISION) - norm[:, None]
        attention = tl.where(inside, tl.exp2(logits), 0.0)
        d_logits = attention * (tl.dot(gradient, value, input_precision=PRECISION) - average[:, None])
        d_query += tl.dot(d_logits, tl.trans(key), input_precision=PRECISION)
        d_value = tl.dot(tl.trans(gradient), attention, input_precision=PRECISION)
        d_key = tl.dot(tl.trans(query), d_logits, input_precision=PRECISION)
        tl.atomic_add(d_values + base + address, d_value, mask=there, sem="relaxed")
        tl.atomic_add(d_keys + base + address, d_key, mask=there, sem="relaxed")
    _store(d_queries + own, d_query * weight, row, present, pixels, CHANNELS, PADDED, CORNERS)


@triton.jit
def _tile(tiles, head, heads, size_0, size_1, size_2, DIMENSION: tl.constexpr, CHANNELS: tl.constexpr):
    """Where the tile's box starts in the padded reference of this head, its first pixel and its number of pixels."""
    row = tiles + tl.program_id(0) * (3 + DIMENSION)
    start = tl.load(row + 3)
    if DIMENSION == 3:
        start = start * size_1 + tl.load(row + 4)
    start = start * size_2 + tl.load(row + 2 + DIMENSION)
    plane = (tl.load(row) * heads + head) * CHANNELS
    return plane * size_0 * size_1 * size_2 + start, tl.load(row + 1), tl.load(row + 2)


@triton.jit
def _source(channel, corner, size_0, size_1, size_2, DIMENSION: tl.constexpr):
    """From a voxel to one channel of one corner of its cell, in elements."""
    shift = (corner // 2 % 2) * size_2 + corner % 2
    if DIMENSION == 3:
        shift += (corner // 4) * size_1 * size_2
    return channel * (size_0 * size_1 * size_2) + shift


@triton.jit
def _offset(voxel, size_1, size_2, BOX: tl.constexpr, DIMENSION: tl.constexpr):
    """From a box's first voxel to another one, in elements."""
    offset = (voxel // BOX % BOX) * size_2 + voxel % BOX
    if DIMENSION == 3:
        offset += (voxel // (BOX * BOX)) * size_1 * size_2
    return offset


@triton.jit
def _inside(start, voxel, BOX: tl.constexpr, CELL: tl.constexpr, WINDOW: tl.constexpr, DIMENSION: tl.constexpr):
    """Whether a voxel of the box lies in the window that starts in that voxel of the cell, (pixels, voxels)."""
    last = (voxel % BOX)[None, :] - (start % CELL)[:, None]
    middle = (voxel // BOX % BOX)[None, :] - (start // CELL % CELL)[:, None]
    inside = (last >= 0) & (last < WINDOW) & (middle >= 0) & (middle < WINDOW)
    if DIMENSION == 3:
        first = (voxel // (BOX * BOX))[None, :] - (start // (CELL * CELL))[:, None]
        inside = inside & (first >= 0) & (first < WINDOW)
    return inside


@triton.jit
def _of_pixels(tensor, row, present, channel, pixels, CHANNELS: tl.constexpr):
    """The channels of the tile's pixels, once for every corner, (pixels, stacked channels)."""
    there = present[:, None] & (channel < CHANNELS)[None, :]
    return tl.load(tensor + row[:, None] + channel[None, :] * pixels, mask=there, other=0.0)


@triton.jit
def _store(tensor, stacked, row, present, pixels, CHANNELS: tl.constexpr, PADDED: tl.constexpr, CORNERS: tl.constexpr):
    """Sum over corners and store."""
    summed = tl.sum(tl.reshape(stacked, (stacked.shape[0], CORNERS, PADDED)), 1)
    channel = tl.arange(0, PADDED)
    there = present[:, None] & (channel < CHANNELS)[None, :]
    tl.store(tensor + row[:, None] + channel[None, :] * pixels, summed, mask=there)


def _laid_out(plan: Plan, query: Tensor, key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Weights, queries by pixel, padded keys and values in row-major memory, by whose order the kernels count.

    Images in channels-last order keep theirs through indexing and padding.
    """
    tensors = plan.weights, by_pixel(query, plan, heads), plan.pad(key), plan.pad(value)
    return tuple(tensor.contiguous() for tensor in tensors)


def _constants(plan: Plan, query: Tensor, heads: int, window: int, precision: str) -> dict[str, Any]:
    dimension, channels = query.ndim - 2, query.shape[1] // heads
    return {
        "DIMENSION": dimension,
        "CHANNELS": channels,
        # A matrix product takes 16 stacked channels or more.
        "PADDED": max(triton.next_power_of_2(channels), 16 // 2**dimension),
        "WINDOW": window,
        "CELL": CELL[dimension],
        "BLOCK_PIXELS": BLOCK_PIXELS,
        "BLOCK_VOXELS": BLOCK_VOXELS,
        "PRECISION": precision,
    }


def _sizes(plan: Plan, padded: Tensor) -> tuple[int, ...]:
    """The number of pixels, and the padded reference's size along three axes."""
    sizes = padded.shape[2:]
    return (len(plan.order), *[1] * (3 - len(sizes)), *sizes)
