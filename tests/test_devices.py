"""Which GPUs of a machine a job takes, when several jobs run on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modalign import devices


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with three GPUs, and nothing said about which to see."""
    monkeypatch.setattr(devices, "gpus", lambda: [Path(f"/dev/nvidia{n}") for n in range(3)])
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "_TAKEN", [])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    monkeypatch.setattr(os, "environ", environment)
    yield environment
    for descriptor in devices._TAKEN:
        os.close(descriptor)


def taken(machine, count: int) -> list[int]:
    devices.take_gpus(count)
    return [int(number) for number in machine.pop("CUDA_VISIBLE_DEVICES").split(",")]


def test_jobs_take_different_gpus_and_share_when_all_are_taken(machine):
    assert [taken(machine, 1), taken(machine, 2)] == [[0], [1, 2]]
    shared = taken(machine, 2)
    assert len(set(shared)) == 2
    assert set(shared) < {0, 1, 2}


def test_a_job_that_wants_more_than_are_free_gets_as_many_as_it_wants(machine):
    assert taken(machine, 1) == [0]
    assert taken(machine, 1) == [1]
    found = taken(machine, 2)
    assert len(set(found)) == 2
    assert 2 in found


def test_a_gpu_is_free_again_when_its_job_ends(machine, tmp_path):
    script = (
        "import sys; from pathlib import Path; from modalign import devices\n"
        "devices.gpus = lambda: [Path(f'/dev/nvidia{n}') for n in range(3)]\n"
        "devices.take_gpus(1)\n"
        "print(devices.os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as job:
        assert job.stdout.readline() == "0\n"
        assert taken(machine, 1) == [1]
        job.communicate()
    assert taken(machine, 1) == [0]


@pytest.mark.parametrize("count", [0, 3, 4])
def test_nothing_changes_where_there_is_no_choice(machine, count):
    devices.take_gpus(count)
    assert "CUDA_VISIBLE_DEVICES" not in machine


def test_what_the_cluster_or_the_user_chose_stays(machine):
    machine["CUDA_VISIBLE_DEVICES"] = "7"
    devices.take_gpus(1)
    assert machine["CUDA_VISIBLE_DEVICES"] == "7"
