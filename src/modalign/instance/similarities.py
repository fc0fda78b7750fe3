"""The similarity measures that run under the instance optimiser beside Locor, one small class each."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from modalign.instance.contract import PairSimilarity
from modalign.similarity.correlation_ratio import correlation_ratio, srwcr
from modalign.similarity.filters import weighted_mean
from modalign.similarity.mind import mind, mind_ssc
from modalign.similarity.mutual_information import histogram_information
from modalign.similarity.ncc import masked_local_ncc
from modalign.similarity.parzen import Window, joint_histogram


class Srwcr(PairSimilarity):
    """The spatially region-weighted correlation ratio (Gong et al. 2019), with the settings of the Locor paper."""

    def __init__(self, bins: int = 32, stride: int = 4, window: Window = "polynomial") -> None:
        self.settings: dict[str, Any] = {"bins": bins, "stride": stride, "window": window}

    def loss(self, target: Tensor, source: Tensor, mask: Tensor, **_: Any) -> Tensor:
        """From 0 to 1."""
        return srwcr(target, source, mask, **self.settings)


class CorrelationRatio(PairSimilarity):
    """The correlation ratio of the whole images (Roche et al. 1998)."""

    def __init__(self, bins: int = 32, window: Window = "polynomial") -> None:
        self.settings: dict[str, Any] = {"bins": bins, "window": window}

    def loss(self, target: Tensor, source: Tensor, mask: Tensor, **_: Any) -> Tensor:
        """From 0 to 1."""
        return correlation_ratio(target, source, mask, **self.settings)


class Mind(PairSimilarity):
    """The squared difference of neighbourhood descriptors, MIND-SSC or MIND.

    As in the ablation of the Locor paper, descriptors are of the warped image, and their differences are averaged over
    the mask.

    Args:
        descriptor: of an image, (1, 1, *S) to (1, C, *S).
        reach: how far a descriptor looks along each axis, in samples. Descriptors that look at invalid samples are left
            out. 0 keeps them, as the code of that ablation does. Beyond the image, its border repeats either way.
    """

    def __init__(self, descriptor: Callable[[Tensor], Tensor], reach: int) -> None:
        self.descriptor, self.reach = descriptor, reach

    def validity(self, mask: Tensor) -> Tensor:
        """Where nothing invalid lies within the reach."""
        return _eroded(mask, self.reach)

    def target(self, channels: Tensor, mask: Tensor) -> Tensor:
        """The descriptor of the image that stays."""
        with torch.no_grad():
            return self.descriptor(channels)

    def loss(self, target: Tensor, source: Tensor, mask: Tensor, **_: Any) -> Tensor:
        """From 0 to 1."""
        return weighted_mean((self.descriptor(source) - target).square(), mask)


class MutualInformation(PairSimilarity):
    """Minus the mutual information (MI) or the normalised one (NMI), through Gaussian Parzen windows.

    Intensities beyond the given quantile at either end are clipped first.
    """

    def __init__(
        self, bins: int = 23, sigma_ratio: float = 0.5, quantile: float = 0.0, normalised: bool = False
    ) -> None:
        self.bins, self.sigma_ratio, self.quantile, self.normalised = bins, sigma_ratio, quantile, normalised

    def channels(self, image: Tensor, mask: Tensor) -> Tensor:
        """The image with its extreme intensities clipped, from 0 to 1 again."""
        inside = image[mask > 0]
        if self.quantile == 0 or inside.numel() == 0:
            return image
        ranks = torch.tensor([self.quantile, 1 - self.quantile]) * (inside.numel() - 1)
        low, high = inside.sort().values[ranks.round().long().to(image.device)]
        return ((image - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)

    def loss(self, target: Tensor, source: Tensor, mask: Tensor, **_: Any) -> Tensor:
        """MI: from minus the entropy to 0; NMI: from -2 to -1."""
        joint = joint_histogram(target, source, mask, self.bins, self.sigma_ratio)
        return -histogram_information(joint, self.normalised)


class LocalCorrelation(PairSimilarity):
    """Minus the squared local correlation coefficient (LNCC), of the valid voxels of each window.

    The windows are as wide on every level, so that on the coarsest one the 9 samples that are usual for single
    resolutions would span much of the image.
    """

    def __init__(self, width: int = 5) -> None:
        self.width = width

    def loss(self, target: Tensor, source: Tensor, mask: Tensor, **_: Any) -> Tensor:
        """From -1 to 0."""
        return masked_local_ncc(target, source, mask, self.width)


class AbsoluteDifference(PairSimilarity):
    """The mean absolute difference (MAE), for images of one contrast."""

    def loss(self, target: Tensor, source: Tensor, mask: Tensor, **_: Any) -> Tensor:
        """From 0 to 1."""
        return weighted_mean((source - target).abs(), mask)


def _eroded(mask: Tensor, reach: int) -> Tensor:
    """The mask without what lies within `reach` samples of an invalid one, along each axis and diagonally."""
    pool = functional.max_pool2d if mask.ndim == 4 else functional.max_pool3d
    invalid = 1 - mask
    for axis in range(mask.ndim - 2):
        window = [2 * reach + 1 if a == axis else 1 for a in range(mask.ndim - 2)]
        invalid = pool(invalid, window, 1, [n // 2 for n in window])
    return 1 - invalid


def _mind_ssc(radius: int = 2, dilation: int = 2, inside: bool = False) -> Mind:
    return Mind(lambda image: mind_ssc(image, radius, dilation), radius + dilation if inside else 0)


def _mind(sigma: float = 0.5, inside: bool = False) -> Mind:
    # Patches of nearest neighbours, cut off at three standard deviations.
    return Mind(lambda image: mind(image, sigma=sigma), 1 + math.ceil(3 * sigma) if inside else 0)


def _nmi(**settings: Any) -> MutualInformation:
    return MutualInformation(normalised=True, **settings)


SIMILARITIES: dict[str, Callable[..., PairSimilarity]] = {
    "srwcr": Srwcr,
    "mind-ssc": _mind_ssc,
    "mind": _mind,
    "mi": MutualInformation,
    "nmi": _nmi,
    "lncc": LocalCorrelation,
    "cr": CorrelationRatio,
    "mae": AbsoluteDifference,
}


def pair_similarity(name: str, **settings: Any) -> PairSimilarity:
    """The similarity of that name, with settings of its own.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SIMILARITIES:
        raise ValueError(f"there is no similarity {name!r}; choose from {', '.join(SIMILARITIES)}")
    return SIMILARITIES[name](**settings)
