"""The workflow with `--use-conda`: each rule finds all that it needs in the environment that it names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conda_standin import install

from modalign.files import read_json

pytestmark = pytest.mark.workflow
ROOT = Path(__file__).parents[1]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
OVERLAY = {
    "papers": ["cao2018"],
    "leave_out": ["dual-modality", "single-modality-ct", "single-modality-mr", "syn-cao"],
    "own_methods": ["niftyreg-nmi"],
    "archives": {"goldatlas": {"phantom": {"patients": 2, "size": [24, 24, 12]}}},
    "datasets": {"goldatlas-ct-mr": {"split": {"train": 0, "validation": 0, "test": 2}, "measures": []}},
    "statistics": {"bootstrap": 100},
}

if not SNAKEMAKE.exists():
    pytest.skip("snakemake is not installed", allow_module_level=True)


def test_every_rule_runs_in_the_environment_that_it_names(tmp_path):
    install(tmp_path / "conda")
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY))
    # As in a shell where conda is active, and neither modalign nor its sources are.
    path = f"{tmp_path / 'conda' / 'bin'}:{SNAKEMAKE.parent}:{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    options = ["--use-conda", "--conda-prefix", tmp_path / "environments"]
    configs = ["--configfile", ROOT / "config.yaml", tmp_path / "overlay.yaml"]
    result = subprocess.run(
        [SNAKEMAKE, "--snakefile", ROOT / "Snakefile", "--directory", tmp_path, "--cores", "2", *options, *configs],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment | {"PATH": path, "CONDA_STANDIN": str(tmp_path / "conda")},
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert (tmp_path / "results" / "report.html").is_file()
    # NiftyReg comes by the script that is run once an environment is there.
    assert read_json(tmp_path / "results/aligned/goldatlas-ct-mr/niftyreg-nmi/seed0/run-1-of-1.json")["ok"]
    packages = [{p.name for p in folder.iterdir()} for folder in tmp_path.glob("environments/*_/lib/*/site-packages")]
    assert sorted("torch" in names for names in packages) == [False, True]
    assert all("pandas" in names and "snakemake" not in names for names in packages)
