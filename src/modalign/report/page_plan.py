"""What a report is about: the run's papers, tables, data sets, methods, jobs and configuration, as one JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalign.errors import DataError
from modalign.files import read_json
from modalign.report.planned_jobs import planned_jobs

if TYPE_CHECKING:
    from modalign.plan import Plan


@dataclass(frozen=True)
class ReportPlan:
    """What a report shows, in its order.

    Attributes:
        papers: short names.
        tables: (paper, number).
        datasets: names.
        methods: variant to its entry: ``method``, ``dimension``, ``options``, ``needs``, ``seeds``.
        cells: planned (data set, variant) pairs.
        config: the whole configuration.
        jobs: names of the run's jobs by rule, see :func:`planned_jobs`; None where a plan lists none, so that
            everything in the results folder passes for the run's.
    """

    papers: tuple[str, ...]
    tables: tuple[tuple[str, int], ...]
    datasets: tuple[str, ...]
    methods: Mapping[str, Mapping[str, Any]]
    cells: frozenset[tuple[str, str]]
    config: Mapping[str, Any]
    jobs: Mapping[str, frozenset[str]] | None = None


def planned(plan: ReportPlan | None, rule: str, *wildcards: str) -> bool:
    """Whether a job of a rule belongs to the run; without a plan, or one that lists jobs, every job does."""
    return plan is None or plan.jobs is None or ".".join(wildcards) in plan.jobs.get(rule, ())


def describe_plan(plan: "Plan", config: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`read_plan` reads, from the plan of a run: only methods that run are listed."""
    used = sorted({method for _, method in plan.cells})
    return {
        "papers": list(plan.papers),
        "tables": [list(entry) for entry in plan.tables],
        "datasets": plan.compared,
        "methods": {
            name: {
                "method": plan.variants[name].method,
                "dimension": plan.variants[name].dimension,
                "options": dict(plan.variants[name].options),
                "needs": dict(plan.variants[name].needs),
                "seeds": list(plan.variants[name].seeds),
            }
            for name in used
        },
        "cells": [list(cell) for cell in sorted(plan.cells)],
        "config": dict(config),
        "jobs": planned_jobs(plan, config),
    }


def read_plan(path: Path) -> ReportPlan:
    """Read what :func:`describe_plan` describes.

    Raises:
        DataError: an entry is missing.
        ModalignError: the file is missing or not JSON.
    """
    content = read_json(path)
    missing = [key for key in ReportPlan.__dataclass_fields__ if key not in content and key != "jobs"]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}: write it with describe_plan")
    return ReportPlan(
        tuple(content["papers"]),
        tuple((paper, int(number)) for paper, number in content["tables"]),
        tuple(content["datasets"]),
        content["methods"],
        frozenset((dataset, method) for dataset, method in content["cells"]),
        content["config"],
        {rule: frozenset(names) for rule, names in content["jobs"].items()} if "jobs" in content else None,
    )
