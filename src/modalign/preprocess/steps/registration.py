"""Rigid or affine pre-registration of the moving scan by mutual information, done by SimpleITK."""

import itertools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modalign.cases import Case
from modalign.errors import ConfigError
from modalign.preprocess import truth
from modalign.preprocess.context import StepContext
from modalign.preprocess.sampling import resample, respaced_grid
from modalign.spatial.overlap import overlap
from modalign.volumes import LPS_TO_RAS, Grid, Volume, to_sitk

if TYPE_CHECKING:
    import SimpleITK as sitk

log = logging.getLogger(__name__)


def register(
    case: Case,
    context: StepContext,
    *,
    transform: str = "rigid",
    resolution_mm: float = 1.5,
    bins: int = 32,
    sampling: float = 0.5,
    max_samples: int = 100_000,
    shrink: Sequence[int] = (4, 2, 1),
    smoothing_mm: Sequence[float] = (4.0, 2.0, 0.0),
    iterations: int = 200,
    learning_rate: float = 1.0,
    search_deg: Sequence[float] = (0.0,),
    search_deg_centred: Sequence[float] = (-30.0, 0.0, 30.0),
    least_overlap: float = 0.5,
    largest_turn_deg: float = 60.0,
) -> tuple[Case, dict[str, Any]]:
    """Move the moving scan's frame by the `rigid` or `affine` transform of highest Mattes mutual information.

    Starts from the scanners' frame, from the grids' centres put together and from the centres of mass put together,
    each turned by all combinations of `search_deg` about three axes (`search_deg_centred` if the scans have no common
    frame). Axes finer than `resolution_mm` are coarsened for the search. The three most promising starts go through
    all levels but the last of a pyramid (`shrink` factors, `smoothing_mm`; regular-step gradient descent), the best of
    them through the last one; if it doesn't beat the scanners' frame, the scan stays where it is. No voxel is touched:
    only the moving scan's place in the world changes.

    Mutual information is measured where the scans overlap, so that it can rise while one slides off the other. What
    overlaps by less than `least_overlap` of what it did, turns by more than `largest_turn_deg` or (`affine`) changes
    the volume by more than half is therefore not followed, and if nothing else is found, a warning says so.
    """
    angles = search_deg_centred if context.centred else search_deg
    matrix, values = estimate(
        case.fixed,
        case.moving,
        transform=transform,
        resolution_mm=resolution_mm,
        bins=bins,
        sampling=sampling,
        max_samples=max_samples,
        shrink=shrink,
        smoothing_mm=smoothing_mm,
        iterations=iterations,
        learning_rate=learning_rate,
        search_deg=angles,
        least_overlap=least_overlap,
        largest_turn_deg=largest_turn_deg,
    )
    record = {"matrix": matrix.tolist(), **values}
    if values["refused"] and np.array_equal(matrix, np.eye(4)):
        log.warning(
            "case %s: the registration ended where it can't be right (%s), so the scans stay as they lie; look at "
            "them, and register them by hand if they lie apart (step %s)",
            case.id,
            values["refused"],
            context.step,
        )
    if np.array_equal(matrix, np.eye(4)):
        return case, record
    return truth.move_frame(case, matrix), record


def estimate(
    fixed: Volume,
    moving: Volume,
    *,
    transform: str,
    resolution_mm: float,
    bins: int,
    sampling: float,
    max_samples: int,
    shrink: Sequence[int],
    smoothing_mm: Sequence[float],
    iterations: int,
    learning_rate: float,
    search_deg: Sequence[float],
    least_overlap: float,
    largest_turn_deg: float,
) -> tuple[np.ndarray, dict[str, Any]]:
    """The 4 x 4 map from fixed to moving RAS mm, the mutual information before and after, and what was refused."""
    import SimpleITK as sitk

    if transform not in ("rigid", "affine"):
        raise ConfigError(f"register.transform is {transform!r}; write rigid or affine")
    images = [sitk.Cast(to_sitk(_coarse(v, resolution_mm)), sitk.sitkFloat32) for v in (fixed, moving)]

    def method(levels: Sequence[int], smoothing: Sequence[float]) -> "sitk.ImageRegistrationMethod":
        registration = sitk.ImageRegistrationMethod()
        # One thread, regular samples: the same sums in the same order, so the same result on every run.
        registration.SetNumberOfThreads(1)
        registration.SetMetricAsMattesMutualInformation(bins)
        registration.SetMetricSamplingStrategy(registration.REGULAR)
        share = min(sampling, max_samples / images[0].GetNumberOfPixels())
        registration.SetMetricSamplingPercentage(share, 1)
        registration.SetInterpolator(sitk.sitkLinear)
        registration.SetShrinkFactorsPerLevel([int(n) for n in levels])
        registration.SetSmoothingSigmasPerLevel([float(s) for s in smoothing])
        registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        registration.SetOptimizerScalesFromPhysicalShift()
        registration.SetOptimizerAsRegularStepGradientDescent(learning_rate, 1e-3, iterations, 0.5)
        return registration

    def optimise(start: Any, levels: Sequence[int], smoothing: Sequence[float]) -> Any:
        registration = method(levels, smoothing)
        registration.SetInitialTransform(start, inPlace=False)
        try:
            return _unwrapped(registration.Execute(*images))
        except RuntimeError as error:
            # ITK gives up when the scans lose their overlap; another start may do better.
            log.debug("a start of the registration failed: %s", error)
            return start

    shape = images[0].GetSize()
    levels = [n for n in shrink if min(shape) / n >= 4] or [shrink[-1]]
    smoothing = list(smoothing_mm)[len(smoothing_mm) - len(levels) :]
    identity = sitk.Euler3DTransform()
    identity.SetCenter(_centre(images[0]))
    coarse = method(levels[:1], smoothing[:1])
    starts: list[Any] = sorted(_starts(images, search_deg), key=lambda start: _metric(coarse, images, start))[:3]
    if transform == "affine":
        starts = [_as_affine(start) for start in starts]
    fine = method(levels[-1:], smoothing[-1:])
    refused: list[str] = []

    def plausible(candidates: list[Any]) -> list[Any]:
        """The candidates that can be right, best first."""
        reasons = [
            implausible(_matrix(c), fixed.grid, moving.grid, least_overlap, largest_turn_deg) for c in candidates
        ]
        refused.extend(reason for reason in reasons if reason)
        kept = [candidate for candidate, reason in zip(candidates, reasons, strict=True) if not reason]
        return sorted(kept, key=lambda candidate: _metric(fine, images, candidate))

    ends = plausible([optimise(start, levels[:-1], smoothing[:-1]) for start in starts] if len(levels) > 1 else starts)
    ends = plausible([optimise(ends[0], levels[-1:], smoothing[-1:]), ends[0]]) if ends else []
    best = ends[0] if ends else identity
    # ITK minimises, so its metric is minus the mutual information.
    before, after = (-_metric(fine, images, candidate) for candidate in (identity, best))
    matrix = _matrix(best) if after > before else np.eye(4)
    # ITK has no value where the scans don't overlap; JSON knows no infinity.
    values = {"mutual_information_before": before, "mutual_information_after": max(before, after)}
    known = {name: value if np.isfinite(value) else None for name, value in values.items()}
    return matrix, {**known, "refused": "; ".join(dict.fromkeys(refused))}


def implausible(matrix: np.ndarray, fixed: Grid, moving: Grid, least_overlap: float, largest_turn_deg: float) -> str:
    """Why `matrix` (fixed to moving, mm) can't be how two scans of one patient lie; empty if it can be."""
    volume = float(np.linalg.det(matrix[:3, :3]))
    if not 0.5 <= volume <= 2:
        return f"volumes changed by a factor of {volume:.2g}"
    left, _, right = np.linalg.svd(matrix[:3, :3])
    turn = np.degrees(np.arccos(np.clip((np.trace(left @ right) - 1) / 2, -1, 1)))
    if turn > largest_turn_deg:
        return f"turned by {turn:.0f} degrees"
    before, after = overlap(fixed, moving), overlap(fixed, moving, matrix)
    if after < least_overlap * before:
        return f"overlap {after:.0%} instead of {before:.0%}"
    return ""


def _starts(images: list["sitk.Image"], search_deg: Sequence[float]) -> list["sitk.Euler3DTransform"]:
    import SimpleITK as sitk

    starts = []
    flag = sitk.CenteredTransformInitializerFilter
    for mode in (None, flag.GEOMETRY, flag.MOMENTS):
        base = sitk.Euler3DTransform()
        base.SetCenter(_centre(images[0]))
        if mode is not None:
            # Moments need values that rise from the background, which CT in HU has not.
            lifted = [sitk.ShiftScale(image, -float(sitk.GetArrayViewFromImage(image).min())) for image in images]
            base = sitk.Euler3DTransform(sitk.CenteredTransformInitializer(*lifted, base, mode))
        for angles in itertools.product(np.deg2rad(search_deg), repeat=3):
            start = sitk.Euler3DTransform(base)
            start.SetRotation(*map(float, angles))
            starts.append(start)
    return starts


def _metric(registration: "sitk.ImageRegistrationMethod", images: list["sitk.Image"], transform: Any) -> float:
    registration.SetInitialTransform(transform, inPlace=False)
    try:
        return float(registration.MetricEvaluate(*images))
    except RuntimeError:
        return float("inf")


def _coarse(volume: Volume, resolution_mm: float) -> Volume:
    """The scan as float32, with axes finer than `resolution_mm` brought to it (as long as 32 voxels remain)."""
    coarsest = volume.spacing * np.maximum(np.array(volume.shape) / 32, 1)
    spacing = np.minimum(np.maximum(volume.spacing, resolution_mm), coarsest)
    return resample(volume.like(volume.data.astype(np.float32)), respaced_grid(volume.grid, spacing))


def _as_affine(start: "sitk.Euler3DTransform") -> "sitk.AffineTransform":
    import SimpleITK as sitk

    affine = sitk.AffineTransform(3)
    affine.SetCenter(start.GetCenter())
    affine.SetMatrix(start.GetMatrix())
    affine.SetTranslation(start.GetTranslation())
    return affine


def _unwrapped(transform: Any) -> Any:
    """The transform itself: registration returns a composite of one, which can't start the next level."""
    return transform.GetNthTransform(0).Downcast() if transform.GetName() == "CompositeTransform" else transform


def _centre(image: "sitk.Image") -> tuple[float, float, float]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])


def _matrix(transform: Any) -> np.ndarray:
    """A SimpleITK transform (LPS) as a 4 x 4 matrix in RAS mm."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(e))) - origin for e in np.eye(3)]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.stack(columns, axis=1), origin
    return LPS_TO_RAS @ matrix @ LPS_TO_RAS
