"""Preparation keeps the truth true: after every spatial step, moving warped by the true field is the true image."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage as ndi
from analytic_pairs import SHAPE, SPACING, pair, partner, permuted, texture, tilted
from typer.testing import CliRunner

from modalign.cases import Case, Intensity
from modalign.cli import app
from modalign.errors import ConfigError, DataError
from modalign.preprocess import elastic, maps, store, truth
from modalign.preprocess.context import StepContext
from modalign.preprocess.prepare import apply_steps
from modalign.preprocess.steps import geometry
from modalign.preprocess.undo import restore, restore_field, restore_files
from modalign.spatial.fields import field_to_mm, read_itk_field, warp_volume, write_itk_field
from modalign.volumes import apply_affine, axis_aligned, read_volume, write_volume


@pytest.fixture
def case() -> Case:
    moving = axis_aligned((50, 46, 40), (1.8, 1.8, 1.9))
    moving.affine[:3, 3] += [3, -4, 2]
    return pair(axis_aligned(SHAPE, SPACING), moving)


@pytest.fixture
def context() -> StepContext:
    return StepContext(dataset="analytic", fixed="mr", moving="mr", seed=3, step="s")


def errors(case: Case) -> tuple[float, float]:
    """RMS difference to the true image inside the body, with the field and without; of an image with sd about 1."""
    inside = ndi.binary_erosion(case.true_image.data > 0.5, iterations=2)
    background = float(case.moving.data.min())
    with_field = warp_volume(case.moving, case.true_field, case.grid, order=3, outside=background).data
    without = warp_volume(case.moving, None, case.grid, order=3, outside=background).data
    return tuple(float(np.sqrt(np.mean((w - case.true_image.data)[inside] ** 2))) for w in (with_field, without))


def dice(case: Case, field: np.ndarray | None) -> float:
    labels = warp_volume(case.moving_labels, field, case.grid, order=0, outside=0).data > 0
    fixed = case.fixed_labels.data > 0
    return float(2 * (labels & fixed).sum() / (labels.sum() + fixed.sum()))


def assert_true(case: Case, limit: float = 0.03) -> None:
    with_field, without = errors(case)
    assert with_field < limit
    assert without > 0.2
    with_field, without = (dice(case, field) for field in (case.true_field, None))
    assert with_field > 0.87
    assert with_field > without + 0.1
    assert case.fixed_mask.shape == case.true_image.shape == case.fixed.shape == case.true_field.shape[1:]


def run(case: Case, context: StepContext, *steps: tuple[str, dict]) -> Case:
    listed = [{"name": f"{name}{i}", "function": name, "parameters": p} for i, (name, p) in enumerate(steps)]
    return apply_steps(case, listed, context)


def test_the_made_pair_is_true_to_begin_with(case):
    assert_true(case, 0.01)


RIGID = {"rotation_deg": [8, 8, 8], "translation_mm": [6, 6, 6]}
SPATIAL = {
    "resample finer": [("resample", {"spacing_mm": [1.5, 1.5, 2.0]})],
    "resample coarser": [("resample", {"spacing_mm": [2.5, 2.5, 3.5]})],
    "resize": [("resize", {"size": [52, 30, None]})],
    "resize keeping aspect": [("resize", {"size": [60, 60, 20], "keep_aspect": True})],
    "one grid": [("one_grid", {})],
    "crop": [("one_grid", {}), ("crop_or_pad", {"size": [36, 34, 20]})],
    "pad": [("one_grid", {}), ("crop_or_pad", {"size": [51, 49, 31]})],
    "crop, moving on its own grid": [("crop_or_pad", {"size": [36, 60, 20]})],
    "labelled slices": [("one_grid", {}), ("labelled_slices", {})],
    "centre": [("centre", {"when": "always"})],
    "rigid of both": [("misalign", RIGID)],
    "affine of fixed": [("misalign", {**RIGID, "of": "fixed", "scale": 0.08})],
    "affine of moving": [("misalign", {**RIGID, "of": "moving", "scale": 0.08})],
    "simard": [("one_grid", {}), ("misalign", {"elastic": "simard", "sigma_voxels": 5, "alpha_voxels": 60})],
    "simard in plane": [("misalign", {"elastic": "simard", "sigma_voxels": 6, "alpha_voxels": 60, "in_plane": True})],
    "bspline": [("misalign", {**RIGID, "elastic": "bspline", "max_mm": 5})],
    "velocity": [("misalign", {**RIGID, "elastic": "velocity", "of": "fixed"})],
    "smooth": [("misalign", {"elastic": "smooth", "of": "moving", "max_mm": 8})],
    "everything": [
        ("reorient", {}),
        ("centre", {"when": "always"}),
        ("resample", {"spacing_mm": [1.7, 1.7, 2.4]}),
        ("resize", {"size": [56, 48, None], "keep_aspect": True}),
        ("one_grid", {}),
        ("crop_or_pad", {"size": [56, 48, 26]}),
        ("misalign", {**RIGID, "elastic": "simard", "sigma_voxels": 6, "alpha_voxels": 60}),
        ("misalign", {**RIGID, "elastic": "bspline", "max_mm": 3}),
    ],
}


@pytest.mark.parametrize("steps", SPATIAL.values(), ids=SPATIAL.keys())
def test_spatial_steps_keep_the_truth_true(case, context, steps):
    prepared = run(case, context, *steps)
    changed = any(
        not np.array_equal(getattr(prepared, part).data, getattr(case, part).data)
        or not np.allclose(getattr(prepared, part).affine, getattr(case, part).affine)
        for part in ("fixed", "moving")
    )
    assert changed
    assert_true(prepared, 0.06)


@pytest.mark.parametrize("steps", SPATIAL.values(), ids=SPATIAL.keys())
def test_fields_come_back_to_the_original_scans(case, context, steps):
    prepared = run(case, context, *steps)
    back = restore_field(prepared.true_field, prepared.grid, prepared)
    inside = case.fixed_labels.data > 0
    error_mm = np.linalg.norm(field_to_mm(back - case.true_field, case.grid), axis=0)
    # Only what the prepared scan still holds can come back: leave out voxels that were cropped or pushed away.
    there = (
        restore(prepared.fixed.like(np.ones(prepared.fixed.shape, dtype=np.float32)), prepared, outside=0).data > 0.99
    )
    assert (inside & there).sum() > 0.5 * inside.sum()
    assert np.quantile(error_mm[inside & there], 0.99) < 0.3


@pytest.mark.parametrize("steps", SPATIAL.values(), ids=SPATIAL.keys())
def test_images_come_back_to_the_original_grid(case, context, steps):
    prepared = run(case, context, *steps, ("minmax", {}))
    back = restore(prepared.true_image, prepared, order=3, outside=0)
    assert back.grid.same_as(case.grid)
    there = (
        restore(prepared.fixed.like(np.ones(prepared.fixed.shape, dtype=np.float32)), prepared, outside=0).data > 0.99
    )
    inside = ndi.binary_erosion(there & (case.true_image.data > 0.5))
    assert inside.sum() > 2000
    assert np.sqrt(np.mean((back.data - case.true_image.data)[inside] ** 2)) < 0.08


def test_the_command_line_restores_an_alignment_of_a_stored_case(case, context, tmp_path):
    case = dataclasses.replace(
        case,
        moving=case.moving.like(1000 * case.moving.data - 1000),
        true_image=case.true_image.like(1000 * case.true_image.data - 1000),
        moving_intensity=Intensity(unit="HU"),
    )
    prepared = run(case, context, ("resample", {"spacing_mm": [1.5, 1.5, 2.0]}), ("minmax", {}))
    store.write_case(tmp_path / "case", prepared)
    write_volume(tmp_path / "aligned.nii.gz", prepared.true_image)
    write_itk_field(tmp_path / "field.nii.gz", prepared.true_field, prepared.grid)
    arguments = ["restore", tmp_path / "case", "-o", tmp_path / "out"]
    files = ["--image", tmp_path / "aligned.nii.gz", "--field", tmp_path / "field.nii.gz"]
    result = CliRunner().invoke(app, [str(a) for a in arguments + files])
    assert result.exit_code == 0, result.exception
    image = read_volume(tmp_path / "out/image.nii.gz")
    assert image.grid.same_as(case.grid)
    inside = ndi.binary_erosion(case.fixed_labels.data > 0, iterations=2)
    assert np.abs(image.data - case.true_image.data)[inside].mean() < 30  # HU, of 1000 per unit of the texture
    field = read_itk_field(tmp_path / "out/field.nii.gz", case.grid)
    assert np.linalg.norm(field_to_mm(field - case.true_field, case.grid), axis=0)[inside].max() < 0.3

    with pytest.raises(ConfigError, match="name an aligned image"):
        restore_files(tmp_path / "case", tmp_path / "out")
    write_volume(tmp_path / "other.nii.gz", case.moving)
    with pytest.raises(DataError, match=r"other.nii.gz does not lie on the grid of .*case/fixed.nii.gz"):
        restore_files(tmp_path / "case", tmp_path / "out", image=tmp_path / "other.nii.gz")
    with pytest.raises(DataError, match=r"none.nii.gz does not exist: the method may have made an image without"):
        restore_files(tmp_path / "case", tmp_path / "out", field=tmp_path / "none.nii.gz")


def test_reorienting_permutes_the_field_with_the_axes(context):
    plain = axis_aligned(SHAPE, SPACING)
    case = pair(permuted(plain), tilted(permuted(plain), 9))
    assert case.grid.orientation == "ASL"
    prepared = run(case, context, ("reorient", {}))
    assert prepared.grid.orientation == prepared.moving.grid.orientation == "RAS"
    assert prepared.grid.same_as(plain)
    np.testing.assert_allclose(prepared.true_field, pair(plain, plain).true_field, atol=1e-4)
    assert_true(prepared, 0.02)


def test_registration_moves_only_the_frame_and_the_truth_with_it(case, context):
    moved = truth.move_frame(case, maps.similarity_about_centre(case.grid, np.array([5, -8, 12]), np.array([9, -7, 4])))
    prepared = run(moved, context, ("register", {}))
    assert np.array_equal(prepared.moving.data, case.moving.data)
    assert errors(moved)[1] > 0.5 > errors(prepared)[1]
    assert errors(prepared)[0] < 0.02
    outcome = prepared.record["steps"][-1]["outcome"]
    assert outcome["mutual_information_after"] > outcome["mutual_information_before"] + 0.1
    back = restore_field(prepared.true_field, prepared.grid, prepared)
    np.testing.assert_allclose(back, case.true_field, atol=1e-3)


def test_registration_of_aligned_scans_stays_near_the_identity(case, context):
    still = dataclasses.replace(case, moving=case.fixed, moving_mask=None, moving_labels=None)
    prepared = run(still, context, ("register", {}))
    corner = maps.world_points(case.grid)[:, 0, 0, 0]
    matrix = np.array(prepared.record["steps"][-1]["outcome"]["matrix"])
    assert np.abs(apply_affine(matrix, corner) - corner).max() < 0.2


def test_deforming_twice_is_recorded_so_that_it_can_be_replayed(case, context):
    prepared = run(case, context, ("misalign", RIGID), ("misalign", {"elastic": "bspline"}))
    chain = prepared.record["transforms"]["moving"]
    assert [record["kind"] for record in chain] == ["bspline", "affine"]
    replayed = texture(partner(maps.apply(chain, maps.world_points(prepared.moving.grid))))
    inside = ndi.binary_erosion(prepared.moving.data > 0.5, iterations=3)
    assert np.abs(replayed - prepared.moving.data)[inside].mean() < 0.03


def test_inverse_maps_undo_maps(case):
    grid = case.grid
    chain = [
        maps.affine_record(
            maps.similarity_about_centre(grid, np.array([20.0, -15.0, 22.0]), np.array([20, -30, 10.0]), 1.08)
        ),
        {"kind": "smooth", "seed": 1, "sigma_mm": 15.0, "max_mm": 12.0, **elastic.grid_record(grid)},
        {
            "kind": "bspline",
            "seed": 2,
            "control_points": 9,
            "locked_borders": 2,
            "max_mm": [5.0] * 3,
            **elastic.grid_record(grid),
        },
    ]
    points = maps.world_points(grid)
    there = maps.apply(chain, points)
    assert np.linalg.norm(there - points, axis=0).mean() > 15
    np.testing.assert_allclose(maps.invert(chain, there), points, atol=0.01)


def test_single_slices_survive(context):
    case = pair(*[axis_aligned((40, 40, 1), (2, 2, 3))] * 2)
    field = np.zeros_like(case.true_field)
    flat = dataclasses.replace(case, true_field=field, moving=case.fixed, true_image=case.fixed)
    deform = {"elastic": "simard", "in_plane": True, "alpha_voxels": 80, "sigma_voxels": 8}
    prepared = run(flat, context, ("resize", {"size": [50, 50, 1]}), ("one_grid", {}), ("misalign", deform))
    inside = prepared.true_image.data > 1
    warped, still = (warp_volume(prepared.moving, f, prepared.grid).data for f in (prepared.true_field, None))
    with_field, without = (np.abs(image - prepared.true_image.data)[inside].mean() for image in (warped, still))
    assert inside.sum() > 200
    assert with_field < 0.03 < 0.12 < without


def test_aspect_is_kept_when_resizing_into_a_box(context):
    case = pair(axis_aligned((96, 70, 8), (1, 1, 2.5)), axis_aligned((96, 70, 8), (1, 1, 2.5)))
    fitted, _ = geometry.resize(case, context, size=[48, 40, None], keep_aspect=True)
    assert fitted.fixed.shape == (48, 35, 8)
    assert fitted.fixed.spacing == pytest.approx([2, 2, 2.5])
    padded, record = geometry.crop_or_pad(fitted, context, size=[48, 40, None])
    assert padded.fixed.shape == (48, 40, 8)
    assert record["start"] == [0, -3, 0]
    small, _ = geometry.resize(case, context, size=[192, 140, None], keep_aspect=True, enlarge=False)
    assert small.fixed.shape == case.fixed.shape
