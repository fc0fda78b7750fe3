"""Where a report's numbers come from: versions, seeds, data, devices, time."""

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from modalign import __version__
from modalign.report.page_plan import ReportPlan, planned

PACKAGES = ("numpy", "pandas", "matplotlib")
"""What tables and figures are made with."""


@dataclass(frozen=True)
class Job:
    """One benchmarked job: its rule, its name, seconds of wall time and of CPU time, and peak memory in MB."""

    rule: str
    name: str
    seconds: float
    cpu_seconds: float
    memory_mb: float


def versions() -> dict[str, str]:
    """Versions of what tables, figures and the report are made with, as installed here."""
    found = {"modalign": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def versions_of_runs(results: Path, plan: ReportPlan | None = None) -> dict[str, dict[str, list[str]]]:
    """What the methods were trained and run with: for each package its versions, and the methods that had imported it.

    They come from the status files of the plan's runs, for with conda every job has an environment of its own.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for path, status in _statuses(results, plan):
        method = path.relative_to(results).parts[2]
        own = {"modalign": status.get("modalign"), "Python": status.get("python"), **status.get("packages", {})}
        for name, number in own.items():
            if number:
                methods = found.setdefault(name, {}).setdefault(str(number), [])
                if method not in methods:
                    methods.append(method)
    return found


def jobs(results: Path, plan: ReportPlan | None = None) -> list[Job]:
    """What every job of the plan took; one that was repeated counts with the sum of its time.

    Wall time is Snakemake's. Processor time and memory are what the job's log says at its end; Snakemake's samples,
    which miss short jobs and forks of a launcher, stand in for logs that are gone.
    """
    found = []
    for path in sorted(results.glob("benchmarks/*/*.jsonl")):
        rule, name = path.parent.name, path.name.removesuffix(".jsonl")
        if not planned(plan, rule, name):
            continue
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if lines:
            cpu, memory = _used(results / "logs" / rule / f"{name}.log") or (
                sum(_number(line, "cpu_time") for line in lines),
                max(_number(line, "max_rss") for line in lines),
            )
            found.append(Job(rule, name, sum(_number(line, "s") for line in lines), cpu, memory))
    return found


def _used(log: Path) -> tuple[float, float] | None:
    """Seconds of processor time and MB of memory that a job's log names."""
    if not log.exists():
        return None
    text = log.read_text(encoding="utf-8", errors="replace")
    said = re.search(r"used ([\d.]+) s of processor time, ([\d.]+) MB", text)
    return (float(said[1]), float(said[2])) if said else None


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


def machines(results: Path, plan: ReportPlan | None = None) -> dict[str, set[str]]:
    """Device and machine of all alignments and trainings of the plan, as their status files say."""
    found: dict[str, set[str]] = {"device": set(), "machine": set()}
    for _, status in _statuses(results, plan):
        for key, values in found.items():
            if status.get(key):
                values.add(str(status[key]))
    return found


def _statuses(results: Path, plan: ReportPlan | None) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The status files of all alignments and trainings of the plan."""
    for pattern, rule in (
        ("aligned/*/*/seed*/run-*.json", "align_cases"),
        ("models/*/*/seed*/train.json", "train_method"),
    ):
        for path in sorted(results.glob(pattern)):
            names = [*path.relative_to(results).parts[1:4]]
            shard = [path.stem.removeprefix("run-")] if rule == "align_cases" else []
            if planned(plan, rule, *names, *shard):
                yield path, json.loads(path.read_text(encoding="utf-8"))
