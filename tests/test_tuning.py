"""Tuning finds known optima on the validation cases, and sees nothing else."""

import shutil
import textwrap

import numpy as np
import pytest
from typer.testing import CliRunner

from modalign import methods
from modalign.cli import app
from modalign.errors import ConfigError, DataError
from modalign.files import read_json, write_json
from modalign.spatial.fields import write_itk_field
from modalign.tuning import Search, choose_job, trials_job
from modalign.tuning_ranges import Range, tuned_spec
from modalign.volumes import Volume, axis_aligned, write_volume

# Every trial searches in a process of its own; started from here, it needn't import PyTorch again.
optuna = pytest.importorskip("optuna")
torch = pytest.importorskip("torch")

SHIFT = """
    import numpy as np
    from pydantic import Field
    from modalign.methods._registration import by_field
    from modalign.methods.base import Method, MethodOptions

    class Shift(Method):
        label, kind, source, dimensions = "Shift", "registration", "a test", frozenset({3})

        class Options(MethodOptions):
            x: float = Field(0.5, description="voxels along x")
            y: float | None = Field(None, description="voxels along y")
            fail_on: str = Field("", description="case that fails")

        def align(self, case):
            assert case.id != self.options.fail_on, "bad luck"
            field = np.zeros((3, *case.grid.shape), np.float32)
            field[0], field[1] = self.options.x, self.options.y or 0
            return by_field(case, field)
"""
RANGES = {"x": Range(0.5, 5.0, log=True), "y": Range(-3.0, 3.0)}
TRUTH = (2.0, -1.0)


@pytest.fixture
def shift(tmp_path, monkeypatch):
    """A method that shifts by as much as it is told."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "shift_told.py").write_text(textwrap.dedent(SHIFT))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    return {"method": "shift_told", "dimension": 3, "options": {}, "needs": {}}


@pytest.fixture
def store(tmp_path, rng):
    """Two validation and two test cases whose true field is a shift by :data:`TRUTH`; that of the test is another."""
    folder, grid = tmp_path / "store", axis_aligned((8, 8, 6), (1, 1, 1))
    listed = []
    for case, split in (("a", "validation"), ("b", "validation"), ("c", "test"), ("d", "test")):
        for part in ("fixed", "moving"):
            write_volume(folder / case / f"{part}.nii.gz", Volume(rng.random(grid.shape), grid.affine))
        field = np.zeros((3, *grid.shape), np.float32)
        field[0], field[1] = TRUTH if split == "validation" else (5.0, 2.0)
        write_itk_field(folder / case / "true_field.nii.gz", field, grid)
        intensity = {"scale": 1.0, "offset": 0.0, "unit": "a.u."}
        record = {"case": case, "dataset": "toy", "split": split}
        write_json(folder / case / "case.json", record | {"fixed_intensity": intensity, "moving_intensity": intensity})
        listed.append({"case": case, "split": split})
    write_json(folder / "cases.json", {"dataset": "toy", "labels": {}, "cases": listed})
    return folder


def search_for(spec, **more):
    return Search(**{"spec": spec, "ranges": RANGES, "objective": "tre_voxel", "startup": 3, "parallel": 2} | more)


def run_trials(spec, store, out, numbers, **more):
    """The trials of batches, by default of one each."""
    for number in numbers:
        trials_job(search_for(spec, **more), store, out / f"trials-{number}.json", number=number, device="cpu")
    return [trial for number in numbers for trial in read_json(out / f"trials-{number}.json")]


def outcome(trial):
    """What a trial found, without how long it took."""
    timings = ("seconds", "peak_memory_mb")
    return {**trial, "cases": [{k: v for k, v in case.items() if k not in timings} for case in trial["cases"]]}


def test_trials_find_the_true_shift_and_its_options_align_the_test_cases(shift, store, tmp_path):
    trials = run_trials(shift, store, tmp_path / "trials", range(2), parallel=1, batch=7)
    assert [trial["trial"] for trial in trials] == list(range(14))
    chosen = tmp_path / "trials" / "chosen.json"
    choose_job([tmp_path / "trials" / f"trials-{i}.json" for i in range(2)], chosen, search_for(shift))
    found = read_json(chosen)
    assert np.hypot(found["options"]["x"] - TRUTH[0], found["options"]["y"] - TRUTH[1]) < 0.4
    assert found["score"] < 0.25 * trials[0]["score"]
    out, spec = tmp_path / "out", tmp_path / "spec.json"
    write_json(spec, shift)
    arguments = ["align-cases", store, "--spec", f"@{spec}", "--tuned", chosen, "--out", out, "--device", "cpu"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    status = read_json(out / "run-1-of-1.json")
    assert [case["case"] for case in status["cases"]] == ["c", "d"]
    assert status["method"]["options"] == found["options"]


def test_the_first_trial_is_the_method_as_it_is(shift, store, tmp_path):
    (first,) = run_trials({**shift, "options": {"x": 1.5}}, store, tmp_path / "trials", [0])
    assert first["values"]["x"] == 1.5
    assert first["score"] == pytest.approx(np.hypot(1.5 - TRUTH[0], first["options"]["y"] - TRUTH[1]), abs=1e-5)


def test_nothing_of_the_test_split_is_read(shift, store, tmp_path):
    whole = run_trials(shift, store, tmp_path / "whole", range(5))
    for case in ("c", "d"):
        shutil.rmtree(store / case)
    assert [outcome(t) for t in run_trials(shift, store, tmp_path / "without", range(5))] == [outcome(t) for t in whole]


def test_a_batch_is_made_again_with_the_same_outcome_whatever_ran_beside_it(shift, store, tmp_path):
    folder = tmp_path / "trials"
    trials = run_trials(shift, store, folder, range(6))
    for number in (4, 5):
        (folder / f"trials-{number}.json").unlink()
    assert [outcome(t) for t in run_trials(shift, store, folder, [5, 4])] == [outcome(trials[5]), outcome(trials[4])]
    assert trials[4]["values"] != trials[5]["values"]


def test_a_killed_batch_goes_on_where_it_was(shift, store, tmp_path, monkeypatch):
    from modalign import tuning

    folder, tried, once = tmp_path / "trials", [], tuning._try

    def dies_at(number):
        def trial(*args, **kwargs):
            if kwargs["number"] == number:
                raise KeyboardInterrupt
            tried.append(kwargs["number"])
            return once(*args, **kwargs)

        monkeypatch.setattr(tuning, "_try", trial)

    dies_at(6)
    whole = [run_trials(shift, store, folder / "whole", [number], batch=3)[-1] for number in range(2)]
    tried.clear()
    dies_at(5)
    run_trials(shift, store, folder, [0], batch=3)
    with pytest.raises(KeyboardInterrupt):
        run_trials(shift, store, folder, [1], batch=3)
    assert not (folder / "trials-1.json").exists()
    dies_at(None)
    assert outcome(run_trials(shift, store, folder, [1], batch=3)[-1]) == outcome(whole[1])
    assert tried == [0, 1, 2, 3, 4, 5]
    assert sorted(path.name for path in folder.glob("*.*")) == ["trials-0.json", "trials-1.json"]
    # With other code, as with other settings, what is left of a killed job is of no use.
    dies_at(5)
    (folder / "trials-1.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        run_trials(shift, store, folder, [1], batch=3)
    dies_at(None)
    tried.clear()
    run_trials(shift, store, folder, [1], batch=3, code="another")
    assert tried == [3, 4, 5]


def test_a_case_that_fails_counts_as_unaligned(shift, store, tmp_path):
    (trial,) = run_trials({**shift, "options": {"fail_on": "a", "x": 2.0}}, store, tmp_path / "trials", [0])
    scores = {case["case"]: case["score"] for case in trial["cases"]}
    assert scores["a"] == pytest.approx(np.hypot(*TRUTH), abs=1e-5)
    assert scores["b"] == pytest.approx(abs(trial["options"]["y"] - TRUTH[1]), abs=1e-5)
    assert trial["cases"][0]["error"] == "AssertionError: bad luck"


def test_what_cannot_be_tuned_says_why(shift, store, tmp_path):
    with pytest.raises(DataError, match=r"mae_hu can't be measured on validation case a of toy"):
        run_trials(shift, store, tmp_path / "trials", [0], objective="mae_hu")
    with pytest.raises(ConfigError, match="method shift_told has no option 'z'"):
        run_trials({**shift, "options": {"z": 1}}, store, tmp_path / "trials", [0])
    listed = [{"case": "c", "split": "test"}]
    write_json(store / "cases.json", {"dataset": "toy", "labels": {}, "cases": listed})
    with pytest.raises(DataError, match="has no validation cases to tune on"):
        run_trials(shift, store, tmp_path / "trials", [0])


def test_translations_that_failed_say_why_themselves(shift, store, tmp_path):
    folder = tmp_path / "translations"
    write_json(folder / "run-1-of-1.json", {"ok": False, "error": "training failed: no memory"})
    with pytest.raises(DataError, match="mae_pseudo_hu compares with translations, and these failed: training failed"):
        trials_job(
            search_for(shift, objective="mae_pseudo_hu"),
            store,
            tmp_path / "trials-0.json",
            number=0,
            pseudo=folder,
            device="cpu",
        )


def test_tuned_options_go_before_those_of_the_configuration(tmp_path):
    write_json(tmp_path / "chosen.json", {"options": {"b": 2}})
    spec = {"method": "x", "options": {"a": 1, "b": 1}}
    assert tuned_spec(spec, tmp_path / "chosen.json") == {"method": "x", "options": {"a": 1, "b": 2}}
