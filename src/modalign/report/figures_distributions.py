"""How every measure is distributed over patients, method by method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modalign.metrics import MEASURES, RANDOM_SUFFIX
from modalign.report.figures_style import FigureNote, better, figure, method_styles, save_figure
from modalign.report.figures_values import UNALIGNED, Values, known_measure, read_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORDER = tuple(sorted(MEASURES, key=lambda name: not MEASURES[name].needs & {"true_field", "true_image"}))
"""All measures, those against the truth first."""
COLUMNS, WIDTH, ROW, HEAD = 2, 3.6, 0.27, 0.78
"""Inches: width of a diagram, height of a method's row, height of title and axis."""


def make_distributions(
    metrics: Sequence[Path],
    measures: Sequence[str] | None,
    out: Path,
    *,
    cases: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> FigureNote | None:
    """Write ``distributions.png`` and ``distributions.pdf``: one diagram per measure, one row per method.

    Points are patients (seeds, structures and slices averaged), joined by a thin line from method to method; boxes
    show quartiles and median, from four patients on. Measures of the whole set, such as FID, have a single point.

    Args:
        metrics: metrics files of one data set.
        measures: which to show, in order; with random features, ``fid`` stands for ``fid_random``. None for all.
        out: folder to write into.
        cases: the cases that count; None for all.
        labels: names of the variants, where they differ.

    Returns:
        What was written; None if none of the measures has a value.

    Raises:
        DataError: a metrics file is missing or broken.
    """
    values = read_values(metrics, cases)
    shown = _existing(values, ORDER if measures is None else measures)
    if not shown:
        return None
    names = {method: (labels or {}).get(method, method) for method in values.methods}
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    height = HEAD + ROW * len(values.methods)
    side = 0.078 * max(len(name) for name in names.values()) + 0.2
    width = side + columns * WIDTH
    with figure(width, rows * height) as made:
        for index, metric in enumerate(shown):
            row, column = divmod(index, columns)
            position = (
                (side + column * WIDTH + 0.1) / width,
                1 - (row * height + 0.28 + ROW * len(values.methods)) / (rows * height),
                (WIDTH - 0.3) / width,
                ROW * len(values.methods) / (rows * height),
            )
            _draw(made.add_axes(position), values, metric, names if column == 0 else None)
        save_figure(made, out / "distributions")
    return FigureNote(
        "distributions.png",
        "Every measure, patient by patient",
        "Each point is a patient (seeds, structures and slices averaged), grey lines join the same patient from method "
        "to method; boxes span the quartiles, with the median, from four patients on. A diamond is one value for the "
        "whole set of slices. "
        + (
            "Measures named “random features” come from networks with random weights: not the published ones."
            if any(metric.endswith(RANDOM_SUFFIX) for metric in shown)
            else ""
        ),
        f"Distributions of {', '.join(shown)} over {len(values.cases())} patients for {', '.join(names.values())}.",
        min_width=620 if columns > 1 else 420,
    )


def _existing(values: Values, measures: Sequence[str]) -> list[str]:
    existing = set(values.metrics())
    named = [name if name in existing else name + RANDOM_SUFFIX for name in measures]
    return [name for name in dict.fromkeys(named) if name in existing and known_measure(name)]


def _draw(axes: "Axes", values: Values, metric: str, names: Mapping[str, str] | None) -> None:
    styles = method_styles(values.methods)
    by_method = {method: values.per_case.get((method, metric), {}) for method in values.methods}
    for case in values.cases():
        places = [(by_method[m][case], y) for y, m in enumerate(values.methods) if case in by_method[m]]
        axes.plot(*zip(*places, strict=True), color="#bbbbbb", linewidth=0.5, zorder=1) if places else None
    for y, method in enumerate(values.methods):
        colour, marker = styles[method]
        points = list(by_method[method].values())
        if len(points) >= 4:
            axes.boxplot(
                [points],
                positions=[y],
                orientation="horizontal",
                widths=0.62,
                showfliers=False,
                showcaps=False,
                patch_artist=True,
                manage_ticks=False,
                boxprops={"facecolor": colour + "30", "edgecolor": colour, "linewidth": 0.9},
                medianprops={"color": colour, "linewidth": 2},
                whiskerprops={"color": colour, "linewidth": 0.9},
                zorder=2,
            )
        axes.scatter(points, [y] * len(points), s=13, color=colour, marker=marker, linewidths=0, zorder=3)
        whole = values.per_set.get((method, metric))
        if whole is not None and method != UNALIGNED:
            axes.scatter([whole], [y], s=42, color=colour, marker="D", linewidths=0, zorder=3)
        elif whole is not None:
            # FID and KID compare with the unaligned images themselves, so for these they say nothing.
            axes.text(0.02, y, "the reference itself", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
        elif not points:
            axes.text(0.02, y, "no value", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, alpha=0.6)
    measure = known_measure(metric)
    assert measure is not None
    unit = f" ({measure.unit})" if measure.unit else ""
    axes.set_title(f"{measure.label}{unit}", loc="left", weight="bold", pad=5)
    axes.set_title(better(measure.better), loc="right", fontsize=9, color="#555555", pad=5)
    axes.set_ylim(len(values.methods) - 0.5, -0.5)
    axes.set_yticks(range(len(values.methods)), [names[m] for m in values.methods] if names else [])
    axes.tick_params(axis="y", length=0)
    everything = [value for by_case in by_method.values() for value in by_case.values()]
    if everything and min(everything) == max(everything):
        axes.set_xticks([everything[0]])
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color="#eeeeee", linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
