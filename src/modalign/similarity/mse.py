"""Mean differences of intensities, squared or absolute, for images of one contrast."""

from torch import Tensor

from modalign.similarity.filters import weighted_mean


def mse(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean squared intensity difference, 0 for equal images.

    Args:
        fixed: (B, 1, *S).
        warped: (B, 1, *S), in the same contrast.
        mask: weights (B, 1, *S) on the fixed grid.
    """
    return weighted_mean((fixed - warped).square(), mask)


def mae(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean absolute intensity difference, 0 for equal images; arguments as of :func:`mse`."""
    return weighted_mean((fixed - warped).abs(), mask)
