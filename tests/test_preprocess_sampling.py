"""Resampling against SimpleITK and itself: borders, smoothing before sampling, fields of view."""

import numpy as np
import scipy.ndimage as ndi
from analytic_pairs import tilted

from modalign.preprocess.sampling import resample, resized_grid, respaced_grid, sample
from modalign.volumes import Grid, Volume, apply_affine


def test_resampling_agrees_with_simpleitk(oblique_grid, rng):
    import SimpleITK as sitk

    from modalign.volumes import from_sitk, to_sitk

    volume = Volume(ndi.gaussian_filter(rng.normal(size=oblique_grid.shape), 1).astype(np.float32), oblique_grid.affine)
    target = tilted(Grid((45, 38, 22), oblique_grid.affine @ np.diag([0.9, 0.9, 0.9, 1])), 5)
    ours = resample(volume, target, fill=-9)
    reference = from_sitk(
        sitk.Resample(
            to_sitk(volume),
            to_sitk(Volume(np.zeros(target.shape), target.affine)),
            sitk.Transform(),
            sitk.sitkLinear,
            -9.0,
        )
    )
    inside = (reference.data > -8) & (ours.data > -8)
    assert inside.mean() > 0.4
    np.testing.assert_allclose(ours.data[inside], reference.data[inside], atol=1e-4)
    # ITK, too, lets a scan reach half a voxel beyond its outermost centres.
    assert ((ours.data == -9) != (reference.data == -9)).mean() < 0.01


def test_separable_and_general_resampling_agree(rng):
    volume = Volume(rng.normal(size=(20, 18, 9)).astype(np.float32), np.diag([2, 2.5, 4, 1]))
    target = Grid((30, 24, 20), np.array([[1.6, 0, 0, -3], [0, 2.1, 0, -4], [0, 0, 2.4, -5], [0, 0, 0, 1]]))
    positions = apply_affine(np.linalg.inv(volume.affine) @ target.affine, np.indices(target.shape, dtype=float))
    np.testing.assert_allclose(resample(volume, target, fill=7).data, sample(volume.data, positions, 1, 7.0), atol=1e-5)


def test_constant_images_keep_their_border_when_resampled():
    volume = Volume(np.full((7, 9, 5), 3.0, dtype=np.float32))
    for grid in (resized_grid(volume.grid, (20, 4, 11)), respaced_grid(volume.grid, np.array([0.7, 0.9, 0.5]))):
        assert np.all(resample(volume, grid, fill=0.0).data == 3)


def test_downsampling_smooths_before_it_samples():
    checkerboard = np.indices((64, 64, 16)).sum(axis=0) % 2
    small = resample(
        Volume(checkerboard.astype(np.float32)), resized_grid(Grid(checkerboard.shape, np.eye(4)), (16, 16, 16))
    )
    assert small.data[4:12, 4:12].std() < 0.12


def test_a_resized_grid_covers_the_same_field_of_view(oblique_grid):
    small = resized_grid(oblique_grid, (13, 50, 7))
    edges = [apply_affine(g.affine, np.array([[-0.5, n - 0.5] for n in g.shape])) for g in (oblique_grid, small)]
    np.testing.assert_allclose(*edges, atol=1e-9)
