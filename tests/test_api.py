"""Aligning images in memory, the way back of a field, and the same from the command line."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage as ndi
import SimpleITK as sitk
from scipy.spatial.transform import Rotation
from test_cli import modalign as command

import modalign
from modalign.errors import ConfigError, DataError
from modalign.spatial.fields import affine_field, apply_affine, read_itk_field
from modalign.spatial.inverse import inverse_field
from modalign.volumes import Grid, Volume, axis_aligned, read_volume, to_nibabel, to_sitk, write_volume

SHIFT_MM = 3.0


@pytest.fixture(scope="module")
def scans() -> tuple[Volume, Volume]:
    """A T1-like and a T2-like scan of one object; the second lies 3 mm further to the right, on a finer grid."""
    tissue = ndi.gaussian_filter(np.random.default_rng(3).normal(size=(40, 36, 24)), 2.5)
    tissue = (tissue - tissue.min()) / np.ptp(tissue)
    x = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in tissue.shape], indexing="ij"))
    tissue *= ndi.gaussian_filter(((x**2).sum(0) < 0.7).astype(float), 1.0)
    fixed = Volume(tissue.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    affine = np.diag([1.6, 1.8, 2.0, 1.0])
    grid = Grid((50, 40, 24), affine)
    positions = apply_affine(np.linalg.inv(fixed.affine) @ affine, grid.indices())
    positions[0] -= SHIFT_MM / 2.0
    moving = ndi.map_coordinates(np.sin(2.5 * tissue), positions, order=3)
    return fixed, Volume(moving.astype(np.float32), affine)


def as_sitk(volumes):
    return [to_sitk(v) for v in volumes]


def as_nibabel(volumes):
    return [to_nibabel(v) for v in volumes]


def test_simpleitk_goes_in_and_comes_out(scans):
    fixed, moving = as_sitk(scans)
    result = modalign.align(fixed, moving, method="affine", inverse=True)
    assert isinstance(result.image, sitk.Image)
    assert result.image.GetSize() == fixed.GetSize()
    transform = sitk.DisplacementFieldTransform(sitk.Image(result.field))
    x, y, z = transform.TransformPoint(fixed.TransformIndexToPhysicalPoint((20, 18, 12)))
    before = fixed.TransformIndexToPhysicalPoint((20, 18, 12))
    # To the right is towards negative x in LPS.
    np.testing.assert_allclose(np.subtract((x, y, z), before), [-SHIFT_MM, 0, 0], atol=0.5)
    warped = sitk.Resample(moving, fixed, sitk.DisplacementFieldTransform(sitk.Image(result.field)), sitk.sitkLinear)
    inside = (slice(6, -6),) * 3
    difference = np.abs(sitk.GetArrayFromImage(warped) - sitk.GetArrayFromImage(result.image))[inside]
    assert difference.max() < 1e-3
    assert result.inverse_field.GetSize() == moving.GetSize()
    back = sitk.DisplacementFieldTransform(sitk.Image(result.inverse_field))
    np.testing.assert_allclose(back.TransformPoint((x, y, z)), before, atol=0.02)
    assert result.notes["inverse_error_mm"]["largest"] < 0.01
    assert result.seconds > 0


def test_nibabel_goes_in_and_comes_out_with_the_same_numbers(scans):
    result = modalign.align(*as_nibabel(scans), method="affine", inverse=True)
    twin = modalign.align(*as_sitk(scans), method="affine", inverse=True)
    assert isinstance(result.image, nib.Nifti1Image)
    # A SimpleITK image keeps its grid to the last digit but one.
    np.testing.assert_allclose(np.asarray(result.image.dataobj), sitk.GetArrayFromImage(twin.image).T, atol=2e-3)
    assert result.field.shape == (40, 36, 24, 1, 3)
    vectors = np.asarray(result.field.dataobj)[:, :, :, 0]
    np.testing.assert_allclose(vectors, sitk.GetArrayFromImage(twin.field).transpose(2, 1, 0, 3), atol=5e-3)
    assert result.inverse_field.shape == (50, 40, 24, 1, 3)
    np.testing.assert_allclose(result.image.affine, scans[0].affine)


def test_locor_is_the_default_and_takes_its_options_by_name(scans):
    result = modalign.align(*as_nibabel(scans), preset="small", seed=1)
    vectors = np.asarray(result.field.dataobj)[:, :, :, 0]
    body = scans[0].data > 0.3
    assert np.median(vectors[body], axis=0) == pytest.approx([-SHIFT_MM, 0, 0], abs=0.3)
    with pytest.raises(ConfigError, match="method locor has no option 'presett'"):
        modalign.align(*as_nibabel(scans), presett="small")


def test_the_function_and_the_command_have_one_default_method_and_use_all_cores(monkeypatch):
    import inspect
    import os

    from typer.main import get_command

    from modalign.api import method_for
    from modalign.cli import app

    defaults = {p.name: p.default for p in get_command(app).commands["align"].params}
    signature = inspect.signature(modalign.align).parameters
    assert defaults["method"] == signature["method"].default == "locor"
    assert defaults["threads"] is signature["threads"].default is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    for given, environment, expected in ((None, "", 5), (2, "3", 2), (None, "3,1", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
        assert method_for("locor", None, {}, {}, 0, "cpu", given, None).context.threads == expected


def test_masks_reach_the_method_as_zeros_and_ones(scans, monkeypatch):
    from modalign.cases import Alignment
    from modalign.methods.syn import SyN

    seen = []
    monkeypatch.setattr(SyN, "align", lambda self, case: seen.append((self.options, case)) or Alignment(case.fixed))
    fixed, moving = as_sitk(scans)
    mask = fixed > 0.2
    modalign.align(fixed, moving, method="syn", fixed_mask=mask * 7)
    modalign.align(fixed, moving, method="syn", fixed_mask=mask, use_masks=False)
    modalign.align(fixed, moving, method="syn")
    np.testing.assert_array_equal(seen[0][1].fixed_mask.data, (scans[0].data > 0.2).astype(np.uint8))
    assert seen[0][1].moving_mask is None
    # Used because it is there, unless that is refused; without one, the preset decides.
    assert [options.use_masks for options, _ in seen] == [True, False, False]
    with pytest.raises(DataError, match=r"the moving mask \(shape \(40, 36, 24\)\) does not lie on the grid of moving"):
        modalign.align(fixed, moving, method="syn", moving_mask=mask)
    with pytest.raises(ConfigError, match="method identity can't use masks: leave them out, or take one that can: aff"):
        modalign.align(fixed, moving, method="identity", fixed_mask=mask)


def test_the_masks_of_a_translator_are_switched_on_as_well():
    from modalign.api import with_masks

    needs = {"translator": {"method": "intensity_map", "dimension": 3}}
    options, masked = with_masks("demons", {"iterations": 5}, needs)
    assert options == {"use_masks": True, "iterations": 5}
    assert masked["translator"]["options"] == {"use_masks": True}
    without = {"translator": {"method": "munit", "dimension": 3}}
    assert with_masks("demons", None, without)[1] == without
    for needed in ({}, "identity"):
        with pytest.raises(ConfigError, match="the translator of method demons is .*; write .*method.: its name"):
            with_masks("demons", None, {"translator": needed})
    with pytest.raises(ConfigError, match="method demons builds on other methods: it needs"):
        with_masks("demons", None, None)


def test_what_is_no_image_is_refused_with_advice(scans):
    fixed, moving = as_sitk(scans)
    with pytest.raises(DataError, match="fixed is a ndarray: give a SimpleITK or a nibabel image"):
        modalign.align(scans[0].data, scans[1].data)
    with pytest.raises(DataError, match="moving is of another kind than fixed"):
        modalign.align(fixed, to_nibabel(scans[1]))
    with pytest.raises(DataError, match="the fixed mask is of another kind than fixed: give SimpleITK images alone"):
        modalign.align(fixed, moving, fixed_mask=to_nibabel(scans[0]))
    with pytest.raises(DataError, match="the moving mask is a ndarray"):
        modalign.align(fixed, moving, moving_mask=scans[1].data > 0)
    with pytest.raises(ConfigError, match="threads is -1: give 1 or more"):
        modalign.align(fixed, moving, method="identity", threads=-1)
    with pytest.raises(DataError, match=r"fixed has shape \(4, 4, 4, 2\): a single 3D volume"):
        modalign.align(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)), to_nibabel(scans[1]))
    with pytest.raises(DataError, match="intensity_map gives no displacement field, so there is no inverse"):
        modalign.align(fixed, moving, method="intensity_map", inverse=True)


def test_import_is_light_and_attributes_are_lazy():
    heavy = "{'nibabel', 'torch', 'SimpleITK', 'numpy', 'pydantic'} & set(sys.modules)"
    code = f"import sys, modalign; assert not {heavy}, {heavy}; print(callable(modalign.align), modalign.__version__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.startswith("True"), run.stderr
    with pytest.raises(AttributeError, match="has no attribute 'align_all'"):
        _ = modalign.align_all


def test_the_command_line_writes_both_fields_and_takes_a_preset(scans, tmp_path):
    for name, volume in zip(("fixed", "moving"), scans, strict=True):
        write_volume(tmp_path / f"{name}.nii.gz", volume)
    files = (tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz")
    options = ("--method", "corrfield", "--preset", "small", "--options", '{"gamma": 4}')
    done = command("align", *files, *options, "--inverse", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["method"]["options"] == {"preset": "small", "gamma": 4}
    assert record["notes"]["inverse_error_mm"]["mean"] < 0.05
    grids = [read_volume(f).grid for f in files]
    field, back = (
        read_itk_field(tmp_path / "out" / f"{n}.nii.gz", g)
        for n, g in zip(("field", "inverse_field"), grids, strict=True)
    )
    # There and back again, in the middle of the moving scan.
    middle = np.array([25, 20, 12])
    there = middle + back[:, 25, 20, 12]
    fixed_voxel = apply_affine(np.linalg.inv(grids[0].affine) @ grids[1].affine, there)
    shown = fixed_voxel + np.array([ndi.map_coordinates(c, fixed_voxel[:, None], order=1)[0] for c in field])
    again = apply_affine(np.linalg.inv(grids[1].affine) @ grids[0].affine, shown)
    np.testing.assert_allclose(again, middle, atol=0.02)
    refused = command("align", *files, "--method", "identity", "--preset", "small", "-o", tmp_path / "no")
    assert refused.stderr.startswith("error: method identity has no option 'preset'")


def test_large_rotations_are_inverted_exactly(oblique_grid):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [10, -20, 75], degrees=True).as_matrix() * 1.2
    middle = oblique_grid.affine @ [20, 18, 10, 1]
    matrix[:3, 3] = -matrix[:3, :3] @ middle[:3]
    moving = axis_aligned((20, 22, 24), (2.0, 2.5, 1.5))
    found, off_mm = inverse_field(affine_field(matrix, oblique_grid), oblique_grid, moving)
    expected = affine_field(np.linalg.inv(matrix), moving)
    assert 0.02 < np.isfinite(off_mm).mean() < 0.98
    # Between the outermost voxel centres, where a field has values of its own.
    in_fixed = apply_affine(np.linalg.inv(oblique_grid.affine) @ moving.affine, moving.indices() + expected)
    last = np.array(oblique_grid.shape).reshape(3, 1, 1, 1) - 1
    seen = ((in_fixed >= 0) & (in_fixed <= last)).all(0)
    np.testing.assert_allclose(found[:, seen], expected[:, seen], atol=2e-3)


def test_smooth_fields_are_inverted_as_by_simpleitk(rng):
    grid = axis_aligned((40, 38, 36), (1.0, 1.0, 1.0))
    field = np.stack([ndi.gaussian_filter(rng.normal(size=grid.shape), 5) for _ in range(3)])
    field *= 3 / np.abs(field).max()
    found, off_mm = inverse_field(field, grid, grid)
    image = sitk.GetImageFromArray(np.ascontiguousarray(field.transpose(3, 2, 1, 0)), isVector=True)
    theirs = sitk.GetArrayFromImage(sitk.InvertDisplacementField(image, maximumNumberOfIterations=50))
    inner = (slice(None), *[slice(8, -8)] * 3)
    assert np.nanmax(off_mm) < 0.005
    assert np.abs(found - theirs.transpose(3, 2, 1, 0))[inner].mean() < 0.05


def test_a_folding_field_shows_in_what_is_left():
    grid = axis_aligned((30, 10, 10), (1.0, 1.0, 1.0))
    field = np.zeros((3, *grid.shape))
    field[0, 12:18] = np.array([6, 3, 0, 0, -3, -6]).reshape(6, 1, 1)
    _, off_mm = inverse_field(field, grid, grid)
    assert np.nanmax(off_mm) > 0.1
