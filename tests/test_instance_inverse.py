"""The way back: where the fixed scan shows what the moving one does, and beyond."""

import nibabel as nib
import numpy as np
import pytest
from registration_pairs import contrast_pair
from scipy.spatial.transform import Rotation

import modalign
from modalign.api import way_back
from modalign.cases import Case
from modalign.methods import Context
from modalign.methods.locor import Locor
from modalign.spatial.fields import affine_field, apply_affine, warp_volume
from modalign.spatial.inverse import inverse_field
from modalign.volumes import Volume, axis_aligned, to_nibabel


@pytest.fixture(scope="module")
def turned() -> Case:
    """The fixed scan is the middle of an object, which the moving one shows whole, turned by 15 degrees."""
    whole, _ = contrast_pair(axis_aligned((40, 40, 20), (1.5, 1.5, 2.0)), largest_voxels=1e-3)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", 15, degrees=True).as_matrix()
    grid = whole.moving.grid
    moving = warp_volume(whole.moving, affine_field(np.linalg.inv(matrix), grid), grid, order=3)
    cut = (slice(10, 30), slice(10, 30), slice(3, 17))
    affine = grid.affine.copy()
    affine[:3, 3] = apply_affine(grid.affine, np.array([10.0, 10.0, 3.0]))
    return Case("turned", Volume(whole.fixed.data[cut], affine), moving)


def there_and_back(alignment, case: Case, back: np.ndarray) -> np.ndarray:
    """How far from where it started every moving voxel comes out, in voxels, (X', Y', Z'): back and there again.

    There, beyond the fixed grid, by the affine map nearest to the field, which is what an affine registration means.
    """
    grid, moving = case.grid, case.moving.grid
    x = grid.indices().reshape(3, -1)
    design = np.concatenate([x, np.ones((1, x.shape[1]))])
    matrix = np.linalg.lstsq(design.T, (x + alignment.field.reshape(3, -1)).T, rcond=None)[0].T
    fixed = apply_affine(np.linalg.inv(grid.affine) @ moving.affine, moving.indices() + back)
    again = np.tensordot(matrix[:, :3], fixed, axes=1) + matrix[:, 3].reshape(3, 1, 1, 1)
    again = apply_affine(np.linalg.inv(moving.affine) @ grid.affine, again)
    return np.linalg.norm(again - moving.indices(), axis=0)


def test_the_affine_part_goes_on_beyond_the_fixed_scan(turned):
    options = {"schedule": (40, 0, 0, 0, 0, 0), "coarsest": 1.0}
    alignment = Locor(options, 3, Context()).align(turned)
    field, notes = way_back(alignment, turned, "locor")
    off = there_and_back(alignment, turned, field)
    assert off.max() < 0.01
    # By the field alone, whose border displacements would go on.
    alone, off_mm = inverse_field(alignment.field, turned.grid, turned.moving.grid)
    assert np.isnan(off_mm).mean() > 0.5
    before = there_and_back(alignment, turned, alone)
    assert before.max() > 2
    assert before[np.isnan(off_mm)].mean() > 50 * off[np.isnan(off_mm)].mean()
    assert notes["inverse_error_mm"]["largest"] < 0.01


def test_a_deformation_has_no_step_where_the_fixed_scan_ends(turned):
    options = {"schedule": (20, 0, 10, 10, 5, 0), "coarsest": 1.0}
    alignment = Locor(options, 3, Context()).align(turned)
    inside = ~np.isnan(inverse_field(alignment.field, turned.grid, turned.moving.grid)[1])
    field, _ = way_back(alignment, turned, "locor")
    # The optimiser's own way back and the inverse of the field agree where both are known.
    apart = np.linalg.norm(field - alignment.inverse_field, axis=0)
    assert apart[inside].mean() < 0.05
    assert apart[inside].max() < 0.5
    assert not apart[~inside].any()


def test_both_ways_come_out_of_the_function_on_their_grids(turned):
    result = modalign.align(
        to_nibabel(turned.fixed), to_nibabel(turned.moving), schedule=(5, 0, 0, 0, 0, 0), inverse=True, device="cpu"
    )
    assert isinstance(result.inverse_field, nib.Nifti1Image)
    assert result.inverse_field.shape == (40, 40, 20, 1, 3)
    vectors = np.asarray(result.inverse_field.dataobj)[:, :, :, 0]
    # An affine map bends nowhere, also not beyond the fixed scan.
    assert np.abs(np.diff(vectors, 2, axis=0)).max() < 1e-2
