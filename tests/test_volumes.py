"""Volumes keep their place in space through files, SimpleITK and reorientation."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from modalign.errors import DataError
from modalign.volumes import Volume, apply_affine, from_sitk, read_volume, to_sitk, write_volume


@pytest.fixture
def volume(oblique_grid, rng):
    return Volume(rng.normal(size=oblique_grid.shape).astype(np.float32), oblique_grid.affine)


def test_grid_of_an_oblique_volume(volume):
    np.testing.assert_allclose(volume.spacing, [1.0, 1.5, 2.5])
    np.testing.assert_allclose(volume.grid.direction.T @ volume.grid.direction, np.eye(3), atol=1e-12)
    assert volume.grid.orientation == "RAS"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_files_keep_values_and_place(volume, tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    if suffix.startswith(".nii"):
        write_volume(path, volume)
    else:
        sitk.WriteImage(to_sitk(volume), str(path))
    back = read_volume(path)
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.grid.same_as(volume.grid)


def test_simpleitk_sees_the_same_place(volume):
    image = to_sitk(volume)
    index = (3, 7, 11)
    lps = np.array(image.TransformIndexToPhysicalPoint(index))
    ras = apply_affine(volume.affine, np.array(index, dtype=float))
    np.testing.assert_allclose(lps * [-1, -1, 1], ras, atol=1e-9)
    assert image.GetPixel(*index) == pytest.approx(volume.data[index])
    assert from_sitk(image).grid.same_as(volume.grid)


def test_canonical_orientation_moves_no_voxel(volume):
    flipped = Volume(volume.data[::-1, :, ::-1].transpose(1, 0, 2), _flip_affine(volume))
    assert flipped.grid.orientation != "RAS"
    back = flipped.canonical()
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.grid.same_as(volume.grid)


def _flip_affine(volume):
    x, _, z = volume.shape
    flip = np.array([[-1, 0, 0, x - 1], [0, 1, 0, 0], [0, 0, -1, z - 1], [0, 0, 0, 1]])
    swap = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return volume.affine @ flip @ swap


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"missing\.nii\.gz does not exist"):
        read_volume(tmp_path / "missing.nii.gz")
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not a scan")
    with pytest.raises(DataError, match=r"broken\.nii\.gz can't be read"):
        read_volume(broken)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)), tmp_path / "two.nii.gz")
    with pytest.raises(DataError, match=r"two\.nii\.gz has shape \(4, 4, 4, 2\)"):
        read_volume(tmp_path / "two.nii.gz")
    flat = np.zeros((6, 5), np.float32)
    nib.save(nib.Nifti1Image(flat, np.eye(4)), tmp_path / "flat.nii.gz")
    with pytest.raises(DataError, match=r"flat\.nii\.gz has shape \(6, 5\): .* give it a third axis of one voxel"):
        read_volume(tmp_path / "flat.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 5, 3), np.uint8), isVector=True), tmp_path / "colour.png")
    with pytest.raises(DataError, match=r"colour\.png has size \(5, 6\) with 3 values a voxel"):
        read_volume(tmp_path / "colour.png")


def test_sheared_affines_are_refused_and_rounding_is_not(tmp_path):
    """Tools that keep spacing and direction apart (ITK, NiftyReg) can't hold a shear: they would place it wrongly."""
    for shear, name in ((0.2, "sheared"), (2e-4, "rounded")):
        affine = np.diag([2.0, 2.0, 3.0, 1.0])
        affine[0, 1] = 2 * shear
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), affine), tmp_path / f"{name}.nii.gz")
    with pytest.raises(DataError, match=r"sheared\.nii\.gz has axes that .* are 78\.7 degrees apart: resample it"):
        read_volume(tmp_path / "sheared.nii.gz")
    assert read_volume(tmp_path / "rounded.nii.gz").shape == (4, 4, 4)
