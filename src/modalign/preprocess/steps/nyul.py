"""Histogram standardisation of MR intensities (Nyul & Udupa 1999; deciles as in Nyul, Udupa & Zhang 2000)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modalign.cases import Case, Intensity
from modalign.errors import ConfigError, DataError
from modalign.preprocess.context import StepContext
from modalign.preprocess.steps.intensity import map_values

STANDARD_SCALE = (0.0, 100.0)
FOREGROUNDS = ("mean", "mask", "all")


def standardise(
    case: Case,
    context: StepContext,
    *,
    of: str = "mr",
    low_percent: float = 1.0,
    high_percent: float = 99.0,
    foreground: str = "mean",
) -> tuple[Case, dict[str, Any]]:
    """Map each scan's percentile landmarks onto the training split's mean landmarks, piecewise linearly.

    Landmarks are `low_percent`, the deciles and `high_percent` of the foreground: voxels above the scan's ``mean``
    (Nyul & Udupa), in its ``mask``, or ``all``. Beyond the outer landmarks the outer pieces go on. Each side has
    its own landmarks; the standard scale runs from 0 to 100, and physical units end here.
    """
    record = {}
    for side in context.sides(of):
        standard = np.array(context.fitted[context.step][side]["landmarks"])
        own = _landmarks(case, side, low_percent, high_percent, foreground)
        record[side] = {"landmarks": own.tolist()}
        unit = Intensity(unit="standardised a.u.")
        case = map_values(case, side, lambda data, own=own, standard=standard: apply(data, own, standard), unit)
    return case, record


def summarise(
    case: Case, side: str, *, low_percent: float, high_percent: float, foreground: str, **_: Any
) -> dict[str, Any]:
    """One training scan's landmarks."""
    return {"landmarks": _landmarks(case, side, low_percent, high_percent, foreground).tolist()}


def fit(summaries: Sequence[dict[str, Any]], *, low_percent: float, high_percent: float, **_: Any) -> dict[str, Any]:
    """Mean landmarks of the training scans, each first mapped linearly so that its outer landmarks become 0 and 100.

    Raises:
        DataError: no training scan has a spread of intensities.
    """
    landmarks = np.array([s["landmarks"] for s in summaries])
    landmarks = landmarks[landmarks[:, -1] > landmarks[:, 0]]
    if not len(landmarks):
        raise DataError("all training scans are constant images: check the files of the training split")
    low, high = STANDARD_SCALE
    width = landmarks[:, -1:] - landmarks[:, :1]
    mapped = low + (landmarks - landmarks[:, :1]) / width * (high - low)
    percentiles = percentiles_of(low_percent, high_percent).tolist()
    return {"landmarks": mapped.mean(axis=0).tolist(), "percentiles": percentiles, "scans": len(landmarks)}


def percentiles_of(low_percent: float, high_percent: float) -> np.ndarray:
    """The percentiles that serve as landmarks."""
    return np.array([low_percent, *range(10, 100, 10), high_percent], dtype=float)


def apply(data: np.ndarray, own: np.ndarray, standard: np.ndarray) -> np.ndarray:
    """Piecewise linear map of `own` landmarks onto `standard` ones; pieces of no width are left out."""
    keep = np.concatenate([[True], np.diff(own) > 1e-5 * max(own[-1] - own[0], 1e-12)])
    own, standard = own[keep], standard[keep]
    if len(own) < 2:
        return np.full_like(data, standard[0])
    slopes = np.diff(standard) / np.diff(own)
    piece = np.clip(np.searchsorted(own, data, side="right") - 1, 0, len(slopes) - 1)
    return standard[piece] + slopes[piece] * (data - own[piece])


def _landmarks(case: Case, side: str, low_percent: float, high_percent: float, foreground: str) -> np.ndarray:
    if foreground not in FOREGROUNDS:
        raise ConfigError(f"nyul.foreground is {foreground!r}; write one of: {', '.join(FOREGROUNDS)}")
    data, mask = getattr(case, side).data, getattr(case, f"{side}_mask")
    values = data.ravel()
    if foreground == "mask" and mask is not None and mask.data.any():
        values = data[mask.data > 0]
    elif foreground == "mean" and data.max() > data.min():
        values = data[data > data.mean()]
    return np.percentile(values, percentiles_of(low_percent, high_percent))
