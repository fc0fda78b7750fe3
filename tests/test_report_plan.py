"""The report shows what its plan asks for, not what earlier configurations left in the results folder."""

import json

import numpy as np
import pytest
from PIL import Image
from report_results import REAL

from modalign.files import read_json, write_json, write_text
from modalign.report import provenance
from modalign.report.page import build_report
from modalign.report.page_plan import read_plan
from modalign.report.summary import read_dataset

DROPPED = "dropped"
"""A method that an earlier configuration had."""
ENTRY = {"method": "affine", "dimension": 3, "options": {}, "needs": {}, "seeds": [0]}


def leave_run(results, method, *, reason="", package, seconds, seed=0):
    """What a method's alignments, measures and benchmark leave."""
    status = {"ok": not reason, "error": reason, "device": f"of {method}", "packages": {"torch": package}, "cases": []}
    write_json(results / "aligned" / REAL / method / f"seed{seed}" / "run-1-of-1.json", status)
    record = {"method": method, "seed": seed, "ok": not reason, "reason": reason, "cases": 2, "failed": [], "notes": {}}
    write_json(results / "metrics" / REAL / method / f"seed{seed}.json", record)
    line = json.dumps({"s": seconds, "cpu_time": seconds, "max_rss": 1.0}) + "\n"
    write_text(results / "benchmarks" / "align_cases" / f"{REAL}.{method}.seed{seed}.1-of-1.jsonl", line)


@pytest.fixture
def results(tmp_path):
    """A planned method and the translator that it needs, and beside them a method, seed and figures of earlier runs."""
    leave_run(tmp_path, "kept", package="2.1", seconds=10)
    leave_run(tmp_path, "kept", package="2.0", seconds=100, seed=7)
    leave_run(tmp_path, DROPPED, reason="out of luck", package="1.9", seconds=1000)
    for method, error in (("translator", "no memory"), (DROPPED, "no data")):
        status = {"ok": False, "error": error, "device": f"of {method}", "packages": {"torch": "2.2"}}
        write_json(tmp_path / "models" / REAL / method / "seed0" / "train.json", status)
        failed = {"ok": False, "error": f"nothing translated by {method}", "cases": []}
        write_json(tmp_path / "tuning" / REAL / "translations" / method / "run-1-of-1.json", failed)
    for number in ("3", "5"):
        path = tmp_path / "papers" / "rbg" / f"figure_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
        note = {"file": path.name, "title": "T", "caption": "C", "alt": "A", "min_width": 100}
        write_json(path.with_suffix(".json"), note)
    plan = {
        "papers": ["rbg"],
        "tables": [],
        "datasets": [REAL],
        "methods": {"kept": ENTRY},
        "cells": [[REAL, "kept"]],
        "config": {},
        "jobs": {
            "train_method": [f"{REAL}.translator.seed0"],
            "align_cases": [f"{REAL}.kept.seed0.1-of-1"],
            "measure_cases": [f"{REAL}.kept.seed0"],
            "translate_validation": [f"{REAL}.translator"],
            "make_paper_figure": ["rbg.5"],
        },
    }
    write_json(tmp_path / "plan.json", plan)
    return tmp_path


def page_of(results):
    build_report(results, results / "plan.json", results / "report.html")
    return (results / "report.html").read_text()


def test_what_is_not_planned_is_neither_shown_nor_counted(results):
    page, plan = page_of(results), read_plan(results / "plan.json")
    assert DROPPED not in page
    assert "out of luck" not in page
    assert [run.seed for run in read_dataset(results, REAL, plan).measured] == [0]
    assert [job.seconds for job in provenance.jobs(results, plan)] == [10]
    assert "<dt>Computing time</dt><dd>10 s</dd>" in page
    assert provenance.versions_of_runs(results, plan)["torch"] == {"2.1": ["kept"], "2.2": ["translator"]}
    assert provenance.machines(results, plan)["device"] == {"of kept", "of translator"}


def test_what_planned_methods_need_belongs_to_the_plan(results):
    page = page_of(results)
    assert "no memory" in page
    assert "nothing translated by translator" in page
    assert "<dt>Incomplete</dt><dd>2</dd>" in page


def test_only_planned_figures_are_embedded(results):
    page = page_of(results)
    assert "<h4>Figure 5: T</h4>" in page
    assert "Figure 3" not in page


def test_a_plan_that_lists_no_jobs_shows_everything(results):
    content = read_json(results / "plan.json")
    del content["jobs"]
    write_json(results / "plan.json", content)
    page = page_of(results)
    assert "out of luck" in page
    assert "<h4>Figure 3: T</h4>" in page
