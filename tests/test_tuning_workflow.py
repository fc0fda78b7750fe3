"""Tuning and pseudo-CT in the workflow: trials are jobs, and what depends on them comes after."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modalign.digest import code_digest
from modalign.plan import make_plan

pytestmark = pytest.mark.workflow
ROOT = Path(__file__).parents[1]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
OVERLAY = {
    "papers": ["locor"],
    "datasets": {
        "learn2reg-abdomen-mr-ct": {"tuned_by": None},
        "ixi-t2-pd": {"tuned_by": None},
        "cermep-t1-ct": {
            "split": {"train": 1, "validation": 1, "test": 2},
            "measures": ["tre_mm", "mae_pseudo_hu"],
            "pseudo_image": "pseudo-ct",
            "tuned_by": "mae_pseudo_hu",
        },
    },
    "methods": {"pseudo-ct": {"method": "pseudo_ct", "dimension": 2, "options": {"preset": "small"}}},
    "tuning": {"methods": ["niftyreg-nmi-locor"], "trials": 9, "batch": 2, "parallel": 2},
}

if not SNAKEMAKE.exists():
    pytest.skip("snakemake is not installed", allow_module_level=True)


def snakemake(folder, *arguments, overlay=OVERLAY):
    """What it prints; the configuration is the default one under `overlay`, a mapping or a file."""
    if not isinstance(overlay, Path):
        (folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
        overlay = folder / "overlay.yaml"
    started = [SNAKEMAKE, "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "2", *arguments]
    started += ["--configfile", ROOT / "config.yaml", overlay]
    environment = os.environ | {"PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}"}
    result = subprocess.run(started, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


def dry_run(folder, *targets, overlay=OVERLAY):
    return snakemake(folder, "--dry-run", *targets, overlay=overlay)


def counts_of(text):
    """The number of jobs of each rule."""
    return {rule: int(number) for rule, number in re.findall(r"^(\w+) +(\d+)$", text, re.M)}


def inputs_of(text, output):
    """The input files of the job that writes a file."""
    (job,) = [
        part for part in re.split(r"\n(?=(?:local)?rule )", text) if re.search(rf"output: .*{re.escape(output)}", part)
    ]
    found = re.search(r"input: (.*)", job)
    return found[1].split(", ") if found else []


def test_every_batch_of_trials_is_a_job_that_knows_the_rounds_before_it(tmp_path):
    text = dry_run(tmp_path, "tune")
    counts = dict(re.findall(r"^(\w+) +(\d+)$", text, re.M))
    assert (counts["tune_trials"], counts["choose_options"], counts["translate_validation"]) == ("5", "1", "1")
    assert "measure_cases" not in counts
    folder = "results/tuning/cermep-t1-ct/niftyreg-nmi-locor"
    # A round waits for the one before, and so for all.
    for number, known in ((0, ()), (1, ()), (2, (0, 1)), (3, (0, 1)), (4, (2, 3))):
        inputs = inputs_of(text, f"{folder}/trials-{number}.json")
        assert [name for name in inputs if "trials-" in name] == [f"{folder}/trials-{i}.json" for i in known]
        assert f"{folder}/search.json" in inputs
        assert "results/tuning/cermep-t1-ct/translations/pseudo-ct/run-1-of-1.json" in inputs


def test_tuned_methods_wait_for_their_options_and_measures_for_the_pseudo_ct(tmp_path):
    text = dry_run(tmp_path, "results/metrics/cermep-t1-ct/niftyreg-nmi-locor/seed0.tsv")
    aligned = "results/aligned/cermep-t1-ct/{}/seed0/run-1-of-1.json"
    chosen = "results/tuning/cermep-t1-ct/niftyreg-nmi-locor/chosen.json"
    assert chosen in inputs_of(text, aligned.format("niftyreg-nmi-locor"))
    measured = inputs_of(text, "results/metrics/cermep-t1-ct/niftyreg-nmi-locor/seed0.tsv")
    assert aligned.format("pseudo-ct") in measured
    itself = inputs_of(dry_run(tmp_path, "results/metrics/cermep-t1-ct/pseudo-ct/seed0.tsv"), "pseudo-ct/seed0.tsv")
    assert itself == ["results/cases/cermep-t1-ct/cases.json", aligned.format("pseudo-ct")]


def test_the_overlay_that_the_readme_names_tunes_and_the_default_run_does_not(tmp_path):
    assert "tune --configfile config.yaml config/tuning.yaml" in (ROOT / "README.md").read_text()
    counts = counts_of(dry_run(tmp_path, "tune", overlay=ROOT / "config" / "tuning.yaml"))
    # Three methods on three data sets, four trials each.
    assert (counts["choose_options"], counts["tune_trials"]) == (9, 36)
    assert "align_cases" not in counts
    default = make_plan(yaml.safe_load((ROOT / "config.yaml").read_text()))
    assert not default.tuning.cells(default.reachable)


def test_every_row_of_the_locor_paper_is_tuned_on_each_of_its_data_sets(tmp_path):
    overlay = ROOT / "config" / "locor.yaml"
    config = yaml.safe_load(overlay.read_text())
    for entry in config["archives"].values():
        (tmp_path / entry["source"]).mkdir(parents=True)
    # The whole graph of the paper at full scale, tuning first: a hundred trials, ten to a job.
    counts = counts_of(dry_run(tmp_path, "-q", "rules", overlay=overlay))
    assert counts["measure_cases"] > 0
    assert "make_phantom" not in counts
    # Six variants of Locor and seven methods to compare with, on three data sets.
    rows = 6 + 7
    assert (counts["choose_options"], counts["tune_trials"]) == (rows * 3, 10 * rows * 3)
    assert (config["tuning"]["trials"], config["tuning"]["batch"]) == (100, 10)
    assert len(config["seeds"]) == 5


TINY = {
    "papers": ["locor"],
    "archives": {"learn2reg-abdomen-mr-ct": {"phantom": {"size": [24, 24, 24], "patients": 2}}},
    "datasets": {
        "learn2reg-abdomen-mr-ct": {"split": {"train": 0, "validation": 1, "test": 1}},
        "cermep-t1-ct": {"tuned_by": None},
        "ixi-t2-pd": {"tuned_by": None},
    },
    "methods": {"niftyreg-nmi-locor": {"options": {"iterations": 3, "levels": 1}}},
    "tuning": {"methods": ["niftyreg-nmi-locor"], "trials": 2, "parallel": 2, "startup": 2},
}


def test_a_round_of_trials_ends_with_the_better_options(tmp_path):
    snakemake(tmp_path, "tune", overlay=TINY)
    folder = tmp_path / "results" / "tuning" / "learn2reg-abdomen-mr-ct" / "niftyreg-nmi-locor"
    first, second = (json.loads((folder / f"trials-{number}.json").read_text())[0] for number in (0, 1))
    assert first["options"] == {"bending_energy": 0.001, "linear_energy": 0.01}
    assert second["options"] != first["options"]
    assert all(case["ok"] for trial in (first, second) for case in trial["cases"])
    code = json.loads((folder / "search.json").read_text())["code"]
    # The search is repeated when its measure, Dice, is computed in another way, or its method aligns in another.
    modules = ("modalign.tuning", "modalign.methods.identity", "modalign.metrics.overlap", "modalign.methods.niftyreg")
    assert code == code_digest(*modules)
    chosen = json.loads((folder / "chosen.json").read_text())
    assert chosen["objective"] == "dice"
    assert chosen["best_score"] == max(first["score"], second["score"])
    assert chosen["options"] in (first["options"], second["options"])
    again = snakemake(tmp_path, "tune", "--dry-run", overlay=TINY)
    assert "tune_trials" not in counts_of(again)
