"""Do the edges lie in the same place? Gradient correlation of edge maps."""

from typing import Any

import numpy as np

from modalign.errors import ConfigError
from modalign.metrics.pair import Pair, Value

CANNY_THRESHOLDS = {"ct": (30.0, 50.0)}
"""Hysteresis thresholds of the modalities that don't take :data:`DEFAULT_THRESHOLDS`."""
DEFAULT_THRESHOLDS = (170.0, 190.0)


def gradient_correlation(
    fixed: np.ndarray,
    image: np.ndarray,
    fixed_thresholds: tuple[float, float],
    image_thresholds: tuple[float, float],
    inside: np.ndarray | None = None,
) -> float:
    """Pearson correlation of the gradient magnitudes of two Canny edge maps.

    Range -1 to 1, higher is better. The zero gradient of a background that both images share raises it. Sobel
    filters (3 x 3) run over the binary edge maps, as in the RbG code, not over the images.

    Args:
        fixed: 8-bit slice (H, W).
        image: 8-bit slice (H, W) in any contrast.
        fixed_thresholds: lower and upper hysteresis threshold of Canny on `fixed`.
        image_thresholds: the same on `image`.
        inside: bool (H, W), the pixels over which to correlate; edges are found in the whole slice.

    Returns:
        The correlation; NaN if one of the slices has no edges, where the RbG code skips the slice.
    """
    a = _edge_gradient(fixed, fixed_thresholds)
    b = _edge_gradient(image, image_thresholds)
    if inside is not None:
        a, b = a[inside], b[inside]
    if not a.size or not a.std() or not b.std():
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def _edge_gradient(image: np.ndarray, thresholds: tuple[float, float]) -> np.ndarray:
    import cv2

    edges = cv2.Canny(np.ascontiguousarray(image), *thresholds)
    gradients = [cv2.Sobel(edges, cv2.CV_64F, *axis, ksize=3) for axis in ((1, 0), (0, 1))]
    return np.hypot(*gradients)


def measure_gc(pair: Pair, thresholds: Any, region: str) -> list[Value]:
    """Gradient correlation of every axial slice.

    Args:
        pair: the case and its alignment.
        thresholds: ``by_modality``: (30, 50) for CT and (170, 190) for everything else, the values in the RbG code;
            or ``{"fixed": [low, high], "image": [low, high]}``.
        region: ``slice``, as in the RbG code, or ``mask``.

    Raises:
        ConfigError: the thresholds can't be read.
    """
    fixed_thresholds, image_thresholds = _thresholds(thresholds, pair.modalities)
    inside = pair.inside("mask") if region == "mask" else None
    values = []
    for z in range(pair.image.shape[2]):
        mask = None if inside is None else inside[:, :, z]
        slices = pair.fixed_u8[:, :, z], pair.image_u8[:, :, z]
        values.append(Value(gradient_correlation(*slices, fixed_thresholds, image_thresholds, mask), z))
    return values


def _thresholds(option: Any, modalities: tuple[str, str]) -> tuple[tuple[float, float], tuple[float, float]]:
    if option == "by_modality":
        fixed, moving = (CANNY_THRESHOLDS.get(m, DEFAULT_THRESHOLDS) for m in modalities)
        return fixed, moving
    try:
        (a, b), (c, d) = option["fixed"], option["image"]
        return (float(a), float(b)), (float(c), float(d))
    except (TypeError, KeyError, ValueError) as error:
        example = "{fixed: [170, 190], image: [30, 50]}"
        raise ConfigError(f"thresholds {option!r} of measure gc: write by_modality, or {example}") from error
