"""How slices, windows, boards and grids are drawn."""

import io

import numpy as np
import pytest
from PIL import Image

from modalign.cases import Intensity
from modalign.metrics.field import jacobian_determinant
from modalign.report import figures_style
from modalign.report.figures_display import (
    BONE_HU,
    SOFT_TISSUE_HU,
    checkerboard,
    choose_window,
    draw_grid,
    show_slice,
    square_size,
)


def rendered(draw, size=2.0):
    """What `draw(axes)` paints on axes that fill a figure, as RGB (rows, columns, 3)."""
    with figures_style.figure(size, size) as made:
        axes = made.add_axes((0, 0, 1, 1))
        axes.axis("off")
        draw(axes)
        buffer = io.BytesIO()
        made.savefig(buffer, format="png", dpi=50)
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def test_patients_right_is_left_and_anterior_is_up():
    values = np.zeros((10, 10))
    values[9, 0] = 1  # the most right and most posterior voxel of a RAS volume
    image = rendered(lambda axes: show_slice(axes, values, np.array([1.0, 1.0])))
    bright = np.argwhere(image[..., 0] > 128)
    assert bright[:, 0].min() >= 89  # bottom: posterior
    assert bright[:, 1].max() <= 10  # left: the patient's right


def test_slices_keep_their_proportions():
    image = rendered(lambda axes: show_slice(axes, np.ones((10, 10)) * 0.5, np.array([2.0, 1.0])))
    grey = np.argwhere(np.abs(image[..., 0] - 127) < 10)
    height, width = np.ptp(grey, axis=0) + 1
    assert width == pytest.approx(2 * height, abs=2)


def test_checkerboard_takes_turns():
    first, second = np.full((8, 6), 1.0), np.full((8, 6), 2.0)
    board = checkerboard(first, second, (4, 3))
    assert (board[:4, :3] == 1).all()
    assert (board[4:, :3] == 2).all()
    assert (board[:4, 3:] == 2).all()
    assert (board[4:, 3:] == 1).all()


def test_squares_are_square_in_mm():
    i, j = square_size((100, 50), np.array([1.0, 4.0]))
    assert i * 1.0 == pytest.approx(j * 4.0, rel=0.15)


@pytest.mark.parametrize(("skull", "window"), [(0.02, SOFT_TISSUE_HU), (0.4, BONE_HU)])
def test_ct_window_by_anatomy(skull, window, rng):
    stored = np.full(4000, -1.0)
    stored[:2000] = 0.04
    stored[: int(2000 * skull)] = 1.2
    chosen = choose_window(stored.reshape(20, 20, 10), Intensity(1000.0, 0.0, "HU"))
    assert (chosen.low, chosen.high) == window
    low, high = chosen.grey(np.array([window[0] / 1000, window[1] / 1000]))
    assert (low, high) == pytest.approx((0, 1), abs=1e-6)


def test_a_clipped_ct_is_shown_from_black_to_white():
    stored = np.full((20, 20, 10), -1.0)
    stored[5:15] = np.linspace(-0.1, 0.06, 10)
    chosen = choose_window(stored, Intensity(1000.0, 0.0, "HU"))
    assert (chosen.low, chosen.high) == (SOFT_TISSUE_HU[0], pytest.approx(60, abs=1e-4))


def test_no_two_of_forty_methods_look_alike():
    styles = figures_style.method_styles([f"m{i:02d}" for i in range(40)])
    assert len(set(styles.values())) == 40


def test_mr_window_ignores_outliers(rng):
    stored = np.zeros((10, 10, 10))
    stored[2:8] = rng.uniform(100, 200, (6, 10, 10))
    stored[2, 0, 0] = 1e6
    window = choose_window(stored, Intensity())
    assert 95 < window.low < 105
    assert 195 < window.high < 201


def test_every_folded_voxel_is_marked():
    field = np.zeros((3, 24, 20, 3), dtype=np.float32)
    field[0, 12:, :, :] = -6  # the right half jumps over its neighbours
    folded = jacobian_determinant(field)[:, :, 1] <= 0
    assert folded.sum() == 2 * 20

    def draw(axes):
        show_slice(axes, np.ones((24, 20)), np.array([1.0, 1.0]))
        draw_grid(axes, field[..., 1], folded, np.array([1.0, 1.0]), ("#33557a", "#d4002a"))
        assert len(axes.collections[1].get_paths()) == 40

    red = rendered(draw)
    assert ((red[..., 0] > 180) & (red[..., 1] < 60)).any()


def test_the_grid_goes_where_the_field_points():
    field = np.zeros((3, 20, 20), dtype=np.float32)
    field[0] = 3

    def draw(axes):
        draw_grid(axes, field, np.zeros((20, 20), bool), np.array([2.0, 1.0]), ("#000000", "#ff0000"))
        lines = [segment for segment in axes.collections[0].get_segments() if np.ptp(segment[:, 0]) == 0]
        assert lines[0][0, 0] == pytest.approx((0 + 3) * 2.0)

    rendered(draw)
