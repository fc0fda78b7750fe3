"""How figures look and how they are written: colours, fonts, PNG and PDF."""

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalign.files import replacing
from modalign.report.figures_values import UNALIGNED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B4A9C")
"""Colours that colour-blind readers can tell apart (Okabe and Ito 2008, without the yellow and with a violet)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GREY = "#777777"
RED = "#D4002A"
YELLOW = "#F7E34B"
LARGEST_PNG = 200_000
"""Bytes: a page with figures of all data sets has to stay small enough to send by mail."""
DPI, LOWEST_DPI = 130, 70

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#222222",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class FigureNote:
    """A written figure.

    Attributes:
        file: name of the PNG file; a PDF of the same name lies beside it.
        title: heading.
        caption: what is to be seen, and what the numbers mean.
        alt: the same in a sentence, for readers who can't see it.
        min_width: the width in CSS pixels below which the lettering can't be read.
    """

    file: str
    title: str
    caption: str
    alt: str
    min_width: int = 520


@contextmanager
def figure(width: float, height: float) -> Iterator["Figure"]:
    """A figure of `width` x `height` inches, drawn with Agg, without any global state."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        made = Figure(figsize=(width, height))
        FigureCanvasAgg(made)
        yield made


def save_figure(made: "Figure", stem: Path) -> Path:
    """Write ``stem.png`` and ``stem.pdf``, each at once or not at all; call it within :func:`figure`.

    A PNG above :data:`LARGEST_PNG` gets a palette of 256 colours, then fewer pixels, down to :data:`LOWEST_DPI`.
    Neither file carries a date, so the same figure gives the same bytes.
    """
    with replacing(stem.with_suffix(".pdf")) as temporary:
        made.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    dpi = float(DPI)
    while True:
        content = _png(made, dpi)
        if len(content) > LARGEST_PNG:
            content = _with_palette(content)
        if len(content) <= LARGEST_PNG or dpi <= LOWEST_DPI:
            break
        dpi = max(LOWEST_DPI, 0.95 * dpi * (LARGEST_PNG / len(content)) ** 0.5)
    if len(content) > LARGEST_PNG:
        log.warning("%s.png has %d kB, the limit is %d kB", stem, len(content) // 1000, LARGEST_PNG // 1000)
    with replacing(stem.with_suffix(".png")) as temporary:
        temporary.write_bytes(content)
    return stem.with_suffix(".png")


def _png(made: "Figure", dpi: float) -> bytes:
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _with_palette(png: bytes) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    # An octree keeps rare colours; median cut, the default, turns them grey among many greys.
    few = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def method_styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every method; the unaligned reference is a grey circle."""
    others = [name for name in methods if name != UNALIGNED]
    styles = {name: (COLOURS[i % len(COLOURS)], MARKERS[1 + i % (len(MARKERS) - 1)]) for i, name in enumerate(others)}
    return {name: styles.get(name, (GREY, MARKERS[0])) for name in methods}


def better(direction: str) -> str:
    """Which way is better, in words with an arrow."""
    return {"higher": "higher is better →", "lower": "← lower is better"}.get(direction, "")


def signed(value: float) -> str:
    """A correlation with its sign, two decimals; what rounds to zero has none."""
    rounded = round(value, 2)
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def number(value: float, digits: int = 2) -> str:
    """A value in few digits; large ones without decimals."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"
