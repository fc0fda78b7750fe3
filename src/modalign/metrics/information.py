"""How much does one image tell about the other? Normalised mutual information."""

import numpy as np

from modalign.metrics.pair import Pair, Value

LEVELS = 256


def normalized_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information over the mean of both entropies: ``NMI = 2 I(a; b) / (H(a) + H(b))``.

    Range 0 (independent) to 1 (each follows from the other), higher is better. A background that both images share is
    information, and raises it. Other papers call ``(H(a) + H(b)) / H(a, b)`` (1 to 2) by the same name; the arithmetic
    form is the one that the RbG code takes from torchmetrics, with every grey level a class of its own.

    Args:
        a: uint8, any shape.
        b: uint8, the same shape.

    Returns:
        The NMI; NaN if both are constant.
    """
    pairs = a.ravel().astype(np.int32) * LEVELS + b.ravel()
    joint = np.bincount(pairs, minlength=LEVELS * LEVELS).reshape(LEVELS, LEVELS) / max(pairs.size, 1)
    entropies = _entropy(joint.sum(1)) + _entropy(joint.sum(0))
    if not entropies:
        return float("nan")
    return max(0.0, 2 * (entropies - _entropy(joint)) / entropies)


def _entropy(probabilities: np.ndarray) -> float:
    p = probabilities[probabilities > 0]
    return float(-(p * np.log(p)).sum())


def measure_nmi(pair: Pair, region: str) -> list[Value]:
    """NMI of every axial slice, over all its pixels (``slice``, as in the RbG code) or those of the fixed ``mask``."""
    inside = pair.inside(region)
    values = []
    for z in range(pair.image.shape[2]):
        mask = inside[:, :, z]
        nmi = normalized_mutual_information(pair.fixed_u8[:, :, z][mask], pair.image_u8[:, :, z][mask])
        values.append(Value(nmi, z))
    return values
