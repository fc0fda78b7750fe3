"""A table as GitHub-flavoured Markdown."""

import math
import re

from modalign.report import text
from modalign.report.captions import heading
from modalign.report.result import BlockResult, Cell, ColumnResult, TableResult


def render(result: TableResult) -> str:
    """Heading, warning, one Markdown table per block, caption and footnotes."""
    parts = [f"### {_escape(heading(result.table))}"]
    if result.warning:
        parts.append(f"> **{_escape(result.warning)}**")
    for block in result.blocks:
        if block.block.label:
            parts.append(f"**{_escape(block.block.label)}**")
        parts.append(_table(block, result))
    parts.append(_escape(" ".join(result.caption)) + " Intervals, p values and n of every cell are in the CSV file.")
    notes = [f"<sup>{mark}</sup> {_escape(note)}" if mark else _escape(note) for mark, note in result.footnotes]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _table(block: BlockResult, result: TableResult) -> str:
    shared = text.shared_source(block)
    method = f"Method<br><sub>{_escape(shared)}</sub>" if shared else "Method"
    head = [method, *(_head(column, not shared) for column in block.columns)]
    lines = ["| " + " | ".join(head) + " |", "|:---|" + "---:|" * len(block.columns)]
    group = ""
    for row, cells in zip(block.rows, block.cells, strict=True):
        if row.group != group:
            group = row.group
            lines.append(f"| *{_escape(group)}* |" + " |" * len(block.columns))
        shown = [_cell(c, column, result) for c, column in zip(cells, block.columns, strict=True)]
        label = _escape(row.label)
        lines.append("| " + " | ".join([f"**{label}**" if block.is_proposed(row) else label, *shown]) + " |")
    return "\n".join(lines)


def _head(column: ColumnResult, with_source: bool) -> str:
    group = f"{column.column.group}: " if column.column.group else ""
    label = _escape(f"{group}{text.heading(column)}")
    return f"{label}<br><sub>{_escape(text.source(column))}</sub>" if with_source else label


def _cell(cell: Cell, column: ColumnResult, result: TableResult) -> str:
    value = _escape(text.value(cell, column))
    if math.isnan(cell.mean):
        value = f"*{value}*"
    value = {"best": f"**{value}**", "second": f"<ins>{value}</ins>"}.get(cell.mark, value)
    if cell.significance:
        value += f" {_escape(cell.significance)}"
    if result.table.show_beats and cell.pairs:
        value += f" ({text.beats(cell)})"
    if cell.warning:
        value += f" *({_escape(text.shortened(cell.warning))})*"
    if cell.beyond:
        return value
    printed, mark = text.printed(cell)
    if cell.printed and cell.printed.beats and result.table.show_beats:
        printed += f" ({cell.printed.beats})"
    note = f"<sup>{cell.printed_notes}</sup>" if cell.printed_notes else ""
    return f"{value}<br><sub>printed {_escape(f'{printed} {mark}'.strip())}{note}</sub>"


def _escape(words: str) -> str:
    return re.sub(r"([\\*_`|\[\]#])", r"\\\1", words.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " "))
