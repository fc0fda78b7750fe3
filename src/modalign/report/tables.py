"""Fill a paper's table with reproduced numbers, beside the printed ones."""

import math
import platform
import string
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modalign import __version__, statistics
from modalign.files import sha256, write_json, write_text
from modalign.metrics import RANDOM_SUFFIX
from modalign.papers import Block, Column, Row, Table, fits, printed_key, printed_value
from modalign.report.captions import caption, data_label, warning
from modalign.report.result import BEYOND, BlockResult, Cell, ColumnResult, TableOptions, TableResult
from modalign.seeds import generator
from modalign.statistics import Samples

Statuses = Mapping[tuple[str, str], Mapping[str, Any]]
Manifests = Mapping[str, Mapping[str, Any]]


def build_table(
    table: Table,
    metrics: Iterable[Path | str],
    statuses: Statuses,
    info: Manifests,
    options: TableOptions | None = None,
) -> TableResult:
    """Fill `table` from metrics files.

    A row without results says why: "not there yet" (no such method), "not run", "failed: ..." or "not measured".
    A method's value on a measure is averaged over seeds, structures and slices, in this order, down to one value per
    patient. Rows are tested against the proposed one on the units that both have; Holm's correction spans the tests of
    a column within a block, rows beyond the paper included. Measures of a whole set (FID, KID) have no value per
    patient and aren't tested.

    Args:
        table: from :mod:`modalign.papers`.
        metrics: metrics files of any methods and data sets; what the table doesn't need is ignored.
        statuses: ``{"ok": bool, "reason": str}`` by (data set, method variant).
        info: ``cases.json`` by data set.
        options: statistical unit, bootstrap, methods beyond the paper.

    Raises:
        DataError: a metrics file is missing or broken.
    """
    options = options or TableOptions()
    paths = sorted({Path(path) for path in metrics})
    rows = _of_split(statistics.read_metrics(paths), table, info)
    source = _Source(rows, statuses, info, options)
    marks = _footnote_marks(table)
    blocks = tuple(_fill(table, block, source, marks) for block in table.blocks)
    return TableResult(
        table,
        blocks,
        options,
        warning(table, blocks, info),
        caption(table, blocks, options, info),
        tuple((marks.get(i, ""), note.text) for i, note in enumerate(table.footnotes)),
        _provenance(table, paths, options, info),
    )


def write_table(result: TableResult, stem: Path | str, provenance: Mapping[str, Any] | None = None) -> None:
    """Write ``stem.md``, ``.tex``, ``.html``, ``.csv`` and, last, ``stem.provenance.json``; each whole or not at all.

    `provenance` adds to what the result knows of itself: commit, configuration, command.
    """
    from modalign.report import render_csv, render_html, render_latex, render_markdown

    stem = str(stem)
    write_text(stem + ".csv", render_csv.render(result))
    write_text(stem + ".md", render_markdown.render(result))
    write_text(stem + ".tex", render_latex.render(result))
    write_text(stem + ".html", render_html.render(result))
    write_json(stem + ".provenance.json", {**result.provenance, **(provenance or {})})


class _Source:
    """What is known about a run: metrics by data set, method and measure, statuses, manifests, options."""

    def __init__(self, rows: pd.DataFrame, statuses: Statuses, info: Manifests, options: TableOptions) -> None:
        self._groups = dict(iter(rows.groupby(["dataset", "method", "metric"], sort=False)))
        self.statuses, self.info, self.options = statuses, info, options
        self.methods = {method for _, method in statuses} if options.methods is None else options.methods
        self.measured = {(str(dataset), str(method)) for dataset, method, _ in self._groups}

    def has(self, dataset: str, metric: str) -> bool:
        return any((dataset, metric) == (d, m) for d, _, m in self._groups)

    def rows(self, dataset: str, method: str, metric: str, structure: str) -> pd.DataFrame | None:
        found = self._groups.get((dataset, method, metric))
        if found is not None and structure:
            found = found[found["structure"] == structure]
        return None if found is None or found.empty else found

    def why_incomplete(self, cell: Cell, split: str) -> str:
        status = self.statuses.get((cell.dataset, cell.method or ""), {"ok": True})
        if not status["ok"]:
            return f"incomplete: {status.get('reason') or 'some cases failed'}"
        cases = [case for case in self.info.get(cell.dataset, {"cases": []})["cases"] if case["split"] == split]
        few = self.options.unit == "patient" and 0 < cell.n < len(cases)
        return f"{cell.n} of {len(cases)} patients" if few else ""

    def why_missing(self, dataset: str, method: str | None) -> str:
        if method is None:
            return "no counterpart"
        status = self.statuses.get((dataset, method))
        if status is None and (dataset, method) not in self.measured:
            return "not run" if method in self.methods else "not there yet"
        if status is not None and not status["ok"]:
            return f"failed: {status.get('reason') or 'no reason given'}"
        return "not measured"


def _of_split(rows: pd.DataFrame, table: Table, info: Manifests) -> pd.DataFrame:
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


def _fill(table: Table, block: Block, source: _Source, marks: Mapping[int, str]) -> BlockResult:
    rows = block.rows + _extra_rows(table, block, source.options)
    columns, cells = [], []
    for column in block.columns:
        result, filled = _fill_column(table, block, rows, column, source)
        for row, cell in zip(rows, filled, strict=True):
            cell.beyond = row.group == BEYOND or not table.printed_source
            cell.printed = None if cell.beyond else printed_value(table, row, column)
            cell.printed_notes = _marks_at(table, row, column, marks) if cell.printed else ""
        columns.append(result)
        cells.append(filled)
    return BlockResult(block, rows, tuple(columns), tuple(zip(*cells, strict=True)))


def _extra_rows(table: Table, block: Block, options: TableOptions) -> tuple[Row, ...]:
    present = {row.variant(column) for row in block.rows for column in block.columns}
    if not table.extras:
        return ()
    return tuple(
        Row(label, name, BEYOND, reference=name == "identity")
        for name, label in options.extra_methods.items()
        if name not in present
    )


def _fill_column(
    table: Table, block: Block, rows: tuple[Row, ...], column: Column, source: _Source
) -> tuple[ColumnResult, list[Cell]]:
    # Either published features or random ones: values of both kinds never share a column.
    random = not source.has(column.dataset, column.metric) and source.has(column.dataset, column.metric + RANDOM_SUFFIX)
    metric = column.metric + RANDOM_SUFFIX if random else column.metric
    values: list[Samples | None] = []
    cells = []
    for row in rows:
        method = row.variant(column)
        cell, sample = Cell(column.dataset, method, metric), None
        found = source.rows(column.dataset, method, metric, column.structure) if method else None
        if not row.defined(column):
            cell.missing = "not defined"
        elif row.group == BEYOND and not fits(row.method or "", column):
            cell.missing = f"not in {column.arm.upper()}"
        elif column.dataset not in source.info and found is None:
            cell.missing = "data set not in this run"
        elif found is None:
            cell.missing = source.why_missing(column.dataset, method)
        else:
            sample = _summarise(cell, found, column, source.options)
            cell.warning = source.why_incomplete(cell, table.split)
        cells.append(cell)
        values.append(sample)
    proposed = rows.index(block.proposed_row)
    _compare(cells, values, proposed, column, source.options)
    _mark_best(rows, cells, column)
    untested = _why_untested(cells[proposed], values[proposed])
    label = f"{column.label} (random features)" if random else column.label
    manifest = source.info.get(column.dataset)
    phantom = bool(manifest) and manifest.get("source") == "phantom"  # type: ignore[union-attr]
    label_of_data = data_label(column.dataset, manifest, table.split)
    return ColumnResult(column, label, label_of_data, phantom, random, untested), cells


def _why_untested(proposed: Cell, values: Samples | None) -> str:
    if proposed.missing == "not there yet":
        return "no proposed method yet"
    if proposed.missing:
        return f"proposed method: {proposed.missing}"
    return "" if values is not None else "no value per patient"


def _summarise(cell: Cell, rows: pd.DataFrame, column: Column, options: TableOptions) -> Samples | None:
    """Write mean, spread and interval into `cell`; the values per unit come back, None for a measure of a whole set."""
    if (rows["case"] == "").all():
        per_seed = rows.groupby("seed")["value"].mean().to_numpy() * column.scale
        cell.mean, cell.seeds = float(per_seed.mean()), len(per_seed)
        cell.sd = float(per_seed.std(ddof=1)) if len(per_seed) > 1 else math.nan
        return None
    measured = statistics.samples(rows, options.unit)
    sample = replace(measured, values=measured.values * column.scale)
    cell.mean, cell.n, cell.seeds = float(sample.values.mean()), len(sample.values), sample.seeds
    cell.sd = float(sample.values.std(ddof=1)) if cell.n > 1 else math.nan
    rng = _generator(cell, column, options, "mean")
    cell.ci_low, cell.ci_high = statistics.bootstrap_interval(
        sample.values, sample.patients, rng, options.n_boot, options.confidence
    )
    return sample


def _compare(
    cells: list[Cell], values: list[Samples | None], proposed: int, column: Column, options: TableOptions
) -> None:
    reference = values[proposed]
    if reference is None:
        return
    for index, (cell, sample) in enumerate(zip(cells, values, strict=True)):
        if index == proposed or sample is None:
            continue
        mine, theirs, patients = statistics.paired(sample, reference)
        cell.pairs = len(mine)
        if not cell.pairs:
            continue
        cell.p = statistics.wilcoxon_p(mine, theirs)
        cell.smallest_p = statistics.smallest_p(int((mine != theirs).sum()))
        cell.beats, _ = statistics.beats(mine, theirs, column.direction)
        cell.difference = float((mine - theirs).mean())
        rng = _generator(cell, column, options, "difference")
        cell.difference_low, cell.difference_high = statistics.bootstrap_interval(
            mine - theirs, patients, rng, options.n_boot, options.confidence
        )
    for cell, p in zip(cells, statistics.holm([cell.p for cell in cells]), strict=True):
        cell.p_holm = float(p)
        if not math.isnan(p):
            cell.significance = "**" if p < 0.001 else "*" if p < 0.05 else "n.s."


def _mark_best(rows: tuple[Row, ...], cells: list[Cell], column: Column) -> None:
    """Mark best and second best; equal means share a mark, unaligned references get none."""
    sign = -1 if column.direction == "higher" else 1
    ranked = [cell for row, cell in zip(rows, cells, strict=True) if not row.reference and not math.isnan(cell.mean)]
    means = sorted({sign * cell.mean for cell in ranked})
    for cell in ranked:
        place = means.index(sign * cell.mean)
        if place < 2 and len(means) > 1:
            cell.mark = ("best", "second")[place]


def _generator(cell: Cell, column: Column, options: TableOptions, purpose: str) -> np.random.Generator:
    return generator(options.seed, cell.dataset, cell.method or "", cell.metric, column.structure, purpose)


def _footnote_marks(table: Table) -> dict[int, str]:
    """Letters for the footnotes that belong to certain printed numbers, by position."""
    letters = iter(string.ascii_lowercase)
    return {i: next(letters) for i, note in enumerate(table.footnotes) if note.cells}


def _marks_at(table: Table, row: Row, column: Column, marks: Mapping[int, str]) -> str:
    key = printed_key(row, column)
    return "".join(
        mark for i, mark in marks.items() if any(cell.items() <= key.items() for cell in table.footnotes[i].cells)
    )


def _provenance(table: Table, paths: list[Path], options: TableOptions, info: Manifests) -> dict[str, Any]:
    datasets = sorted({column.dataset for _, _, column in table.cells()} & set(info))
    settings = asdict(options) | {"methods": sorted(options.methods) if options.methods is not None else None}
    return {
        "paper": table.paper,
        "table": table.number,
        "options": settings,
        "data": {dataset: info[dataset].get("source", "unknown") for dataset in datasets},
        "inputs": {str(path): sha256(path) for path in paths},
        "modalign": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pandas": pd.__version__,
    }
