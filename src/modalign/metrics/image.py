"""How far is the aligned image from the true one, voxel by voxel? PSNR, SSIM, absolute errors."""

import numpy as np
import scipy.ndimage as ndi

from modalign.metrics.choices import check_option
from modalign.metrics.pair import Pair, Value, clipped_at


def psnr(image: np.ndarray, truth: np.ndarray, data_range: float) -> float:
    """``10 log10(data_range^2 / mean squared error)`` in dB: any number, higher is better.

    Every voxel given counts, so that background which matches raises the value.

    Args:
        image: of any shape.
        truth: of the same shape.
        data_range: width of the intensity range, in the unit of the images.

    Returns:
        The value; NaN where the images are equal or empty, or the range is 0.
    """
    if not image.size:
        return float("nan")
    error = float(np.mean((image.astype(np.float64) - truth) ** 2))
    return 10 * float(np.log10(data_range**2 / error)) if error and data_range else float("nan")


def ssim(image: np.ndarray, truth: np.ndarray, data_range: float, window: str = "gaussian") -> float:
    """Structural similarity of two slices (H, W), the mean of its map (Wang et al. 2004, Eq. 13).

    Range -1 to 1, higher is better; matching even background counts as 1.

    Args:
        image: slice (H, W).
        truth: slice (H, W).
        data_range: the L in ``C1 = (0.01 L)^2, C2 = (0.03 L)^2``.
        window: ``gaussian``, 11 x 11 with sd 1.5 and biased variances, over the whole slice with a mirrored border, as
            torchmetrics; or ``uniform``, 7 x 7 with unbiased variances, where it fits into the slice, as scikit-image's
            default, which the RegGAN code uses.

    Raises:
        ConfigError: the window is neither.
    """
    check_option("ssim", "window", window)
    size = 11 if window == "gaussian" else 7
    if min(image.shape) < size or not data_range:
        return float("nan")
    x, y = image.astype(np.float64), truth.astype(np.float64)

    def local(values: np.ndarray) -> np.ndarray:
        if window == "uniform":
            return ndi.uniform_filter(values, size)
        return ndi.gaussian_filter(values, 1.5, radius=size // 2, mode="mirror")

    mean_x, mean_y = local(x), local(y)
    correction = 1.0 if window == "gaussian" else size**2 / (size**2 - 1)
    var_x = correction * (local(x * x) - mean_x**2)
    var_y = correction * (local(y * y) - mean_y**2)
    covariance = correction * (local(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    inner = slice(size // 2, -(size // 2)) if window == "uniform" else slice(None)
    return float((luminance * structure)[inner, inner].mean())


def _region(pair: Pair, region: str) -> np.ndarray:
    """Bool (X, Y, Z): ``slice``, ``mask``, or ``foreground``: where the truth is above the window's lower end."""
    if region == "foreground":
        low, high = pair.moving_window
        return pair.true_image > low + 1e-6 * (high - low)
    return pair.inside(region)


def measure_psnr(pair: Pair, range: str, region: str) -> list[Value]:
    """PSNR of every axial slice against the true aligned image.

    Args:
        pair: the case and its alignment.
        range: the data range. ``stored``: the width of the stored intensities, 2 for [-1, 1], the same for every
            method. ``data``: that of the true slice. ``as_released``: as in the RbG code, where the output stands in
            for the truth: from the smaller of its minimum and 0 to the larger of its maximum and 0.
        region: ``slice``, ``mask`` or ``foreground`` (as the RegGAN code: where the truth is not background).
    """
    check_option("psnr", "range", range)
    inside = _region(pair, region)
    values = []
    for z, (image, truth) in enumerate(_axial(pair)):
        mask = inside[:, :, z]
        if range == "stored":
            width = pair.moving_window[1] - pair.moving_window[0]
        elif range == "data":
            width = float(np.ptp(truth))
        else:
            width = max(float(image.max()), 0.0) - min(float(image.min()), 0.0)
        values.append(Value(psnr(image[mask], truth[mask], width), z))
    return values


def measure_ssim(pair: Pair, range: str, window: str) -> list[Value]:
    """SSIM of every axial slice against the true aligned image.

    `range` is ``stored``, the width of the stored intensities, or ``data``: the larger of both slices' ranges, as
    torchmetrics takes it when none is given, and so the RbG code.
    """
    check_option("ssim", "range", range)
    values = []
    for z, (image, truth) in enumerate(_axial(pair)):
        stored = pair.moving_window[1] - pair.moving_window[0]
        width = stored if range == "stored" else max(float(np.ptp(image)), float(np.ptp(truth)))
        values.append(Value(ssim(image, truth, width, window), z))
    return values


def measure_nmae(pair: Pair, region: str) -> list[Value]:
    """Mean absolute error against the true aligned image over the width of the intensity range, per axial slice.

    Range 0 to 1, lower is better.

    Args:
        pair: the case and its alignment.
        region: ``foreground`` (as the RegGAN code: where the truth is not background), or ``mask``: background plays no
            part; or ``slice``: background that matches lowers the value.

    NaN for a slice outside the region.
    """
    inside = _region(pair, region)
    width = pair.moving_window[1] - pair.moving_window[0]
    values = []
    for z, (image, truth) in enumerate(_axial(pair)):
        errors = np.abs(image.astype(np.float64) - truth)[inside[:, :, z]]
        values.append(Value(float(errors.mean() / width) if errors.size else float("nan"), z))
    return values


def measure_mae_hu(pair: Pair, region: str) -> list[Value]:
    """Mean absolute error in HU against the true aligned image, one value per case: range 0 and up, lower is better.

    Args:
        pair: the case and its alignment.
        region: ``mask`` or ``foreground`` (where the truth is not background): background plays no part; or ``grid``,
            where matching air lowers the value.

    NaN for an empty region; no value, and a remark, where the moving scan is not in HU. A remark also says where the
    preparation cut off what is densest, such as bone: errors in it then count in part.
    """
    if not _in_hu(pair):
        return []
    for low, high in clipped_at(pair.case.record, "moving"):
        pair.remarks.add(f"HU are those of the prepared scan, cut off at its percentiles {low:g} and {high:g}")
    return _mae_hu(pair, pair.true_image, _region(pair, region))


def measure_mae_pseudo_hu(pair: Pair, region: str) -> list[Value]:
    """Mean absolute difference in HU between aligned CT and pseudo-CT, over the fixed ``mask`` or the ``grid``.

    Range 0 and up, lower is better; in the mask, background plays no part.

    The measure of Locor's head MRI-CT experiment (section 5), in whose head mask the recipe ``locor-cermep`` puts the
    fixed mask. A perfect alignment has the error of the pseudo-CT itself.
    """
    if pair.pseudo is None:
        raise ValueError(f"case {pair.case.id} has no pseudo image")
    if not _in_hu(pair):
        return []
    return _mae_hu(pair, pair.pseudo, pair.inside(region))


def _in_hu(pair: Pair) -> bool:
    unit = pair.case.moving_intensity.unit
    if unit != "HU":
        pair.remarks.add(f"left out: the moving scan is in {unit}, not in HU")
    return unit == "HU"


def _mae_hu(pair: Pair, reference: np.ndarray, inside: np.ndarray) -> list[Value]:
    errors = np.abs(pair.image[inside].astype(np.float64) - reference[inside])
    scale = abs(pair.case.moving_intensity.scale)
    return [Value(float(errors.mean() * scale) if errors.size else float("nan"))]


def _axial(pair: Pair) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(pair.image[:, :, z], pair.true_image[:, :, z]) for z in range(pair.image.shape[2])]
