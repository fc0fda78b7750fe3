"""The simplest translation: the mean moving intensity seen at each fixed intensity."""

import numpy as np
import scipy.ndimage as ndi
from pydantic import Field

from modalign.cases import Alignment, Case
from modalign.errors import DataError
from modalign.methods._registration import check_images, usable_mask
from modalign.methods.base import Method, MethodOptions, align_slices
from modalign.spatial.fields import sampling_positions, warp_volume
from modalign.volumes import Volume


class IntensityMap(Method):
    """One curve per case, ``image = E[moving | fixed]``, from the joint histogram of the unregistered pair.

    This is the regression curve whose explained variance is the correlation ratio. It needs no training and can't
    move anything, but where two tissues look alike in the fixed image it gives both their common mean.
    """

    label = "Intensity map"
    kind = "translation"
    dimensions = frozenset({2, 3})
    source = "the functional fit of the correlation ratio, Roche et al. 1998"

    class Options(MethodOptions):
        """Settings of the intensity map."""

        bins: int = Field(64, ge=4, description="bins over the fixed intensities")
        smoothing_bins: float = Field(
            1.5, ge=0, description="standard deviation, in bins, of the Gaussian that smooths the curve"
        )
        clip_percent: float = Field(
            0.5, ge=0, lt=50, description="percent of the fixed voxels beyond the first and the last bin, at each end"
        )
        use_masks: bool = Field(False, description="fit inside the masks of the case, where it has them")

    def align(self, case: Case) -> Alignment:
        """Translate the fixed image to the contrast of the moving image; there is no field."""
        check_images(case)
        if self.dimension == 2:
            return align_slices(case, self._translate)
        return self._translate(case)

    def _translate(self, case: Case) -> Alignment:
        options = self.options
        moving = warp_volume(case.moving, None, case.grid).data
        fixed = case.fixed.data.astype(np.float32)
        seen = _inside_moving(case)
        for mask, order in ((case.fixed_mask, None), (case.moving_mask, 0)):
            usable = usable_mask(mask, options.use_masks)
            if usable is not None:
                on_grid = usable if order is None else warp_volume(usable, None, case.grid, order=0, outside=0)
                seen &= on_grid.data > 0
        if not seen.any():
            raise DataError(f"case {case.id}: fixed and moving don't overlap, so there is nothing to fit a map to")
        mapped = conditional_mean(
            fixed[seen], moving[seen], fixed, options.bins, options.smoothing_bins, options.clip_percent
        )
        return Alignment(Volume(mapped, case.grid.affine.copy()))


def _inside_moving(case: Case) -> np.ndarray:
    positions = sampling_positions(None, case.grid, case.moving.grid)
    last = np.array(case.moving.shape).reshape(3, 1, 1, 1) - 1
    return np.all((positions > -0.5) & (positions < last + 0.5), axis=0)


def conditional_mean(
    x: np.ndarray, y: np.ndarray, at: np.ndarray, bins: int, smoothing_bins: float, clip_percent: float
) -> np.ndarray:
    """The smoothed conditional mean E[y | x], evaluated at `at`.

    `y` is averaged in `bins` equal bins of `x` between its percentiles `clip_percent` and 100 - `clip_percent`. The
    means are smoothed by a Gaussian in which a bin of n samples weighs n / (n + 20): well-filled bins count alike, so
    that a large background doesn't leak into its neighbours, and thinly filled ones lean on theirs. The curve runs
    linearly between bin centres and stays constant beyond the outer ones.

    Args:
        x: samples of the predictor, 1D.
        y: samples of the response, 1D, paired with `x`.
        at: where to evaluate, any shape.
        bins: number of bins.
        smoothing_bins: standard deviation of the Gaussian in bins.
        clip_percent: percent of samples put into the outer bins, at each end.

    Returns:
        float32, the shape of `at`, within the range of `y`.
    """
    low, high = np.percentile(x, [clip_percent, 100 - clip_percent])
    if high <= low:
        low, high = float(x.min()), float(x.max())
    if high <= low:
        return np.full(at.shape, y.mean(), dtype=np.float32)
    edges = np.linspace(low, high, bins + 1)
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins).astype(float)
    sums = np.bincount(index, weights=y, minlength=bins)
    weights = counts / (counts + 20)
    weighted = weights * sums / np.maximum(counts, 1)
    if smoothing_bins > 0:
        weights, weighted = (ndi.gaussian_filter1d(a, smoothing_bins, mode="constant") for a in (weights, weighted))
    centres = (edges[:-1] + edges[1:]) / 2
    reached = weights > 1e-6
    return np.interp(at, centres[reached], weighted[reached] / weights[reached]).astype(np.float32)
