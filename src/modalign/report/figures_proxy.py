"""Which measure can you trust? Measures that need no truth against the true error, where it is known."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modalign.files import write_text
from modalign.report.figures_style import FigureNote, figure, method_styles, save_figure, signed
from modalign.report.figures_values import UNALIGNED, Values, known_measure, read_values
from modalign.seeds import generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

TRUTHS = ("tre_mm", "mae_hu")
FEWEST = 4
"""Points below which no correlation is given."""
FEWEST_CASES = 5
"""Cases below which a bootstrap over cases is no use: it would hardly ever draw anything new."""
MAX_COLUMNS, WIDTH, HEIGHT = 3, 2.45, 2.35


@dataclass(frozen=True)
class Agreement:
    """How well a measure orders results as the true error does.

    Attributes:
        dataset: name.
        proxy: the measure that needs no truth.
        label: its name in tables.
        truth: the measure of the true error.
        unit: what a point is: ``case and method``, or ``method`` for measures of the whole set.
        n: points.
        methods: number of methods.
        cases: number of cases.
        spearman: Spearman's rho between proxy and true error; nan if one is constant or there are too few points.
        agreement: the same with the sign turned so that 1 means: whatever the measure calls better is better.
        low: lower bound of the 95 % bootstrap interval of `agreement` over cases; nan if `unit` is ``method``, or with
            fewer than :data:`FEWEST_CASES` cases.
        high: its upper bound.
        within_case: mean over cases of the agreement among the methods of one case, with three methods or more.
    """

    dataset: str
    proxy: str
    label: str
    truth: str
    unit: str
    n: int
    methods: int
    cases: int
    spearman: float
    agreement: float
    low: float
    high: float
    within_case: float


def make_proxy_truth(
    metrics: Sequence[Path],
    out: Path,
    *,
    cases: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> FigureNote | None:
    """Write ``proxy.csv`` with every :class:`Agreement`, and ``proxy.{png,pdf}`` with the points against TRE (or MAE).

    Args:
        metrics: metrics files of one data set.
        out: folder to write into.
        cases: the cases that count; None for all.
        labels: names of the variants, where they differ.
        draws: bootstrap draws.
        seed: seeds the bootstrap.

    Returns:
        What was written; None if the true error isn't known, or there is no other measure (the CSV file then has no
        lines, and there is no figure).

    Raises:
        DataError: a metrics file is missing or broken.
    """
    values = read_values(metrics, cases)
    truths = [truth for truth in TRUTHS if truth in values.metrics()]
    found = [agreement(values, proxy, truth, draws, seed) for truth in truths for proxy in proxies(values)]
    write_text(out / "proxy.csv", _csv(found))
    shown = [entry for entry in found if entry.truth == truths[0] and not math.isnan(entry.agreement)]
    if not shown:
        return None
    _draw_all(values, shown, out, labels or {})
    truth = known_measure(truths[0])
    assert truth is not None
    first = shown[0]
    return FigureNote(
        "proxy.png",
        f"Each measure against the true {truth.label}",
        f"Points are cases and methods (for measures of the whole set: methods, against their mean {truth.label}). "
        "ρ is Spearman's rank correlation with its sign turned so that +1 means that whatever the measure calls better "
        "is better, 0 that it tells nothing, and −1 that it misleads; in brackets, from "
        f"{FEWEST_CASES} cases on, the 95 % bootstrap interval over the {first.cases} cases ({draws} draws), for these "
        "methods. The unaligned scans count as a method. Measures that are the same everywhere, or have fewer than "
        f"{FEWEST} points, aren't shown.",
        f"True {truth.label} against each measure: "
        + ", ".join(f"{e.label} ρ {signed(e.agreement)}" for e in shown)
        + ".",
        min_width=600,
    )


def proxies(values: Values) -> list[str]:
    """The measures that need no truth and have a better direction, in alphabetical order."""
    found = []
    for metric in values.metrics():
        measure = known_measure(metric)
        if measure and measure.better != "reference" and not measure.needs & {"true_field", "true_image"}:
            found.append(metric)
    return found


def agreement(values: Values, proxy: str, truth: str, draws: int = 1000, seed: int = 0) -> Agreement:
    """Spearman's rho between a measure and the true error, with a bootstrap interval over cases."""
    measure = known_measure(proxy)
    assert measure is not None
    sign = -1.0 if measure.better == "higher" else 1.0
    x, y, case, methods = points(values, proxy, truth)
    whole = measure.scope == "set"
    n_cases = len({c for m in methods for c in values.per_case.get((m, truth), {})})
    rho = spearman(x, y, np.ones((1, len(x))))[0] if len(x) >= FEWEST else math.nan
    low = high = math.nan
    if not whole and not math.isnan(rho) and n_cases >= FEWEST_CASES:
        rng = generator(seed, values.dataset, proxy, truth, "agreement")
        names, member = np.unique(case, return_inverse=True)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
        resampled = sign * spearman(x, y, counts[:, member])
        if np.isfinite(resampled).any():
            low, high = (float(bound) for bound in np.nanquantile(resampled, (0.025, 0.975)))
    within = []
    for name in dict.fromkeys(case):
        own = case == name
        if not whole and own.sum() >= 3:
            within.append(sign * spearman(x[own], y[own], np.ones((1, own.sum())))[0])
    within = [value for value in within if not math.isnan(value)]
    return Agreement(
        values.dataset,
        proxy,
        measure.label,
        truth,
        "method" if whole else "case and method",
        len(x),
        len(set(methods)),
        n_cases,
        float(rho),
        float(sign * rho),
        low,
        high,
        float(np.mean(within)) if within else math.nan,
    )


def points(values: Values, proxy: str, truth: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Measure and true error of every point, with its case (empty for measures of the whole set) and method.

    Measures of the whole set compare with the unaligned images, so these have no point there.
    """
    found: list[tuple[float, float, str, str]] = []
    for method in values.methods:
        errors = values.per_case.get((method, truth), {})
        whole = values.per_set.get((method, proxy))
        if whole is not None and errors and method != UNALIGNED:
            found.append((whole, float(np.mean(list(errors.values()))), "", method))
        for case, value in values.per_case.get((method, proxy), {}).items():
            if case in errors:
                found.append((value, errors[case], case, method))
    x, y = (np.array([point[i] for point in found], dtype=float) for i in (0, 1))
    return x, y, np.array([point[2] for point in found], dtype=str), [point[3] for point in found]


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's rho of resampled points: point i is taken ``counts[b, i]`` times in draw b; nan where constant.

    Ties, those between copies of a point included, share their mean rank.
    """
    weights = np.asarray(counts, dtype=float)
    total = weights.sum(axis=1, keepdims=True)
    ranks = [_weighted_ranks(values, weights) for values in (x, y)]
    a, b = (r - (weights * r).sum(axis=1, keepdims=True) / total for r in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = (weights * a * b).sum(axis=1)
        return covariance / np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    _, group = np.unique(values, return_inverse=True)
    mass = np.zeros((len(weights), group.max() + 1 if len(group) else 0))
    for i, g in enumerate(group):
        mass[:, g] += weights[:, i]
    below = np.cumsum(mass, axis=1) - mass
    return (below + (mass + 1) / 2)[:, group]


def _csv(found: Sequence[Agreement]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Agreement)])
    for entry in found:
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in astuple(entry)])
    return text.getvalue()


def _draw_all(values: Values, shown: Sequence[Agreement], out: Path, labels: Mapping[str, str]) -> None:
    columns = min(MAX_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    there = [method for method in values.methods if (method, shown[0].truth) in values.per_case]
    names = [labels.get(method, method) for method in there]
    highest = max(max(values.per_case[method, shown[0].truth].values()) for method in there)
    legend_columns = max(1, int(columns * WIDTH / (0.095 * max(map(len, names)) + 0.35)))
    legend = 0.22 * -(-len(names) // legend_columns) + 0.02
    width, height = 0.55 + columns * WIDTH, rows * HEIGHT + legend
    styles = method_styles(values.methods)
    with figure(width, height) as made:
        for index, entry in enumerate(shown):
            row, column = divmod(index, columns)
            left, bottom = 0.6 + column * WIDTH, height - legend - (row + 1) * HEIGHT + 0.42
            size = (WIDTH - 0.3) / width, (HEIGHT - 0.95) / height
            axes = made.add_axes((left / width, bottom / height, *size))
            _draw(axes, values, entry, styles, first=column == 0)
            axes.set_ylim(0, 1.06 * highest or 1)
        for index, method in enumerate(there):
            row, column = divmod(index, legend_columns)
            x, y = 0.6 + column * columns * WIDTH / legend_columns, height - 0.14 - 0.22 * row
            colour, marker = styles[method]
            made.add_artist(_mark(x / width, y / height, colour, marker))
            made.text((x + 0.1) / width, y / height, names[index], va="center", fontsize=9.5)
        save_figure(made, out / "proxy")


def _mark(x: float, y: float, colour: str, marker: str) -> "Line2D":
    from matplotlib.lines import Line2D

    return Line2D([x], [y], marker=marker, color=colour, markersize=5, linestyle="none")


def _draw(
    axes: "Axes", values: Values, entry: Agreement, styles: Mapping[str, tuple[str, str]], *, first: bool
) -> None:
    x, y, _, methods = points(values, entry.proxy, entry.truth)
    for method, (colour, marker) in styles.items():
        own = np.array([m == method for m in methods])
        axes.scatter(x[own], y[own], s=16, color=colour, marker=marker, linewidths=0, alpha=0.85)
    measure, truth = known_measure(entry.proxy), known_measure(entry.truth)
    assert measure is not None
    assert truth is not None
    rho = f"ρ {signed(entry.agreement)}"
    if not math.isnan(entry.low):
        rho += f"  [{signed(entry.low)}, {signed(entry.high)}]"
    elif entry.unit == "method":
        rho += f"  ({entry.n} methods)"
    star = "*" if measure.label.endswith("(random features)") else ""
    name = f"{measure.label.replace(' (random features)', '')}{star}"
    axes.text(0, 1.13, name, transform=axes.transAxes, weight="bold", va="bottom")
    axes.text(0, 1.03, rho, transform=axes.transAxes, fontsize=9, color="#333333", va="bottom")
    if star:
        axes.set_xlabel("* random features", fontsize=8.5, labelpad=2, color="#555555")
    axes.tick_params(labelleft=first)
    if first:
        axes.set_ylabel(f"true {truth.label} ({truth.unit})")
    axes.locator_params(nbins=4)
    axes.grid(color="#eeeeee", linewidth=0.7)
    axes.set_axisbelow(True)
