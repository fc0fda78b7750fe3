"""Recipes: what they say, what may be overridden, and that each prepares small scans."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from small_patients import SHAPE, SMALL, SPLITS, make_index

from modalign.cases import CaseStore, Intensity
from modalign.datasets.index import COLUMNS
from modalign.errors import ConfigError, DataError
from modalign.files import write_json
from modalign.preprocess.overrides import resolve
from modalign.preprocess.prepare import prepare
from modalign.preprocess.recipes import RECIPES
from modalign.preprocess.undo import restore


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    return make_index(tmp_path_factory.mktemp("mr-ct"))


@pytest.fixture(scope="module")
def brain_index(tmp_path_factory) -> Path:
    return make_index(tmp_path_factory.mktemp("t1-t2"), ("t1", "t2"), field=False)


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
    from modalign.volumes import Volume, read_volume, write_volume

    for name in ("T2W", "T1W"):  # every second row and column
        scan = read_volume(real_scans / f"ms_raw/patient04_study1_{name}.nii.gz")
        affine = scan.affine @ np.diag([2, 2, 1, 1])
        write_volume(tmp_path / f"scans/patient04_study1_{name}.nii.gz", Volume(scan.data[::2, ::2], affine))
    index = make_index(tmp_path)
    rows = (index / "cases.tsv").read_text().splitlines()[:1]
    row = dict.fromkeys(COLUMNS, "") | {"case": "p04", "split": "test"}
    row |= {side: f"patient04_study1_{name}.nii.gz" for side, name in (("fixed", "T2W"), ("moving", "T1W"))}
    (index / "cases.tsv").write_text("\n".join([*rows, "\t".join(row[c] for c in COLUMNS)]) + "\n")
    info = json.loads((index / "dataset.json").read_text())
    write_json(
        index / "dataset.json",
        info | {"folder": str(tmp_path / "scans"), "fixed_modality": "t2", "moving_modality": "t1"},
    )
    prepare(index, "own-pairs", tmp_path / "out")
    case = CaseStore(tmp_path / "out").load("p04")
    original = read_volume(tmp_path / "scans/patient04_study1_T2W.nii.gz")
    assert case.on_one_grid
    assert case.fixed.grid.same_as(original.canonical().grid)
    outcome = {s["name"]: s["outcome"] for s in case.record["steps"]}["rigid"]
    assert outcome["mutual_information_after"] >= outcome["mutual_information_before"]
    matrix = np.array(outcome["matrix"])
    assert np.degrees(np.arccos((np.trace(matrix[:3, :3]) - 1) / 2)) < 10
    assert restore(case.moving, case).grid.same_as(original.grid)


def test_heads_of_locors_experiments_are_masked_for_the_measures_alone(index, tmp_path):
    for name, overrides in (("masked", {}), ("plain", {"mask": False})):
        prepare(index, "locor-cermep", tmp_path / name, overrides=overrides)
    masked, plain = (CaseStore(tmp_path / name) for name in ("masked", "plain"))
    for case in masked.ids(["test"]):
        with_mask, without = masked.load(case), plain.load(case)
        assert 0 < with_mask.evaluation_mask.data.mean() < 1
        assert without.evaluation_mask is None
        np.testing.assert_array_equal(with_mask.fixed_mask.data, without.fixed_mask.data)
        assert with_mask.measured_in is with_mask.evaluation_mask
        assert without.measured_in is without.fixed_mask
