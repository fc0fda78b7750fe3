"""How much memory a job took."""

import resource
import sys


def peak_memory_mb(device: str = "cpu") -> float:
    """Peak memory so far in MB: of the GPU for ``cuda``, otherwise the resident memory of this process."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return _resident_mb(resource.RUSAGE_SELF)


def peak_memory_of_children_mb() -> float:
    """Peak resident memory of the largest ended child process in MB."""
    return _resident_mb(resource.RUSAGE_CHILDREN)


def total_memory_mb() -> float:
    """Physical memory of the machine in MB, or the limit of this control group where that is lower."""
    import os
    from pathlib import Path

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text()) / 1e6)
        except (OSError, ValueError):
            continue
    return total


def _resident_mb(who: int) -> float:
    peak = resource.getrusage(who).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
