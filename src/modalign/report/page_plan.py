"""What a report is about: the run's papers, tables, data sets, methods and configuration, as one JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalign.errors import DataError
from modalign.files import read_json

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
    """

    papers: tuple[str, ...]
    tables: tuple[tuple[str, int], ...]
    datasets: tuple[str, ...]
    methods: Mapping[str, Mapping[str, Any]]
    cells: frozenset[tuple[str, str]]
    config: Mapping[str, Any]


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
    }


def read_plan(path: Path) -> ReportPlan:
    """Read what :func:`describe_plan` describes.

    Raises:
        DataError: an entry is missing.
        ModalignError: the file is missing or not JSON.
    """
    content = read_json(path)
    missing = [key for key in ReportPlan.__dataclass_fields__ if key not in content]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}: write it with describe_plan")
    return ReportPlan(
        tuple(content["papers"]),
        tuple((paper, int(number)) for paper, number in content["tables"]),
        tuple(content["datasets"]),
        content["methods"],
        frozenset((dataset, method) for dataset, method in content["cells"]),
        content["config"],
    )
