"""A table in LaTeX, for booktabs and xcolor."""

import math

from modalign.report import text
from modalign.report.captions import heading
from modalign.report.result import BlockResult, Cell, ColumnResult, TableResult

_SYMBOLS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≥": r"$\geq$",
    "‖": r"$\Vert$",
    "∇": r"$\nabla$",
    "φ": r"$\phi$",
    "–": "--",
    "†": r"$\dagger$",
    "…": r"\dots{}",
    "⁻": r"$^{-}$",
    "¹": r"$^{1}$",
    "²": r"$^{2}$",
    "₂": r"$_{2}$",
}


def render(result: TableResult) -> str:
    """A ``table`` environment; every row is followed by the printed numbers, small and grey.

    The document needs ``\\usepackage{booktabs}`` and ``\\usepackage{xcolor}``.
    """
    table = result.table
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage{xcolor}",
        r"\begin{table*}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape(heading(table))}. {_caption(result)}}}",
        rf"\label{{tab:{_name(result)}}}",
    ]
    for block in result.blocks:
        lines += _tabular(block, result)
    if result.footnotes:
        lines.append(r"\par\smallskip\begin{minipage}{\linewidth}\scriptsize")
        for mark, note in result.footnotes:
            sign = rf"$^{{\mathrm{{{mark}}}}}$ " if mark else ""
            lines.append(rf"{sign}{escape(note)}\par")
        lines.append(r"\end{minipage}")
    lines.append(r"\end{table*}")
    return "\n".join(lines) + "\n"


def _name(result: TableResult) -> str:
    """What tells the table from all others of a document: comparisons have no number, but a data set each."""
    table = result.table
    if table.printed_source:
        return f"{table.paper}-{table.number}"
    return f"{table.paper}-{table.blocks[0].columns[0].dataset}"


def escape(words: str) -> str:
    """Text with LaTeX's special characters, and the symbols that tables use, written as commands."""
    return "".join(_SYMBOLS.get(letter, letter) for letter in words)


def _caption(result: TableResult) -> str:
    warning = rf"\textbf{{{escape(result.warning)}}} " if result.warning else ""
    return warning + escape(" ".join(result.caption))


def _tabular(block: BlockResult, result: TableResult) -> list[str]:
    width = len(block.columns) + 1
    lines = [r"\begin{tabular}{l" + "c" * len(block.columns) + "}", r"\toprule"]
    if block.block.label:
        lines += [rf"\multicolumn{{{width}}}{{l}}{{\textbf{{{escape(block.block.label)}}}}} \\", r"\midrule"]
    lines += _head(block)
    group = ""
    for row, cells in zip(block.rows, block.cells, strict=True):
        if row.group != group:
            group = row.group
            lines += [r"\addlinespace", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape(group)}}}}} \\"]
        label = escape(row.label)
        values = [_value(cell, column, result) for cell, column in zip(cells, block.columns, strict=True)]
        if cells[0].missing and len(set(values)) == 1:
            values = [_across(len(values), values[0])]
        lines.append(" & ".join([rf"\textbf{{{label}}}" if block.is_proposed(row) else label, *values]) + r" \\")
        if not cells[0].beyond:
            lines.append(" & ".join([_grey("printed"), *(_printed(cell, result) for cell in cells)]) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}\par\medskip"]


def _head(block: BlockResult) -> list[str]:
    lines = []
    spans = text.structure_of_head(block.columns)
    if any(group for group, _ in spans):
        groups = [rf"\multicolumn{{{n}}}{{c}}{{{escape(group)}}}" for group, n in spans]
        lines.append(" & ".join(["", *groups]) + r" \\")
        first, rules = 2, []
        for group, n in spans:
            if group:
                rules.append(rf"\cmidrule(lr){{{first}-{first + n - 1}}}")
            first += n
        lines.append("".join(rules))
    labels = [escape(text.heading(column)) for column in block.columns]
    sources = [_grey(escape(text.source(column))) for column in block.columns]
    if text.shared_source(block):
        sources = [_across(len(labels), _grey(escape(text.shared_source(block))))]
    return [*lines, " & ".join(["Method", *labels]) + r" \\", " & ".join(["", *sources]) + r" \\", r"\midrule"]


def _value(cell: Cell, column: ColumnResult, result: TableResult) -> str:
    value = escape(text.value(cell, column))
    if math.isnan(cell.mean):
        return rf"\emph{{{value}}}"
    value = {"best": rf"\textbf{{{value}}}", "second": rf"\underline{{{value}}}"}.get(cell.mark, value)
    if cell.significance:
        value += rf"\textsuperscript{{{cell.significance}}}"
    if result.table.show_beats and cell.pairs:
        value += f" {text.beats(cell)}"
    return value + (r"\textsuperscript{!}" if cell.warning else "")


def _printed(cell: Cell, result: TableResult) -> str:
    value, mark = text.printed(cell)
    if cell.printed and cell.printed.beats and result.table.show_beats:
        value += f" {cell.printed.beats}"
    raised = ",".join(part for part in (mark, cell.printed_notes) if part)
    return _grey(escape(value) + (rf"\textsuperscript{{{raised}}}" if raised else ""))


def _across(columns: int, words: str) -> str:
    return rf"\multicolumn{{{columns}}}{{c}}{{{words}}}"


def _grey(words: str) -> str:
    return rf"{{\scriptsize\color{{gray}}{words}}}"
