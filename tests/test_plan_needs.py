"""What isn't there is said before anything runs: scans, patients, weights, programs, a GPU."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from modalign import plan_needs
from modalign.plan import make_plan
from modalign.plan_needs import missing, missing_sources

ROOT = Path(__file__).parents[1]
DEFAULTS = yaml.safe_load((ROOT / "config.yaml").read_text())


@pytest.fixture
def config():
    return deepcopy(DEFAULTS)


def needs(config, root, jobs_here=True):
    return missing(make_plan(config), config, root, jobs_here=jobs_here)


def test_the_default_run_needs_nothing(config, tmp_path):
    assert needs(config, tmp_path) == []


def test_absent_data_are_answered_with_where_to_get_them_and_where_to_put_them(config, tmp_path):
    config["papers"] = ["locor"]
    config["archives"]["cermep"]["source"] = "data/cermep"
    config["archives"]["learn2reg-abdomen-mr-ct"]["source"] = str(tmp_path)
    (answer,) = missing_sources(make_plan(config), tmp_path)
    assert "cermep" in answer.lower()
    assert str(tmp_path / "data" / "cermep") in answer
    assert "http" in answer


def test_what_cannot_be_downloaded_is_said_before_the_run(config, tmp_path):
    config["papers"] = ["locor"]
    config["archives"]["cermep"] = {"source": "download", "accept_licence": True}
    config["archives"]["ixi"] = {"source": "download", "accept_licence": False}
    gated, unread = needs(config, tmp_path)
    assert "It is given on request" in gated or "It is given after registration" in gated
    assert "archives: {cermep: {source:" in gated
    assert "published under: " in unread
    assert "archives: {ixi: {source: download, accept_licence: true}}" in unread
    stamp = tmp_path / "results/archives/download/ixi/modalign-download.json"
    stamp.parent.mkdir(parents=True)
    stamp.write_text("{}")
    assert needs(config, tmp_path) == [gated]


@pytest.mark.parametrize(
    ("split", "needed"), [({"train": 3, "test": 4}, 7), ("cao", 15), ({"train": 0.5, "test": 0.5}, None)]
)
def test_a_phantom_with_too_few_patients_for_its_split(config, tmp_path, split, needed):
    config["papers"] = ["cao2018"]
    config["datasets"]["goldatlas-ct-mr"]["split"] = split
    config["archives"]["goldatlas"] = {"source": "phantom", "phantom": {"patients": 5}}
    answers = needs(config, tmp_path)
    assert len(answers) == (needed is not None)
    for answer in answers:
        assert f"its split needs {needed} patients, and the phantom of goldatlas has 5" in answer
        assert f"phantom: {{patients: {needed}}}" in answer


def test_pretrained_features_without_their_weights(config, tmp_path):
    config["papers"] = ["rbg"]
    config["features"] = {"kind": "pretrained"}
    alexnet, inception = needs(config, tmp_path)
    assert alexnet.startswith("features: kind pretrained needs files: {alexnet: <path>}: fetch http")
    assert "inception" in inception
    (tmp_path / "fid.pth").write_text("")
    config["features"]["files"] = {"inception": "fid.pth", "alexnet": "none.pth"}
    (answer,) = needs(config, tmp_path)
    assert answer.startswith("features: none.pth does not exist: fetch the alexnet weights from http")
    config["features"] = {"kind": "imagenet"}
    assert needs(config, tmp_path) == ["features: features 'imagenet' are not known; write 'random' or 'pretrained'"]


def test_what_jobs_on_this_machine_would_miss(config, tmp_path, monkeypatch):
    config["papers"], config["device"], config["segmentation"] = ["rbg"], "cuda", {"kind": "totalsegmentator"}
    monkeypatch.setattr(plan_needs, "has_gpu", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    no_gpu, no_program = needs(config, tmp_path)
    assert no_gpu.startswith("device: cuda is asked for, and this machine has no GPU")
    assert no_program.startswith("segmentation: kind totalsegmentator needs the program TotalSegmentator")
    assert needs(config, tmp_path, jobs_here=False) == []
    config["papers"] = ["locor"]  # segments nothing
    assert needs(config, tmp_path) == [no_gpu]
