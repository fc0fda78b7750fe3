"""N4 bias field correction of MR scans (Tustison et al. 2010), done by SimpleITK."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modalign.cases import Case, Intensity
from modalign.preprocess.context import StepContext
from modalign.volumes import Volume, from_sitk, to_sitk


def n4(
    case: Case,
    context: StepContext,
    *,
    of: str = "mr",
    shrink: int = 4,
    iterations: Sequence[int] = (50, 50, 50, 50),
    convergence: float = 0.001,
    bias_fwhm: float = 0.15,
    otsu_bins: int = 200,
) -> tuple[Case, dict[str, Any]]:
    """Divide each MR scan by the smooth bias field that N4 finds in its foreground (Otsu).

    The field is estimated on the scan shrunk by `shrink` (less along short axes), at one level per entry of
    `iterations`, and evaluated at full resolution. The true image has no bias and stays as it is.
    """
    record: dict[str, Any] = {}
    for side in context.sides(of):
        volume: Volume = getattr(case, side)
        bias = estimate_bias(volume, shrink, iterations, convergence, bias_fwhm, otsu_bins)
        record[side] = {"bias_min": float(bias.min()), "bias_max": float(bias.max())}
        corrected = volume.like((volume.data / bias).astype(np.float32))
        changed: dict[str, Any] = {side: corrected, f"{side}_intensity": Intensity(unit="a.u. (bias corrected)")}
        case = replace(case, **changed)
    return case, record


def estimate_bias(
    volume: Volume,
    shrink: int,
    iterations: Sequence[int],
    convergence: float = 0.001,
    bias_fwhm: float = 0.15,
    otsu_bins: int = 200,
) -> np.ndarray:
    """The multiplicative bias field of a scan, (X, Y, Z), positive, with geometric mean 1 over the foreground."""
    import SimpleITK as sitk

    if volume.data.max() <= volume.data.min():
        return np.ones(volume.shape)
    image = sitk.Cast(to_sitk(volume.like(volume.data.astype(np.float32))), sitk.sitkFloat32)
    mask = sitk.OtsuThreshold(image, 0, 1, otsu_bins)
    # Eight voxels per axis are the least that four levels of cubic B-splines can use.
    factors = [max(min(shrink, n // 8), 1) for n in image.GetSize()]
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetNumberOfThreads(1)
    corrector.SetMaximumNumberOfIterations([int(n) for n in iterations])
    corrector.SetConvergenceThreshold(convergence)
    corrector.SetBiasFieldFullWidthAtHalfMaximum(bias_fwhm)
    corrector.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
    log_bias = from_sitk(corrector.GetLogBiasFieldAsImage(image)).data.astype(np.float64)
    foreground = from_sitk(mask).data > 0
    return np.exp(log_bias - log_bias[foreground].mean())
