"""Does the image look like the truth to a network? LPIPS."""

import numpy as np

from modalign.metrics.features import FeatureSource
from modalign.metrics.pair import Pair, Value

SMALLEST = 32


def measure_lpips(pair: Pair, features: FeatureSource, net: str) -> list[Value]:
    """LPIPS (Zhang et al. 2018, Eq. 1) of every axial slice against the true aligned image.

    Range 0 and up, lower is better; matching background lowers it. Grey slices as RGB, intensities -1..1 (clamped),
    with the linear layers v0.1 of the lpips package on the features of `net` (``alexnet`` in the papers, or
    ``vgg16``). With random features the value is ``lpips_random``.
    """
    image, truth = _slices(pair, pair.image), _slices(pair, pair.true_image)
    if min(image.shape[1:]) < SMALLEST:
        return [Value(float("nan"), z) for z in range(len(image))]
    return [Value(float(v), z) for z, v in enumerate(features.lpips(image, truth, net))]


def _slices(pair: Pair, data: np.ndarray) -> np.ndarray:
    low, high = pair.moving_window
    scaled = (data.astype(np.float32) - low) / (high - low) * 2 - 1
    return np.ascontiguousarray(np.clip(scaled, -1, 1).transpose(2, 0, 1))
