"""RbG's measures on the pelvis phantoms against the length of its training, with what it has to beat.

``python benchmarks/training_length.py results docs/training_length.png`` reads what `config/training-length.yaml` made,
of each length the seeds that are there.
"""

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from modalign.files import replacing
from modalign.report.figures_style import COLOURS, GREY, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATASET = "synthrad2023-mr-ct-pelvis"
LENGTHS = {"rbg-50": 50, "rbg-100": 100, "rbg-200": 200, "rbg": 400, "rbg-800": 800, "rbg-1600": 1600}
RIVALS = {
    "identity": "unaligned reference",
    "munit": "MUNIT",
    "rbg-stage1-32": "stage 1 alone",
    "rbg-field": "reference warped by R",
}
MEASURES = {
    "gc": "gradient correlation with the input",
    "nmi": "NMI with the input",
    "mae_hu": "MAE against the true CT (HU)",
}


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of results")
    parser.add_argument("out", type=Path, help="PNG file to write")
    options = parser.parse_args()
    with figure(11, 3.6) as drawing:
        panels = drawing.subplots(1, len(MEASURES))
        for axes, (measure, label) in zip(panels, MEASURES.items(), strict=True):
            _draw(axes, means(options.results, measure), label)
        panels[0].legend(frameon=False, fontsize=8, loc="lower right")
        drawing.tight_layout()
        stream = io.BytesIO()
        drawing.savefig(stream, dpi=100)
        with replacing(options.out) as temporary:
            temporary.write_bytes(stream.getvalue())


def means(results: Path, measure: str) -> Mapping[str, list[float]]:
    """By method, the mean over patients of a measure for each seed."""
    found: dict[str, list[float]] = {}
    for method in (*LENGTHS, *RIVALS):
        for path in sorted((results / "metrics" / DATASET / method).glob("seed*.tsv")):
            table = pd.read_csv(path, sep="\t")
            values = table[table.metric == measure].groupby("case").value.mean()
            found.setdefault(method, []).append(float(values.mean()))
    return found


def _draw(axes: "Axes", values: Mapping[str, list[float]], label: str) -> None:
    lengths = {method: steps for method, steps in LENGTHS.items() if method in values}
    for method, steps in lengths.items():
        axes.plot([steps] * len(values[method]), values[method], "o", color=COLOURS[0], alpha=0.45, markersize=4)
    averages = [sum(values[method]) / len(values[method]) for method in lengths]
    axes.plot(list(lengths.values()), averages, color=COLOURS[0], label="RbG, mean and seeds")
    for (method, name), style in zip(RIVALS.items(), ("-", "--", ":", "-."), strict=True):
        if method in values:
            axes.axhline(values[method][0], color=GREY, linestyle=style, linewidth=1, label=name)
    axes.set_xscale("log")
    axes.set_xticks(list(lengths.values()), [str(steps) for steps in lengths.values()])
    axes.minorticks_off()
    axes.set_xlabel("steps of stage 2")
    axes.set_title(label)


if __name__ == "__main__":
    main()
