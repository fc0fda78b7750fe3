"""How much memory and processor time a job took."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modalign.preloaded import imported


def peak_memory_mb(device: str = "cpu") -> float:
    """Peak memory of this job so far in MB: what :func:`gpu_memory_mb` says for ``cuda``, otherwise resident memory of
    its process and of the largest program that it has started.

    Python waits while a program such as reg_f3d runs, so both are in memory at a time; where they peak at different
    times the value is a little too large. The kernel never resets this mark: it belongs to a whole job, not to the
    case that comes last.
    """
    on_gpu = gpu_memory_mb(device)
    return _resident_mb(resource.RUSAGE_SELF) + peak_memory_of_children_mb() if on_gpu is None else on_gpu


def reset_gpu_peak() -> None:
    """Forget the GPU's peak memory, so that :func:`gpu_memory_mb` speaks of what comes after."""
    torch = _torch_with_gpu()
    if torch is not None:
        torch.cuda.reset_peak_memory_stats()


def gpu_memory_mb(device: str) -> float | None:
    """Peak memory in MB that PyTorch has allocated on the GPU since :func:`reset_gpu_peak`; None on a CPU."""
    torch = _torch_with_gpu()
    if torch is None or not device.startswith("cuda"):
        return None
    return torch.cuda.max_memory_allocated() / 1e6


def _torch_with_gpu() -> Any:
    # Only a method that has imported torch can have used it.
    torch = sys.modules["torch"] if imported("torch") else None
    return torch if torch is not None and torch.cuda.is_available() else None


def peak_memory_of_children_mb() -> float:
    """Peak resident memory of the largest ended child process in MB."""
    return _resident_mb(resource.RUSAGE_CHILDREN)


def total_memory_mb() -> float:
    """What this process may have in MB: the machine's memory, or the lowest limit of the control groups that it is in.

    A cluster's scheduler puts every job into a group of its own.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    for path in _limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")):
        try:
            total = min(total, int(path.read_text()) / 1e6)
        except (OSError, ValueError):
            continue
    return total


def _limits(membership: Path, root: Path) -> Iterator[Path]:
    """The files with the memory limits of the control groups in `membership`, and of all groups around them.

    A line is ``0::/path`` (version 2) or ``5:memory:/path`` (version 1).
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/", "0:memory:/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = Path(path.lstrip("/"))
        for place in (group, *group.parents):
            yield mount / place / name


def _resident_mb(who: int) -> float:
    peak = resource.getrusage(who).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def largest_process_mb() -> float:
    """Peak resident memory in MB of this process or of a child that it has waited for, whichever had more."""
    return max(_resident_mb(resource.RUSAGE_SELF), peak_memory_of_children_mb())


def processor_seconds() -> float:
    """Seconds of processor time, user and system, of this process and of the children that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
