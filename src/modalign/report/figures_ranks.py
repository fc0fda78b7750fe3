"""The critical-difference diagram: mean ranks, and which methods don't differ significantly."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalign.files import read_json
from modalign.report.figures_style import FigureNote, figure, method_styles, save_figure
from modalign.report.figures_values import in_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def make_critical_difference(
    ranking: Path, dataset: str, out: Path, *, labels: Mapping[str, str] | None = None
) -> FigureNote | None:
    """Write ``ranks.png`` and ``ranks.pdf``: mean ranks on a line, groups without significant difference joined.

    Args:
        ranking: the JSON file written by :func:`modalign.evaluate.compare_job`.
        dataset: which of its rankings.
        out: folder to write into.
        labels: names of the variants, where they differ.

    Returns:
        What was written; None if there are too few cases or methods for the test (Demšar 2006), or no ranking.

    Raises:
        ModalignError: the file is missing or broken.
    """
    found = read_json(ranking).get(dataset)
    if not found or found["critical_difference"] is None:
        return None
    names = {entry["method"]: (labels or {}).get(entry["method"], entry["method"]) for entry in found["methods"]}
    groups = found["cliques"]
    height = 0.72 + 0.16 * len(groups) + 0.25 * ((len(names) + 1) // 2)
    with figure(6.4, height) as made:
        axes = made.add_axes((0.02, 0.02, 0.96, 0.96))
        _draw(axes, found, names, height)
        save_figure(made, out / "ranks")
    alike = "; ".join(", ".join(names[name] for name in group) for group in groups)
    return FigureNote(
        "ranks.png",
        "Mean ranks and critical difference",
        f"Mean rank over {found['cases']} patients on {len(found['measures'])} measures together; 1 is best. Bars join "
        "methods that don't differ significantly: mean ranks less than the critical difference of "
        f"{found['critical_difference']:.2f} apart (Nemenyi, 0.05; Friedman p {_p(found['friedman_p'])}).",
        "Mean ranks: "
        + ", ".join(f"{names[e['method']]} {e['mean_rank']:.2f}" for e in found["methods"])
        + (f". Without significant difference: {alike}." if alike else ". All differ significantly."),
        min_width=500,
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _draw(axes: "Axes", found: Mapping[str, Any], names: Mapping[str, str], height: float) -> None:
    methods = found["methods"]
    count = len(methods)
    styles = method_styles(in_order(names))
    axes.set_xlim(-0.72, 1.72)
    axes.set_ylim(height, 0)
    axes.axis("off")

    def place(rank: float) -> float:
        return (rank - 1) / max(count - 1, 1)

    line = 0.52
    axes.plot([0, 1], [line, line], color="#444444", linewidth=1)
    for rank in range(1, count + 1):
        axes.plot([place(rank)] * 2, [line - 0.06, line], color="#444444", linewidth=1)
        axes.text(place(rank), line - 0.1, str(rank), ha="center", va="bottom", fontsize=9)
    width = min(place(1 + found["critical_difference"]), 1.0)
    axes.plot([0, width], [0.14, 0.14], color="#444444", linewidth=1.6)
    # A difference wider than the axis can't be drawn to scale.
    suffix = "" if place(1 + found["critical_difference"]) <= 1 else " (wider than the axis)"
    text = f"critical difference {found['critical_difference']:.2f}{suffix}"
    axes.text(width + 0.02, 0.14, text, va="center", fontsize=9, color="#444444")
    ranks = {entry["method"]: entry["mean_rank"] for entry in methods}
    for level, group in enumerate(found["cliques"]):
        ends = [place(ranks[group[0]]) - 0.012, place(ranks[group[-1]]) + 0.012]
        axes.plot(ends, [line + 0.12 + 0.16 * level] * 2, color="#222222", linewidth=4, solid_capstyle="butt")
    below = line + 0.2 + 0.16 * len(found["cliques"])
    half = (count + 1) // 2
    for index, entry in enumerate(methods):
        left = index < half
        row = index if left else count - 1 - index
        y, x = below + 0.25 * row, place(entry["mean_rank"])
        edge = -0.06 if left else 1.06
        colour, marker = styles[entry["method"]]
        axes.plot([x, x, edge], [line, y, y], color=colour, linewidth=1)
        axes.plot([x], [line], marker=marker, color=colour, markersize=5)
        text = f"{names[entry['method']]}  {entry['mean_rank']:.2f}"
        axes.text(edge + (-0.02 if left else 0.02), y, text, ha="right" if left else "left", va="center", fontsize=10)
