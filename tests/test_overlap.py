"""How much of two scans shows the same part of the world."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from modalign.spatial.overlap import overlap
from modalign.volumes import Grid, axis_aligned


@pytest.mark.parametrize(
    ("shift_mm", "expected"), [((0, 0, 0), 1.0), ((16, 0, 0), 0.5), ((16, 16, 0), 0.25), ((40, 0, 0), 0.0)]
)
def test_shifted_boxes_share_what_is_left_of_their_sides(shift_mm, expected):
    grid = axis_aligned((32, 16, 8), (1, 2, 4))
    matrix = np.eye(4)
    matrix[:3, 3] = shift_mm
    assert overlap(grid, grid, matrix) == pytest.approx(expected)
    moved = Grid(grid.shape, matrix @ grid.affine)
    assert overlap(grid, moved) == overlap(moved, grid) == pytest.approx(expected)


def test_a_part_of_the_view_overlaps_entirely_however_small():
    assert overlap(axis_aligned((40, 40, 40), (2, 2, 2)), axis_aligned((10, 10, 3), (1, 1, 1))) == 1


def test_a_turned_square_shares_an_octagon():
    grid = axis_aligned((64, 64, 16), (1, 1, 4))
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    assert overlap(grid, grid, matrix, points=64) == pytest.approx(2 * np.sqrt(2) - 2, abs=0.01)
