"""Small pieces of HTML: escaped text, tables that sort, images within the page."""

import base64
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

__all__ = ["Cell", "anchor", "embed_fragment", "escape", "image", "link", "table", "tag"]


@dataclass(frozen=True)
class Cell:
    """A table cell: finished HTML, the number to sort by if it isn't text, and classes."""

    html: str
    value: float | None = None
    kind: str = ""
    style: str = ""


def anchor(*words: str) -> str:
    """An id for a heading: words joined by dashes, other characters replaced."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join(words))


def link(target: str, words: str) -> str:
    """A link within the page."""
    return f'<a href="#{escape(target)}">{escape(words)}</a>'


def tag(words: str, kind: str) -> str:
    """A small label."""
    return f'<span class="tag {escape(kind)}">{escape(words)}</span>'


def table(heads: Sequence[str], rows: Iterable[Iterable[Cell | str]], caption: str = "") -> str:
    """A table that sorts by a click on its heads; the first cell of every row is its name.

    Args:
        heads: plain text.
        rows: cells, or plain text.
        caption: plain text.
    """
    lines = [f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption or heads[0])}">']
    lines.append('<table class="sortable">')
    if caption:
        lines.append(f"<caption><span>{escape(caption)}</span></caption>")
    lines.append("<thead><tr>" + "".join(f'<th scope="col">{escape(head)}</th>' for head in heads) + "</tr></thead>")
    lines.append("<tbody>")
    for first, *others in rows:
        cells = [_cell(first, "th", ' scope="row"'), *(_cell(other, "td") for other in others)]
        lines.append("<tr>" + "".join(cells) + "</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def _cell(content: Cell | str, element: str, attributes: str = "") -> str:
    cell = content if isinstance(content, Cell) else Cell(escape(content))
    if cell.kind:
        attributes += f' class="{escape(cell.kind)}"'
    if cell.style:
        attributes += f' style="{escape(cell.style)}"'
    if cell.value is not None and math.isfinite(cell.value):
        attributes += f' data-value="{float(cell.value)!r}"'
    return f"<{element}{attributes}>{cell.html}</{element}>"


def image(path: Path, alt: str, caption: str, min_width: int = 0) -> str:
    """A PNG file within the page, with its caption; `min_width` in CSS pixels keeps its lettering readable."""
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    width, height = _png_size(path)
    return (
        '<figure class="plot"><div class="scroll" tabindex="0" role="region" aria-label="figure">'
        f'<img src="data:image/png;base64,{content}" width="{width}" height="{height}" alt="{escape(alt)}" '
        f'style="min-width: {min_width}px; max-width: {width}px" loading="lazy"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def embed_fragment(fragment: str, identity: str = "") -> str:
    """A table's HTML fragment, for this page: wide tables scroll by themselves, with the caption in sight.

    Args:
        fragment: from :mod:`modalign.report.render_html`.
        identity: an id in place of the fragment's own.
    """
    if identity:
        fragment = re.sub(r'(<figure class="result" id=")[^"]*', rf"\g<1>{identity}", fragment, count=1)
    fragment = fragment.replace("<caption>", "<caption><span>").replace("</caption>", "</span></caption>")
    opening = r'<div class="scroll" tabindex="0" role="region" aria-label="table"><table class="result'
    fragment = fragment.replace('<table class="result', opening)
    return fragment.replace("</table>", "</table></div>")
