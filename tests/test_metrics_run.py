"""Measuring a run: a tiny case store and alignments, written by hand, through measure_run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
import yaml

from modalign.cases import CaseStore
from modalign.errors import ConfigError, DataError
from modalign.files import write_json
from modalign.metrics import MEASURES, measure_by_name
from modalign.metrics.features import FeatureSource
from modalign.metrics.field import folding_percent, jacobian_determinant
from modalign.metrics.measure import load_pair, measure_run
from modalign.metrics.structure import gradient_correlation
from modalign.metrics.table import Row, read_metrics, write_metrics
from modalign.spatial.fields import affine_field, write_itk_field
from modalign.volumes import Volume, axis_aligned, read_volume, write_volume

GRID = axis_aligned((36, 32, 6), (2.0, 2.0, 3.0))
FEATURES = FeatureSource(image_size=75)
PLAIN = [name for name, m in MEASURES.items() if not m.features]


def anatomy(rng):
    """A body with two organs: label map on GRID."""
    x, y, z = GRID.indices()
    cx, cy = 17.5 + rng.uniform(-1, 1), 15.5 + rng.uniform(-1, 1)
    labels = np.zeros(GRID.shape, dtype=np.uint8)
    labels[((x - cx) / 14) ** 2 + ((y - cy) / 12) ** 2 < 1] = 1
    labels[((x - cx + 4) / 5) ** 2 + ((y - cy) / 6) ** 2 < 1] = 2
    labels[((x - cx - 6) / 3) ** 2 + ((y - cy) / 3) ** 2 + ((z - 2.5) / 2) ** 2 < 1] = 3
    return labels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A store of three test cases whose moving scan is 3 voxels off along x, and its identity and true alignments."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(7)
    cases = ["p1", "p2", "p3"]
    shift = np.zeros((3, *GRID.shape), dtype=np.float32)
    shift[0] = 3
    for case in cases:
        labels = anatomy(rng)
        moved = np.zeros_like(labels)
        moved[3:] = labels[:-3]
        mr = np.array([-1, -0.2, 0.9, 0.3])[labels] + 0.03 * rng.normal(size=labels.shape) * (labels > 0)
        ct = np.array([-1, 0.1, -0.5, 0.8])[moved]
        truth = np.array([-1, 0.1, -0.5, 0.8])[labels]
        parts = {
            "fixed": np.clip(mr, -1, 1),
            "moving": ct,
            "fixed_mask": (labels > 0).astype(np.uint8),
            "fixed_labels": np.where(labels == 1, 0, labels).astype(np.uint8),
            "moving_labels": np.where(moved == 1, 0, moved).astype(np.uint8),
            "true_image": truth,
        }
        for name, data in parts.items():
            write_volume(folder / "store" / case / f"{name}.nii.gz", Volume(data, GRID.affine))
        write_itk_field(folder / "store" / case / "true_field.nii.gz", shift, GRID)
        hu = {"scale": 1000.0, "offset": 0.0, "unit": "HU"}
        record = {"case": case, "dataset": "toy", "split": "test", "fixed_intensity": {}, "moving_intensity": hu}
        write_json(folder / "store" / case / "case.json", record)
        for method, image, field in (("identity", ct, 0 * shift), ("oracle", truth, shift), ("generated", truth, None)):
            write_volume(folder / method / case / "image.nii.gz", Volume(image, GRID.affine))
            if field is not None:
                write_itk_field(folder / method / case / "field.nii.gz", field, GRID)
    manifest = {
        "dataset": "toy",
        "fixed_modality": "mr",
        "moving_modality": "ct",
        "labels": {"2": "bladder", "3": "rectum"},
        "cases": [{"case": case, "split": "test"} for case in cases],
    }
    write_json(folder / "store" / "cases.json", manifest)
    return folder


@pytest.fixture
def store(run):
    return CaseStore(run / "store")


def mean(measured, metric, **where):
    rows = [r for r in measured.rows if r.metric == metric and all(getattr(r, k) == v for k, v in where.items())]
    assert rows, metric
    return np.mean([r.value for r in rows])


@pytest.fixture(scope="module")
def results(run):
    store = CaseStore(run / "store")
    return {
        method: measure_run(store, run / method, PLAIN, method=method, seed=0, features=FEATURES)
        for method in ("identity", "oracle", "generated")
    }


class TestResults:
    def test_the_oracle_is_perfect(self, results):
        perfect = {"dice": 1, "hausdorff_mm": 0, "hd95_mm": 0, "asd_mm": 0, "tre_mm": 0, "tre_voxel": 0, "tre95_mm": 0}
        perfect |= {"mae_hu": 0, "nmae": 0, "ssim": 1, "folding_percent": 0, "jacobian_sd": 0, "sdlogj": 0}
        for metric, value in perfect.items():
            assert mean(results["oracle"], metric) == pytest.approx(value, abs=1e-6), metric

    def test_the_identity_errs_by_the_shift(self, results):
        assert mean(results["identity"], "tre_voxel") == pytest.approx(3)
        assert mean(results["identity"], "tre_mm") == pytest.approx(6)
        assert mean(results["identity"], "hausdorff_mm") == pytest.approx(6)
        assert mean(results["identity"], "dice", structure="rectum") < mean(
            results["identity"], "dice", structure="bladder"
        )

    def test_every_directed_measure_prefers_the_oracle(self, results):
        signs = {"higher": 1, "lower": -1}
        for metric in ("gc", "gc_masked", "nmi", "nmi_masked", "ssim", "nmae", "mae_hu", "dice", "asd_mm", "tre_mm"):
            sign = signs[MEASURES[metric].better]
            assert sign * mean(results["oracle"], metric) > sign * mean(results["identity"], metric), metric

    def test_rows_are_what_the_functions_give(self, run, store, results):
        pair = load_pair(store, run / "identity", "p2")
        expected = gradient_correlation(pair.fixed_u8[:, :, 4], pair.image_u8[:, :, 4], (170, 190), (30, 50))
        assert mean(results["identity"], "gc", case="p2", slice=4) == pytest.approx(expected)

    def test_order_scope_and_names(self, results):
        rows = results["oracle"].rows
        absent = {"psnr", "mae_pseudo_hu", "segmented_dice", "segmented_hausdorff_mm"}
        assert list(dict.fromkeys(r.metric for r in rows)) == [n for n in PLAIN if n not in absent]
        assert [r.case for r in rows if r.metric == "tre_mm"] == ["p1", "p2", "p3"]
        assert [(r.case, r.structure) for r in rows if r.metric == "dice"][:3] == [
            ("p1", "bladder"), ("p1", "rectum"), ("p2", "bladder"),
        ]  # fmt: skip
        for row in rows:
            scope = MEASURES[row.metric].scope
            assert (row.slice is not None) == (scope == "slice")
            assert bool(row.structure) == (scope == "structure")


class TestNotes:
    def test_a_method_without_field(self, results):
        generated = results["generated"]
        for metric in ("dice", "hd95_mm", "tre_mm", "folding_percent", "grad_phi_l2"):
            assert generated.notes[metric] == "skipped, the method gives no displacement field"
            assert not [r for r in generated.rows if r.metric == metric]
        assert mean(generated, "gc") == mean(results["oracle"], "gc")

    def test_undefined_values_are_counted(self, results):
        assert results["oracle"].notes["psnr"].startswith("18 of 18 values left out as undefined (a slice that equals")

    def test_what_is_not_known(self, run, store, tmp_path):
        shutil.copytree(run / "store", tmp_path / "store")
        (tmp_path / "store/p1/true_field.nii.gz").unlink()
        (tmp_path / "store/p2/fixed_mask.nii.gz").unlink()
        for case in ("p1", "p2", "p3"):
            (tmp_path / "store" / case / "true_image.nii.gz").unlink()
            (tmp_path / "store" / case / "moving_labels.nii.gz").unlink()
        partial = CaseStore(tmp_path / "store")
        names = ["tre_mm", "mae_hu", "dice", "gc"]
        rows, notes = measure_run(partial, run / "identity", names, method="identity", seed=0)
        assert [r.case for r in rows if r.metric == "tre_mm"] == ["p2", "p3"]
        assert notes == {
            "tre_mm": "skipped, the true field is not known (1 of 3 cases); "
            "no fixed mask, so the whole grid counts (1 of 3 cases)",
            "mae_hu": "skipped, the true aligned image is not known",
            "dice": "skipped, the case has no labels of both scans",
        }

    def test_a_structure_of_one_scan_only(self, run, tmp_path):
        shutil.copytree(run / "store", tmp_path / "store")
        path = tmp_path / "store/p1/moving_labels.nii.gz"
        only = load_pair(CaseStore(run / "store"), run / "identity", "p1", ["labels"]).case.moving_labels
        write_volume(path, only.like(np.where(only.data == 3, 0, only.data)))
        rows, notes = measure_run(CaseStore(tmp_path / "store"), run / "oracle", ["dice"], method="m", seed=0)
        assert [(r.case, r.structure) for r in rows if r.case == "p1"] == [("p1", "bladder")]
        assert notes["dice"].startswith("1 of 6 values left out as undefined (a structure that is missing")


class TestFeatures:
    @pytest.fixture(scope="class")
    def deep(self, run):
        store = CaseStore(run / "store")
        names = ["fid", "kid", "kid2", "lpips"]
        return {
            method: measure_run(store, run / method, names, method=method, seed=0, features=FEATURES)
            for method in ("identity", "oracle")
        }

    def test_random_features_are_named(self, deep):
        assert {r.metric for r in deep["oracle"].rows} == {"fid_random", "kid_random", "kid2_random", "lpips_random"}
        assert set(deep["oracle"].notes) == {"fid_random", "kid_random", "kid2_random"}

    def test_sets_have_one_value_and_notes_say_how_many_slices(self, deep):
        (fid,) = [r for r in deep["oracle"].rows if r.metric == "fid_random"]
        assert (fid.case, fid.slice, fid.structure) == ("", None, "")
        assert deep["oracle"].notes["fid_random"].startswith("18 reference and 18 aligned slices: biased upwards")
        assert deep["oracle"].notes["kid_random"].startswith("all 18 slices at once, so there is no sd over subsets;")

    def test_kid_as_released_is_of_subsets_of_two(self, deep):
        assert deep["oracle"].notes["kid2_random"].startswith("100 subsets of 2 slices, sd ")
        assert mean(deep["oracle"], "kid2_random") != mean(deep["oracle"], "kid_random")

    def test_kid_of_subsets_has_an_sd(self, run, store):
        options = {"kid": {"subset_size": 4, "subsets": 30}}
        _, notes = measure_run(store, run / "oracle", ["kid"], method="m", seed=0, features=FEATURES, options=options)
        words = re.match(r"30 subsets of 4 slices, sd ([0-9.e+-]+); 18 reference", notes["kid_random"])
        assert words
        assert float(words[1]) > 0

    def test_the_unaligned_reference_is_at_distance_zero(self, deep):
        assert mean(deep["identity"], "fid_random") == pytest.approx(0, abs=1e-3)
        assert mean(deep["oracle"], "fid_random") > 0.01

    def test_lpips_of_the_truth_is_zero(self, deep):
        assert mean(deep["oracle"], "lpips_random") == pytest.approx(0, abs=1e-6)
        assert mean(deep["identity"], "lpips_random") > 0.001

    def test_fewer_slices(self, run, store):
        source = FeatureSource(image_size=75, max_slices=5)
        _, notes = measure_run(store, run / "oracle", ["fid_random"], method="m", seed=0, features=source)
        assert notes["fid_random"].startswith("5 reference and 5 aligned slices")
        assert notes["fid_random"].endswith("of 18")


def test_a_setting_of_features_that_there_is_not_is_named() -> None:
    assert FeatureSource.parse({"image_size": 75}) == FEATURES
    with pytest.raises(ConfigError, match=r"features have no setting 'size'; the settings are: kind, files, "):
        FeatureSource.parse({"size": 75})


class TestTheSameEveryTime:
    def test_workers_change_nothing(self, run, store, results, tmp_path):
        parallel = measure_run(store, run / "identity", PLAIN, method="identity", seed=0, workers=2)
        write_metrics(tmp_path / "a.tsv", results["identity"].rows)
        write_metrics(tmp_path / "b.tsv", parallel.rows)
        assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()
        assert parallel.notes == results["identity"].notes

    def test_some_cases(self, run, store, results):
        some = measure_run(store, run / "identity", ["nmi"], method="identity", seed=0, cases=["p3", "p1"])
        assert some.rows == [r for r in results["identity"].rows if r.metric == "nmi" and r.case != "p2"]

    def test_options_reach_the_measure(self, run, store):
        options = {"dice": {"per_slice": True}, "folding_percent": {"region": "grid"}}
        folder = run / "folded"
        for case in store.ids():
            write_volume(folder / case / "image.nii.gz", store.load(case, ["fixed", "moving"]).moving)
            field = affine_field(np.diag([0.5, 1, 1, 1.0]), GRID)
            field[0, 20:] = 0
            write_itk_field(folder / case / "field.nii.gz", field, GRID)
        rows, _ = measure_run(store, folder, list(options), method="m", seed=0, options=options)
        assert {r.slice for r in rows if r.metric == "dice" and r.structure == "rectum"} <= {1, 2, 3, 4}
        folded = [r.value for r in rows if r.metric == "folding_percent"]
        assert folded == pytest.approx([folding_percent(jacobian_determinant(field))] * 3)


CONFIG = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())
SETS = {name: entry["measure_options"] for name, entry in CONFIG["datasets"].items() if entry.get("measure_options")}


class TestOptionsOfTheConfiguration:
    @pytest.mark.parametrize("dataset", SETS)
    def test_are_understood_where_they_are_used(self, run, store, dataset):
        options = SETS[dataset]
        rows, _ = measure_run(store, run / "identity", list(options), method="m", seed=0, options=options)
        assert {row.metric for row in rows} == set(options)

    def test_are_what_the_papers_measured_by(self):
        assert SETS["learn2reg-abdomen-mr-ct"] == {"dice": {"region": "mask"}, "hd95_mm": {"region": "mask"}}
        for name, entry in CONFIG["datasets"].items():
            if entry["recipe"].startswith("imse"):
                flat = {"per_slice": True} if entry["dimensions"] == [2] else {}
                assert SETS[name]["dice"] == {"interpolation": "linear"} | flat
                assert SETS[name]["hd95_mm"] == {"interpolation": "linear", "directions": "pooled"} | flat

    def test_the_mask_of_locor_changes_dice(self, run, store, tmp_path):
        cut = tmp_path / "store"
        shutil.copytree(run / "store", cut)
        for case in store.ids():
            mask = read_volume(cut / case / "fixed_mask.nii.gz")
            mask.data[:16] = 0
            write_volume(cut / case / "fixed_mask.nii.gz", mask)
        options = SETS["learn2reg-abdomen-mr-ct"]
        means = [
            mean(measure_run(CaseStore(cut), run / "identity", ["dice"], method="m", seed=0, options=o), "dice")
            for o in ({}, options)
        ]
        assert means[0] != pytest.approx(means[1], abs=1e-3)


class TestTable:
    ROWS = (
        Row("toy", "syn-rbg", 0, "p1", 3, "", "gc", 0.1 + 0.2),
        Row("toy", "syn-rbg", 0, "p1", None, "hip_bones", "dice", 1 / 3),
        Row("toy", "syn-rbg", 0, "", None, "", "kid_random", -1.5e-05),
    )

    def test_comes_back_to_the_last_digit(self, tmp_path):
        write_metrics(tmp_path / "m" / "seed0.tsv", self.ROWS)
        assert read_metrics(tmp_path / "m" / "seed0.tsv") == list(self.ROWS)

    def test_as_text(self, tmp_path):
        write_metrics(tmp_path / "t.tsv", self.ROWS[:1])
        assert (tmp_path / "t.tsv").read_text() == (
            "dataset\tmethod\tseed\tcase\tslice\tstructure\tmetric\tvalue\n"
            "toy\tsyn-rbg\t0\tp1\t3\t\tgc\t0.30000000000000004\n"
        )

    def test_broken_files(self, tmp_path):
        write_metrics(tmp_path / "t.tsv", self.ROWS)
        text = (tmp_path / "t.tsv").read_text()
        (tmp_path / "t.tsv").write_text(text.replace("0.30000000000000004", "high"))
        with pytest.raises(DataError, match=r"t\.tsv, line 2 can't be read .*: measure again"):
            read_metrics(tmp_path / "t.tsv")
        (tmp_path / "t.tsv").write_text("a\tb\n")
        with pytest.raises(DataError, match=r"has the columns \['a', 'b'\]"):
            read_metrics(tmp_path / "t.tsv")
        with pytest.raises(DataError, match="does not exist"):
            read_metrics(tmp_path / "none.tsv")


class TestBadInput:
    @pytest.mark.parametrize(
        ("names", "more", "error", "message"),
        [
            (["hd95"], {}, ConfigError, "no measure 'hd95': did you mean 'hd95_mm'"),
            (["gc"], {"options": {"gc": {"threshold": 3}}}, ConfigError, "no option 'threshold'; its options are: thr"),
            (["gc"], {"options": {"ssmi": {}}}, ConfigError, "did you mean 'ssim'"),
            (["gc"], {"cases": ["p9"]}, ConfigError, "has no case 'p9'; it has: p1, p2, p3"),
            (["gc"], {"splits": ["train"]}, DataError, "no cases in train"),
            (["fid_random"], {"features": FeatureSource("pretrained")}, ConfigError, "needs random features"),
        ],
    )
    def test_questions(self, run, store, names, more, error, message):
        with pytest.raises(error, match=message):
            measure_run(store, run / "identity", names, method="m", seed=0, **more)

    def test_missing_alignments(self, store, tmp_path):
        with pytest.raises(DataError, match=r"aligned images of 3 of 3 cases \(p1, p2, p3\)"):
            measure_run(store, tmp_path, ["gc"], method="m", seed=0)

    def test_another_grid(self, store, tmp_path):
        other = axis_aligned((36, 32, 6), (2.0, 2.0, 3.1))
        for case in store.ids():
            write_volume(tmp_path / case / "image.nii.gz", Volume(np.zeros(GRID.shape), other.affine))
        with pytest.raises(DataError, match="does not lie on the grid of the fixed image: align case p1 again"):
            measure_run(store, tmp_path, ["gc"], method="m", seed=0)

    def test_not_finite(self, store, tmp_path):
        data = np.zeros(GRID.shape)
        data[3, 3, 3] = np.nan
        for case in store.ids():
            write_volume(tmp_path / case / "image.nii.gz", Volume(data, GRID.affine))
        with pytest.raises(DataError, match="not finite: the alignment of case p1 failed"):
            measure_run(store, tmp_path, ["gc"], method="m", seed=0)


class TestRegistry:
    def test_every_function_exists_and_takes_its_options(self):
        import inspect

        for m in MEASURES.values():
            parameters = list(inspect.signature(m.load()).parameters)
            given = {"set": 3}.get(m.scope, 2 if m.features else 1)
            assert parameters[given:] == list(m.options), m.name

    def test_random_variants_are_labelled(self):
        assert measure_by_name("fid_random").label == "FID (random features)"
        with pytest.raises(ConfigError, match="no measure 'gc_random'"):
            measure_by_name("gc_random")

    def test_importing_it_loads_nothing_heavy(self):
        heavy = "torch", "cv2", "monai", "pandas", "skimage", "SimpleITK", "matplotlib", "scipy", "torchmetrics"
        code = f"import sys, modalign.metrics; print([m for m in {heavy!r} if m in sys.modules])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"


def test_scores_fall_with_misalignment(run, store, tmp_path):
    """GC and NMI of the true image, shifted more and more, fall: they measure alignment at all."""
    for name in ("gc", "nmi"):
        scores = []
        for shift in (0, 1, 3):
            for case in store.ids():
                truth = store.load(case, ["fixed", "moving", "true_image"]).true_image
                moved = ndi.shift(truth.data, (shift, 0, 0), order=0, mode="nearest")
                write_volume(tmp_path / case / "image.nii.gz", truth.like(moved))
            scores.append(mean(measure_run(store, tmp_path, [name], method="m", seed=0), name))
        assert scores[0] > scores[1] > scores[2], name


@pytest.mark.real
def test_structure_measures_fall_with_misalignment_on_real_scans(real_scans):
    """On a registered T1 and T2 of one patient, GC and NMI fall step by step as the T2 is shifted."""
    from modalign.metrics.information import normalized_mutual_information
    from modalign.metrics.pair import to_uint8

    folder = real_scans / "ms_mni"
    images = []
    for name in ("T1", "T2"):
        data = read_volume(folder / f"patient07_{name}.nii.gz").data
        images.append(to_uint8(data, (0.0, float(np.percentile(data, 99.5)))))
    depth = images[0].shape[2]
    for score in (normalized_mutual_information, lambda a, b: gradient_correlation(a, b, (170, 190), (170, 190))):
        means = []
        for shift in (0, 2, 6):
            moved = np.roll(images[1], shift, axis=0)
            slices = range(depth // 3, 2 * depth // 3, 4)
            means.append(np.mean([score(images[0][:, :, z], moved[:, :, z]) for z in slices]))
        assert means[0] > 1.1 * means[1]
        assert means[1] > means[2]
