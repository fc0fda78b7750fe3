"""Measuring a run: a tiny case store and alignments, written by hand, through measure_run."""

import shutil

import numpy as np
import pytest
import scipy.ndimage as ndi
from measured_run import FEATURES, GRID, mean, write_run

from modalign.cases import CaseStore
from modalign.errors import ConfigError, DataError
from modalign.metrics import MEASURES
from modalign.metrics.features import FeatureSource
from modalign.metrics.field import folding_percent, jacobian_determinant
from modalign.metrics.loading import load_pair
from modalign.metrics.measure import measure_run
from modalign.metrics.structure import gradient_correlation
from modalign.metrics.table import write_metrics
from modalign.spatial.fields import affine_field, write_itk_field
from modalign.volumes import Volume, axis_aligned, read_volume, write_volume

PLAIN = [name for name, m in MEASURES.items() if not m.features]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def store(run):
    return CaseStore(run / "store")


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
            "no mask, so the whole grid counts (1 of 3 cases)",
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
