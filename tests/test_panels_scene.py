"""Which slice and which detail of it a picture shows."""

import numpy as np
import pytest
from report_results import GRID, PHANTOM, write_store

from modalign.report.figures_values import read_values
from modalign.report.panels_scene import make_scene
from modalign.spatial.fields import write_itk_field
from modalign.volumes import read_volume, write_volume


def test_slice_and_detail_are_where_the_truth_moves(tmp_path):
    store = write_store(tmp_path / "store", PHANTOM, truth=True, cases=1, shift=0)
    x, y, z = GRID.indices()
    field = np.zeros((3, *GRID.shape), np.float32)
    near = np.exp(-(((x - 12) / 4) ** 2 + ((y - 15) / 4) ** 2 + ((z - 3) / 0.8) ** 2))
    field[1] = 5 * near
    write_itk_field(store.folder / "p0" / "true_field.nii.gz", field, GRID)
    scene = make_scene(store, "p0", [], read_values([]))
    assert scene.z == 3
    (x0, x1), (y0, y1) = scene.box
    assert x0 <= 12 < x1
    assert y0 <= 15 < y1
    assert scene.misaligned_mm == pytest.approx(
        np.linalg.norm(field[:, :, :, 3] * 2, axis=0)[store.load("p0").fixed_mask.data[:, :, 3] > 0].mean(), rel=1e-3
    )


def test_where_nothing_moves_the_detail_has_the_strongest_edges(tmp_path):
    store = write_store(tmp_path / "store", PHANTOM, truth=True, cases=1, shift=0)
    x, y, z = GRID.indices()
    write_itk_field(store.folder / "p0" / "true_field.nii.gz", np.zeros((3, *GRID.shape), np.float32), GRID)
    path = store.folder / "p0" / "moving.nii.gz"
    moving = read_volume(path)
    spot = (np.abs(x - 20) < 2) & (np.abs(y - 18) < 2) & (z == 2)
    write_volume(path, moving.like(np.where(spot, moving.data.max(), moving.data.min()).astype(np.float32)))
    scene = make_scene(store, "p0", [], read_values([]))
    assert (scene.z, scene.misaligned_mm) == (2, 0.0)
    (x0, x1), (y0, y1) = scene.box
    assert x0 <= 20 < x1
    assert y0 <= 18 < y1
