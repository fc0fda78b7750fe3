"""Metrics files as one value per patient, method and measure: what figures show."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modalign.files import read_json
from modalign.metrics import Measure, measure_by_name
from modalign.metrics.table import Row, read_metrics

UNALIGNED = "identity"
"""The variant that leaves the scans as they are; it comes first everywhere, in grey."""


@dataclass(frozen=True)
class Values:
    """The values of one data set.

    Attributes:
        dataset: its name.
        methods: variants, those that failed included, the unaligned reference first, the others in alphabetical order.
        per_case: by (method, metric), one value per case.
        per_set: by (method, metric), the value of measures that have one for the whole set, such as FID.
    """

    dataset: str
    methods: tuple[str, ...]
    per_case: Mapping[tuple[str, str], Mapping[str, float]]
    per_set: Mapping[tuple[str, str], float]

    def metrics(self) -> list[str]:
        """The metrics that any method has, in alphabetical order."""
        return sorted({metric for _, metric in (*self.per_case, *self.per_set)})

    def cases(self) -> list[str]:
        """All cases, in alphabetical order."""
        return sorted({case for values in self.per_case.values() for case in values})


def read_values(paths: Iterable[Path], cases: Iterable[str] | None = None) -> Values:
    """Average metrics files of one data set down to one value per case.

    The order of averages is that of :func:`modalign.statistics.samples`: over seeds, then over structures, then over
    slices.

    Args:
        paths: metrics files, any number of methods and seeds.
        cases: the cases that count; None for all.

    Raises:
        DataError: a file is missing or broken.
    """
    paths = list(paths)
    wanted = None if cases is None else {*cases, ""}
    rows = [row for path in paths for row in read_metrics(path) if wanted is None or row.case in wanted]
    of_method: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if np.isfinite(row.value):
            of_method.setdefault((row.method, row.metric), []).append(row)
    per_case, per_set = {}, {}
    for key, group in of_method.items():
        values = _by_case(group)
        if "" in values:
            per_set[key] = values.pop("")
        if values:
            per_case[key] = values
    methods = {row.method for row in rows} | {method for path in paths if (method := _noted_method(path))}
    return Values(rows[0].dataset if rows else "", in_order(methods), per_case, per_set)


def _noted_method(path: Path) -> str:
    """The method that the notes beside a metrics file name; a method that failed has no rows that would."""
    notes = path.with_suffix(".json")
    return str(read_json(notes)["method"]) if notes.is_file() else ""


def in_order(methods: Iterable[str]) -> tuple[str, ...]:
    """The unaligned reference first, the others in alphabetical order."""
    return tuple(sorted(methods, key=lambda name: (name != UNALIGNED, name)))


def known_measure(metric: str) -> Measure | None:
    """The measure behind a metric column, or None for what isn't one, such as seconds."""
    from modalign.errors import ConfigError

    try:
        return measure_by_name(metric)
    except ConfigError:
        return None


def _by_case(rows: Iterable[Row]) -> dict[str, float]:
    over_seeds = _means(((row.case, row.slice, row.structure), row.value) for row in rows)
    over_structures = _means(((case, z), value) for (case, z, _), value in over_seeds.items())
    return _means((case, value) for (case, _), value in over_structures.items())


def _means(pairs: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    groups: dict[Any, list[float]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return {key: sum(values) / len(values) for key, values in groups.items()}
