"""Where a registration starts, and when two images no longer show the same: partial views and grids of other sizes."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from registration_pairs import blind, contrast_pair, mean_error

from modalign.cases import Case
from modalign.errors import DataError, ModalignError
from modalign.instance.optimise import Pair, register
from modalign.instance.presets import stages
from modalign.instance.similarities import pair_similarity
from modalign.methods import Context, method_class
from modalign.methods.locor import Locor
from modalign.volumes import Volume, axis_aligned

AFFINE_ONLY = {"schedule": (20, 0, 0, 0, 0, 0), "coarsest": 2.0}


def upper_slices(volume: Volume, count: int) -> Volume:
    """The last slices alone, where they lie."""
    first = volume.shape[2] - count
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    return Volume(volume.data[:, :, first:], affine)


def test_a_partial_view_stays_where_it_lies_in_world_coordinates():
    case, body = contrast_pair(axis_aligned((32, 32, 40), (1.5, 1.5, 1.5)), largest_voxels=1e-3)
    part = replace(blind(case), moving=upper_slices(case.moving, 17))
    found = Locor(AFFINE_ONLY).align(part)
    seen = body & (np.arange(40) >= 23)
    # From the scans' centres it would start 11.5 voxels off.
    assert mean_error(found.field, np.zeros_like(found.field), seen) < 0.3
    assert found.notes["start"] == "world"


@pytest.mark.parametrize(("slices", "start"), [(8, "world"), (2, "centre"), (0, "centre"), (-60, "centre")])
def test_scans_that_hardly_overlap_start_from_their_centres(slices, start):
    """`slices` of the 30 slices of either scan lie in the other, in an oblique frame."""
    case, _ = contrast_pair(axis_aligned((20, 20, 30), (1, 1, 1)), largest_voxels=1e-3)
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    apart = np.eye(4)
    apart[2, 3] = 30 - slices
    fixed, moving = Volume(case.fixed.data, turn), Volume(case.moving.data, turn @ apart)
    one_step = {**AFFINE_ONLY, "schedule": (1, 0, 0, 0, 0, 0)}
    for option, expected in ((None, start), ("centre", "centre")):
        options = one_step if option is None else {**one_step, "start": option}
        assert Locor(options).align(Case("apart", fixed, moving)).notes["start"] == expected
    if slices <= 0:
        with pytest.raises(ModalignError, match=r"drifted apart: 0\.0 % of the smaller one lies in the other"):
            Locor({**one_step, "start": "world"}).align(Case("apart", fixed, moving))


def scene(shape: tuple[int, ...], spacing: float, offset: float = 0.0) -> np.ndarray:
    """One random object of about 40 mm, sampled about its own centre."""
    tissue = ndi.gaussian_filter(np.random.default_rng(0).standard_normal((44,) * 3), 3)
    centre = [(np.arange(n) - (n - 1) / 2) * spacing + 21.5 for n in shape]
    centre[0] = centre[0] + offset
    return ndi.map_coordinates(tissue, np.meshgrid(*centre, indexing="ij"), order=1, mode="nearest")


def between(fixed: tuple[int, float], moving: tuple[int, float], offset_mm: float = 0.0) -> Pair:
    """Two cubes of (voxels, mm per voxel), the centre of the moving one `offset_mm` along x from that of the fixed."""
    (n, a), (m, b) = fixed, moving
    matrix = np.diag([a / b] * 3 + [1.0])
    matrix[:3, 3] = (m - 1) / 2 - a / b * (n - 1) / 2
    matrix[0, 3] -= offset_mm / b
    return Pair(scene((n,) * 3, a), scene((m,) * 3, b, offset_mm), matrix, ((a,) * 3, (b,) * 3))


def run(pair: Pair) -> np.ndarray:
    rng = torch.Generator().manual_seed(0)
    return register(pair, pair_similarity("mae"), stages((3, 0, 0, 0, 0, 0)), 100.0, rng).affine


@pytest.mark.parametrize(("fixed", "moving"), [((40, 3.0), (40, 1.0)), ((40, 1.0), (40, 3.0))])
def test_a_small_scan_inside_a_large_one_overlaps_with_it_entirely(fixed, moving):
    assert np.isfinite(run(between(fixed, moving))).all()


@pytest.mark.parametrize(("fixed", "moving"), [((40, 1.0), (10, 4.0)), ((10, 4.0), (40, 1.0))])
def test_a_sliver_of_fine_voxels_is_no_overlap(fixed, moving):
    """Of 40 mm, 1.5 mm overlap: few in mm, though more voxels of the fine grid than the coarse grid has."""
    with pytest.raises(ModalignError, match=r"drifted apart: \d\.\d % of the smaller one"):
        run(between(fixed, moving, 36.0))
    assert np.isfinite(run(between(fixed, moving, 20.0))).all()


@pytest.mark.parametrize(
    ("name", "options"), [("corrfield", {"preset": "small"}), ("convexadam", {"grid_spacing": 4, "search_radius": 2})]
)
def test_methods_on_one_grid_bring_scans_together_that_lie_apart(name, options):
    """A turned pair, as it lies and with its moving scan 200 mm away: the same but for the way between the centres."""
    case, body = contrast_pair(axis_aligned((32, 32, 24), (2.0, 2.0, 2.0)), largest_voxels=2.0)
    turn, away = np.eye(4), np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    away[:3, 3] = (200, -30, 10)
    fixed = Volume(case.fixed.data, turn @ case.fixed.affine)
    near, far = (Case("pair", fixed, Volume(case.moving.data, m @ case.moving.affine)) for m in (turn, away @ turn))
    method = method_class(name)(options, 3, Context())
    here, there = method.align(near), method.align(far)
    assert (here.notes["start"], there.notes["start"]) == ("world", "centre")
    way = np.linalg.solve(near.fixed.affine[:3, :3], away[:3, 3])
    # float32, at a hundred voxels and at a hundred units of intensity
    np.testing.assert_allclose(there.field - way[:, None, None, None], here.field, atol=1e-3)
    np.testing.assert_allclose(there.image.data, here.image.data, atol=1e-2)
    assert mean_error(here.field, case.true_field, body) < mean_error(0 * here.field, case.true_field, body)
    with pytest.raises(DataError, match="the scans don't overlap in world coordinates"):
        method_class(name)({**options, "start": "world"}, 3, Context()).align(far)
