"""What the README promises holds: its method example runs, ranks and helps; its commands exist."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
import yaml

from modalign import methods
from modalign.cases import Case
from modalign.plan import make_plan
from modalign.runs import align_case, build_method
from modalign.volumes import Volume, axis_aligned

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example method, in a folder of methods."""
    code = re.search(r"```python\n(\"\"\"Rigid.*?)```", README, re.S).group(1)
    (tmp_path / "phase_correlation.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    return "phase_correlation"


def test_the_example_method_finds_a_shift_across_contrasts(example, rng):
    grid = axis_aligned((32, 28, 12), (2, 2, 4))
    tissue = ndi.gaussian_filter(rng.normal(size=grid.shape), 2)
    fixed = Volume(tissue.astype(np.float32), grid.affine)
    moving = Volume(np.roll(-(tissue**3) + 2 * tissue, (3, -2, 1), (0, 1, 2)).astype(np.float32), grid.affine)
    method = build_method({"method": example, "dimension": 3}, seed=0, device="cpu", threads=1)
    alignment, _ = align_case(method, Case("a", fixed, moving))
    np.testing.assert_allclose(alignment.field.mean(axis=(1, 2, 3)), [3, -2, 1], atol=0.3)


def test_the_example_is_ranked_on_every_data_set_that_fits(example):
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    added = yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.S).group(1))
    config["methods"] |= added["methods"]
    config["own_methods"] = added["own_methods"]
    plan = make_plan(config)
    fits = {name for name in plan.compared if 3 in plan.datasets[name].get("dimensions", (2, 3))}
    assert {dataset for dataset, method in plan.cells if method == "phase-correlation"} == fits
    assert "phase-correlation" in plan.table_extras("rbg", 1)


def test_the_commands_and_files_that_it_names_exist():
    rules = "\n".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")])
    assert re.search(r"^rule rbg:", rules, re.M)
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
    for path in re.findall(r"`((?:config|src|profiles)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path
    from typer.main import get_command

    from modalign.cli import app

    for verb in re.findall(r"^modalign ([\w-]+)", README, re.M):
        assert verb in get_command(app).commands, verb
