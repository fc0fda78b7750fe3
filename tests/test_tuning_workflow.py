"""Tuning and pseudo-CT in the workflow: trials are jobs, and what depends on them comes after."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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
    "tuning": {"methods": ["niftyreg-nmi-locor"], "trials": 5, "parallel": 2},
}

if not SNAKEMAKE.exists():
    pytest.skip("snakemake is not installed", allow_module_level=True)


def dry_run(folder, *targets):
    (folder / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY))
    started = [
        SNAKEMAKE,
        "--snakefile",
        ROOT / "Snakefile",
        "--directory",
        folder,
        "--cores",
        "2",
        "--dry-run",
        *targets,
    ]
    started += ["--configfile", ROOT / "config.yaml", folder / "overlay.yaml"]
    environment = os.environ | {"PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}"}
    result = subprocess.run(started, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


def inputs_of(text, output):
    """The input files of the job that writes a file."""
    (job,) = [
        part for part in re.split(r"\n(?=(?:local)?rule )", text) if re.search(rf"output: .*{re.escape(output)}", part)
    ]
    found = re.search(r"input: (.*)", job)
    return found[1].split(", ") if found else []


def test_every_trial_is_a_job_that_knows_the_rounds_before_it(tmp_path):
    text = dry_run(tmp_path, "tune")
    counts = dict(re.findall(r"^(\w+) +(\d+)$", text, re.M))
    assert (counts["tune_trial"], counts["choose_options"], counts["translate_validation"]) == ("5", "1", "1")
    assert "measure_cases" not in counts
    folder = "results/tuning/cermep-t1-ct/niftyreg-nmi-locor"
    # A round waits for the one before, and so for all.
    for number, known in ((0, ()), (1, ()), (2, (0, 1)), (3, (0, 1)), (4, (2, 3))):
        inputs = inputs_of(text, f"{folder}/trial-{number}.json")
        assert [name for name in inputs if "trial-" in name] == [f"{folder}/trial-{i}.json" for i in known]
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
