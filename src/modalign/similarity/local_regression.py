"""How well one image's intensities explain the other's, window by window: local linear least squares, fused.

The windows are Gaussians on a strided lattice. Local sums of products are separable matrix products, done for a few
planes at a time, so that neither the products nor the basis functions ever exist for the whole image; the gradient is
written by hand and recomputes the basis functions instead of keeping them.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


class Basis(Protocol):
    """Basis functions of an image's channels, the same in every voxel."""

    functions: int
    """How many there are, J."""

    def __call__(self, channels: Tensor) -> Tensor:
        """(C, N) intensities to (J, N) values, differentiable."""
        ...

    def parameters(self) -> Iterable[Tensor]:
        """What is learned."""
        ...


Residual = Literal["log", "normalised"]

CHUNK = 40_000
"""Voxels in work at a time on a CPU: what is made of them stays in its cache."""


def window_matrix(size: int, sigma: float, stride: int, shift: float = 0.0) -> np.ndarray:
    """Gaussian windows along one axis, (number of windows, size), float64.

    Window centres lie `stride` apart, centred on the axis and moved by `shift`, and go on for ``3 sigma / stride``
    steps beyond it. Before the shift, a window takes what lies within ``stride / 2 + 3 sigma``. Weights sum to one over
    all whole numbers, also those beyond the axis.
    """
    beyond = math.floor(3 * sigma / stride)
    count = (size - 1) // stride + 1 + 2 * beyond
    base = (size - 1) / 2 + (np.arange(count) - (count - 1) / 2) * stride
    reach = stride / 2 + 3 * sigma
    everywhere = np.arange(-stride * (beyond + 2) - math.ceil(reach), size + stride * (beyond + 2) + math.ceil(reach))
    weights = np.exp(-0.5 * ((everywhere - (base[:, None] + shift)) / sigma) ** 2)
    weights *= np.abs(everywhere - base[:, None]) <= reach
    return (weights / weights.sum(1, keepdims=True))[:, (everywhere >= 0) & (everywhere < size)]


def local_regression_loss(
    source: Tensor,
    target: Tensor,
    mask: Tensor,
    basis: Basis,
    windows: Sequence[Tensor],
    residual: Residual = "log",
    ridge: float = 1e-4,
    floor: float = 1e-4,
) -> Tensor:
    """What is left of `target` after the best linear combination of basis functions of `source` in each window.

    With local averages ``A = <g g'>`` and ``b = <g t>`` over the valid part of a window, ``w = (A + ridge)^-1 b`` and
    ``r = <t^2> - 2 w'b + w'A w``: the mean over target channels and windows, weighted by their valid share, of
    ``log(r + floor)``, or of ``r / (Var t + floor)`` in the normalised form (Honkamaa and Marttinen 2025, Eq. 5-7).

    Args:
        source: (1, C, *S), two or three spatial axes.
        target: (1, D, *S).
        mask: (1, 1, *S), 0 or 1.
        basis: the basis functions g.
        windows: per axis a matrix as of :func:`window_matrix`.
        residual: "log" or "normalised".
        ridge: added to the diagonal of A.
        floor: added to the residual or the variance, in squared intensity.

    Returns:
        A scalar with gradients for `source` and the parameters of `basis`, not for `target` and `mask`. Zero if the
        mask is empty.
    """
    volumes = source[0], target[0], mask[0]
    if source.ndim == 4:
        volumes = source[0][:, None], target[0][:, None], mask[0][:, None]
        windows = [windows[0].new_ones(1, 1), *windows]
    problem = Problem(basis, tuple(windows), residual, ridge, floor)
    value: Tensor = _LocalRegression.apply(problem, *volumes, *basis.parameters())
    return value


class Problem(NamedTuple):
    """The arguments of :func:`local_regression_loss` that aren't images."""

    basis: Basis
    windows: tuple[Tensor, ...]
    residual: Residual
    ridge: float
    floor: float


class _LocalRegression(torch.autograd.Function):
    """Makes the gradient along with the value, from the same sums, and keeps it instead of them."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, source: Tensor, target: Tensor, mask: Tensor, *learned: Tensor) -> Tensor:
        chunks = slabs(source, problem.windows[0])
        sums = local_sums(problem, source, target, mask, chunks)
        value, slopes = _fit(problem, sums, len(target))
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(*_gradients(problem, slopes, source, target, mask, learned, chunks))
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        source, *learned = ctx.saved_tensors
        return None, gradient * source, None, None, *(gradient * slope for slope in learned)


def slabs(source: Tensor, windows: Tensor) -> list[tuple[slice, slice]]:
    """Slabs of planes along the first axis, with the windows that see any of them."""
    planes = source.shape[1]
    if source.device.type == "cpu":
        planes = max(1, min(planes, CHUNK // (source.shape[2] * source.shape[3])))
    chunks = []
    for first in range(0, source.shape[1], planes):
        slab = slice(first, min(first + planes, source.shape[1]))
        seen = torch.nonzero((windows[:, slab] != 0).any(1)).ravel().tolist()
        if seen:
            chunks.append((slab, slice(seen[0], seen[-1] + 1)))
    return chunks


def local_sums(
    problem: Problem, source: Tensor, target: Tensor, mask: Tensor, chunks: Sequence[tuple[slice, slice]]
) -> Tensor:
    """Windowed sums, (K, *windows), of the products g_i g_j (i <= j), g_i t_c (c first), t_c^2, of t_c in the
    normalised form, and of the mask.

    Args:
        problem: basis functions and windows.
        source: (C, *S), three axes.
        target: (D, *S).
        mask: (1, *S).
        chunks: what to do at a time, as of :func:`slabs`.
    """
    first, second, third = problem.windows
    count, channels = problem.basis.functions, len(target)
    normalised = problem.residual == "normalised"
    size = count * (count + 1) // 2 + channels * (count + 1 + normalised) + 1
    sums = source.new_zeros(size, len(first), len(second) * len(third))
    for slab, seen in chunks:
        valid = mask[:, slab]
        values = problem.basis(source[:, slab].flatten(1)).reshape(count, *valid.shape[1:]) * valid
        wanted = target[:, slab] * valid
        products = source.new_empty(size, *valid.shape[1:])
        row = 0
        for i in range(count):
            torch.mul(values[i:], values[i], out=products[row : row + count - i])
            row += count - i
        for c in range(channels):
            torch.mul(values, wanted[c], out=products[row : row + count])
            row += count
        torch.mul(wanted, wanted, out=products[row : row + channels])
        if normalised:
            products[row + channels : row + 2 * channels] = wanted
        products[-1] = valid[0]
        reduced = second @ (products @ third.T)
        sums[:, seen] += first[seen, slab] @ reduced.flatten(2)
    return sums.reshape(size, len(first), len(second), len(third))


def _fit(problem: Problem, sums: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """The loss, and its derivative by the sums of g_i g_j and g_i t_c."""
    count, ridge, floor = problem.basis.functions, problem.ridge, problem.floor
    share = sums[-1]
    # Windows that see next to nothing would only add rounding errors.
    weight = share * (share > 1e-3)
    sums = sums / share.clamp(min=1e-6)
    pairs = count * (count + 1) // 2
    index: dict[tuple[int, int], int] = {}
    for row, (i, j) in enumerate(combinations_with_replacement(range(count), 2)):
        index[i, j] = index[j, i] = row
    factor = _cholesky([[sums[index[i, j]] + (ridge if i == j else 0) for j in range(i + 1)] for i in range(count)])
    slopes = torch.zeros_like(sums[: pairs + channels * count])
    value = sums.new_zeros(())
    scale = weight / (weight.sum().clamp(min=1e-6) * channels)
    for c in range(channels):
        mixed = sums[pairs + c * count : pairs + (c + 1) * count]
        square = sums[pairs + channels * count + c]
        weights = _solve(factor, list(mixed.unbind(0)))
        # As A w = b - ridge w, r = <t^2> - w'b - ridge w'w.
        explained = sum((w * (b + ridge * w) for w, b in zip(weights, mixed, strict=True)), torch.zeros_like(square))
        left = (square - explained).clamp(min=0)
        if problem.residual == "log":
            value = value + (scale * (left + floor).log()).sum()
            by_left = scale / (left + floor)
        else:
            variance = (square - sums[pairs + channels * (count + 1) + c].square()).clamp(min=0)
            by_left = scale / (variance + floor)
            value = value + (by_left * left).sum()
        # The ridge keeps w from being where dr/dw vanishes; this is what follows from dr/dw = -2 ridge w.
        moved = [2 * ridge * q for q in _solve(factor, weights)]
        for i in range(count):
            slopes[pairs + c * count + i] = -by_left * (2 * weights[i] + moved[i])
            slopes[index[i, i]] += by_left * weights[i] * (weights[i] + moved[i])
            for j in range(i + 1, count):
                both = 2 * weights[i] * weights[j] + moved[i] * weights[j] + weights[i] * moved[j]
                slopes[index[i, j]] += by_left * both
    return value, slopes / share.clamp(min=1e-6)


def _cholesky(matrix: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Lower factors of many small matrices, entry by entry; on the diagonal, the reciprocals.

    Batched LAPACK takes longer than this for matrices of ten rows and less.
    """
    factor: list[list[Tensor]] = []
    for i, row in enumerate(matrix):
        entries: list[Tensor] = []
        for j, entry in enumerate(row):
            for k in range(j):
                entry = torch.addcmul(entry, entries[k], entries[k] if i == j else factor[j][k], value=-1)
            # In single precision, rounding may leave less than the ridge, even a little less than zero.
            entries.append(entry.clamp(min=1e-7).rsqrt() if i == j else entry * factor[j][j])
        factor.append(entries)
    return factor


def _solve(factor: Sequence[Sequence[Tensor]], right: Sequence[Tensor]) -> list[Tensor]:
    """Solve ``L L' x = right`` with the factor of :func:`_cholesky`."""
    x = list(right)
    for i in range(len(x)):
        for k in range(i):
            x[i] = torch.addcmul(x[i], factor[i][k], x[k], value=-1)
        x[i] = x[i] * factor[i][i]
    for i in reversed(range(len(x))):
        for k in range(i + 1, len(x)):
            x[i] = torch.addcmul(x[i], factor[k][i], x[k], value=-1)
        x[i] = x[i] * factor[i][i]
    return x


def _gradients(
    problem: Problem,
    slopes: Tensor,
    source: Tensor,
    target: Tensor,
    mask: Tensor,
    learned: Sequence[Tensor],
    chunks: Sequence[tuple[slice, slice]],
) -> list[Tensor]:
    """Derivatives by the source and by what is learned, from those by the local sums."""
    first, second, third = problem.windows
    count, channels = problem.basis.functions, len(target)
    by_source = torch.zeros_like(source)
    by_learned = [torch.zeros_like(parameter) for parameter in learned]
    flat = slopes.flatten(2)
    for slab, seen in chunks:
        valid = mask[:, slab].flatten(1)
        spread = (first[seen, slab].T @ flat[:, seen]).unflatten(2, slopes.shape[2:])
        by_products = ((second.T @ spread) @ third).flatten(1)
        part = source[:, slab].flatten(1).requires_grad_()
        with torch.enable_grad():
            values = problem.basis(part)
        plain, wanted = values.detach(), target[:, slab].flatten(1)
        by_values = torch.zeros_like(plain)
        row = 0
        for i in range(count):
            by_values[i].addcmul_(by_products[row], plain[i], value=2)
            row += 1
            for j in range(i + 1, count):
                by_values[i].addcmul_(by_products[row], plain[j])
                by_values[j].addcmul_(by_products[row], plain[i])
                row += 1
        for c in range(channels):
            by_values.addcmul_(by_products[row : row + count], wanted[c])
            row += count
        by_values *= valid
        of_source, *of_learned = torch.autograd.grad(values, [part, *learned], by_values)
        by_source[:, slab] = of_source.reshape(by_source[:, slab].shape)
        for total, addition in zip(by_learned, of_learned, strict=True):
            total += addition
    return [by_source, *by_learned]
