"""Mutual information of two images, differentiable through Gaussian Parzen windows."""

import torch
from torch import Tensor

from modalign.similarity.filters import at_least_float32


def mutual_information(
    fixed: Tensor,
    warped: Tensor,
    mask: Tensor | None = None,
    bins: int = 23,
    sigma_ratio: float = 0.5,
    limits: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """Minus the mutual information in nats, averaged over the batch; at best minus the entropy of the histograms.

    Every voxel spreads over `bins` evenly spaced centres with Gaussian weights that sum to one; the joint
    distribution is the mean outer product of the two images' weights (Guo 2019, Eq. 3.1-3.5; the form that DeepReg and
    MONAI use, with the same defaults). In float32 also under mixed precision.

    Args:
        fixed: (B, 1, *S).
        warped: (B, 1, *S).
        mask: weights (B, 1, *S); 0 leaves a voxel out, such as background, which else dominates the histogram.
        bins: number of histogram bins.
        sigma_ratio: standard deviation of the windows in bin widths.
        limits: the intensities at the first and the last bin centre, values beyond are clipped; None takes each
            image's own minimum and maximum.
    """
    if bins < 2:
        raise ValueError(f"mutual information needs 2 bins or more, not {bins}")
    weights_fixed = _parzen(fixed, bins, sigma_ratio, limits)
    weights_warped = _parzen(warped, bins, sigma_ratio, limits)
    # A half-precision product of this many voxels doesn't add up to one.
    with torch.autocast(fixed.device.type, enabled=False):
        if mask is None:
            joint = weights_fixed @ weights_warped.transpose(1, 2) / weights_fixed.shape[2]
        else:
            weight = mask.to(weights_fixed.dtype).reshape(len(fixed), 1, -1)
            joint = (weights_fixed * weight) @ weights_warped.transpose(1, 2)
            joint = joint / weight.sum(2, keepdim=True).clamp(min=1e-8)
    independent = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    return -(joint * ((joint + 1e-7) / (independent + 1e-7)).log()).sum((1, 2)).mean()


def _parzen(image: Tensor, bins: int, sigma_ratio: float, limits: tuple[float, float] | None) -> Tensor:
    """Weights (B, bins, N) of every voxel for every bin."""
    flat = at_least_float32(image.flatten(1))
    if limits is None:
        low, high = flat.detach().amin(1, keepdim=True), flat.detach().amax(1, keepdim=True)
        flat = (flat - low) / (high - low).clamp(min=1e-8)
    else:
        flat = (flat - limits[0]) / (limits[1] - limits[0])
    position = flat.clamp(0, 1)[:, None, :] * (bins - 1)
    centres = torch.arange(bins, device=image.device, dtype=flat.dtype).reshape(1, -1, 1)
    return torch.softmax(-0.5 * ((position - centres) / sigma_ratio).square(), dim=1)


def histogram_information(joint: Tensor, normalised: bool = False) -> Tensor:
    """The mutual information in nats of a joint distribution; normalised: ``(H(a) + H(b)) / H(a, b)``, from 1 to 2.

    The normalised form is that of Studholme et al. 1999, which changes less with the overlap of the images.

    Args:
        joint: (bins of a, bins of b), adding up to 1; an all-zero one has an information of 0, normalised 1.
        normalised: which of the two.
    """
    if not normalised:
        independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        return (joint * ((joint + 1e-7) / (independent + 1e-7)).log()).sum()
    apart = sum(-(p * (p + 1e-7).log()).sum() for p in (joint.sum(0), joint.sum(1)))
    together = -(joint * (joint + 1e-7).log()).sum()
    # A single occupied bin has no entropy: the images then tell nothing about each other.
    return (apart + 1e-6) / (together + 1e-6)
