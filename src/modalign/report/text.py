"""How numbers are written in tables, whatever the format."""

import math

from modalign.report.result import BlockResult, Cell, ColumnResult

LETTERS = {"p<0.001": "**", "p<0.05": "*", "n.s.": "n.s.", "": ""}
"""Marks of the printed significance, the same that reproduced values carry."""
SHORT = 60


def value(cell: Cell, column: ColumnResult) -> str:
    """``mean ± sd`` with the column's digits, or why there is none."""
    if math.isnan(cell.mean):
        return shortened(cell.missing)
    digits = column.column.digits
    spread = "" if math.isnan(cell.sd) else f" ± {cell.sd:.{digits}f}"
    return f"{cell.mean:.{digits}f}{spread}"


def beats(cell: Cell) -> str:
    """``b/n``: on how many of the pairs the method is better; empty without pairs."""
    return f"{cell.beats}/{cell.pairs}" if cell.pairs else ""


def printed(cell: Cell) -> tuple[str, str]:
    """What the paper prints, and its significance mark; a dash if it prints nothing."""
    if cell.printed is None:
        return "–", ""
    spread = f" ± {cell.printed.sd}" if cell.printed.sd else ""
    return f"{cell.printed.mean}{spread}", LETTERS[cell.printed.significance]


def interval(cell: Cell, column: ColumnResult) -> str:
    """``[low, high]``, or empty."""
    if math.isnan(cell.ci_low):
        return ""
    digits = column.column.digits
    return f"[{cell.ci_low:.{digits}f}, {cell.ci_high:.{digits}f}]"


def p_values(cell: Cell) -> str:
    """``p 0.031, Holm 0.19``, or empty."""
    return "" if math.isnan(cell.p) else f"p {_p(cell.p)}, Holm {_p(cell.p_holm)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def details(cell: Cell, column: ColumnResult) -> str:
    """Everything about a cell in one line, for a tooltip."""
    if math.isnan(cell.mean):
        return cell.missing
    parts = [f"n = {cell.n}" if cell.n else "one value for the whole set"]
    if interval(cell, column):
        parts.append(f"interval {interval(cell, column)}")
    if cell.pairs:
        digits = column.column.digits
        low, high = (f"{bound:+.{digits}f}" for bound in (cell.difference_low, cell.difference_high))
        inside = "" if math.isnan(cell.difference_low) else f" [{low}, {high}]"
        parts.append(f"minus proposed {cell.difference:+.{digits}f}{inside}")
        parts.append(p_values(cell))
        parts.append(f"better on {beats(cell)}")
    if cell.warning:
        parts.append(cell.warning)
    return "; ".join(parts)


def source(column: ColumnResult) -> str:
    """Data of a column, and why nothing in it is tested."""
    return column.source + (f"; not tested: {column.untested}" if column.untested else "")


def shared_source(block: BlockResult) -> str:
    """The same, if it holds for every column of the block; else empty."""
    sources = {source(column) for column in block.columns}
    return sources.pop() if len(sources) == 1 else ""


def shortened(text: str) -> str:
    """At most :data:`SHORT` characters."""
    return text if len(text) <= SHORT else text[: SHORT - 1].rstrip() + "…"


def arrow(column: ColumnResult) -> str:
    """Which way is better; empty where nothing is."""
    return {"higher": "↑", "lower": "↓", "none": ""}[column.column.direction]


def heading(column: ColumnResult) -> str:
    """A column's label with the arrow of what is better."""
    return f"{column.label} {arrow(column)}".rstrip()


def structure_of_head(columns: tuple[ColumnResult, ...]) -> list[tuple[str, int]]:
    """Headings over several columns, each with the number of columns that it spans."""
    spans: list[tuple[str, int]] = []
    for column in columns:
        group = column.column.group
        if spans and spans[-1][0] == group:
            spans[-1] = (group, spans[-1][1] + 1)
        else:
            spans.append((group, 1))
    return spans
