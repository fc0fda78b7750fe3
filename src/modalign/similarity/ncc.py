"""Normalised cross-correlation: local over a box, local under a Gaussian, and global."""

import torch
from torch import Tensor

from modalign.similarity.filters import at_least_float32, box_mean, gaussian_mean, weighted_mean


def local_ncc(fixed: Tensor, warped: Tensor, mask: Tensor | None = None, window: int = 9) -> Tensor:
    """Minus the mean squared correlation coefficient of the windows around each voxel, from -1 (linear) to 0.

    As in VoxelMorph (Balakrishnan et al. 2019, Eq. 6): box windows, voxels outside the image count as zeros, and
    1e-5 is added to the product of the window's two sums of squares. Takes a straight line, rising or falling,
    between the two contrasts within each window.

    Args:
        fixed: (B, 1, *S).
        warped: (B, 1, *S).
        mask: weights (B, 1, *S) of the windows' centres.
        window: width of the box in voxels, odd.
    """
    if window % 2 == 0 or window < 3:
        raise ValueError(f"the window of the local correlation has to be odd and at least 3, not {window}")
    radius, count = window // 2, window ** (fixed.ndim - 2)
    mean_fixed, mean_warped = (box_mean(image, radius, "constant") for image in (fixed, warped))
    covariance = count * (box_mean(fixed * warped, radius, "constant") - mean_fixed * mean_warped)
    # Rounding may leave a tiny negative variance where a window is flat.
    variance_fixed = count * (box_mean(fixed.square(), radius, "constant") - mean_fixed.square()).clamp(min=0)
    variance_warped = count * (box_mean(warped.square(), radius, "constant") - mean_warped.square()).clamp(min=0)
    return -weighted_mean(covariance.square() / (variance_fixed * variance_warped + 1e-5), mask)


def masked_local_ncc(fixed: Tensor, warped: Tensor, mask: Tensor, window: int = 9) -> Tensor:
    """Minus the mean squared correlation coefficient of the windows, counting only what lies inside the mask; -1 to 0.

    Where :func:`local_ncc` takes voxels outside the image for zeros, here means and variances of a window come from
    its valid voxels alone, so that neither border nor mask makes an edge. Elsewhere both agree.

    Args:
        fixed: (B, 1, *S).
        warped: (B, 1, *S).
        mask: (B, 1, *S) weights from 0 to 1.
        window: width of the box in voxels, odd.
    """
    if window % 2 == 0 or window < 3:
        raise ValueError(f"the window of the local correlation has to be odd and at least 3, not {window}")
    a, b = fixed * mask, warped * mask
    sums = box_mean(torch.cat([mask, a, b, a * fixed, b * warped, a * warped], 1), window // 2, "constant")
    share = sums[:, :1].clamp(min=1e-8)
    mean_a, mean_b, square_a, square_b, product = (sums[:, 1:] / share).split(1, 1)
    count = window ** (fixed.ndim - 2)
    covariance = count * (product - mean_a * mean_b)
    variance_a = count * (square_a - mean_a.square()).clamp(min=0)
    variance_b = count * (square_b - mean_b.square()).clamp(min=0)
    return -weighted_mean(covariance.square() / (variance_a * variance_b + 1e-5), mask)


def gaussian_ncc(
    fixed: Tensor, warped: Tensor, mask: Tensor | None = None, sigma: float = 5.0, squared: bool = False
) -> Tensor:
    """One minus the mean local correlation under Gaussian windows, from 0 (alike) to 2 (inverted).

    As in GradICON (Tian et al. 2023): weights cut off at 2 sigma, 1e-5 added to each variance. In float32 also under
    mixed precision.

    Args:
        fixed: (B, 1, *S).
        warped: (B, 1, *S).
        mask: weights (B, 1, *S) of the windows' centres.
        sigma: standard deviation of the window in voxels.
        squared: average the squared correlation instead, from 0 to 1, so that inverted contrasts count as alike.
    """
    radius = round(2 * sigma)
    fixed, warped = at_least_float32(fixed), at_least_float32(warped)

    def mean(image: Tensor) -> Tensor:
        return gaussian_mean(image, sigma, radius)

    mean_fixed, mean_warped = mean(fixed), mean(warped)
    covariance = mean(fixed * warped) - mean_fixed * mean_warped
    variance_fixed = (mean(fixed.square()) - mean_fixed.square()).clamp(min=0) + 1e-5
    variance_warped = (mean(warped.square()) - mean_warped.square()).clamp(min=0) + 1e-5
    correlation = covariance / (variance_fixed * variance_warped).sqrt()
    return 1 - weighted_mean(correlation.square() if squared else correlation, mask)


def global_ncc(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """One minus Pearson's correlation coefficient of the whole images, averaged over the batch; from 0 to 2.

    Args:
        fixed: (B, 1, *S).
        warped: (B, 1, *S).
        mask: weights (B, 1, *S) on the fixed grid.
    """
    weights = fixed.new_ones(fixed.shape) if mask is None else mask.to(fixed.dtype)
    weights = weights.flatten(1)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-8)

    def centred(image: Tensor) -> Tensor:
        flat = image.flatten(1)
        return flat - (weights * flat).sum(1, keepdim=True)

    a, b = centred(fixed), centred(warped)
    covariance = (weights * a * b).sum(1)
    variances = (weights * a.square()).sum(1) * (weights * b.square()).sum(1)
    return (1 - covariance / variances.clamp(min=1e-12).sqrt()).mean()
