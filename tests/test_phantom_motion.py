"""How phantoms move: invertible, without folds, organs that fill, bones that stay rigid."""

import numpy as np
import pytest

from modalign.phantoms.motion import Filling, Motion, Shift, random_motion, rigid_about, steepest
from modalign.volumes import Grid


class TestMotion:
    bounds = np.array([(-100.0, -100, -80), (100, 100, 80)])

    def draw(self, seed: int = 0) -> Motion:
        fillings = [
            Filling(np.array([0, 20, -10.0]), np.array([40.0, 35, 50]), 0.3),
            Shift(np.array([0, -60, 30.0]), np.array([25.0, 25, 25]), np.array([0, 0, 8.0])),
        ]
        return random_motion(np.random.default_rng(seed), self.bounds, fillings=fillings)

    @pytest.mark.parametrize("seed", range(3))
    def test_forward_and_inverse_undo_each_other_to_a_tenth_of_a_millimetre(self, seed: int) -> None:
        motion = self.draw(seed)
        points = np.random.default_rng(9).uniform(*self.bounds[:, :, None], (3, 4000))
        moved = motion.forward(points)
        assert np.linalg.norm(moved - points, axis=0).mean() > 2
        assert np.abs(motion.inverse(moved) - points).max() < 0.1
        assert np.abs(motion.forward(motion.inverse(points)) - points).max() < 0.1

    def test_jacobian_is_positive_everywhere(self) -> None:
        motion = self.draw()
        step = np.eye(3) * 0.5
        points = np.random.default_rng(1).uniform(*self.bounds[:, :, None], (3, 4000))
        columns = [(motion.forward(points + s[:, None]) - motion.forward(points - s[:, None])) for s in step]
        determinants = np.linalg.det(np.stack(columns).transpose(2, 1, 0))
        assert determinants.min() > 0.02
        assert steepest(motion.displacement, motion.step) < 0.85

    def test_folding_is_refused(self) -> None:
        displacement = np.zeros((3, 5, 5, 5))
        displacement[0, 2] = -9.0
        with pytest.raises(ValueError, match="may fold"):
            Motion(np.eye(4), displacement, np.zeros(3), 4.0)

    def test_filling_scales_the_organ_and_leaves_what_is_far(self) -> None:
        filling = Filling(np.zeros(3), np.array([20.0, 20, 20]), 0.2)
        points = np.array([[10.0, 0, 0], [0, 15, 0], [0, 0, 90]]).T
        np.testing.assert_allclose(filling.displacement(points).T, [[2, 0, 0], [0, 3, 0], [0, 0, 0]], atol=1e-3)

    def test_stiffness_keeps_bone_from_deforming(self) -> None:
        rng = np.random.default_rng(0)
        rigid = random_motion(rng, self.bounds, stiffness=lambda p: np.ones(p.shape[1:]))
        points = rng.uniform(*self.bounds[:, :, None], (3, 100))
        gaps = np.linalg.norm(points[:, :, None] - points[:, None], axis=0)
        moved = rigid.forward(points)
        np.testing.assert_allclose(np.linalg.norm(moved[:, :, None] - moved[:, None], axis=0), gaps, atol=1e-4)

    def test_true_field_is_in_voxels_of_an_oblique_grid(self, oblique_grid: Grid) -> None:
        shift = rigid_about((0, 0, 0), (0, 0, 0), oblique_grid.affine[:3, :3] @ [1.5, -2.0, 0.5])
        motion = Motion(shift, np.zeros((3, 4, 4, 4)), np.zeros(3), 50.0)
        field = motion.true_field(oblique_grid)
        np.testing.assert_allclose(field.reshape(3, -1).T, np.tile([1.5, -2.0, 0.5], (field[0].size, 1)), atol=1e-4)
        np.testing.assert_allclose(motion.true_field(oblique_grid, backwards=True), -field, atol=1e-4)
