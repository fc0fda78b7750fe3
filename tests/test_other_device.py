"""Every method as on a GPU, without one: on a device that refuses tensors of the CPU, and under Lightning Fabric."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from other_device import NAME, VARIANTS

from modalign.methods import method_class
from modalign.methods._trained import TrainedMethod

SCRIPT = Path(__file__).with_name("other_device.py")
GROUPS = 2
TRAINED = [name for name, (method, *_) in VARIANTS.items() if issubclass(method_class(method), TrainedMethod)]


@pytest.mark.parametrize("group", range(GROUPS))
def test_methods_compute_on_one_device_alone_and_find_the_same(group):
    compare(NAME, list(VARIANTS)[group::GROUPS])


def test_trainings_under_fabric_find_the_same():
    compare("32", ["rbg", "munit", "voxelmorph, NCC"])


def test_trainings_under_fabric_run_in_mixed_precision():
    compare("bf16-mixed", TRAINED)


def compare(how: str, names: list[str]) -> None:
    path = os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parents[1] / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), how, *names]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count(": done") == len(names)
