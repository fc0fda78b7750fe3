"""corrField as a method: known deformations between contrasts and of a real head, masks, and what is refused."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from registration_pairs import blind, contrast_pair, known_deformation, mean_error

from modalign.cases import Case
from modalign.corrfield.graph import min_marginals, spanning_tree
from modalign.corrfield.keypoints import keypoints
from modalign.corrfield.matching import expected_displacement, patch_costs
from modalign.corrfield.register import rescaled
from modalign.errors import ConfigError, ModalignError
from modalign.methods import Context, method_class
from modalign.similarity.mind import mind_ssc
from modalign.volumes import Volume, axis_aligned


@cache
def pair(dimension: int) -> tuple[Case, np.ndarray]:
    if dimension == 3:
        return contrast_pair(axis_aligned((32, 32, 24), (1.5, 1.5, 2.0)))
    return contrast_pair(axis_aligned((64, 64, 2), (1.0, 1.0, 3.0)), in_plane=True)


def register(case, dimension, **options):
    return method_class("corrfield")({"preset": "small", **options}, dimension, Context()).align(blind(case))


@pytest.mark.parametrize(("preset", "dimension", "share"), [("small", 3, 0.5), ("small", 2, 0.4), ("paper", 3, 0.55)])
def test_a_known_deformation_between_contrasts_is_found(preset, dimension, share):
    case, body = pair(dimension)
    before = mean_error(np.zeros_like(case.true_field), case.true_field, body)
    alignment = register(case, dimension, preset=preset)
    assert mean_error(alignment.field, case.true_field, body) < share * before
    again = register(case, dimension, preset=preset)
    assert again.field.tobytes() == alignment.field.tobytes()
    if dimension == 2:
        assert not alignment.field[2].any()


def test_two_grids_are_brought_together():
    grid, coarse = axis_aligned((32, 32, 24), (1.5, 1.5, 2.0)), axis_aligned((36, 36, 28), (1.6, 1.5, 1.9))
    case, body = contrast_pair(grid, coarse)
    before = mean_error(np.zeros_like(case.true_field), case.true_field, body)
    assert mean_error(register(case, 3).field, case.true_field, body) < 0.55 * before


def test_keypoints_keep_to_the_fixed_mask():
    case, body = pair(3)
    half = body & (np.arange(32) < 18)[:, None, None]
    masked = replace(blind(case), fixed_mask=Volume(half.astype(np.uint8), case.fixed.affine))
    method = method_class("corrfield")({"preset": "small"}, 3, Context())
    whole, part = method.align(blind(case)), method.align(masked)
    assert part.notes["keypoints_last_stage"] < 0.8 * whole.notes["keypoints_last_stage"]
    before = mean_error(np.zeros_like(case.true_field), case.true_field, half)
    assert mean_error(part.field, case.true_field, half) < 0.6 * before


def test_nothing_outside_the_moving_mask_counts(rng):
    case, body = pair(3)
    seen = ndi.binary_dilation(body, iterations=2)
    clutter = 3000 * ndi.gaussian_filter(rng.normal(size=seen.shape), 2)
    cases = [
        replace(
            blind(case),
            moving=case.moving.like(np.where(seen, case.moving.data, other)),
            fixed_mask=case.fixed.like(body.astype(np.uint8)),
            moving_mask=case.moving.like(seen.astype(np.uint8)),
        )
        for other in (clutter, clutter[::-1])
    ]
    method, careless = (method_class("corrfield")({"preset": "small", "use_masks": used}) for used in (True, False))
    first, second = (method.align(c).field for c in cases)
    np.testing.assert_array_equal(first, second)
    before = mean_error(np.zeros_like(case.true_field), case.true_field, body)
    assert mean_error(first, case.true_field, body) < 0.6 * before
    disturbed, otherwise = (careless.align(c).field for c in cases)
    assert np.abs(disturbed - otherwise)[:, body].mean() > 0.05


@pytest.mark.parametrize("shift", [(2.4, -1.3), (1.5, 0.5)])
def test_the_way_back_finds_the_same_displacement_although_it_starts_on_whole_voxels(shift, rng):
    scene = ndi.gaussian_filter(rng.normal(size=(80, 80)), 1.5)
    fixed, moving = scene[16:-16, 16:-16], ndi.shift(scene, shift, order=3)[16:-16, 16:-16]
    images = [mind_ssc(torch.from_numpy(rescaled(i))[None, None], dilation=1, sigma=1.0)[0] for i in (fixed, moving)]
    points = keypoints(rescaled(fixed), np.pad(np.ones((28, 28)), 10), 4)
    tree = spanning_tree(points, np.zeros(len(points)), 150)

    def search(target, source, start):
        costs = patch_costs(target, source, start, (6, 6), 1, 2).mul_(2.5)
        return expected_displacement(min_marginals(costs, tree), 1, 5.0).numpy()

    there = search(*images, points)
    arrived = np.rint(points + there).astype(int)
    back = -search(*images[::-1], arrived)
    remainder = arrived - points - there
    apart = [np.abs((d - there).mean(0)).max() for d in (back, back + remainder, back - remainder)]
    assert apart[0] < 0.08
    assert apart[0] < 0.8 * min(apart[1:])


def test_bad_settings_and_images_are_refused_with_advice(rng):
    with pytest.raises(ConfigError, match="every stage needs a value of each: search_radius 3, nms_width 2"):
        register(pair(3)[0], 3, preset="paper", nms_width=(4, 4))
    with pytest.raises(ConfigError, match="are 1 or more"):
        register(pair(3)[0], 3, step=(2, 0))
    spots = np.zeros((16, 16, 16), np.float32)
    spots[8, 8, 8] = 1
    case = Case("spots", Volume(spots), Volume(rng.random((16, 16, 16)).astype(np.float32)))
    with pytest.raises(ModalignError, match="stage 1 of corrField finds 1 keypoints in an image of 16 x 16 x 16"):
        register(case, 3)


@pytest.mark.real
@pytest.mark.parametrize(("preset", "share"), [("small", 0.4), ("paper", 0.45)])
def test_a_known_deformation_of_a_real_head_is_found(real_scans, preset, share):
    case, _, mask = known_deformation(real_scans, "patient07", 3.0)
    before = mean_error(np.zeros_like(case.true_field), case.true_field, mask)
    assert mean_error(register(case, 3, preset=preset).field, case.true_field, mask) < share * before
