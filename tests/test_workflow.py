"""The workflow as a user runs it: graphs, refusals, kills."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from modalign.metrics.table import read_metrics
from modalign.preloaded import ADDRESS

pytestmark = pytest.mark.workflow
ROOT = Path(__file__).parents[1]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
PAPERS = ["rbg", "registformer", "locor", "imse", "cao2018"]
ENVIRONMENT = os.environ | {"PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}"}

if not SNAKEMAKE.exists():
    pytest.skip("snakemake is not installed", allow_module_level=True)


def command(folder, *arguments, configs=()):
    configs = ["--configfile", ROOT / "config.yaml", *configs]
    return [SNAKEMAKE, "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "2", *arguments, *configs]


def snakemake(folder, *arguments, configs=()):
    started = command(folder, *arguments, configs=configs)
    return subprocess.run(started, capture_output=True, text=True, env=ENVIRONMENT, check=False, cwd=ROOT)


def config_of(paper):
    return ROOT / "config" / f"{paper}.yaml"


# Locor's graph, with all of its trials, is built in test_tuning_workflow.py.
@pytest.mark.parametrize("paper", [paper for paper in PAPERS if paper != "locor"])
def test_a_paper_at_full_scale_has_a_graph_once_its_folders_are_there(paper, tmp_path):
    for entry in yaml.safe_load(config_of(paper).read_text())["archives"].values():
        (tmp_path / entry["source"]).mkdir(parents=True, exist_ok=True)
    result = snakemake(tmp_path, "--dry-run", configs=[config_of(paper)])
    assert result.returncode == 0, result.stderr
    assert "measure_cases" in result.stdout
    assert "make_phantom" not in result.stdout


def test_without_data_it_says_what_to_fetch_and_where_to_put_it(tmp_path):
    result = snakemake(tmp_path, "--dry-run", configs=[config_of("locor")])
    assert result.returncode != 0
    for name, entry in yaml.safe_load(config_of("locor").read_text())["archives"].items():
        assert name in result.stdout
        assert str(tmp_path / entry["source"]) in result.stdout
    assert "https://" in result.stdout


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"sed": 1}, "'sed' was unexpected"),
        ({"datasets": {"goldatlas-ct-mr": {"extra_methods": ["voxelmorph-mind-2d"]}}}, "takes 3D methods"),
    ],
    ids=["unknown key", "impossible combination"],
)
def test_a_wrong_configuration_is_refused_before_anything_runs(overlay, message, tmp_path):
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(overlay))
    result = snakemake(tmp_path, "--dry-run", configs=[tmp_path / "wrong.yaml"])
    assert result.returncode != 0
    assert message in " ".join(result.stdout.split())
    assert not (tmp_path / "results").exists()


def test_the_cluster_profile_plans_the_same_jobs(tmp_path):
    here, cluster = (
        snakemake(tmp_path, "--dry-run", *profile, configs=[ROOT / "config" / "smoke.yaml"])
        for profile in ((), ("--profile", str(ROOT / "profiles" / "slurm")))
    )
    assert cluster.returncode == 0, cluster.stdout
    counts = [re.findall(r"^(\w+) +(\d+)$", result.stdout, re.M) for result in (here, cluster)]
    assert counts[0] == counts[1]
    assert dict(counts[0])["align_cases"]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_jobs_on_a_cluster_ask_for_a_gpu_that_this_machine_need_not_have(device, tmp_path):
    profile = ["--profile", str(ROOT / "profiles" / "slurm"), "--config", f"device={device}"]
    result = snakemake(tmp_path, "--dry-run", *profile, configs=[ROOT / "config" / "smoke.yaml"])
    assert result.returncode == 0, result.stdout
    jobs = re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: .*?(?:gpu=(\d))", result.stdout, re.M)
    asked = {rule: gpu for rule, gpu in jobs if gpu == "1"}
    assert {"train_method", "align_cases", "train_segmenter", "segment_cases"} <= set(asked)


TINY = {
    "papers": ["cao2018"],
    "archives": {"goldatlas": {"phantom": {"patients": 2, "size": [24, 24, 8]}}},
    "datasets": {"goldatlas-ct-mr": {"split": {"train": 0, "validation": 0, "test": 2}, "measures": []}},
    "methods": {"broken": {"method": "syn", "dimension": 3, "minutes": 0.0001}},
    "statistics": {"bootstrap": 100},
}
TABLES = "results/papers/cao2018/table_1.csv"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A finished tiny run in which one method runs out of time."""
    folder = tmp_path_factory.mktemp("tiny")
    overlay = {**TINY, "own_methods": ["broken"]}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    result = snakemake(folder, TABLES, configs=[folder / "tiny.yaml"])
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def test_a_second_run_has_nothing_to_do(tiny):
    result = snakemake(tiny, TABLES, configs=[tiny / "tiny.yaml"])
    assert "Nothing to be done" in result.stderr + result.stdout


def test_another_time_limit_lets_what_is_done_stay_done(tiny, tmp_path):
    overlay = yaml.safe_load((tiny / "tiny.yaml").read_text()) | {"minutes": 90}
    (tmp_path / "longer.yaml").write_text(yaml.safe_dump(overlay))
    result = snakemake(tiny, TABLES, "--dry-run", configs=[tmp_path / "longer.yaml"])
    assert "Nothing to be done" in result.stderr + result.stdout


def test_a_failed_method_is_a_cell_with_its_reason(tiny):
    table = (tiny / TABLES).with_suffix(".md").read_text()
    assert "failed: ran out of time (0.0001 minutes)" in table
    assert "goldatlas-ct-mr/broken/seed0/run-1-of-1.json: ran out of time" in failures(tiny)


def test_what_is_forgotten_is_tried_again(tiny, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny, folder)
    assert "ran out of time" in failures(folder, "--forget")
    planned = snakemake(folder, TABLES, "--dry-run", configs=[folder / "tiny.yaml"]).stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", planned, re.M))
    assert counts == {"align_cases": "1", "measure_cases": "1", "make_table": "1", "total": "3"}


def failures(folder, *options):
    """What `modalign failures` prints."""
    return subprocess.run(
        [sys.executable, "-m", "modalign", "failures", folder / "results", *options],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")},
    ).stdout


def test_jobs_killed_in_the_middle_are_run_again_with_the_same_result(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "run", ignore=shutil.ignore_patterns("results", ".snakemake"))
    log = (tmp_path / "log").open("w")
    started = command(tmp_path / "run", TABLES, "--retries", "2", configs=[tiny / "tiny.yaml"])
    # Jobs that a launcher forks are over before they can be caught.
    alone = {name: value for name, value in ENVIRONMENT.items() if name != ADDRESS}
    run = subprocess.Popen(started, stdout=log, stderr=log, env=alone, cwd=ROOT)
    # The first of each kind, as they come.
    for verb in ("phantom", "index", "prepare", "align-cases", "measure"):
        assert _kill_first(f"modalign {verb} ", str(tmp_path / "run"), run), verb
    assert run.wait(timeout=300) == 0, (tmp_path / "log").read_text()[-3000:]
    compared = sorted((tiny / "results" / "metrics").rglob("*.tsv"))
    assert compared
    for path in compared:
        again = tmp_path / "run" / path.relative_to(tiny)
        measured = [
            [r for r in read_metrics(p) if r.metric not in ("seconds", "peak_memory_mb")] for p in (path, again)
        ]
        assert measured[0] == measured[1]


def _kill_first(text, folder, run):
    """SIGKILL the first process of the run whose command has `text`."""
    while run.poll() is None:
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                inside = str((process / "cwd").resolve()) == folder
            except OSError:
                continue
            if inside and text in line and "python" in line.split()[0]:
                time.sleep(0.2)
                try:
                    os.kill(int(process.name), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                return True
        time.sleep(0.01)
    return False
