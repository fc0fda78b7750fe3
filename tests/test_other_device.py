"""Every method computes on one device alone: on a stand-in for a GPU that refuses tensors of the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from other_device import VARIANTS

SCRIPT = Path(__file__).with_name("other_device.py")
GROUPS = 2


@pytest.mark.parametrize("group", range(GROUPS))
def test_methods_work_on_another_device_as_on_the_cpu(group):
    names = list(VARIANTS)[group::GROUPS]
    path = os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parents[1] / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *names]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count(": as on the CPU") == len(names)
