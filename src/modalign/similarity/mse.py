"""The mean squared difference, for images of one contrast."""

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
