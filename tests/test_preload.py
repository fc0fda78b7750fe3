"""Jobs that are forks of a launcher behave as processes of their own."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ellipsoid_pairs import phantom_case, write_store

from modalign.files import read_json
from modalign.preloaded import ADDRESS, JOB_ENVIRONMENT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every job loads its libraries")
PHANTOM = ["phantom", "goldatlas", "--patients", "2", "--size", "24", "24", "8"]


@pytest.fixture(scope="module")
def launched():
    """The environment of a command that runs under a launcher."""
    waiting = "import os, sys; print(os.environ['MODALIGN_PRELOADED'], flush=True); sys.stdin.read()"
    command = [sys.executable, "-m", "modalign.preload", sys.executable, "-c", waiting]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launcher:
        yield os.environ | JOB_ENVIRONMENT | {ADDRESS: launcher.stdout.readline().strip()}
        launcher.stdin.close()
        assert launcher.wait(timeout=20) == 0


@pytest.fixture(scope="module")
def alone():
    return {name: value for name, value in (os.environ | JOB_ENVIRONMENT).items() if name != ADDRESS}


def test_where_no_socket_fits_the_command_runs_without_a_launcher(tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    said = "import os; print(os.environ.get('MODALIGN_PRELOADED', 'alone'))"
    command = [sys.executable, "-m", "modalign.preload", sys.executable, "-c", said]
    environment = os.environ | {"TMPDIR": str(folder)}
    environment.pop(ADDRESS, None)
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == "alone"


def modalign(*arguments, **options):
    command = [sys.executable, "-m", "modalign", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


def start(*arguments, env):
    command = [sys.executable, "-m", "modalign", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_job_is_a_fork_that_prints_and_returns_what_it_would_alone(launched, alone):
    ours, theirs = modalign("methods", env=launched), modalign("methods", env=alone)
    assert ours.returncode == theirs.returncode == 0
    assert ours.stdout == theirs.stdout
    seconds = [float(re.search(r"used ([\d.]+) s", result.stderr)[1]) for result in (ours, theirs)]
    assert seconds[0] < seconds[1] / 2  # it has loaded nothing


def test_errors_and_exit_codes_come_back(launched, tmp_path):
    result = modalign("phantom", "nonsense", "--out", tmp_path, env=launched)
    assert result.returncode == 1
    assert "error: there is no phantom of 'nonsense'" in result.stderr
    assert modalign("methods", "--nonsense", env=launched).returncode == 2


def test_the_folder_is_that_of_the_caller(launched, tmp_path):
    assert modalign(*PHANTOM, "--out", "here", env=launched, cwd=tmp_path).returncode == 0
    assert any((tmp_path / "here").rglob("*.nii.gz"))


def test_the_same_bytes_are_written(launched, alone, tmp_path):
    for name, environment, workers in (("ours", launched, 2), ("theirs", alone, 1)):
        result = modalign(*PHANTOM, "--out", tmp_path / name, "--workers", workers, env=environment)
        assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "ours") == digests(tmp_path / "theirs")


def test_other_settings_of_libraries_start_a_process_of_its_own(launched):
    result = modalign("methods", env=launched | {"OMP_NUM_THREADS": "2"})
    assert result.returncode == 0
    alone = float(re.search(r"used ([\d.]+) s", result.stderr)[1])
    assert alone > 2 * float(re.search(r"used ([\d.]+) s", modalign("methods", env=launched).stderr)[1])


def test_without_the_launcher_of_its_environment_a_job_runs_alone(alone, tmp_path):
    assert modalign("methods", env=alone | {ADDRESS: str(tmp_path / "gone")}).returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_job_ends_with_the_process_that_asked_for_it(number, code, launched, tmp_path):
    many = ["phantom", "goldatlas", "--patients", "40", "--size", "96", "96", "40"]
    job = start(*many, "--out", tmp_path / "out", env=launched)
    deadline = time.monotonic() + 30
    while not any(tmp_path.rglob("*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    job.send_signal(number)
    assert job.wait(timeout=20) == code
    time.sleep(0.5)
    written = digests(tmp_path)
    time.sleep(1.5)
    assert digests(tmp_path) == written


def test_packages_on_record_are_those_that_the_method_uses(launched, alone, tmp_path):
    store = write_store(tmp_path, {"test": [phantom_case(0, (24, 24, 24), 2.5, 10.0)]})
    records = []
    for name, environment in (("ours", launched), ("theirs", alone)):
        spec = json.dumps({"method": "affine", "dimension": 3})
        out = tmp_path / name
        result = modalign("align-cases", store.folder, "--spec", spec, "--out", out, env=environment)
        assert result.returncode == 0, result.stderr
        records.append(read_json(out / "run-1-of-1.json")["packages"])
    assert records[0] == records[1]
    assert "SimpleITK" in records[0]
    assert "torch" not in records[0]


def test_a_job_starts_its_command_again_as_modalign():
    """Lightning starts the processes of further GPUs as ``python -m`` with the name of the main module."""
    job = (
        "import os, sys; from modalign import preload; "
        f"environment = dict(os.environ) | {{'{ADDRESS}': 'somewhere'}}; "
        "request = {'folder': '.', 'environment': environment, 'arguments': ['modalign', 'methods']}; "
        "preload._become(request, [os.dup(n) for n in range(3)]); "
        f"print(sys.modules['__main__'].__spec__.name, '{ADDRESS}' in os.environ)"
    )
    result = subprocess.run([sys.executable, "-c", job], check=False, timeout=60, capture_output=True, text=True)
    assert result.stdout.split() == ["modalign.__main__", "False"], result.stderr
    again = subprocess.run([sys.executable, "-m", "modalign.__main__", "--help"], check=False, capture_output=True)
    assert again.returncode == 0


def test_the_launcher_leaves_nothing_behind():
    command = [sys.executable, "-m", "modalign.preload", "bash", "-c", f"echo ${ADDRESS}; exit 3"]
    result = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert result.returncode == 3
    address = Path(result.stdout.strip())
    assert not address.parent.exists()
    assert str(address) not in Path("/proc/net/unix").read_text()
