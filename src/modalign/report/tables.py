"""Fill a paper's table with reproduced numbers, beside the printed ones."""

import platform
import string
from collections.abc import Iterable, Mapping
from dataclasses import asdict
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
from modalign.report.table_source import Manifests, Source, Statuses, of_split
from modalign.report.table_tests import compare, mark_best, mark_proposed, summarise
from modalign.statistics import Samples


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
        statuses: ``{"ok": bool, "reason": str}`` by (data set, method variant), and where known ``"failed"``, the
            cases that failed by seed, and ``"notes"``, remarks by split and measure.
        info: ``cases.json`` by data set.
        options: statistical unit, bootstrap, methods beyond the paper.

    Raises:
        DataError: a metrics file is missing or broken.
    """
    options = options or TableOptions()
    paths = sorted({Path(path) for path in metrics})
    rows = of_split(statistics.read_metrics(paths), table, info)
    source = Source(rows, statuses, info, options)
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


def _fill(table: Table, block: Block, source: Source, marks: Mapping[int, str]) -> BlockResult:
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
    table: Table, block: Block, rows: tuple[Row, ...], column: Column, source: Source
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
            sample = summarise(cell, found, column, source.options)
            cell.warning = source.warning(cell, column, table.split)
        cells.append(cell)
        values.append(sample)
    most = max((cell.n for cell in cells), default=0)
    for cell in cells:
        cell.complete = cell.n in (0, most) and not source.lacks_cases(cell, table.split)
    proposed = rows.index(block.proposed_row)
    compare(cells, values, proposed, column, source.options)
    mark_best(rows, cells, column)
    mark_proposed(table, block, rows, cells, column)
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
    settings["tuned"] = {dataset: sorted(methods) for dataset, methods in options.tuned.items()}
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
