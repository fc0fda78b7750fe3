"""What is known about a run when a table is filled: measured values, what failed, the data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from modalign.cases import patients_of
from modalign.metrics import LOST
from modalign.papers import Column, Table
from modalign.report.figures_values import UNALIGNED
from modalign.report.result import Cell, TableOptions

Statuses = Mapping[tuple[str, str], Mapping[str, Any]]
Manifests = Mapping[str, Mapping[str, Any]]


class Source:
    """What is known about a run: metrics by data set, method and measure, statuses, manifests, options."""

    def __init__(self, rows: pd.DataFrame, statuses: Statuses, info: Manifests, options: TableOptions) -> None:
        self._groups = dict(iter(rows.groupby(["dataset", "method", "metric"], sort=False)))
        self.statuses, self.info, self.options = statuses, info, options
        self.methods = {method for _, method in statuses} if options.methods is None else options.methods
        self.measured = {(str(dataset), str(method)) for dataset, method, _ in self._groups}

    def has(self, dataset: str, metric: str) -> bool:
        """Whether any method has values of a measure."""
        return any((dataset, metric) == (d, m) for d, _, m in self._groups)

    def rows(self, dataset: str, method: str, metric: str, structure: str) -> pd.DataFrame | None:
        """The rows of a method on a measure, and on one structure if `structure` names it; None if there are none.

        With ``failed: unaligned``, cases that failed have the rows of the unaligned scans; a method that failed on all
        its cases has none.
        """
        found = self._of_structure(dataset, method, metric, structure)
        failed = self.statuses.get((dataset, method), {}).get("failed", {})
        if found is None or self.options.failed == "drop" or not failed:
            return found
        unaligned = self._of_structure(dataset, UNALIGNED, metric, structure)
        if unaligned is None:
            return found
        unaligned = unaligned[unaligned["seed"] == unaligned["seed"].min()]
        instead = [unaligned[unaligned["case"].isin(cases)].assign(seed=seed) for seed, cases in failed.items()]
        return pd.concat([found, *instead], ignore_index=True)

    def _of_structure(self, dataset: str, method: str, metric: str, structure: str) -> pd.DataFrame | None:
        found = self._groups.get((dataset, method, metric))
        if found is not None and structure:
            found = found[found["structure"] == structure]
        return None if found is None or found.empty else found

    def warning(self, cell: Cell, column: Column, split: str) -> str:
        """What is wrong with the value of a cell: cases that failed or lack it, structures that were lost."""
        parts = (self._why_incomplete(cell, split), self._fewer_values(cell, column), self._lost(cell, column, split))
        return "; ".join(part for part in parts if part)

    def lacks_cases(self, cell: Cell, split: str) -> bool:
        """Whether cases on which the method failed are left out of the value."""
        return self._failed(cell, split) and self.options.failed == "drop"

    def _failed(self, cell: Cell, split: str) -> bool:
        """Whether the method failed on a case of the split; one job may have aligned those of others, too."""
        status = self.statuses.get((cell.dataset, cell.method or ""), {"ok": True})
        named = {case for cases in status.get("failed", {}).values() for case in cases}
        return not status["ok"] and (not named or bool(named & set(self._patients(cell.dataset, split))))

    def _patients(self, dataset: str, split: str) -> dict[str, str]:
        """The patient of every case of a split."""
        return patients_of(self.info.get(dataset, {}), split)

    def _why_incomplete(self, cell: Cell, split: str) -> str:
        if self._failed(cell, split):
            how = "failed cases count as unaligned" if self.options.failed == "unaligned" else "incomplete"
            reason = self.statuses[cell.dataset, cell.method or ""].get("reason")
            return f"{how}: {reason or 'some cases failed'}"
        patients = set(self._patients(cell.dataset, split).values())
        few = self.options.unit == "patient" and 0 < cell.n < len(patients)
        return f"{cell.n} of {len(patients)} patients" if few else ""

    def _fewer_values(self, cell: Cell, column: Column) -> str:
        """How many structures or slices have a value, where the same cases have more of them with another method."""
        mine = self._parts(cell.dataset, cell.method or "", cell.metric, column.structure)
        cases = {case for case, _, _ in mine}
        every = {
            unit
            for dataset, method, metric in self._groups
            if (dataset, metric) == (cell.dataset, cell.metric)
            for unit in self._parts(dataset, method, metric, column.structure)
            if unit[0] in cases
        }
        what = "values of structures" if any(structure for _, _, structure in every) else "slices"
        return f"{len(mine)} of {len(every)} {what}" if len(mine) < len(every) else ""

    def _parts(self, dataset: str, method: str, metric: str, structure: str) -> set[tuple[str, str, str]]:
        """Case, slice and structure of the values of a method on a measure of structures or slices."""
        found = self._of_structure(dataset, method, metric, structure)
        if found is None:
            return set()
        found = found[(found["structure"] != "") | (found["slice"] != "")]
        return set(zip(found["case"], found["slice"].astype(str), found["structure"], strict=True))

    def _lost(self, cell: Cell, column: Column, split: str) -> str:
        """Which structures an alignment lost, so that their distance is made up."""
        remarks = self.statuses.get((cell.dataset, cell.method or ""), {}).get("notes", {})
        notes = remarks.get(split, {}).get(cell.metric, ())
        parts = [part for note in notes for part in note.split("; ") if LOST in part]
        parts = [part for part in parts if not column.structure or part.startswith(f"{column.structure} ")]
        return "; ".join(dict.fromkeys(parts))

    def why_missing(self, dataset: str, method: str | None) -> str:
        """Why a method has no value."""
        if method is None:
            return "no counterpart"
        status = self.statuses.get((dataset, method))
        if status is None and (dataset, method) not in self.measured:
            return "not run" if method in self.methods else "not there yet"
        if status is not None and not status["ok"]:
            return f"failed: {status.get('reason') or 'no reason given'}"
        return "not measured"


def of_split(rows: pd.DataFrame, table: Table, info: Manifests) -> pd.DataFrame:
    """The rows of the table's split; values of a whole set belong to the test split."""
    keep = np.ones(len(rows), dtype=bool)
    for dataset, manifest in info.items():
        cases = {str(case["case"]) for case in manifest["cases"] if case["split"] == table.split}
        if table.split == "test":
            cases.add("")
        keep &= (rows["dataset"] != dataset).to_numpy() | rows["case"].isin(cases).to_numpy()
    if table.split != "test":
        keep &= rows["dataset"].isin(list(info)).to_numpy()
    return rows[keep]
