"""Fields on disk: SimpleITK warping by our file, our warping, and each tool's own warped image must agree."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from registration_pairs import blind, contrast_pair
from scipy.spatial.transform import Rotation

from modalign.methods import Context, method_class
from modalign.spatial.fields import read_itk_field, write_itk_field
from modalign.volumes import Grid, to_sitk

BORDER = 4


@pytest.fixture
def oblique_pair(oblique_grid):
    """Both grids oblique and anisotropic, and different from each other."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zx", [7, -5], degrees=True).as_matrix() * [1.1, 0.9, 0.8]
    grid = Grid((44, 46, 30), oblique_grid.affine @ turn)
    centre = np.linalg.inv(oblique_grid.affine) @ grid.affine @ [21.5, 22.5, 14.5, 1]
    shift = np.eye(4)
    shift[:3, 3] = (np.array(oblique_grid.shape) - 1) / 2 - centre[:3]
    moving_grid = Grid(grid.shape, oblique_grid.affine @ shift @ turn)
    return contrast_pair(oblique_grid, moving_grid, largest_voxels=3)


def warp_with_sitk(case, field, folder: Path) -> np.ndarray:
    path = folder / "field.nii.gz"
    write_itk_field(path, field, case.grid)
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    warped = sitk.Resample(to_sitk(case.moving), to_sitk(case.fixed), transform, sitk.sitkLinear, -999.0)
    return sitk.GetArrayFromImage(warped).transpose(2, 1, 0)


def assert_agree(first, second, seen, share_of_range):
    inner = np.zeros_like(seen)
    inner[(slice(BORDER, -BORDER),) * 3] = True
    inner &= seen & np.isfinite(first) & np.isfinite(second)
    assert inner.sum() > 0.3 * (np.array(seen.shape) - 2 * BORDER).prod()
    difference = np.abs(first - second)[inner]
    assert np.median(difference) < share_of_range * np.ptp(second[inner])


def own_output(name, case, monkeypatch, tmp_path):
    """Keep what the tool itself gives as the warped image; returns a function that fetches it."""
    kept = {}
    if name == "syn":
        import modalign.spatial.ants as ants

        original = ants.ants_registration

        def registration(*args, **kwargs):
            kept["image"] = original(*args, **kwargs)
            return kept["image"]

        monkeypatch.setattr(ants, "ants_registration", registration)
        # Intensities below zero are shifted for ANTs.
        return lambda: kept["image"][1] + min(case.moving.data.min(), 0)
    import modalign.methods.niftyreg as niftyreg
    from modalign.volumes import read_volume

    original_run = niftyreg.run

    def run(arguments, threads=1):
        original_run(arguments, threads)
        if "-cpp" in arguments:
            shutil.copy(arguments[arguments.index("-res") + 1], tmp_path / "own.nii")

    monkeypatch.setattr(niftyreg, "run", run)
    return lambda: read_volume(tmp_path / "own.nii").data


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("syn", {"preset": "cao"}),
        pytest.param("niftyreg", {"iterations": 20, "levels": 2, "affine_iterations": 2}, id="niftyreg-nmi"),
        pytest.param(
            "niftyreg", {"iterations": 5, "levels": 1, "velocity": True, "affine_iterations": 2}, id="niftyreg-velocity"
        ),
    ],
)
def test_field_file_own_warp_and_the_tools_warp_agree(oblique_pair, tmp_path, monkeypatch, name, options):
    case, _ = oblique_pair
    of_the_tool = own_output(name, case, monkeypatch, tmp_path)
    alignment = method_class(name)(options, 3, Context()).align(blind(case))
    assert np.linalg.norm(alignment.field, axis=0).mean() > 0.3
    by_sitk = warp_with_sitk(case, alignment.field, tmp_path)
    seen = by_sitk > -999
    # Both interpolate linearly by the same field: only float32 on disk is between them.
    assert_agree(alignment.image.data, by_sitk, seen, 1e-4)
    # NiftyReg resamples with cubic splines, hence the percent.
    assert_agree(alignment.image.data, of_the_tool(), seen, 0.01)
    reversed_field = -alignment.field
    assert not _agree(warp_with_sitk(case, reversed_field, tmp_path), of_the_tool(), seen)


def _agree(first, second, seen):
    try:
        assert_agree(first, second, seen, 0.01)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(("name", "options"), [("affine", {"iterations": 30}), ("demons", {"iterations": 20})])
def test_field_file_and_own_warp_agree(oblique_pair, tmp_path, name, options):
    case, _ = oblique_pair
    needs = {"translator": method_class("intensity_map")()}
    alignment = method_class(name)(options, 3, Context(needs=needs)).align(blind(case))
    by_sitk = warp_with_sitk(case, alignment.field, tmp_path)
    assert alignment.field.any()
    assert_agree(alignment.image.data, by_sitk, by_sitk > -999, 1e-4)


def test_the_field_file_of_voxelmorph_and_its_own_warp_agree(oblique_pair, tmp_path):
    """Any weights will do, as long as the field is large: what counts is how it gets to the grid and into the file."""
    import torch

    from modalign.training.registration import save_weights

    case, _ = oblique_pair
    method = method_class("voxelmorph")({"preset": "small"}, 3, Context(model=tmp_path))
    torch.manual_seed(0)
    network = method._network()
    torch.nn.init.normal_(network.flow.weight, std=0.0003)
    limits = {"fixed": [0.0, 1.0], "moving": [0.0, 1.0]}
    save_weights(tmp_path / "weights.pt", network.state_dict(), dimension=3, limits=limits)
    alignment = method.align(blind(case))
    assert np.linalg.norm(alignment.field, axis=0).mean() > 0.3
    by_sitk = warp_with_sitk(case, alignment.field, tmp_path)
    seen = by_sitk > -999
    assert_agree(alignment.image.data, by_sitk, seen, 1e-4)
    assert not _agree(warp_with_sitk(case, -alignment.field, tmp_path), alignment.image.data, seen)


def test_a_random_field_survives_the_file_and_warps_alike(oblique_pair, tmp_path, rng):
    case, _ = oblique_pair
    import scipy.ndimage as ndi

    from modalign.methods._registration import by_field

    field = np.stack([ndi.gaussian_filter(rng.normal(size=case.grid.shape), 4) for _ in range(3)])
    field = (field * 3 / np.abs(field).max()).astype(np.float32)
    by_sitk = warp_with_sitk(case, field, tmp_path)
    np.testing.assert_allclose(read_itk_field(tmp_path / "field.nii.gz", case.grid), field, atol=1e-5)
    assert_agree(by_field(case, field).image.data, by_sitk, by_sitk > -999, 1e-4)


def test_the_affine_field_is_the_transform_of_every_voxel(oblique_grid):
    """SimpleITK's own point mapping as the second opinion for the conversion from LPS mm to voxels."""
    from modalign.spatial.itk import transform_to_field

    case, _ = contrast_pair(oblique_grid, largest_voxels=1)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([1.05, 0.1, 0, -0.08, 0.97, 0.02, 0, 0.03, 1.02])
    transform.SetTranslation([2.0, -3.0, 4.0])
    reference = to_sitk(case.fixed)
    field = transform_to_field(transform, reference, oblique_grid)
    for index in ((0, 0, 0), (39, 35, 19), (12, 30, 5)):
        point = transform.TransformPoint(reference.TransformIndexToPhysicalPoint(index))
        expected = np.array(reference.TransformPhysicalPointToContinuousIndex(point)) - index
        np.testing.assert_allclose(field[(slice(None), *index)], expected, atol=1e-4)
