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
from modalign.volumes import LPS_TO_RAS, Volume, to_sitk

if TYPE_CHECKING:
    import SimpleITK as sitk

log = logging.getLogger(__name__)


def register(
    case: Case,
    context: StepContext,
    *,
    transform: str = "rigid",
    bins: int = 32,
    sampling: float = 0.5,
    max_samples: int = 200_000,
    shrink: Sequence[int] = (4, 2, 1),
    smoothing_mm: Sequence[float] = (4.0, 2.0, 0.0),
    iterations: int = 200,
    learning_rate: float = 1.0,
    search_deg: Sequence[float] = (0.0,),
    search_deg_centred: Sequence[float] = (-30.0, 0.0, 30.0),
) -> tuple[Case, dict[str, Any]]:
    """Move the moving scan's frame by the `rigid` or `affine` transform of highest Mattes mutual information.

    Starts from the scanners' frame, from the grids' centres put together and from the centres of mass put together,
    each turned by all combinations of `search_deg` about three axes (`search_deg_centred` if the scans have no common
    frame). The three most promising starts are optimised (regular-step gradient descent, pyramid of `shrink` factors
    and `smoothing_mm`), and the best result is taken; if none beats the scanners' frame, the scan stays where it is.
    No voxel is touched: only the moving scan's place in the world changes.
    """
    angles = search_deg_centred if context.centred else search_deg
    matrix, values = estimate(
        case.fixed,
        case.moving,
        transform=transform,
        bins=bins,
        sampling=sampling,
        max_samples=max_samples,
        shrink=shrink,
        smoothing_mm=smoothing_mm,
        iterations=iterations,
        learning_rate=learning_rate,
        search_deg=angles,
    )
    record = {"matrix": matrix.tolist(), **values}
    if np.array_equal(matrix, np.eye(4)):
        return case, record
    return truth.move_frame(case, matrix), record


def estimate(
    fixed: Volume,
    moving: Volume,
    *,
    transform: str,
    bins: int,
    sampling: float,
    max_samples: int,
    shrink: Sequence[int],
    smoothing_mm: Sequence[float],
    iterations: int,
    learning_rate: float,
    search_deg: Sequence[float],
) -> tuple[np.ndarray, dict[str, float]]:
    """The 4 x 4 map from fixed to moving RAS mm, and the mutual information before and after."""
    import SimpleITK as sitk

    if transform not in ("rigid", "affine"):
        raise ConfigError(f"register.transform is {transform!r}; write rigid or affine")
    images = [sitk.Cast(to_sitk(v.like(v.data.astype(np.float32))), sitk.sitkFloat32) for v in (fixed, moving)]

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
        registration.SetOptimizerAsRegularStepGradientDescent(learning_rate, 1e-4, iterations, 0.5)
        return registration

    # ITK minimises, so the metric is minus the mutual information.
    levels = _levels(fixed.shape, shrink)
    smoothing = list(smoothing_mm)[len(smoothing_mm) - len(levels) :]
    identity = sitk.Euler3DTransform()
    identity.SetCenter(_centre(images[0]))
    before = _metric(method([1], [0.0]), images, identity)
    starts = [(s, _metric(method([1], [smoothing[0]]), images, s)) for s in _starts(images, search_deg)]
    starts.sort(key=lambda pair: pair[1])
    best, best_value = identity, before
    for start, _ in starts[:3]:
        candidate: Any = start
        if transform == "affine":
            candidate = sitk.AffineTransform(3)
            candidate.SetCenter(start.GetCenter())
            candidate.SetMatrix(start.GetMatrix())
            candidate.SetTranslation(start.GetTranslation())
        registration = method(levels, smoothing)
        registration.SetInitialTransform(candidate, inPlace=False)
        try:
            found = registration.Execute(*images)
        except RuntimeError as error:
            # ITK gives up when the scans lose their overlap; another start may do better.
            log.debug("a start of the registration failed: %s", error)
            continue
        value = _metric(method([1], [0.0]), images, found)
        if value < best_value:
            best, best_value = found, value
    matrix = np.eye(4) if best is identity else _matrix(best)
    return matrix, {"mutual_information_before": -before, "mutual_information_after": -best_value}


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


def _levels(shape: tuple[int, int, int], shrink: Sequence[int]) -> list[int]:
    """The pyramid's factors that leave at least 4 voxels along the shortest axis; the last one at any rate."""
    usable = [n for n in shrink if min(shape) / n >= 4]
    return usable or [shrink[-1]]


def _centre(image: "sitk.Image") -> tuple[float, float, float]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])


def _matrix(transform: Any) -> np.ndarray:
    """A SimpleITK transform (LPS) as a 4 x 4 matrix in RAS mm."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(e))) - origin for e in np.eye(3)]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.stack(columns, axis=1), origin
    return LPS_TO_RAS @ matrix @ LPS_TO_RAS
