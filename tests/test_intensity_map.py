"""The intensity map: the mean of one contrast given the other, and the images that it translates."""

import numpy as np
import pytest
from classical_methods import make, volume_pair
from registration_pairs import blind

from modalign.cases import Case
from modalign.methods.intensity_map import conditional_mean
from modalign.spatial.fields import warp_volume
from modalign.volumes import Volume


def test_conditional_mean_follows_a_known_curve(rng):
    x = rng.uniform(0, 1, 40_000)
    y = np.sin(3 * x) + rng.normal(0, 0.3, x.size)
    at = np.linspace(0.02, 0.98, 50)
    found = conditional_mean(x, y, at, bins=64, smoothing_bins=1.5, clip_percent=0.5)
    np.testing.assert_allclose(found, np.sin(3 * at), atol=0.03)


def test_conditional_mean_without_smoothing_is_the_mean_of_each_bin(rng):
    x, y = rng.uniform(0, 8, 5000), rng.normal(size=5000)
    centres = np.arange(8) + 0.5
    # The range of the samples, not 0 to 8, is binned; end points pin it.
    x[:2] = 0, 8
    naive = [y[np.clip(x.astype(int), 0, 7) == k].mean() for k in range(8)]
    np.testing.assert_allclose(conditional_mean(x, y, centres, 8, 0, 0), naive, rtol=1e-5)


def test_a_large_background_does_not_leak_into_the_curve():
    x = np.concatenate([np.zeros(100_000), np.repeat(np.arange(1, 65), 100)])
    y = np.where(x == 0, -1000.0, 50.0)
    found = conditional_mean(x, y, np.array([0.0, 8.0, 40.0]), 65, 1.5, 0)
    assert found[2] == pytest.approx(50)
    assert found[1] > 0


def test_the_intensity_map_translates_between_contrasts():
    case, body = volume_pair()
    for dimension in (2, 3):
        alignment = make("intensity_map", {}, dimension).align(blind(case))
        assert alignment.field is None
        truth = warp_volume(case.moving, case.true_field, case.grid).data
        assert np.corrcoef(alignment.image.data[body], truth[body])[0, 1] > 0.85
        assert np.abs(np.corrcoef(case.fixed.data[body], truth[body])[0, 1]) < 0.5


def test_the_intensity_map_ignores_what_the_moving_image_does_not_see():
    case, _ = volume_pair()
    half = Volume(case.moving.data[:16], case.moving.affine)
    whole = make("intensity_map").align(blind(case)).image.data
    partial = make("intensity_map").align(Case(id="half", fixed=case.fixed, moving=half)).image.data
    assert np.corrcoef(whole.ravel(), partial.ravel())[0, 1] > 0.97
