"""Steps that map intensities. Linear ones keep the way back to physical values; all also act on the true image."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modalign.cases import Case, Intensity
from modalign.errors import ConfigError
from modalign.preprocess.context import StepContext

Outcome = tuple[Case, dict[str, Any]]


def clip_percentiles(
    case: Case,
    context: StepContext,
    *,
    of: str = "ct",
    low_percent: float = 5.0,
    high_percent: float = 95.0,
    within: str = "volume",
) -> Outcome:
    """Clip each scan to its own percentiles, taken over the whole volume or `within` its ``mask``."""
    record = {}
    for side in context.sides(of):
        low, high = np.percentile(_region(case, side, within, context), [low_percent, high_percent]).tolist()
        case = map_values(case, side, lambda data, low=low, high=high: np.clip(data, low, high))
        record[side] = {"low": low, "high": high}
    return case, record


def window(
    case: Case,
    context: StepContext,
    *,
    of: str = "ct",
    low_hu: float = -1000.0,
    high_hu: float = 2000.0,
    range: Sequence[float] = (-1.0, 1.0),
) -> Outcome:
    """Clip to a window in HU and map the window onto `range`."""
    _check_range(range, context)
    record = {}
    for side in context.sides(of):
        record[side] = {"low": low_hu, "high": high_hu}
        case = _onto(case, side, low_hu, high_hu, range)
    return case, record


def minmax(
    case: Case,
    context: StepContext,
    *,
    of: str = "all",
    low_percent: float = 0.0,
    high_percent: float = 100.0,
    range: Sequence[float] = (-1.0, 1.0),
) -> Outcome:
    """Map each scan's minimum and maximum (or percentiles, clipping beyond them) onto `range`.

    Between minimum and maximum the true image isn't clipped: what it has beyond the moving scan's extremes, such as
    bone outside that scan's field of view, is missing from every alignment, and that is an error to be measured.
    """
    _check_range(range, context)
    # Percentiles cut off values that the moving scan has: there the truth has to lose them, too, or else a perfect
    # alignment would have an error.
    clip_truth = low_percent > 0 or high_percent < 100
    record = {}
    for side in context.sides(of):
        low, high = np.percentile(getattr(case, side).data, [low_percent, high_percent]).tolist()
        record[side] = {"low": low, "high": high}
        case = _onto(case, side, low, high, range, clip_truth)
    return case, record


def zscore(case: Case, context: StepContext, *, of: str = "mr", within: str = "volume") -> Outcome:
    """Subtract each scan's mean and divide by its standard deviation, over the volume or `within` its ``mask``."""
    record = {}
    for side in context.sides(of):
        values = _region(case, side, within, context).astype(np.float64)
        mean, sd = float(values.mean()), float(values.std()) or 1.0
        record[side] = {"mean": mean, "sd": sd}
        case = _linear(case, side, 1 / sd, -mean / sd)
    return case, record


def dataset_scale(case: Case, context: StepContext, *, of: str = "ct", range: Sequence[float] = (-1.0, 1.0)) -> Outcome:
    """z-score, then min-max onto `range`, with mean, sd, minimum and maximum of all training scans together.

    The two maps are linear, so they are applied as one; values beyond the training extremes are clipped to `range`.
    """
    _check_range(range, context)
    record = {}
    for side in context.sides(of):
        fitted = context.fitted[context.step][side]
        record[side] = dict(fitted)
        case = _onto(case, side, fitted["low"], fitted["high"], range)
    return case, record


def summarise(case: Case, side: str, **_: Any) -> dict[str, Any]:
    """What one training scan contributes to :func:`dataset_scale`: voxel count, mean, variance, extremes."""
    values = getattr(case, side).data.astype(np.float64)
    return {
        "n": values.size,
        "mean": float(values.mean()),
        "variance": float(values.var()),
        "low": float(values.min()),
        "high": float(values.max()),
    }


def fit(summaries: Sequence[dict[str, Any]], **_: Any) -> dict[str, Any]:
    """Pooled mean and sd over all voxels of all training scans, and their extremes."""
    n, mean, variance = (np.array([s[key] for s in summaries], dtype=float) for key in ("n", "mean", "variance"))
    pooled = float((n * mean).sum() / n.sum())
    within_and_between = float((n * (variance + (mean - pooled) ** 2)).sum() / n.sum())
    return {
        "mean": pooled,
        "sd": within_and_between**0.5,
        "low": min(s["low"] for s in summaries),
        "high": max(s["high"] for s in summaries),
        "scans": len(summaries),
    }


def map_values(
    case: Case, side: str, function: Any, intensity: Intensity | None = None, of_truth: Any | None = None
) -> Case:
    """Apply `function` to the image of one side; to the true image as well (or `of_truth`) if the side is moving."""
    changed: dict[str, Any] = {}
    for part in (side, "true_image") if side == "moving" else (side,):
        volume = getattr(case, part)
        chosen = of_truth if part == "true_image" and of_truth is not None else function
        if volume is not None:
            changed[part] = volume.like(chosen(volume.data.astype(np.float32)).astype(np.float32))
    if intensity is not None:
        changed[f"{side}_intensity"] = intensity
    return replace(case, **changed)


def _linear(
    case: Case,
    side: str,
    slope: float,
    intercept: float,
    limits: Sequence[float] | None = None,
    clip_truth: bool = True,
) -> Case:
    """stored' = slope * stored + intercept, with the intensity mapping kept true; clipped to `limits`."""
    old: Intensity = getattr(case, f"{side}_intensity")
    new = Intensity(old.scale / slope, old.offset - old.scale * intercept / slope, old.unit)

    def mapped(data: np.ndarray) -> np.ndarray:
        return data.astype(np.float64) * slope + intercept

    def clipped(data: np.ndarray) -> np.ndarray:
        return mapped(data) if limits is None else np.clip(mapped(data), limits[0], limits[1])

    return map_values(case, side, clipped, new, clipped if clip_truth else mapped)


def _onto(case: Case, side: str, low: float, high: float, range: Sequence[float], clip_truth: bool = True) -> Case:
    width = high - low if high > low else 1.0
    slope = (range[1] - range[0]) / width
    return _linear(case, side, slope, range[0] - slope * low, range, clip_truth)


def _region(case: Case, side: str, within: str, context: StepContext) -> np.ndarray:
    data = getattr(case, side).data
    if within == "volume":
        return data.ravel()
    if within != "mask":
        raise ConfigError(f"step {context.step}: within is {within!r}; write volume or mask")
    mask = getattr(case, f"{side}_mask")
    return data[mask.data > 0] if mask is not None and mask.data.any() else data.ravel()


def _check_range(range: Sequence[float], context: StepContext) -> None:
    if len(range) != 2 or not range[0] < range[1]:
        raise ConfigError(f"step {context.step}: range is {list(range)}; write two rising numbers, such as [-1, 1]")
