"""What a method can do to itself, and what that is called in the table."""

import faulthandler
import os
import signal
import subprocess
import sys
import time

import pytest

from modalign.errors import ConfigError
from modalign.memory import _limits
from modalign.supervise import CANNOT_READ, CANNOT_WRITE, supervised


def test_a_value_comes_back():
    outcome = supervised(lambda: {"a": 1})
    assert outcome.ok
    assert outcome.value == {"a": 1}
    assert outcome.peak_memory_mb > 1


def test_an_exception_is_a_reason():
    outcome = supervised(lambda: 1 / 0)
    assert not outcome.ok
    assert outcome.reason == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in outcome.traceback


def test_a_message_for_the_user_stays_as_it_is():
    def work():
        raise ConfigError("there is no such thing")

    assert supervised(work).reason == "there is no such thing"


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max"),
        ("0::/slurm/job_7/step_0", "memory.max"),
        ("5:cpu,memory:/slurm/job_7", "memory/slurm/memory.limit_in_bytes"),
    ],
)
def test_the_memory_is_what_the_groups_around_a_job_allow(tmp_path, line, file):
    (tmp_path / "cgroup").write_text(f"3:cpu:/elsewhere\n{line}\n")
    path = tmp_path / "sys" / file
    path.parent.mkdir(parents=True)
    path.write_text("16000000000\n")
    found = [limit.read_text() for limit in _limits(tmp_path / "cgroup", tmp_path / "sys") if limit.is_file()]
    assert "16000000000\n" in found
    assert not any("elsewhere" in str(limit) for limit in _limits(tmp_path / "cgroup", tmp_path / "sys"))


@pytest.mark.parametrize("minutes", [None, 1e6])
def test_a_limit_of_years_is_one(minutes):
    assert supervised(lambda: 3, minutes=minutes).value == 3


def test_lack_of_memory_is_named():
    def work():
        raise MemoryError("for 10 GB")

    assert supervised(work).reason == "ran out of memory: for 10 GB"

    def on_gpu():
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    assert supervised(on_gpu).reason.startswith("ran out of memory: CUDA out of memory")


def test_the_time_limit_ends_the_work_and_what_it_started():
    started = time.monotonic()
    outcome = supervised(lambda: subprocess.run(["sleep", "31.4159"], check=False), minutes=0.02)
    assert outcome.reason == "ran out of time (0.02 minutes)"
    assert time.monotonic() - started < 10
    assert "31.4159" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_a_crash_is_named():
    outcome = supervised(lambda: (faulthandler.disable(), os.kill(os.getpid(), signal.SIGSEGV)))
    assert outcome.reason == "crashed (SIGSEGV)"


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
        ("os.kill(os.getppid(), signal.SIGTERM) or time.sleep(20)", 128 + signal.SIGTERM),
        ("(_ for _ in ()).throw(WriteError('no space'))", CANNOT_WRITE),
        ("open('/proc/version', 'w')", CANNOT_WRITE),
        ("(_ for _ in ()).throw(StoreError('no scan'))", CANNOT_READ),
    ],
    ids=["killed", "terminated", "cannot write", "not permitted", "cannot read"],
)
def test_what_is_not_the_methods_fault_ends_the_job(work, code):
    script = (
        "import os, signal, time\nfrom modalign.errors import StoreError, WriteError\n"
        "from modalign.supervise import supervised\n"
        f"supervised(lambda: {work})\nprint('went on')"
    )
    if "version" in work and os.geteuid() == 0:
        pytest.skip("root may write there")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == code, result.stderr
    assert "went on" not in result.stdout


def test_a_killed_job_leaves_no_child(tmp_path):
    script = (
        "import time, sys, os\nfrom modalign.supervise import supervised\n"
        "supervised(lambda: (open(sys.argv[1], 'w', 1).write(str(os.getpid()) + '\\n'), time.sleep(60)))"
    )
    pid_file = tmp_path / "pid"
    job = subprocess.Popen([sys.executable, "-c", script, str(pid_file)])
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(pid_file.read_text())
    job.kill()
    job.wait()
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid):
    try:
        state = open(f"/proc/{pid}/stat").read().split()[2]
    except OSError:
        return False
    return state != "Z"
