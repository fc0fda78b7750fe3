"""Functions from one image's intensities to the other's, fitted in local windows, as Locor does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from modalign.similarity.local_regression import Basis
    from modalign.similarity.locor import LearnedBasis

FUNCTIONS, DEGREE = 4, 5
"""Learned basis functions, and the degree of the polynomials, which then have 6 terms: as in the published figure."""
WINDOW_SIGMA = 1.0
REACH = 3
"""Voxels from the centre of a window to its border, three standard deviations."""
ITERATIONS, LEARNING_RATE = 300, 1e-2
RIDGE = 1e-4


@dataclass(frozen=True)
class Fit:
    """What is drawn of one window.

    Attributes:
        centre: voxel indices.
        source: intensities of the explaining image in the window, (N,), from 0 to 1.
        target: those of the explained image at the same places.
        weight: Gaussian weights of these places; they sum to 1.
        grid: intensities at which the functions are drawn.
        curves: the fitted functions on `grid`, by name.
        errors: their weighted root mean squared residuals.
    """

    centre: tuple[int, int, int]
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    grid: np.ndarray
    curves: dict[str, np.ndarray]
    errors: dict[str, float]


def unit_intensity(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The image with its extremes inside the mask at 0 and 1; what lies beyond is clipped."""
    low, high = float(image[inside].min()), float(image[inside].max())
    return np.clip((image - low) / max(high - low, 1e-12), 0, 1)


def learn_basis(source: np.ndarray, target: np.ndarray, inside: np.ndarray, seed: int) -> "LearnedBasis":
    """The basis functions of `source` that explain `target` best over all windows, by Locor's loss.

    Args:
        source: (X, Y, Z), from 0 to 1.
        target: (X, Y, Z), on the same grid.
        inside: where both count.
        seed: seeds the initial weights and the windows' positions.
    """
    import torch

    from modalign.seeds import derive_seed
    from modalign.similarity.local_regression import local_regression_loss, window_matrix
    from modalign.similarity.locor import LearnedBasis

    rng = torch.Generator().manual_seed(derive_seed(seed, "locor", "figure 1"))
    basis = LearnedBasis(1, FUNCTIONS, (16, 16), rng)
    stride = 3
    x, t, mask = (torch.from_numpy(a.astype(np.float32))[None, None] for a in (source, target, inside))
    optimiser = torch.optim.Adam(basis.parameters(), lr=LEARNING_RATE)
    for _ in range(ITERATIONS):
        shifts = ((torch.rand(3, generator=rng) - 0.5) * stride).tolist()
        windows = [
            torch.from_numpy(window_matrix(n, WINDOW_SIGMA, stride, shift)).float()
            for n, shift in zip(source.shape, shifts, strict=True)
        ]
        optimiser.zero_grad()
        local_regression_loss(x, t, mask, basis, windows).backward()
        optimiser.step()
    return basis.requires_grad_(False)


def polynomial_basis() -> "Basis":
    """Powers of the intensity, with the constant."""
    from modalign.similarity.locor import PolynomialBasis

    return PolynomialBasis(1, DEGREE)


def fit_window(
    source: np.ndarray,
    target: np.ndarray,
    centre: tuple[int, int, int],
    bases: "dict[str, Basis]",
) -> Fit:
    """Weighted least squares of `target` on each basis of `source` in a Gaussian window (paper, section 4, Eq. 7)."""
    import torch

    box = window_box(centre, source.shape)
    places = np.stack(np.meshgrid(*[np.arange(b.start, b.stop) for b in box], indexing="ij"))
    distance = (places - np.array(centre).reshape(3, 1, 1, 1)) ** 2
    weight = np.exp(-distance.sum(0) / (2 * WINDOW_SIGMA**2)).ravel()
    weight /= weight.sum()
    x, t = source[box].ravel().astype(float), target[box].ravel().astype(float)
    grid = np.linspace(x.min(), x.max(), 200)
    curves, errors = {}, {}
    for name, basis in bases.items():
        at, on = (basis(torch.from_numpy(v.astype(np.float32))[None]).numpy().astype(float) for v in (x, grid))
        normal = (at * weight) @ at.T + RIDGE * np.eye(len(at))
        coefficients = np.linalg.solve(normal, (at * weight) @ t)
        curves[name] = coefficients @ on
        errors[name] = float(np.sqrt(weight @ (coefficients @ at - t) ** 2))
    return Fit(centre, x, t, weight, grid, curves, errors)


def window_box(centre: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """The voxels of a window around `centre`, cut off at the borders of an image."""
    return tuple(slice(max(0, c - REACH), min(n, c + REACH + 1)) for c, n in zip(centre, shape, strict=True))


def choose_windows(
    source: np.ndarray, target: np.ndarray, inside: np.ndarray, z: int, count: int = 3
) -> list[tuple[int, int, int]]:
    """Window centres in slice `z` in which both images vary most, a tenth of the slice or more apart."""
    import scipy.ndimage as ndi

    spread = np.ones(source.shape[:2])
    for image in (source, target):
        smooth = ndi.gaussian_filter(image.astype(float), WINDOW_SIGMA, mode="nearest")
        squares = ndi.gaussian_filter(image.astype(float) ** 2, WINDOW_SIGMA, mode="nearest")
        spread = spread * np.sqrt(np.maximum(squares - smooth**2, 0))[:, :, z]
    spread = np.where(ndi.binary_erosion(inside[:, :, z], iterations=REACH), spread, -1)
    columns, rows = np.meshgrid(*map(np.arange, spread.shape), indexing="ij")
    apart = max(2 * REACH, min(spread.shape) // 10)
    centres: list[tuple[int, int, int]] = []
    while len(centres) < count and spread.max() > 0:
        x, y = np.unravel_index(int(spread.argmax()), spread.shape)
        centres.append((int(x), int(y), z))
        spread = np.where(np.hypot(columns - x, rows - y) < apart, -1, spread)
    return centres
