"""Measures of displacement fields: affine maps and folds with known Jacobians, the Learn2Reg formula, known errors."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from modalign.cases import Case
from modalign.errors import ConfigError
from modalign.metrics.field import (
    folding_percent,
    grad_phi_l2,
    jacobian_determinant,
    measure_folding,
    measure_grad_phi_l2,
    measure_jacobian_sd,
    measure_sdlogj,
    measure_sdlogj_l2r,
    sdlogj,
    sdlogj_l2r,
)
from modalign.metrics.field_error import field_error, measure_tre
from modalign.metrics.pair import Pair
from modalign.spatial.fields import affine_field, field_from_mm
from modalign.volumes import Volume, axis_aligned


def linear(matrix, shape=(20, 18, 37)):
    """The field whose Jacobian is `matrix` everywhere."""
    points = np.indices(shape).astype(float)
    return np.tensordot(np.asarray(matrix) - np.eye(3), points, axes=1)


def pair_of(field, truth=None, mask=None, grid=None):
    grid = grid or axis_aligned(field.shape[1:], (1, 1, 1))
    image = Volume(np.zeros(grid.shape, dtype=np.float32), grid.affine)
    mask = None if mask is None else Volume(mask.astype(np.uint8), grid.affine)
    return Pair(Case("p1", fixed=image, moving=image, fixed_mask=mask, true_field=truth), image.data, field)


def wavy(rng, shape=(24, 22, 20), amplitude=30.0):
    return np.stack([ndi.gaussian_filter(rng.normal(size=shape), 3) * amplitude for _ in range(3)])


class TestJacobian:
    def test_an_affine_map_has_its_determinant_everywhere(self, rng):
        matrix = np.eye(3) + 0.2 * rng.normal(size=(3, 3))
        assert jacobian_determinant(linear(matrix)) == pytest.approx(np.linalg.det(matrix))

    def test_a_world_scaling_is_the_same_in_voxels(self, oblique_grid):
        scaling = np.diag([1.1, 0.9, 1.2, 1.0])
        determinant = jacobian_determinant(affine_field(scaling, oblique_grid))
        assert determinant == pytest.approx(1.1 * 0.9 * 1.2, abs=1e-4)

    def test_slabs_agree_with_one_piece(self, rng):
        field = wavy(rng, (12, 10, 50))
        j = np.stack([np.stack(np.gradient(u)) for u in field]) + np.eye(3)[:, :, None, None, None]
        assert jacobian_determinant(field) == pytest.approx(np.linalg.det(np.moveaxis(j, (0, 1), (-2, -1))), abs=1e-10)

    def test_agrees_with_simpleitk(self, rng):
        import SimpleITK as sitk

        field = wavy(rng)
        image = sitk.GetImageFromArray(field.transpose(3, 2, 1, 0), isVector=True)
        theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image)).transpose(2, 1, 0)
        inner = (slice(1, -1),) * 3
        assert jacobian_determinant(field)[inner] == pytest.approx(theirs[inner], abs=1e-5)

    def test_a_single_slice(self):
        matrix = np.diag([1.2, 0.5, 1.0])
        assert jacobian_determinant(linear(matrix, (9, 8, 1))) == pytest.approx(0.6)

    def test_a_mirrored_block_is_folded_to_the_voxel(self):
        # Indices 10..19 of 40 are mirrored: central differences see -1 at 11..18 and positive values elsewhere.
        field = np.zeros((3, 40, 6, 5))
        field[0, 10:20] = (29 - 2 * np.arange(10, 20))[:, None, None]
        determinant = jacobian_determinant(field)
        assert (determinant[11:19] == -1).all()
        assert folding_percent(determinant) == 100 * 8 / 40

    def test_a_collapsed_volume_counts_as_folded(self):
        assert folding_percent(jacobian_determinant(linear(np.diag([0.0, 1, 1])))) == 100

    def test_identity(self):
        pair = pair_of(np.zeros((3, 8, 8, 8)))
        scores = (measure_folding, measure_jacobian_sd, measure_sdlogj)
        assert [m(pair, "mask")[0].value for m in scores] == [0, 0, 0]
        assert pair.remarks == {"no mask, so the whole grid counts"}

    def test_only_the_mask_counts(self, rng):
        field = linear(np.eye(3), (12, 12, 12))
        field[0, :6] += wavy(rng, (12, 12, 12))[0, :6] * 20
        mask = np.zeros((12, 12, 12), dtype=bool)
        mask[8:] = True
        pair = pair_of(field, mask=mask)
        assert measure_folding(pair, "mask")[0].value == 0
        assert measure_folding(pair, "grid")[0].value > 0
        assert measure_jacobian_sd(pair, "mask")[0].value == pytest.approx(0)

    def test_the_evaluation_mask_comes_before_that_of_the_methods(self, rng):
        field = linear(np.eye(3), (12, 12, 12))
        field[0, :6] += wavy(rng, (12, 12, 12))[0, :6] * 20
        folded, straight = np.zeros((2, 12, 12, 12), dtype=bool)
        folded[:6], straight[8:] = True, True
        pair = pair_of(field, mask=folded)
        assert measure_folding(pair, "mask")[0].value > 0
        pair.case.evaluation_mask = pair.case.fixed.like(straight.astype(np.uint8))
        assert measure_folding(pair, "mask")[0].value == 0

    def test_sd_of_two_halves(self):
        determinant = np.repeat([0.5, 2.0], 50)
        assert sdlogj(determinant) == pytest.approx(np.log(2))
        assert np.isnan(sdlogj(determinant[:0]))

    def test_folds_enter_sdlogj_as_one_billionth(self):
        assert sdlogj(np.array([1.0, -5.0])) == pytest.approx(-np.log(1e-9) / 2)


class TestLearn2RegScript:
    def test_by_its_formula(self, rng):
        field = wavy(rng, amplitude=60)
        inner = (slice(2, -2),) * 3
        kernel = np.array([-0.5, 0, 0.5])
        j = np.stack([[ndi.correlate1d(u, kernel, axis=k, mode="constant") for k in range(3)] for u in field])
        determinant = np.linalg.det(np.moveaxis(j + np.eye(3)[:, :, None, None, None], (0, 1), (-2, -1)))[inner]
        assert (determinant < -3).any()
        expected = np.log((determinant + 3).clip(1e-9, 1e9))
        assert measure_sdlogj_l2r(pair_of(field), "grid")[0].value == pytest.approx(expected.std())
        inside = np.zeros(field.shape[1:], dtype=bool)
        inside[4:10, 4:10, 4:10] = True
        masked = expected[inside[inner]].std()
        assert measure_sdlogj_l2r(pair_of(field, mask=inside), "mask")[0].value == pytest.approx(masked)

    def test_is_several_times_smaller_and_finds_no_fold(self, rng):
        smooth = wavy(rng, amplitude=15)
        determinant = jacobian_determinant(smooth)
        assert folding_percent(determinant) == 0
        assert 3 < sdlogj(determinant) / sdlogj_l2r(determinant) < 6
        folded = jacobian_determinant(wavy(rng, amplitude=150))
        assert folding_percent(folded) > 20
        assert folding_percent((folded + 3).clip(1e-9, 1e9)) == 0

    def test_a_thin_volume_is_undefined(self):
        assert np.isnan(sdlogj_l2r(np.ones((16, 16, 4))))


class TestSmoothness:
    def test_a_ramp_in_3d_and_2d(self):
        # Only u_x grows, by 0.3 a voxel along x: one of three components, one of three axes.
        field = linear(np.diag([1.3, 1, 1]), (10, 10, 10))
        assert grad_phi_l2(field, 3) == pytest.approx(0.09 / 3 / 3)
        assert grad_phi_l2(field, 2) == pytest.approx(0.09 / 2 / 3)

    def test_by_its_formula(self, rng):
        u = wavy(rng)
        expected = sum(((np.delete(u, 0, k) - np.delete(u, -1, k)) ** 2).mean() for k in (1, 2, 3)) / 3
        assert grad_phi_l2(u, 3) == pytest.approx(expected)

    def test_a_slicewise_field_counts_as_2d(self, rng):
        field = wavy(rng)
        field[2] = 0
        assert measure_grad_phi_l2(pair_of(field), "auto")[0].value == pytest.approx(grad_phi_l2(field, 2))
        assert measure_grad_phi_l2(pair_of(field), 3)[0].value == pytest.approx(grad_phi_l2(field, 3))
        field[2] = rng.uniform(-2e-8, 2e-8, field[2].shape)
        assert measure_grad_phi_l2(pair_of(field), "auto")[0].value == pytest.approx(grad_phi_l2(field, 2))

    def test_bad_dimension(self):
        with pytest.raises(ConfigError, match="write one of: 2, 3, auto"):
            measure_grad_phi_l2(pair_of(np.zeros((3, 4, 4, 4))), 4)


class TestRegistrationError:
    def test_a_constant_offset_in_mm_and_voxels(self, oblique_grid):
        truth = np.zeros((3, *oblique_grid.shape))
        offset_mm = np.array([1.0, -2.0, 2.0])
        field = field_from_mm(np.broadcast_to(offset_mm[:, None, None, None], truth.shape), oblique_grid)
        assert field_error(field, truth, oblique_grid, "mm") == pytest.approx(3)
        voxels = np.linalg.inv(oblique_grid.affine[:3, :3]) @ offset_mm
        assert field_error(field, truth, oblique_grid, "voxel") == pytest.approx(np.linalg.norm(voxels))

    def test_mean_and_percentile_inside_the_mask(self):
        truth = np.zeros((3, 10, 10, 10), dtype=np.float32)
        field = truth.copy()
        field[0] = np.arange(10)[:, None, None]
        field[1, 5:] = 99
        mask = np.zeros((10, 10, 10), dtype=bool)
        mask[:5] = True
        pair = pair_of(field, truth, mask, axis_aligned((10, 10, 10), (2, 1, 1)))
        assert measure_tre(pair, "mm", None, "mask")[0].value == pytest.approx(2 * 2)
        assert measure_tre(pair, "voxel", None, "mask")[0].value == pytest.approx(2)
        assert measure_tre(pair, "voxel", 100, "mask")[0].value == pytest.approx(4)
        assert measure_tre(pair, "voxel", None, "grid")[0].value > 50

    def test_an_empty_mask_is_undefined(self):
        field = np.zeros((3, 4, 4, 4))
        pair = pair_of(field, field, np.zeros((4, 4, 4), dtype=bool))
        assert np.isnan(measure_tre(pair, "mm", None, "mask")[0].value)

    def test_bad_unit(self):
        field = np.zeros((3, 4, 4, 4))
        with pytest.raises(ConfigError, match="write one of: mm, voxel"):
            measure_tre(pair_of(field, field), "cm", None, "grid")
