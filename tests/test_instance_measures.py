"""Similarity measures under the instance optimiser: each finds a known deformation, and reads its own options."""

from functools import cache

import numpy as np
import pytest
from registration_pairs import blind, contrast_pair, known_deformation, mean_error

from modalign.cases import Case
from modalign.errors import ConfigError
from modalign.methods import Context, method_class
from modalign.spatial.fields import invert, warp_volume
from modalign.volumes import axis_aligned

CROSS_MODAL = ("srwcr", "mind-ssc", "mind", "mi", "nmi", "lncc", "cr")
SHORT = (0, 0, 25, 25, 25, 25)


@cache
def slice_pair() -> tuple[Case, np.ndarray]:
    return contrast_pair(axis_aligned((64, 64, 1), (1.0, 1.0, 3.0)), in_plane=True)


def register(case: Case, dimension: int = 2, seed: int = 0, **options):
    return method_class("instance")(options, dimension, Context(seed=seed)).align(blind(case))


@pytest.mark.parametrize("similarity", CROSS_MODAL)
def test_each_measure_finds_a_known_deformation(similarity):
    case, body = slice_pair()
    before = mean_error(np.zeros_like(case.true_field), case.true_field, body)
    found = register(case, similarity=similarity, schedule=SHORT).field
    # The moving contrast has fewer intensities than the fixed one, so its global function explains it poorly.
    share = 0.7 if similarity == "cr" else 0.5
    assert mean_error(found, case.true_field, body) < share * before
    assert not found[2].any()


def test_absolute_differences_register_one_contrast():
    case, body = slice_pair()
    bent = warp_volume(case.fixed, invert(case.true_field), case.grid, order=3)
    alike = Case("alike", case.fixed, bent)
    before = mean_error(np.zeros_like(case.true_field), case.true_field, body)
    found = register(alike, similarity="mae", schedule=SHORT).field
    assert mean_error(found, case.true_field, body) < 0.3 * before


def test_the_same_seed_gives_the_same_bytes():
    case, _ = slice_pair()
    first, second = (register(case, similarity="srwcr", schedule=(5, 5, 5, 5, 0, 0)).field for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.any()


def test_every_measure_has_a_weight_of_its_own_and_options_override_it():
    options = method_class("instance").Options
    assert options(similarity="mind").smoothness_weight < options(similarity="mi").smoothness_weight
    assert options(similarity="mind", smoothness_weight=7).smoothness_weight == 7
    assert options(similarity="srwcr", bins=16, stride=3).of_similarity() == {
        "bins": 16,
        "stride": 3,
        "window": "polynomial",
    }
    assert options(similarity="mi").of_similarity()["bins"] == 23
    assert options(preset="small").schedule[-1] == 0


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="width has to be odd, not 4"):
        register(slice_pair()[0], similarity="lncc", width=4)
    with pytest.raises(ConfigError, match="option 'similarity' of method instance is 'ssd'"):
        register(slice_pair()[0], similarity="ssd")


@pytest.mark.real
@pytest.mark.parametrize(("similarity", "share"), [("srwcr", 0.35), ("mi", 0.35)])
def test_a_known_deformation_of_a_real_head_is_found(real_scans, similarity, share):
    case, _, mask = known_deformation(real_scans, "patient07", 4.0)
    before = mean_error(np.zeros_like(case.true_field), case.true_field, mask)
    found = register(case, 3, similarity=similarity, schedule=(15, 20, 30, 20, 15, 15)).field
    assert mean_error(found, case.true_field, mask) < share * before
