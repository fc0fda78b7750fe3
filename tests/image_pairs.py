"""Pairs of images made by hand, for the tests of measures."""

import numpy as np
import scipy.ndimage as ndi

from modalign.cases import Case, Intensity
from modalign.metrics.pair import Pair
from modalign.volumes import Volume


def smooth(rng, shape=(48, 40, 4), sigma=2.0):
    noise = ndi.gaussian_filter(rng.normal(size=shape), (sigma, sigma, 0))
    return (2 * (noise - noise.min()) / np.ptp(noise) - 1).astype(np.float32)


def pair_of(image, fixed=None, truth=None, mask=None, unit="a.u.", scale=1.0, modalities=("mr", "ct"), moving=None):
    case = Case(
        "p1",
        fixed=Volume(image if fixed is None else fixed),
        moving=Volume(image if moving is None else moving),
        fixed_mask=None if mask is None else Volume(mask.astype(np.uint8)),
        true_image=None if truth is None else Volume(truth),
        moving_intensity=Intensity(scale=scale, offset=100, unit=unit),
    )
    return Pair(case, image, modalities=modalities)


def numbers(values):
    return [v.value for v in values]
