"""Every method computes on one device alone: on a stand-in for a GPU that refuses tensors of the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from other_device import VARIANTS

SCRIPT = Path(__file__).with_name("other_device.py")
GROUPS = 6


@pytest.mark.parametrize("group", range(GROUPS))
def test_methods_work_on_another_device_as_on_the_cpu(group):
    names = list(VARIANTS)[group::GROUPS]
    finished = run(SCRIPT, *names)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count(": as on the CPU") == len(names)


def test_the_stand_in_refuses_what_a_gpu_refuses(tmp_path):
    script = tmp_path / "refuses.py"
    script.write_text(
        "import torch, other_device\n"
        "with other_device.register():\n"
        "    there = torch.zeros(2, 3, device='elsewhere')\n"
        "    print((there + 1).sum().item(), there.device.type, (there * torch.tensor(2.0)).device.type)\n"
        "    here = torch.zeros(1, 3)\n"
        "    for wrong in (lambda: there + here, lambda: torch.cat([here, there]), there.numpy):\n"
        "        try:\n"
        "            wrong()\n"
        "            print('accepted')\n"
        "        except RuntimeError as error:\n"
        "            print('refused')\n"
    )
    finished = run(script)
    assert finished.stdout.split() == ["6.0", "elsewhere", "elsewhere", *["refused"] * 3], finished.stderr[-3000:]


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parents[1] / "src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(script), *arguments], env=environment, capture_output=True, text=True, check=False
    )
