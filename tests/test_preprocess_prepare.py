"""The case store: what prepare writes, that it is the same on every run, and that it can be undone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.ndimage as ndi
from small_patients import SHAPE, SMALL, SPACING, body, make_index

from modalign.cases import CaseStore
from modalign.errors import DataError
from modalign.files import sha256
from modalign.preprocess.prepare import prepare
from modalign.preprocess.undo import restore, restore_field
from modalign.spatial.fields import field_to_mm, warp_volume
from modalign.volumes import Volume, axis_aligned, write_volume


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    return make_index(tmp_path_factory.mktemp("mr-ct"))


@pytest.fixture(scope="module")
def brain_index(tmp_path_factory) -> Path:
    return make_index(tmp_path_factory.mktemp("t1-t2"), ("t1", "t2"), field=False)


@pytest.fixture(scope="module")
def pelvis(index, tmp_path_factory) -> CaseStore:
    out = tmp_path_factory.mktemp("pelvis")
    prepare(index, "rbg-pelvis", out, overrides=SMALL)
    return CaseStore(out)


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_store_holds_what_its_manifest_says(pelvis, index):
    manifest = pelvis.manifest
    first = {"case": "p1", "patient": "", "split": "train", "shape": list(SHAPE), "spacing_mm": list(SPACING)}
    assert manifest["cases"][0] == first
    assert pelvis.ids(["train"]) == ["p1", "p2"]
    assert pelvis.label_names == {1: "organ"}
    assert manifest["truth"] == ["true_field", "true_image"]
    assert manifest["source"] == "phantom"
    assert [s["name"] for s in manifest["steps"]] == [
        "reorient",
        "centre",
        "resample",
        "resize",
        "one_grid",
        "nyul",
        "clip",
        "minmax",
        "crop_or_pad",
    ]
    assert manifest["checksums"]["p4"]["moving"] == sha256(index.parent / "scans/p4/moving.nii.gz")
    case = pelvis.load("p4")
    assert case.fixed.data.min() == case.moving.data.min() == -1
    assert case.fixed.data.max() == case.moving.data.max() == 1
    assert set(np.unique(case.fixed_labels.data)) == {0, 1}
    with h5py.File(pelvis.pack("test")) as file:
        assert list(file) == ["p4"]
        np.testing.assert_array_equal(file["p4/moving"][()], case.moving.data)
        np.testing.assert_array_equal(file["p4/fixed_mask"][()], case.fixed_mask.data)
        assert file["p4/fixed"].dtype == np.float32
        assert file["p4/fixed_mask"].dtype == np.uint8
        assert file["p4/fixed"].chunks is None
        assert "moving_mask" not in file["p4"]


def test_a_scan_of_the_wanted_size_is_not_interpolated(pelvis, index):
    ct, _ = body(3)
    stored = pelvis.load("p4").true_image
    clip = pelvis.load("p4").record["steps"][6]["outcome"]["moving"]
    physical = pelvis.load("p4").moving_intensity.to_physical(stored.data)
    np.testing.assert_allclose(physical, np.clip(np.rint(ct), clip["low"], clip["high"]), atol=0.01)


def test_ct_is_clipped_at_its_own_percentiles_and_comes_back_in_hu(pelvis, index):
    from modalign.volumes import read_volume

    raw = read_volume(index.parent / "scans/p4/moving.nii.gz").data
    low, high = np.percentile(raw, [5, 95])
    case = pelvis.load("p4")
    assert case.moving_intensity.unit == "HU"
    assert case.moving_intensity.to_physical(case.moving.data).min() == pytest.approx(low, abs=0.01)
    assert case.moving_intensity.to_physical(case.moving.data).max() == pytest.approx(high, abs=0.01)
    back = restore(warp_volume(case.moving, None, case.grid), case)
    np.testing.assert_allclose(back.data, np.clip(raw, low, high), atol=0.02)


def test_the_truth_warps_moving_onto_the_true_image(pelvis):
    for case in pelvis.cases(["train", "test"]):
        inside = ndi.binary_erosion(case.fixed_mask.data > 0, iterations=2)
        warped, still = (warp_volume(case.moving, f, case.grid).data for f in (case.true_field, None))
        error, before = (np.abs(w - case.true_image.data)[inside].mean() for w in (warped, still))
        assert error < 0.5 * before


def test_undoing_a_changed_grid(index, tmp_path):
    from modalign.volumes import read_volume

    prepare(index, "rbg-pelvis", tmp_path, overrides={"size": [64, 50, None], "clip": False})
    case = CaseStore(tmp_path).load("p4")
    assert case.fixed.shape == (64, 50, 12)
    assert case.record["steps"][3]["outcome"]["shape"] == [56, 50, 12]
    original = read_volume(index.parent / "scans/p4/true_image.nii.gz")
    back = restore(case.true_image, case)
    assert back.grid.same_as(original.grid)
    # Linear interpolation there and back blurs edges, so compare what is smooth.
    blurred = [ndi.gaussian_filter(v.data.astype(float), (2, 2, 0)) for v in (back, original)]
    assert np.abs(blurred[0] - blurred[1]).max() < 60
    assert np.corrcoef(back.data.ravel(), original.data.ravel())[0, 1] > 0.98
    field = restore_field(case.true_field, case.grid, case)
    np.testing.assert_allclose(field[0], 3.0, atol=1e-3)
    np.testing.assert_allclose(field_to_mm(case.true_field, case.grid)[0], 6.0, atol=1e-3)


def test_the_same_bytes_whatever_the_workers(index, tmp_path):
    """Two fitting phases, N4 and random fields: all that could depend on the order of work."""
    overrides = {**SMALL, "n4.iterations": [10, 10]}
    for out, workers in (("a", 1), ("b", 2)):
        prepare(index, "registformer-pelvis", tmp_path / out, overrides=overrides, workers=workers)
    a, b = digest(tmp_path / "a"), digest(tmp_path / "b")
    assert a == b
    assert len(a) > 15


@pytest.mark.parametrize("recipe", ["imse-3d", "rbg-ixi-nonrigid", "locor-ixi-t2-pd"])
def test_the_same_bytes_on_every_run(brain_index, tmp_path, recipe):
    for out in "ab":
        prepare(brain_index, recipe, tmp_path / out, overrides=SMALL)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_another_seed_gives_another_misalignment(brain_index, tmp_path):
    for seed in (0, 1):
        prepare(brain_index, "imse-2d", tmp_path / str(seed), overrides=SMALL, seed=seed)
    fields = [CaseStore(tmp_path / str(seed)).load("p4").true_field for seed in (0, 1)]
    assert np.abs(fields[0] - fields[1]).max() > 0.5


def test_killed_runs_can_be_repeated(index, tmp_path):
    overrides = {**SMALL, "n4": True}
    prepare(index, "rbg-pelvis", tmp_path / "whole", overrides=overrides)
    code = (
        "from pathlib import Path; from modalign.preprocess.prepare import prepare;"
        f"prepare(Path({str(index)!r}), 'rbg-pelvis', Path({str(tmp_path / 'cut')!r}), overrides={overrides!r})"
    )
    job = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "src"})
    deadline = time.time() + 60
    while not list((tmp_path / "cut").rglob("p2*")) and time.time() < deadline:
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert not (tmp_path / "cut/cases.json").exists()
    prepare(index, "rbg-pelvis", tmp_path / "cut", overrides=overrides)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_what_an_earlier_run_left_is_removed_and_nothing_else(index, tmp_path):
    prepare(index, "rbg-pelvis", tmp_path, overrides=SMALL)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("keep")
    prepare(index, "own-pairs", tmp_path, overrides={"rigid": False}, splits=("test",))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cases.json", "notes", "p4", "test.h5"]


def test_failing_cases_are_named_and_leave_no_manifest(tmp_path):
    index = make_index(tmp_path)
    (tmp_path / "scans/p3/moving.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"case p3 of tiny: .*moving\.nii\.gz can't be read"):
        prepare(index, "own-pairs", tmp_path / "out", overrides={"rigid": False}, workers=2)
    assert not (tmp_path / "out/cases.json").exists()


def test_fitting_sees_the_training_split_alone(tmp_path):
    index = make_index(tmp_path)
    prepare(index, "registformer-pelvis", tmp_path / "a", overrides=SMALL)
    before = json.loads((tmp_path / "a/landmarks.json").read_text())
    fixed = tmp_path / "scans/p4/fixed.nii.gz"
    moving = tmp_path / "scans/p3/moving.nii.gz"
    for path in (fixed, moving):
        write_volume(path, axis_volume(np.random.default_rng(0).integers(0, 3000, SHAPE).astype(np.int16)))
    prepare(index, "registformer-pelvis", tmp_path / "b", overrides=SMALL)
    assert json.loads((tmp_path / "b/landmarks.json").read_text()) == before
    prepare(index, "registformer-pelvis", tmp_path / "c", overrides=SMALL, splits=("test",))
    assert json.loads((tmp_path / "c/landmarks.json").read_text()) == before
    write_volume(
        tmp_path / "scans/p1/fixed.nii.gz",
        axis_volume(np.random.default_rng(0).integers(0, 3000, SHAPE).astype(np.int16)),
    )
    prepare(index, "registformer-pelvis", tmp_path / "d", overrides=SMALL)
    assert json.loads((tmp_path / "d/landmarks.json").read_text())["nyul"] != before["nyul"]


def axis_volume(data: np.ndarray) -> Volume:
    return Volume(data, axis_aligned(SHAPE, SPACING).affine)


def test_data_set_scaling_uses_pooled_statistics(index, tmp_path):
    prepare(index, "registformer-pelvis", tmp_path, overrides={**SMALL, "n4": False})
    fitted = json.loads((tmp_path / "landmarks.json").read_text())["dataset_scale"]["moving"]
    from modalign.volumes import read_volume

    pooled = []
    for case in ("p1", "p2"):
        raw = read_volume(index.parent / f"scans/{case}/moving.nii.gz").data.astype(float)
        pooled.append(np.clip(raw, *np.percentile(raw, [5, 95])))
    pooled = np.stack(pooled)
    assert fitted["mean"] == pytest.approx(pooled.mean(), abs=1e-3)
    assert fitted["sd"] == pytest.approx(pooled.std(), abs=1e-3)
    store = CaseStore(tmp_path)
    train = [store.load(case).moving.data for case in ("p1", "p2")]
    assert min(t.min() for t in train) == pytest.approx(-1, abs=1e-5)
    assert max(t.max() for t in train) == pytest.approx(1, abs=1e-5)
    # One mapping for the whole data set: the same stored value is the same HU everywhere.
    assert store.load("p1").moving_intensity == store.load("p4").moving_intensity
