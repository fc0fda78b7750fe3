"""Random deformations: reproducible, smooth, free of folds, and as strong as they are said to be."""

import numpy as np
import pytest

from modalign.preprocess import elastic, maps
from modalign.preprocess.steps import misalign
from modalign.volumes import Grid, axis_aligned

GRID = axis_aligned((64, 64, 40), (1.5, 1.5, 2.0))
FIELDS = {
    "simard": {"sigma_voxels": [6.0, 6.0, 6.0], "alpha_voxels": [100.0] * 3, "in_plane": False, "each_slice": False},
    "bspline": {"control_points": 9, "locked_borders": 2, "max_mm": [5.0, 5.0, 5.0]},
    "velocity": {"sigma_mm": 12.0, "noise_sd_mm": 300.0, "noise_voxel_mm": [1.0, 1.0, 1.0], "squarings": 7},
    "smooth": {"sigma_mm": 12.0, "max_mm": 7.0},
}


@pytest.mark.parametrize("kind", FIELDS)
def test_recorded_fields_are_reproducible_smooth_and_fold_free(kind):
    record = {"kind": kind, "seed": 5, **elastic.grid_record(GRID), **FIELDS[kind]}
    field = elastic.displacement(record)
    elastic._displacement.cache_clear()
    np.testing.assert_array_equal(elastic.displacement(record), field)
    assert np.abs(elastic.displacement(record | {"seed": 6}) - field).max() > 0.5
    jacobian = np.stack([np.stack(np.gradient(c, *GRID.spacing)) for c in field]) + np.eye(3)[:, :, None, None, None]
    assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0.1
    assert np.linalg.norm(field, axis=0).max() > 1


def test_smooth_fields_are_as_strong_inside_as_at_the_corners():
    grid = Grid((40, 40, 40), np.diag([2.0, 2.0, 2.0, 1.0]))
    inside, corners = [], []
    for seed in range(12):
        record = {"kind": "smooth", "seed": seed, "sigma_mm": 10.0, "max_mm": 10.0, **elastic.grid_record(grid)}
        length = np.linalg.norm(elastic.displacement(record), axis=0)
        assert length.max() == pytest.approx(10, rel=1e-4)
        inside.append(length[12:28, 12:28, 12:28].mean())
        corners.append(length[:4, :4, :4].mean())
    assert np.mean(inside) == pytest.approx(np.mean(corners), rel=0.35)
    assert np.mean(inside) > 2


def test_uniform_noise_has_the_analytic_sd_after_smoothing():
    record = {"kind": "simard", "seed": 1, **elastic.grid_record(GRID), **FIELDS["simard"]}
    core = elastic.displacement(record)[:, 8:-8, 8:-8, 8:-8] / GRID.spacing[:, None, None, None]
    analytic = 100 / np.sqrt(3) / (2 * np.sqrt(np.pi) * 6) ** 1.5
    assert core.std() == pytest.approx(analytic, rel=0.25)


def test_velocity_fields_have_one_size_on_all_grids():
    sizes = []
    for factor in (1, 2):
        grid = axis_aligned((60 // factor,) * 3, (2.0 * factor,) * 3)
        sds = [
            elastic.displacement(
                {"kind": "velocity", "seed": s, **elastic.grid_record(grid), **FIELDS["velocity"]}
            ).std()
            for s in range(3)
        ]
        sizes.append(np.mean(sds))
    # 300 mm of noise per mm^1.5, smoothed by 12 mm, in each component.
    assert sizes[0] == pytest.approx(300 / (2 * np.sqrt(np.pi) * 12) ** 1.5, rel=0.2)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


def test_velocity_fields_are_inverted_by_the_opposite_velocity():
    record = {"kind": "velocity", "seed": 1, **elastic.grid_record(GRID), **FIELDS["velocity"]}
    opposite = record | {"noise_sd_mm": -300.0}
    points = maps.world_points(GRID)[:, 12:-12, 12:-12, 10:-10]
    there = maps.apply([opposite], maps.apply([record], points))
    assert np.abs(maps.apply([record], points) - points).max() > 1
    assert np.abs(there - points).max() < 0.05


@pytest.mark.parametrize("in_plane", [True, False])
def test_imse_deformations_keep_their_size_in_mm_when_images_shrink(in_plane):
    sds = []
    for size in ((120, 120, 48), (60, 60, 24)):
        grid = axis_aligned(size, 240 / np.array([size[0], size[0], size[0]]))
        numbers = {
            "sigma_voxels": 12.0,
            "alpha_voxels": 2000.0,
            "nominal_size": [120, 120, 48],
            "in_plane": in_plane,
            "each_slice": False,
        }
        values = []
        for seed in range(6 if in_plane else 2):
            record = misalign._elastic_record("simard", seed, grid, np.random.default_rng(0), numbers)
            values.append(elastic.displacement(record)[:2].std())
        sds.append(np.mean(values))
        assert record["sigma_voxels"][0] == 12 * size[0] / 120
    assert sds[1] == pytest.approx(sds[0], rel=0.25)


def test_in_plane_fields_leave_z_alone():
    numbers = {"sigma_voxels": [6.0] * 3, "alpha_voxels": [60.0] * 3, "in_plane": True}
    record = {"kind": "simard", "seed": 1, **elastic.grid_record(GRID), **numbers}
    one, many = (elastic.displacement(record | {"each_slice": each}) for each in (False, True))
    assert not one[2].any()
    assert not many[2].any()
    assert np.ptp(one, axis=3).max() == 0
    assert np.ptp(many, axis=3).max() > 0.5
