"""A table as an HTML fragment, to stand by itself or within a page."""

import math
from html import escape

from modalign.report import text
from modalign.report.captions import heading
from modalign.report.result import BlockResult, Cell, ColumnResult, TableResult


def render(result: TableResult) -> str:
    """A ``<figure class="result">`` with caption, table and footnotes; no style, no script.

    Cells carry ``data-value``, the number to sort by, and a tooltip with interval, p values and counts. Classes say
    what is what: ``phantom``, ``proposed``, ``reference``, ``extra``, ``best``, ``second``, ``missing``, ``printed``.
    """
    table = result.table
    name = f"{table.paper}-table-{table.number}"
    parts = [f'<figure class="result" id="{escape(name)}">']
    if result.warning:
        parts.append(f'<p class="warning" role="note"><strong>{escape(result.warning)}</strong></p>')
    for number, block in enumerate(result.blocks):
        parts += _table(block, result, heading(table) if number == 0 else "")
    sentences = " ".join(result.caption)
    parts.append(f"<figcaption>{escape(sentences)}</figcaption>")
    if result.footnotes:
        parts.append('<ul class="footnotes">')
        for mark, note in result.footnotes:
            sign = f"<sup>{escape(mark)}</sup> " if mark else ""
            parts.append(f"<li>{sign}{escape(note)}</li>")
        parts.append("</ul>")
    parts.append("</figure>")
    return "\n".join(parts) + "\n"


def _table(block: BlockResult, result: TableResult, caption: str) -> list[str]:
    phantom = " phantom" if any(column.phantom for column in block.columns) else ""
    title = escape(" – ".join(part for part in (caption, block.block.label) if part))
    source = f'<small class="source">{escape(text.shared_source(block))}</small>'
    lines = [f'<table class="result{phantom}">', f"<caption>{title} {source}</caption>"]
    lines += ["<thead>", *_head(block), "</thead>"]
    group = None
    for row, cells in zip(block.rows, block.cells, strict=True):
        if row.group != group:
            if group is not None:
                lines.append("</tbody>")
            group = row.group
            lines.append("<tbody>")
            if group:
                span = len(block.columns) + 1
                lines.append(f'<tr class="group"><th scope="rowgroup" colspan="{span}">{escape(group)}</th></tr>')
        kinds = [
            kind
            for kind, holds in (
                ("proposed", block.is_proposed(row)),
                ("reference", row.reference),
                ("extra", cells[0].beyond),
            )
            if holds
        ]
        attribute = f' class="{" ".join(kinds)}"' if kinds else ""
        lines.append(f'<tr{attribute}><th scope="row">{escape(row.label)}</th>')
        lines += [_cell(cell, column, result) for cell, column in zip(cells, block.columns, strict=True)]
        lines.append("</tr>")
    lines += ["</tbody>", "</table>"]
    return lines


def _head(block: BlockResult) -> list[str]:
    lines = []
    spans = text.structure_of_head(block.columns)
    if any(group for group, _ in spans):
        cells = [f'<th scope="colgroup" colspan="{span}">{escape(group)}</th>' for group, span in spans]
        lines.append("<tr><td></td>" + "".join(cells) + "</tr>")
    lines.append('<tr><th scope="col">Method</th>')
    shared = text.shared_source(block)
    for column in block.columns:
        arrow, direction = text.arrow(column), column.column.direction
        better = f' <span class="direction" title="{direction} is better">{arrow}</span>' if arrow else ""
        source = "" if shared else f'<br><small class="source">{escape(text.source(column))}</small>'
        lines.append(f'<th scope="col">{escape(column.label)}{better}{source}</th>')
    lines.append("</tr>")
    return lines


def _cell(cell: Cell, column: ColumnResult, result: TableResult) -> str:
    missing = math.isnan(cell.mean)
    kind = "missing" if missing else cell.mark
    attributes = f' class="{kind}"' if kind else ""
    if not missing:
        attributes += f' data-value="{cell.mean!r}"'
    attributes += f' title="{escape(text.details(cell, column))}"'
    value = escape(text.value(cell, column))
    element = {"best": "strong", "second": "u"}.get(cell.mark, "em" if missing else "span")
    shown = f'<{element} class="value">{value}</{element}>'
    if cell.significance:
        shown += f'<sup class="significance">{escape(cell.significance)}</sup>'
    if result.table.show_beats and cell.pairs:
        shown += f' <span class="beats">{text.beats(cell)}</span>'
    if cell.warning:
        shown += f' <em class="warning">{escape(text.shortened(cell.warning))}</em>'
    detail = "; ".join(part for part in (text.interval(cell, column), text.p_values(cell)) if part)
    if detail:
        shown += f'<br><small class="detail">{escape(detail)}</small>'
    if not cell.beyond:
        shown += f"<br>{_printed(cell, result)}"
    return f"<td{attributes}>{shown}</td>"


def _printed(cell: Cell, result: TableResult) -> str:
    value, mark = text.printed(cell)
    if cell.printed and cell.printed.beats and result.table.show_beats:
        value += f" {cell.printed.beats}"
    shown = escape(value)
    if mark:
        shown += f"<sup>{escape(mark)}</sup>"
    if cell.printed_notes:
        shown += f'<sup class="note">{escape(cell.printed_notes)}</sup>'
    return f'<small class="printed"><span class="hint">printed</span> {shown}</small>'
