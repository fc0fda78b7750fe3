"""Jobs put on record what happened, whatever happened."""

import re
import textwrap

import numpy as np
import pytest

from modalign import methods
from modalign.cases import CaseStore
from modalign.errors import ConfigError, StoreError
from modalign.failures import forget_failures, list_failures
from modalign.files import read_json, write_json
from modalign.metrics.job import measure_job
from modalign.metrics.table import read_metrics
from modalign.runs import align_job, build_method, train_job
from modalign.spatial.fields import read_itk_field
from modalign.supervise import CANNOT_READ
from modalign.volumes import Volume, axis_aligned, read_volume, write_volume

HEADER = """
    from modalign.cases import Alignment
    from modalign.methods.base import Method, MethodOptions
    import numpy as np

    class Mine(Method):
        label = "Mine"
        kind = "registration"
        dimensions = frozenset({3})
        source = "this test"
"""


@pytest.fixture
def define(tmp_path, monkeypatch):
    """Add a method file for the time of a test."""
    folder = tmp_path / "methods"
    folder.mkdir()
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])

    def add(name, body):
        text = textwrap.dedent(HEADER) + textwrap.indent(textwrap.dedent(body), "    ")
        (folder / f"{name}.py").write_text(text)
        return name

    return add


@pytest.fixture
def store(tmp_path, rng):
    """Three test cases of which the moving image is the fixed one, shifted by one voxel in x."""
    folder, grid = tmp_path / "store", axis_aligned((12, 10, 4), (2, 2, 3))
    ids = ["a", "b", "c"]
    for case in ids:
        data = rng.normal(size=grid.shape).astype(np.float32)
        write_volume(folder / case / "fixed.nii.gz", Volume(data, grid.affine))
        write_volume(folder / case / "moving.nii.gz", Volume(np.roll(data, 1, axis=0), grid.affine))
        intensity = {"scale": 1.0, "offset": 0.0, "unit": "a.u."}
        record = {"case": case, "dataset": "toy", "split": "test"}
        write_json(folder / case / "case.json", record | {"fixed_intensity": intensity, "moving_intensity": intensity})
    cases = [{"case": case, "split": "test"} for case in ids]
    write_json(folder / "cases.json", {"dataset": "toy", "labels": {}, "cases": cases})
    return folder


SHIFT = """
    def align(self, case):
        field = np.zeros((3, *case.grid.shape), np.float32)
        field[0] = 1
        return Alignment(case.fixed.like(np.roll(case.moving.data, -1, axis=0)), field)
"""


def _spec(name, **more):
    return {"method": name, "dimension": 3, "options": {}, "needs": {}} | more


def test_results_and_status_of_a_good_run(define, store, tmp_path):
    align_job(_spec(define("shift", SHIFT)), store, tmp_path / "out", seed=3)
    status = read_json(tmp_path / "out" / "run-1-of-1.json")
    assert status["ok"]
    assert status["seed"] == 3
    assert [c["case"] for c in status["cases"]] == ["a", "b", "c"]
    assert all(c["seconds"] > 0 and c["gpu_memory_mb"] is None for c in status["cases"])
    assert status["packages"]["numpy"] == np.__version__
    fixed = CaseStore(store).load("b").fixed
    image = read_volume(tmp_path / "out" / "b" / "image.nii.gz")
    np.testing.assert_array_equal(image.data, fixed.data)
    field = read_itk_field(tmp_path / "out" / "b" / "field.nii.gz", fixed.grid)
    np.testing.assert_allclose(field[0], 1, atol=1e-6)


def test_peak_memory_is_that_of_the_job_with_the_programs_it_starts(define, store, tmp_path):
    hungry = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(400_000_000)'], check=True)"
    body = SHIFT.replace("def align(self, case):", f"def align(self, case):\n        {hungry}")
    peaks = {}
    for name, text in (("modest", SHIFT), ("hungry", body)):
        align_job(_spec(define(name, text)), store, tmp_path / name, seed=0)
        peaks[name] = read_json(tmp_path / name / "run-1-of-1.json")["peak_memory_mb"]
    assert 0 < peaks["modest"] < peaks["hungry"] - 350


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("import time; time.sleep(60)", "ran out of time"),
        ("import faulthandler, os; faulthandler.disable(); os.abort()", "crashed .SIGABRT."),
    ],
)
def test_an_early_end_leaves_what_was_finished(define, store, tmp_path, end, reason):
    start = f"def align(self, case):\n        if case.id == 'b':\n            {end}"
    spec, out = _spec(define("stuck", SHIFT.replace("def align(self, case):", start))), tmp_path / "out"
    align_job(_spec(define("whole", SHIFT)), store, out, seed=0)
    align_job(spec, store, out, seed=0, minutes=0.05)
    status = read_json(out / "run-1-of-1.json")
    assert [c["ok"] for c in status["cases"]] == [True, False, False]
    assert status["cases"][0]["seconds"] > 0
    assert re.match(f"2 of 3 cases failed; b: {reason}", status["error"])
    measure_job(store, [out / "run-1-of-1.json"], tmp_path / "m.tsv", method="stuck", seed=0, measures=["nmi"])
    rows = read_metrics(tmp_path / "m.tsv")
    assert {r.case for r in rows if r.metric == "nmi"} == {"a"}
    assert [(r.case, r.value) for r in rows if r.metric == "peak_memory_mb"] == [("", status["peak_memory_mb"])]


def test_shards_share_the_cases(define, store, tmp_path):
    name = define("shift2", SHIFT)
    for i in (1, 2):
        align_job(_spec(name), store, tmp_path / "out", seed=0, shard=(i, 2))
    shards = [read_json(tmp_path / "out" / f"run-{i}-of-2.json")["cases"] for i in (1, 2)]
    assert [[c["case"] for c in shard] for shard in shards] == [["a", "c"], ["b"]]


def test_one_bad_case_does_not_stop_the_others(define, store, tmp_path):
    body = SHIFT.replace("def align(self, case):", "def align(self, case):\n        assert case.id != 'b', 'bad luck'")
    align_job(_spec(define("fragile", body)), store, tmp_path / "out", seed=0)
    status = read_json(tmp_path / "out" / "run-1-of-1.json")
    assert not status["ok"]
    assert status["error"] == "1 of 3 cases failed; b: AssertionError: bad luck"
    assert [c["ok"] for c in status["cases"]] == [True, False, True]
    assert (tmp_path / "out" / "c" / "image.nii.gz").exists()


def test_a_store_that_cannot_be_read_is_not_the_methods_fault(define, store, tmp_path):
    (store / "b" / "moving.nii.gz").write_bytes(b"torn")
    with pytest.raises(SystemExit) as end:
        align_job(_spec(define("shift", SHIFT)), store, tmp_path / "out", seed=0)
    assert end.value.code == CANNOT_READ
    assert not (tmp_path / "out" / "run-1-of-1.json").exists()
    with pytest.raises(StoreError, match=r"moving\.nii\.gz can't be read [\s\S]*prepare the data set again"):
        CaseStore(store).load("b")


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({}, r'method demons builds on other methods: it needs {"translator": {"method": <a translation method>}}'),
        ({"translator": "munit"}, r"the translator of method demons is 'munit'; write"),
        ({"translator": {"method": "syn"}}, r"has to be a translation method, and syn is a registration"),
    ],
)
def test_needs_that_cannot_be_met(needs, message):
    with pytest.raises(ConfigError, match=message):
        build_method({"method": "demons", "dimension": 2, "needs": needs}, seed=0, device="cpu", threads=1)


def test_a_needed_method_works_in_the_dimension_of_the_one_that_needs_it():
    spec = {"method": "demons", "dimension": 2, "needs": {"translator": {"method": "intensity_map"}}}
    assert build_method(spec, seed=0, device="cpu", threads=1).context.needs["translator"].dimension == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            "image = case.fixed.like(case.fixed.data * np.nan); field = None",
            "the aligned image has values that are not",
        ),
        ("image = case.fixed; field = np.zeros((2, *case.grid.shape))", r"the field has shape \(2, 12, 10, 4\)"),
        ("image = type(case.fixed)(case.fixed.data[1:]); field = None", "not that of fixed"),
    ],
)
def test_impossible_results_are_refused(define, store, tmp_path, change, reason):
    body = f"\ndef align(self, case):\n    {change}\n    return Alignment(image, field)\n"
    name = define("wrong", body)
    align_job(_spec(name), store, tmp_path / "out", seed=0)
    status = read_json(tmp_path / "out" / "run-1-of-1.json")
    assert not status["ok"]
    assert all(re.search(reason, case["error"]) for case in status["cases"])


def test_a_method_sees_neither_labels_nor_truth(define, store, tmp_path):
    for case in ("a", "b", "c"):
        fixed = read_volume(store / case / "fixed.nii.gz")
        for part in ("fixed_labels", "moving_labels", "true_image"):
            write_volume(store / case / f"{part}.nii.gz", fixed)
    check = "assert case.fixed_labels is case.moving_labels is case.true_image is case.true_field is None"
    body = SHIFT.replace("def align(self, case):", f"def align(self, case):\n        {check}")
    align_job(_spec(define("blind", body)), store, tmp_path / "out", seed=0)
    assert read_json(tmp_path / "out" / "run-1-of-1.json")["ok"]


def test_a_failed_training_is_passed_on_and_can_be_forgotten(define, store, tmp_path):
    body = SHIFT + "\n    def train(self, store):\n        raise RuntimeError('no data')\n"
    name, results = define("student", body), tmp_path / "results"
    model = results / "models" / "toy" / name / "seed0"
    train_job(_spec(name), store, model, seed=0)
    status = read_json(model / "train.json")
    assert not status["ok"]
    assert status["error"] == "RuntimeError: no data"
    out = results / "aligned" / "toy" / name / "seed0"
    align_job(_spec(name), store, out, seed=0, model=model)
    assert [f.reason for f in list_failures(results)] == [
        "training failed: RuntimeError: no data",
        "RuntimeError: no data",
    ]
    made = [results / "metrics/toy" / name / "seed0.tsv", results / "papers/locor/table_1.md", results / "report.html"]
    other = results / "metrics/toy/identity/seed0.tsv"
    for path in (*made, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    forget_failures(results, list_failures(results))
    assert list_failures(results) == []
    assert [path.exists() for path in (*made, other)] == [False, False, False, True]


def test_unknown_methods_options_and_dimensions_are_answered_with_what_exists(define):
    with pytest.raises(ConfigError, match="there is no method 'nope'; the methods are: .*identity"):
        build_method(_spec("nope"), seed=0, device="cpu", threads=1)
    with pytest.raises(ConfigError, match="method identity has no option 'speed'; its options are"):
        build_method(_spec("identity", options={"speed": 2}), seed=0, device="cpu", threads=1)
    name = define("flat", SHIFT.replace("def align", "dimensions = frozenset({2})\n    def align"))
    with pytest.raises(ConfigError, match=r"method flat works in 2 dimensions, not in 3"):
        build_method(_spec(name), seed=0, device="cpu", threads=1)
