"""The case store: what prepare writes, that it is the same on every run, and that it can be undone."""

import csv
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

from modalign.cases import CaseStore, Intensity
from modalign.datasets.index import COLUMNS
from modalign.errors import ConfigError, DataError
from modalign.files import sha256, write_json
from modalign.preprocess.overrides import resolve
from modalign.preprocess.prepare import prepare
from modalign.preprocess.recipes import RECIPES
from modalign.preprocess.undo import restore, restore_field
from modalign.spatial.fields import field_to_mm, warp_volume, write_itk_field
from modalign.volumes import Volume, axis_aligned, write_volume

SHAPE, SPACING = (40, 36, 12), (2.0, 2.0, 5.0)
SPLITS = {"p1": "train", "p2": "train", "p3": "validation", "p4": "test"}
SMALL = {"size": [40, 36, 12]}


def body(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A CT in HU and an MR of one patient: an ellipse of soft tissue, bones and an organ, with some noise."""
    rng = np.random.default_rng(seed)
    grid = axis_aligned(SHAPE, SPACING)
    x, y, z = grid.indices()
    r = np.hypot((x - 20) / 16, (y - 18) / 14)
    organ = np.hypot((x - 20) / 6, (y - 20) / 5) + np.abs(z - 6) / 8 < 1
    bone = (np.abs(np.hypot((x - 20) / 10, (y - 18) / 9) - 1) < 0.15) & (r < 1)
    ct = np.select([organ, bone, r < 1], [60.0, 900.0, 20.0], -1000.0) + rng.normal(0, 5, SHAPE)
    mr = np.select([organ, bone, r < 1], [700.0, 120.0, 400.0], 5.0) * (1 + 0.1 * seed) + np.abs(
        rng.normal(0, 8, SHAPE)
    )
    return ct, mr


def make_index(folder: Path, modalities: tuple[str, str] = ("mr", "ct"), field: bool = True) -> Path:
    """Four patients as scans and an index; the moving scan is shifted by a known field."""
    index, scans = folder / "index", folder / "scans"
    grid = axis_aligned(SHAPE, SPACING)
    rows = []
    for number, (case, split) in enumerate(SPLITS.items()):
        ct, mr = body(number)
        images = {"ct": ct, "mr": mr, "t1": mr, "t2": 900 - mr, "pd": mr}
        row = dict.fromkeys(COLUMNS, "") | {"case": case, "split": split}
        shift = np.zeros((3, *SHAPE), dtype=np.float32)
        if field:
            shift[0] += 1.5 + 0.5 * number
        aligned = images[modalities[1]]
        moved = np.stack(
            [
                ndi.shift(aligned[:, :, z], (1.5 + 0.5 * number if field else 0, 0), order=1, mode="nearest")
                for z in range(12)
            ],
            2,
        )
        labels = (ndi.uniform_filter(mr, 3) > 500 * (1 + 0.1 * number)).astype(np.uint8)
        files = {
            "fixed": images[modalities[0]],
            "moving": moved,
            "fixed_labels": labels,
            "fixed_mask": (mr > 100).astype(np.uint8),
        }
        if field:
            files["true_image"] = aligned
            write_itk_field(scans / case / "true_field.nii.gz", shift, grid)
            row["true_field"] = f"{case}/true_field.nii.gz"
        for part, data in files.items():
            data = data if data.dtype == np.uint8 else np.rint(data).astype(np.int16)
            write_volume(scans / case / f"{part}.nii.gz", Volume(data, grid.affine))
            row[part] = f"{case}/{part}.nii.gz"
        row["fixed_sha256"] = sha256(scans / case / "fixed.nii.gz")
        row["moving_sha256"] = sha256(scans / case / "moving.nii.gz")
        rows.append(row)
    index.mkdir(parents=True, exist_ok=True)
    with (index / "cases.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    info = {
        "dataset": "tiny",
        "folder": str(scans),
        "source": "phantom",
        "fixed_modality": modalities[0],
        "moving_modality": modalities[1],
        "frames": "related",
        "labels": {"1": "organ"},
        "licence": "none",
        "citation": "none",
    }
    write_json(index / "dataset.json", info)
    return index


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
    assert manifest["cases"][0] == {"case": "p1", "split": "train", "shape": list(SHAPE), "spacing_mm": list(SPACING)}
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


def test_recipes_that_fit_need_training_cases(tmp_path):
    index = make_index(tmp_path)
    table = (index / "cases.tsv").read_text().replace("\ttrain\t", "\ttest\t")
    (index / "cases.tsv").write_text(table)
    with pytest.raises(DataError, match=r"fits nyul on the training split.*no training cases.*nyul: false.*own-pairs"):
        prepare(index, "rbg-pelvis", tmp_path / "out", overrides=SMALL)
    prepare(index, "rbg-pelvis", tmp_path / "out", overrides={**SMALL, "nyul": False})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"nyull": True}, r"nothing called 'nyull'.*n4\.shrink.*nyul\.foreground"),
        ({"n4.shrnk": 2}, r"nothing called 'n4\.shrnk'.*n4\.shrink"),
        ({"n4": {"shrnk": 2}}, r"n4\.shrnk"),
        ({"bias": {"shrink": 2}}, r"no step 'bias'"),
        ({"n4": 3}, r"n4 is a step; write true or false"),
        ({"size": [64, 64]}, r"three voxel counts"),
        ({"clip.low_percent": "5 %"}, r"write a number, such as 5\.0"),
        ({"clip.low_percent": True}, r"write a number"),
        ({"nyul.foreground": "body"}, r"write one of: mean, mask, all"),
        ({"minmax.range": [1, -1]}, r"two rising numbers"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(index, tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        prepare(index, "rbg-pelvis", tmp_path, overrides={**SMALL, **overrides})


def test_unknown_recipes_are_refused_with_the_known_ones(index, tmp_path):
    with pytest.raises(ConfigError, match=r"no recipe 'rbg'.*rbg-pelvis.*own-pairs"):
        prepare(index, "rbg", tmp_path)


def test_overrides_in_either_form_reach_the_step():
    for overrides in ({"n4": True, "n4.shrink": 2}, {"n4": {"shrink": 2}, "n4.of": "fixed"}):
        steps = {s["name"]: s["parameters"] for s in resolve("registformer-pelvis", overrides)}
        assert steps["n4"]["shrink"] == 2
    assert "n4" not in {s["name"] for s in resolve("registformer-pelvis", {"n4": False})}


def test_the_imse_recipes_say_what_the_paper_and_its_release_say():
    steps = {name: {s["name"]: s["parameters"] for s in resolve(name)} for name in RECIPES if name.startswith("imse")}
    assert [name for name in steps if "rigid" in steps[name]] == ["imse-2d-clinical", "imse-3d-clinical"]
    for name, found in steps.items():
        moved = found["misalign"]
        assert (moved["alpha_voxels"], moved["sigma_voxels"], moved["scale"], moved["of"]) == (80, 12, 0.08, "moving")
        in_plane = "2d" in name
        assert moved["rotation_deg"] == ([0, 0, 3] if in_plane else [3, 3, 3])
        assert moved["translation_half_fov"] == [0.08, 0.08, 0 if in_plane else 0.04]
    released = {"rotation_deg": [1, 1, 1], "translation_half_fov": [0.01, 0.01, 0.005], "scale": 0.01}
    found = {s["name"]: s["parameters"] for s in resolve("imse-3d", {"misalign": released})}["misalign"]
    assert found["rotation_deg"] == [1, 1, 1]
    assert found["alpha_voxels"] == 80


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_prepares_small_scans_quickly(recipe, index, brain_index, tmp_path):
    source = brain_index if "ixi" in recipe or recipe.startswith("imse") or recipe == "known-deformation" else index
    started = time.perf_counter()
    prepare(source, recipe, tmp_path, overrides=SMALL)
    assert time.perf_counter() - started < 20
    store = CaseStore(tmp_path)
    assert store.ids() == list(SPLITS)
    case = store.load("p4")
    assert case.fixed.shape[:2] == SHAPE[:2]
    assert case.on_one_grid
    for volume in (case.fixed, case.moving):
        assert np.isfinite(volume.data).all()
        assert volume.data.min() == pytest.approx(-1, abs=0.05)
        assert 0.2 < volume.data.max() <= 1.0001
    names = [step["name"] for step in case.record["steps"]]
    assert names == [step["name"] for step in store.manifest["steps"]]
    assert case.true_field is not None
    assert case.fixed_intensity != Intensity()


def test_paper_sizes_are_reached_without_overrides(index, brain_index, tmp_path):
    prepare(brain_index, "imse-3d", tmp_path / "imse", splits=("validation",), overrides={"misalign": False})
    assert CaseStore(tmp_path / "imse").load("p3").fixed.shape == (128, 128, 48)
    overrides = {"nyul": False, "resample.spacing_mm": [1.0, 1.0, 20.0]}
    prepare(index, "rbg-pelvis", tmp_path / "pelvis", splits=("test",), overrides=overrides)
    case = CaseStore(tmp_path / "pelvis").load("p4")
    assert case.fixed.shape == (384, 320, 3)
    assert case.fixed.spacing == pytest.approx([72 / 320, 72 / 320, 20], rel=2e-3)
    overrides = {"crop_or_pad.multiple_of": 16, "resample.spacing_mm": [1.0, 1.0, 20.0]}
    prepare(index, "rbg-cbct", tmp_path / "cbct", splits=("test",), overrides=overrides)
    case = CaseStore(tmp_path / "cbct").load("p4")
    assert case.fixed.shape == (192, 192, 3)
    assert case.fixed.spacing == pytest.approx([1, 1, 20])


@pytest.mark.real
def test_own_pairs_on_real_scans_of_different_grids(real_scans, tmp_path):
    from modalign.volumes import read_volume

    index = make_index(tmp_path)
    rows = (index / "cases.tsv").read_text().splitlines()[:1]
    row = dict.fromkeys(COLUMNS, "") | {"case": "p04", "split": "test"}
    row |= {side: f"patient04_study1_{name}.nii.gz" for side, name in (("fixed", "T2W"), ("moving", "T1W"))}
    (index / "cases.tsv").write_text("\n".join([*rows, "\t".join(row[c] for c in COLUMNS)]) + "\n")
    info = json.loads((index / "dataset.json").read_text())
    write_json(
        index / "dataset.json",
        info | {"folder": str(real_scans / "ms_raw"), "fixed_modality": "t2", "moving_modality": "t1"},
    )
    prepare(index, "own-pairs", tmp_path / "out")
    case = CaseStore(tmp_path / "out").load("p04")
    original = read_volume(real_scans / "ms_raw/patient04_study1_T2W.nii.gz")
    assert case.on_one_grid
    assert case.fixed.grid.same_as(original.canonical().grid)
    outcome = {s["name"]: s["outcome"] for s in case.record["steps"]}["rigid"]
    assert outcome["mutual_information_after"] >= outcome["mutual_information_before"]
    matrix = np.array(outcome["matrix"])
    assert np.degrees(np.arccos((np.trace(matrix[:3, :3]) - 1) / 2)) < 10
    assert restore(case.moving, case).grid.same_as(original.grid)
