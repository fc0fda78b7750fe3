"""Locor's similarity with its gradient, against the same formula written with whole-image convolutions."""

from collections.abc import Sequence

import torch
from racing import Race
from scenes import other_contrast, smooth_image
from torch import Tensor
from torch.nn import functional

from modalign.similarity.local_regression import Basis, local_regression_loss, window_matrix
from modalign.similarity.locor import LearnedBasis, PolynomialBasis, gradient_magnitude

SHAPE = (92, 110, 92)
FUNCTIONS, SIGMA, STRIDE = 5, 0.8, 3


def races() -> list[Race]:
    """One direction at the size of a head at 2 mm, in the settings of the released tool."""
    scan = smooth_image(SHAPE, seed=0)
    images = [torch.from_numpy(i)[None, None] for i in (scan, other_contrast(scan, seed=1))]
    source, target = (torch.cat([i, gradient_magnitude(i)], 1) for i in images)
    source.requires_grad_()
    mask = torch.ones_like(images[0])
    basis = LearnedBasis(2, FUNCTIONS, (16, 16), torch.Generator().manual_seed(0))
    windows = [torch.from_numpy(window_matrix(n, SIGMA, STRIDE, 0.5)).float() for n in SHAPE]

    def both(loss: Tensor) -> list[Tensor]:
        gradient = torch.autograd.grad(loss, [source, *basis.parameters()])[0]
        return [loss.detach(), gradient / gradient.abs().max()]

    def of_polynomials(loss: Tensor) -> list[Tensor]:
        gradient = torch.autograd.grad(loss, source)[0]
        return [loss.detach(), gradient / gradient.abs().max()]

    # Degree 2 of two channels: six functions.
    polynomials = PolynomialBasis(2, 2)
    peer = "the formula with strided convolutions and `torch.linalg.solve`"
    return [
        Race(
            "Locor and gradient, 92 x 110 x 92",
            peer,
            lambda: both(local_regression_loss(source, target, mask, basis, windows)),
            lambda: both(_by_convolutions(source, target, basis, windows)),
        ),
        Race(
            "Locor with polynomials of degree 2, and gradient, 92 x 110 x 92",
            peer,
            lambda: of_polynomials(local_regression_loss(source, target, mask, polynomials, windows)),
            lambda: of_polynomials(_by_convolutions(source, target, polynomials, windows)),
        ),
    ]


def _by_convolutions(source: Tensor, target: Tensor, basis: Basis, windows: Sequence[Tensor]) -> Tensor:
    """Every product as an image, one strided convolution per axis, a batched solve; autograd does the rest."""
    values = basis(source[0].flatten(1)).reshape(-1, *SHAPE)
    wanted = target[0]
    pairs = torch.einsum("ixyz,jxyz->ijxyz", values, values).flatten(0, 1)
    mixed = torch.einsum("ixyz,cxyz->icxyz", values, wanted).flatten(0, 1)
    products = torch.cat([pairs, mixed, wanted.square(), torch.ones_like(wanted[:1])])
    sums = products[:, None]
    for axis, matrix in enumerate(windows):
        sums = _strided(sums, matrix, axis)
    sums = sums[:, 0].flatten(1)
    share = sums[-1]
    sums = sums / share.clamp(min=1e-6)
    j, c = len(values), len(wanted)
    normal = sums[: j * j].reshape(j, j, -1).permute(2, 0, 1) + 1e-4 * torch.eye(j)
    right = sums[j * j : j * j + j * c].reshape(j, c, -1).permute(2, 0, 1)
    square = sums[j * j + j * c : -1].T
    weights = torch.linalg.solve(normal, right)
    left = square - 2 * (weights * right).sum(1)
    left = left + (weights * ((normal - 1e-4 * torch.eye(j)) @ weights)).sum(1)
    weight = share / (share.sum() * c)
    return ((left.clamp(min=0) + 1e-4).log().sum(1) * weight).sum()


def _strided(values: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """The windows of one axis as a convolution: its taps are the same for every window."""
    middle = matrix[len(matrix) // 2]
    taps = torch.nonzero(middle).ravel()
    kernel = middle[int(taps[0]) : int(taps[-1]) + 1]
    first = int(taps[0]) - STRIDE * (len(matrix) // 2)
    last = first + STRIDE * (len(matrix) - 1) + len(kernel)
    pads = [0] * 6
    pads[2 * (2 - axis)], pads[2 * (2 - axis) + 1] = max(-first, 0), max(last - values.shape[2 + axis], 0)
    padded = functional.pad(values, pads).narrow(2 + axis, max(first, 0), last - first)
    shape, stride = [1] * 5, [1] * 3
    shape[2 + axis], stride[axis] = len(kernel), STRIDE
    return functional.conv3d(padded, kernel.reshape(shape), stride=stride)
