"""Locor: local functional dependence with basis functions learned for the pair (Honkamaa and Marttinen 2025)."""

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement, pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.instance.contract import PairSimilarity
from modalign.similarity.local_regression import Basis, Residual, local_regression_loss, window_matrix


class LearnedBasis(nn.Module):
    """A perceptron in every voxel: channels -> hidden layers with ReLU -> basis functions between 0 and 1 (sigmoid).

    Args:
        channels: of the image.
        functions: how many basis functions, J.
        hidden: sizes of the hidden layers.
        rng: draws the weights and biases, uniform within ``1 / sqrt(inputs)``, the default of PyTorch.
    """

    def __init__(self, channels: int, functions: int, hidden: Sequence[int], rng: torch.Generator) -> None:
        super().__init__()
        self.functions = functions
        sizes = [channels, *hidden, functions]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            bound = 1 / math.sqrt(inputs)
            for parameters, shape in ((self.weights, (outputs, inputs)), (self.biases, (outputs, 1))):
                parameters.append(nn.Parameter((2 * torch.rand(shape, generator=rng) - 1) * bound))

    def forward(self, channels: Tensor) -> Tensor:
        """(C, N) to (J, N)."""
        values = channels
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.addmm(bias, weight, values)
            values = torch.sigmoid(values) if layer == len(self.weights) - 1 else torch.relu(values)
        return values


class PolynomialBasis(nn.Module):
    """All monomials of the channels up to a degree, with the constant: 1, I, I^2, ... and mixed terms.

    Args:
        channels: of the image.
        degree: largest sum of exponents.
    """

    def __init__(self, channels: int, degree: int) -> None:
        super().__init__()
        self.terms = [t for d in range(degree + 1) for t in combinations_with_replacement(range(channels), d)]
        self.functions = len(self.terms)

    def forward(self, channels: Tensor) -> Tensor:
        """(C, N) to (J, N)."""
        powers: dict[tuple[int, ...], Tensor] = {(): torch.ones_like(channels[0])}
        for term in self.terms[1:]:
            powers[term] = powers[term[:-1]] * channels[term[-1]]
        return torch.stack([powers[term] for term in self.terms])


class Locor(PairSimilarity):
    """The mean log residual of the best local function of the warped image for the other one.

    Channels of both images are the intensity and, with `derivative`, the magnitude of its gradient per sample, by
    central differences. Windows are Gaussians on a lattice that is moved at random with every evaluation.

    Args:
        basis: "learned", or "polynomial" in which nothing is learned.
        functions: number of learned basis functions, J.
        degree: of the polynomials.
        residual: "log", or "normalised" by the local variance.
        derivative: whether to use the gradient magnitude.
        derivative_scale: factor of the gradient magnitude. Its residuals count in full above the floor, so the larger
            the factor, the more of the noise that differentiation adds.
        window_sigma: standard deviation of the windows in samples of the level.
        stride: distance of the windows in samples.
        hidden: sizes of the learned basis' hidden layers.
        ridge: added to the diagonal of the normal equations.
        floor: added to the residual (log) or the variance (normalised), in squared intensity.
        rng: draws the initial weights.
    """

    def __init__(
        self,
        basis: Literal["learned", "polynomial"] = "learned",
        functions: int = 4,
        degree: int = 3,
        residual: Residual = "log",
        derivative: bool = True,
        derivative_scale: float = 0.25,
        window_sigma: float = 1.0,
        stride: int = 3,
        hidden: Sequence[int] = (16, 16),
        ridge: float = 1e-4,
        floor: float = 1e-4,
        rng: torch.Generator | None = None,
    ) -> None:
        channels = 2 if derivative else 1
        draws = rng or torch.Generator().manual_seed(0)
        self._bases: Sequence[Basis]
        self._networks: nn.ModuleList | None = None
        if basis == "learned":
            networks = [LearnedBasis(channels, functions, hidden, draws) for _ in range(2)]
            self._bases, self._networks = networks, nn.ModuleList(networks)
        else:
            self._bases = [PolynomialBasis(channels, degree)] * 2
        self._residual: Residual = residual
        self._derivative, self._derivative_scale = derivative, derivative_scale
        self._window_sigma, self._stride = window_sigma, stride
        self._ridge, self._floor = ridge, floor

    def networks(self) -> nn.Module | None:
        """The two learned bases: one of the moving image's intensities, one of the fixed image's."""
        return self._networks

    def channels(self, image: Tensor, mask: Tensor) -> Tensor:
        """The intensity and its gradient magnitude, (1, 2, *S), or the intensity alone."""
        if not self._derivative:
            return image
        return torch.cat([image, self._derivative_scale * gradient_magnitude(image)], dim=1)

    def validity(self, mask: Tensor) -> Tensor:
        """Where all voxels that the gradient looks at are valid."""
        if not self._derivative:
            return mask
        pool = functional.max_pool2d if mask.ndim == 4 else functional.max_pool3d
        outside = functional.pad(1 - mask, [1] * 2 * (mask.ndim - 2), value=1.0)
        return 1 - pool(outside, kernel_size=3, stride=1)

    def loss(
        self, target: Tensor, source: Tensor, mask: Tensor, *, forward: bool, spacing: float, rng: torch.Generator
    ) -> Tensor:
        """See :func:`modalign.similarity.local_regression.local_regression_loss`; about -9 to 0 for the log form."""
        shifts = ((torch.rand(source.ndim - 2, generator=rng, dtype=torch.float64) - 0.5) * self._stride).tolist()
        windows = [
            torch.from_numpy(window_matrix(size, self._window_sigma, self._stride, shift)).to(source)
            for size, shift in zip(source.shape[2:], shifts, strict=True)
        ]
        basis = self._bases[0 if forward else 1]
        return local_regression_loss(source, target, mask, basis, windows, self._residual, self._ridge, self._floor)


def gradient_magnitude(image: Tensor) -> Tensor:
    """The length of the gradient by central differences, per sample, (1, 1, *S); borders repeat what lies inside."""
    squared = torch.zeros_like(image)
    for axis in range(2, image.ndim):
        n = image.shape[axis]
        if n < 3:
            continue
        inner = (image.narrow(axis, 2, n - 2) - image.narrow(axis, 0, n - 2)) / 2
        squared = squared + torch.cat([inner.narrow(axis, 0, 1), inner, inner.narrow(axis, n - 3, 1)], axis).square()
    return squared.sqrt()
