"""Which device a method runs on."""

import os
import tempfile
from pathlib import Path

from modalign.errors import ConfigError


def gpus() -> list[Path]:
    """The device files of this machine's GPUs, in the order of their numbers."""
    numbers = (file.name.removeprefix("nvidia") for file in Path("/dev").glob("nvidia[0-9]*"))
    return [Path(f"/dev/nvidia{number}") for number in sorted(int(n) for n in numbers if n.isdigit())]


def has_gpu() -> bool:
    """Whether this machine has device files of a GPU."""
    return bool(gpus())


_TAKEN: list[int] = []
"""Locked files, until this process ends."""


def take_gpus(count: int) -> None:
    """Let this process see `count` GPUs alone that no other job of this user on this machine has taken.

    Has to come before CUDA starts. Where all are taken, the job shares some. Nothing changes on a machine with one GPU,
    and where ``CUDA_VISIBLE_DEVICES`` says what to see, as under Slurm.
    """
    import fcntl

    there = gpus()
    if not 0 < count < len(there) or "CUDA_VISIBLE_DEVICES" in os.environ:
        return
    free = []
    for number, file in enumerate(there):
        lock = Path(tempfile.gettempdir()) / f"modalign-{os.getuid()}-{file.name}.lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        _TAKEN.append(descriptor)
        free.append(number)
        if len(free) == count:
            break
    others = [number for number in range(len(there)) if number not in free]
    first = os.getpid() % max(1, len(others))
    chosen = sorted([*free, *(others[first:] + others[:first])[: count - len(free)]])
    # The order of the device files; by itself, CUDA puts the fastest first.
    os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, chosen))}


def resolve_device(name: str = "auto") -> str:
    """``cpu`` or ``cuda``, from ``auto``, ``cpu`` or ``cuda``.

    Importing torch takes seconds, which a method without networks can spare: on a machine without the device files of
    a GPU, auto is decided without it.

    Raises:
        ConfigError: the name is unknown, or cuda is asked for and there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"there is no device {name!r}: write auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not has_gpu()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        message = f"device cuda is asked for, but PyTorch {torch.__version__} (built for {build}) sees no GPU"
        raise ConfigError(f"{message}. Write device: auto or cpu, or look at what nvidia-smi prints")
    return "cpu"
