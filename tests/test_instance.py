"""The instance optimiser: exact parts against known answers, whole registrations against known deformations."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.interpolate
import scipy.linalg
import scipy.ndimage as ndi
import torch
from registration_pairs import blind, contrast_pair, mean_error

from modalign.cases import Case
from modalign.errors import ConfigError, DataError, ModalignError
from modalign.instance.optimise import Pair, register
from modalign.instance.presets import STAGES, stages
from modalign.instance.splines import (
    Lattice,
    bspline_matrices,
    centred_lattice,
    control_lattice,
    interpolation_matrices,
    separable,
)
from modalign.instance.transform import exponentials, sampled
from modalign.methods.base import Context
from modalign.methods.locor import Locor
from modalign.similarity.locor import Locor as Similarity
from modalign.volumes import Volume, axis_aligned

ISOTROPIC = ((1.0, 1.0, 1.0),) * 2
DOUBLE = torch.empty(0, dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_splines_agree_with_scipy():
    lattice = centred_lattice((21, 15), (1.5, 2.0), outside=True, margin=2)
    control = control_lattice(lattice, (4.0, 5.0))
    values = torch.randn(1, 1, *control.shape, dtype=torch.float64, generator=rng())
    expected = values[0, 0].numpy()
    for axis in range(2):
        step = control.step[axis]
        knots = control.start[axis] + step * (np.arange(control.shape[axis] + 4) - 2)
        spline = scipy.interpolate.BSpline(knots, np.moveaxis(expected, axis, 0), 3)
        slope = np.moveaxis(spline.derivative()(lattice.axis(axis)), 0, axis) if axis == 0 else None
        expected = np.moveaxis(spline(lattice.axis(axis)), 0, axis)
        if slope is not None:
            first_slope = slope
    ours = separable(values, bspline_matrices(control, lattice, DOUBLE))
    np.testing.assert_allclose(ours[0, 0], expected, atol=1e-12)
    along_y = bspline_matrices(control, lattice, DOUBLE)[1].numpy()
    sloped = separable(values, bspline_matrices(control, lattice, DOUBLE, derivative=0))
    np.testing.assert_allclose(sloped[0, 0], first_slope @ along_y.T, atol=1e-12)


def test_interpolation_keeps_quadratic_functions_and_linear_ones_up_to_the_border():
    coarse, fine = Lattice((-2.0,), (2.0,), (12,)), Lattice((-2.0,), (0.5,), (45,))
    matrix = interpolation_matrices(coarse, fine, DOUBLE)[0].numpy()
    x, y = coarse.axis(0), fine.axis(0)
    np.testing.assert_allclose(matrix @ (3 * x - 1), 3 * y - 1, atol=1e-12)
    inner = slice(4, -4)
    np.testing.assert_allclose((matrix @ x**2)[inner], y[inner] ** 2, atol=1e-12)


def test_the_exponential_of_a_linear_velocity_is_the_matrix_exponential():
    generator = np.array([[0.05, -0.2], [0.25, -0.1]])
    lattice = Lattice((-40.0, -40.0), (2.0, 2.0), (41, 41))
    points = lattice.points(DOUBLE)
    velocity = torch.einsum("ij,bjxy->bixy", torch.from_numpy(generator), points)
    slopes = [torch.from_numpy(generator[:, a]).reshape(1, 2, 1, 1).expand_as(velocity) for a in range(2)]
    there, back = exponentials(velocity, slopes, lattice)
    middle = (..., slice(12, 29), slice(12, 29))
    plain = velocity / 64
    for _ in range(6):
        plain = plain + sampled(plain, lattice, points + plain)
    for ours, sign in ((there, 1), (back, -1)):
        matrix = torch.from_numpy(scipy.linalg.expm(sign * generator) - np.eye(2))
        expected = torch.einsum("ij,bjxy->bixy", matrix, points)
        assert (ours - expected)[middle].abs().max() < 2e-3
        if sign == 1:
            assert (ours - expected)[middle].abs().max() < 0.1 * (plain - expected)[middle].abs().max()


def smooth_pair(shape, shift=(0.0, 0.0), seed=0):
    """Two contrasts of one scene; the moving one is moved by `shift` voxels."""
    noise = np.random.default_rng(seed)
    tissue = ndi.gaussian_filter(noise.standard_normal([n + 20 for n in shape]), 2)
    tissue = (tissue - tissue.min()) / np.ptp(tissue)
    cut = tuple(slice(10, -10) for _ in shape)
    return tissue[cut], ndi.shift(np.sin(np.pi * tissue), shift, order=3)[cut]


def test_a_shift_comes_out_with_its_sign_and_the_reverse_on_the_way_back():
    fixed, moving = smooth_pair((48, 44), (2.0, -1.5))
    pair = Pair(fixed, moving, np.eye(3), ((1.0, 1.0),) * 2)
    found = register(pair, Similarity(rng=rng()), stages((80, 0, 0, 0, 0, 0)), 500.0, rng())
    np.testing.assert_allclose(
        found.affine[:2, 2] + (found.affine[:2, :2] - np.eye(2)) @ [23.5, 21.5], [2, -1.5], atol=0.15
    )
    grid = np.stack(np.meshgrid(np.arange(48), np.arange(44), indexing="ij"))
    assert np.abs((found.positions - grid)[:, 10:-10, 10:-10].mean((1, 2)) - [2, -1.5]).max() < 0.15
    assert np.abs((found.inverse_positions - grid)[:, 10:-10, 10:-10].mean((1, 2)) - [-2, 1.5]).max() < 0.15


@pytest.fixture(scope="module")
def volumes() -> tuple[Case, np.ndarray]:
    return contrast_pair(axis_aligned((40, 44, 36), (1.0, 1.0, 1.0)), largest_voxels=3.0, smooth_voxels=7.0)


def error_share(case: Case, mask: np.ndarray, options: dict, dimension: int = 3, **context) -> float:
    """The error left, as a share of the error of doing nothing."""
    field = Locor(options, dimension, Context(**context)).align(case).field
    truth = case.true_field
    return mean_error(field, truth, mask) / mean_error(np.zeros_like(truth), truth, mask)


def test_a_volume_with_a_known_deformation(volumes):
    assert error_share(*volumes, {"preset": "small"}) < 0.35


def test_slices_with_a_known_deformation():
    grid = axis_aligned((64, 60, 2), (1.5, 1.5, 3.0))
    case, mask = contrast_pair(grid, largest_voxels=3.0, in_plane=True)
    assert error_share(case, mask, {"preset": "small"}, 2) < 0.4


def test_anisotropic_voxels_on_other_grids(oblique_grid):
    shape = (30, 40, 34)
    moving_grid = axis_aligned(shape, (1.6, 1.2, 1.4))
    moving_grid.affine[:3, 3] += oblique_grid.affine[:3, :3] @ [20, 18, 10] + oblique_grid.affine[:3, 3]
    case, mask = contrast_pair(oblique_grid, moving_grid, largest_voxels=3.0, smooth_voxels=6.0)
    # What the moving scan does not show has no truth that could be found.
    reach = np.linalg.inv(moving_grid.affine) @ oblique_grid.affine
    seen = np.einsum("ij,jxyz->ixyz", reach[:3, :3], oblique_grid.indices() + case.true_field)
    seen += reach[:3, 3].reshape(3, 1, 1, 1)
    inside = ((seen >= 2) & (seen <= np.array(shape).reshape(3, 1, 1, 1) - 3)).all(0)
    assert inside[mask].mean() > 0.3
    assert error_share(case, mask & inside, {"preset": "small"}) < 0.5


def test_both_directions_undo_each_other(volumes):
    case, mask = volumes
    pair = Pair(case.fixed.data, case.moving.data, np.eye(4), ISOTROPIC)
    found = register(pair, Similarity(rng=rng()), stages((20, 10, 20, 20, 10, 0)), 500.0, rng())
    there_and_back = np.stack(
        [ndi.map_coordinates(c, found.positions, order=1, mode="nearest") for c in found.inverse_positions]
    )
    left = np.linalg.norm(there_and_back - case.grid.indices(), axis=0)
    # Beyond its border an image has no positions to look up.
    within = mask & ((found.positions >= 0) & (found.positions <= np.array(mask.shape)[:, None, None, None] - 1)).all(0)
    assert left[within].mean() < 0.07
    assert left[within].max() < 0.25
    assert np.linalg.norm(found.positions - case.grid.indices(), axis=0)[mask].mean() > 0.5


def test_the_seed_decides_and_threads_do_not(volumes):
    case = blind(volumes[0])
    pair = Pair(case.fixed.data, case.moving.data, np.eye(4), ISOTROPIC)

    def run(seed, workers=None):
        return register(
            pair, Similarity(rng=rng(seed)), stages((2, 0, 2, 0, 2, 0)), 500.0, rng(seed), workers=workers
        ).positions.tobytes()

    first = run(0)
    assert run(0) == first
    assert run(1) != first
    with ThreadPoolExecutor(2) as workers:
        assert run(0, workers) == first


def test_nothing_outside_the_masks_counts(volumes):
    case, mask = volumes
    moving_mask = case.moving.data > 0.05 * case.moving.data.max()
    spoilt = [np.where(m, v.data, v.data.max() * 0.7) for v, m in ((case.fixed, mask), (case.moving, moving_mask))]
    schedule = stages((3, 0, 3, 3, 0, 0))
    results = []
    for fixed, moving in ((case.fixed.data, case.moving.data), spoilt):
        pair = Pair(fixed, moving, np.eye(4), ISOTROPIC, mask, moving_mask)
        results.append(register(pair, Similarity(rng=rng()), schedule, 500.0, rng()).positions)
    np.testing.assert_allclose(*results, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 8, 30)])
def test_images_of_eight_voxels(shape):
    fixed, moving = smooth_pair(shape, (0.5, 0, 0))
    field = Locor({"schedule": (4, 2, 2, 2, 2, 2)}).align(Case("tiny", Volume(fixed), Volume(moving))).field
    assert np.isfinite(field).all()
    assert np.abs(field).max() < 4


def test_images_that_cannot_be_registered(volumes):
    fixed, moving = (v.data for v in (volumes[0].fixed, volumes[0].moving))
    flat, little = np.zeros_like(fixed), np.zeros_like(fixed)
    little[4:30:6, 5:30:6, 5:30:6] = 1
    arguments = (Similarity(rng=rng()), stages((5, 1, 0, 0, 0, 0)), 500.0, rng())
    ones = ISOTROPIC
    with pytest.raises(DataError, match="mask of the moving image is empty"):
        register(Pair(fixed, moving, np.eye(4), ones, moving_mask=flat), *arguments)
    with pytest.raises(DataError, match="every voxel of the fixed image is 0: nothing to register"):
        register(Pair(flat, moving, np.eye(4), ones), *arguments)
    with pytest.raises(DataError, match="mask of the fixed image is too thin to be seen at 2 voxels per sample"):
        register(Pair(fixed, moving, np.eye(4), ones, little), *arguments)
    apart = np.eye(4)
    apart[0, 3] = 39
    with pytest.raises(ModalignError, match="drifted apart: .* lies in the other"):
        register(Pair(fixed, moving, apart, ones), *arguments)


def test_scans_with_distant_origins_start_from_their_centres(volumes):
    case, _ = volumes
    affine = case.moving.affine.copy()
    affine[:3, 3] += 500
    far = Case("far", case.fixed, Volume(case.moving.data, affine), true_field=case.true_field + 500)
    options = {"schedule": (0, 0, 20, 10, 0, 0)}
    near = Locor(options).align(Case("far", case.fixed, case.moving)).field
    np.testing.assert_allclose(Locor(options).align(far).field, near + 500, atol=1e-3)


def test_presets_are_the_published_ones():
    rows = [
        (s.iterations, s.learning_rate, s.image_spacing, s.spline_spacing, s.deformation_spacing) for s in STAGES[1:]
    ]
    assert rows == [
        (80, 0.16, 4, 32, 4),
        (80, 0.16, 4, 16, 4),
        (40, 0.08, 2, 8, 2),
        (40, 0.08, 2, 4, 2),
        (40, 0.04, 1, 4, 1),
    ]
    assert (STAGES[0].iterations, STAGES[0].learning_rate, STAGES[0].image_spacing) == (80, 5e-3, 2)
    chosen = {p: Locor({"preset": p}).options for p in ("paper", "released")}
    assert [(o.functions, o.window_sigma, o.smoothness_weight) for o in chosen.values()] == [(4, 1, 500), (5, 0.8, 400)]
    assert [s.learning_rate for s in stages(rate=0.1)][1:] == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1])
    # `released` computes the deformation where the tool does, `paper` at half the control points' distance or more.
    lattices = [
        [s.deformation_spacing for s in stages(finest_lattice=options.finest_lattice)[1:]]
        for options in chosen.values()
    ]
    assert lattices == [[16, 8, 4, 2, 2], [4, 4, 2, 2, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": (1, 2)}, "schedule needs 6 numbers, 0 or more"),
        ({"schedule": (0,) * 6}, "schedule is all zeros"),
        ({"window_sigma": 0.2}, "option 'window_sigma' of method locor is 0.2"),
        ({"iterations": 5}, "has no option 'iterations'"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        Locor(options)


@pytest.mark.real
def test_a_known_deformation_of_a_real_head(real_scans):
    from registration_pairs import known_deformation

    case, _, mask = known_deformation(real_scans, "patient07", 3.0)
    # 1.70 voxels before.
    options = {"schedule": (30, 0, 20, 30, 10, 15)}
    field = Locor(options, 3, Context()).align(blind(case)).field
    assert mean_error(field, case.true_field, mask) < 0.27
