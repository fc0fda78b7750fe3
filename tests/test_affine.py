"""Affine registration: rotations and shifts that are known, large angles, and oblique grids."""

from dataclasses import replace

import numpy as np
import pytest
from classical_methods import make
from registration_pairs import blind, contrast_pair, mean_error
from scipy.spatial.transform import Rotation

from modalign.errors import DataError
from modalign.spatial.fields import affine_field, warp_volume
from modalign.volumes import Volume, axis_aligned


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


def test_a_descent_that_ends_worse_than_it_began_is_not_kept(monkeypatch):
    """Samples make the metric noisy; here every descent is made to end far off."""
    case, _ = contrast_pair(axis_aligned((32, 32, 20), (2, 2, 2)), largest_voxels=1e-3)

    def astray(registration, transform, fixed, moving, iterations):
        transform.SetTranslation([9.0, -9.0, 9.0])

    monkeypatch.setattr("modalign.methods.affine._optimise", astray)
    alignment = make("affine").align(blind(case))
    assert alignment.notes["kept"] == "start"
    assert np.abs(alignment.field).max() < 1e-6


def test_scans_that_lie_apart_are_brought_together_or_refused():
    case, body = rotated_pair(4, [3.0, -2.0, 2.0])
    away = np.eye(4)
    away[:3, 3] = [300, 20, -40]
    far = replace(blind(case), moving=Volume(case.moving.data, away @ case.moving.affine))
    alignment = make("affine").align(far)
    assert alignment.notes["start"] == "centre"
    truth = case.true_field + (away[:3, 3] / case.grid.spacing).reshape(3, 1, 1, 1)
    assert mean_error(alignment.field, truth, body) < 0.3
    with pytest.raises(DataError, match="no voxel of the fixed image falls into the moving image.*'world'"):
        make("affine", {"start": "world"}).align(far)
