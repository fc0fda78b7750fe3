"""Locor's figure 1: intensity pairs in local windows, with the functions that are fitted to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modalign.cases import EVALUATION_MASK, INPUTS, Case, CaseStore
from modalign.errors import DataError
from modalign.files import read_json
from modalign.report.figures_display import Window, choose_window, show_slice
from modalign.report.figures_style import COLOURS, RED, YELLOW, FigureNote, figure, save_figure
from modalign.report.local_fits import (
    DEGREE,
    FUNCTIONS,
    REACH,
    WINDOW_SIGMA,
    Fit,
    choose_windows,
    fit_window,
    learn_basis,
    polynomial_basis,
    unit_intensity,
    window_box,
)
from modalign.report.paper_figures import PaperFigure, RowFiles
from modalign.volumes import read_volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from modalign.similarity.local_regression import Basis

WINDOWS = 3
SLAB = 8
"""Slices on either side of the one shown that the basis functions are learned from."""
LINES = {"polynomial": (RED, "polynomial"), "learned": (COLOURS[0], "learned basis")}
WIDTH, HEIGHT = 7.6, 6.2
"""Inches."""


@dataclass(frozen=True)
class Side:
    """One of the two images as it is shown: its name, its grey window, and its stored intensities (X, Y, Z)."""

    name: str
    window: Window
    data: np.ndarray


def make_local_fits(described: PaperFigure, rows: Sequence[RowFiles], stem: Path, *, seed: int = 0) -> FigureNote:
    """Draw ``stem.{png,pdf}``: the test case on which Locor ended with the lowest loss, windows, and the fits in them.

    The basis functions are those that Locor learns for the pair as it was aligned: its loss is minimised by them
    alone, at full resolution and on the intensities alone, so that they can be drawn as curves.

    Args:
        described: what the figure shows.
        rows: where the results of its one row, with Locor alone, lie.
        stem: path without suffix.
        seed: seeds the basis functions.

    Raises:
        DataError: no test case has been aligned.
    """
    (files,) = rows
    cases, aligned = CaseStore(files.store), files.aligned[0]
    shown = _best_aligned(aligned, cases.ids(["test"]))
    case = cases.load(shown, (*INPUTS, EVALUATION_MASK))
    image = read_volume(aligned / shown / "image.nii.gz").data
    inside = case.measured_in.data > 0 if case.measured_in is not None else np.ones(case.fixed.shape, bool)
    z = int(inside.sum((0, 1)).argmax())
    slab = slice(max(0, z - SLAB), z + SLAB + 1)
    target, source = (unit_intensity(data, inside) for data in (case.fixed.data, image))
    bases: dict[str, Basis] = {
        "learned": learn_basis(source[:, :, slab], target[:, :, slab], inside[:, :, slab], seed),
        "polynomial": polynomial_basis(),
    }
    fits = [fit_window(source, target, centre, bases) for centre in choose_windows(source, target, inside, z)]
    sides = [
        Side(
            f"{role} {str(cases.manifest.get(f'{key}_modality', '')).upper()}",
            choose_window(volume.data, intensity),
            data,
        )
        for role, key, volume, intensity, data in (
            ("fixed", "fixed", case.fixed, case.fixed_intensity, case.fixed.data),
            ("aligned", "moving", case.moving, case.moving_intensity, image),
        )
    ]
    with figure(WIDTH, HEIGHT) as made:
        _draw(made, sides, case.fixed.spacing, inside, fits)
        save_figure(made, stem)
    return _note(described.title, stem, case, fits, sides)


def _best_aligned(aligned: Path, ids: Sequence[str]) -> str:
    """The case whose alignment Locor itself takes for the best; one that it got wrong would show nothing."""
    runs = [case for path in sorted(aligned.glob("run-*.json")) for case in read_json(path)["cases"]]
    losses = {run["case"]: run["notes"].get("similarity", 0.0) for run in runs if run["ok"] and run["case"] in ids}
    if not losses:
        raise DataError(f"{aligned} has no aligned test case: Locor failed on all of them, or has not been run")
    return min(losses, key=lambda case: losses[case])


def _draw(made: "Figure", sides: Sequence[Side], spacing: np.ndarray, inside: np.ndarray, fits: Sequence[Fit]) -> None:
    row = (HEIGHT - 0.5) / WINDOWS
    for index, side in enumerate(sides):
        axes = _place(made, 0.05, HEIGHT - (index + 1) * (HEIGHT / 2) + 0.05, 2.55, HEIGHT / 2 - 0.3)
        z = fits[0].centre[2] if fits else side.data.shape[2] // 2
        _picture(axes, side.window.grey(side.data[:, :, z]), spacing)
        axes.set_title(side.name, pad=3)
        for number, fit in enumerate(fits, start=1):
            _mark(axes, fit, spacing, str(number))
    limits = [(side.data[inside].min(), side.data[inside].max()) for side in sides]
    for index, fit in enumerate(fits):
        bottom = HEIGHT - 0.35 - (index + 1) * row + 0.42
        for column, side in enumerate(sides):
            axes = _place(made, 2.75, bottom + (1 - column) * (row - 0.42) / 2, 0.72, (row - 0.5) / 2)
            box = window_box(fit.centre, side.data.shape)
            _picture(axes, side.window.grey(side.data[box[0], box[1], fit.centre[2]]), spacing)
        made.text(2.78 / WIDTH, (bottom + row - 0.44) / HEIGHT, str(index + 1), weight="bold", va="bottom")
        axes = _place(made, 4.2, bottom, WIDTH - 4.35, row - 0.52)
        _scatter(axes, fit, sides, limits, legend=index == 0, label=index == len(fits) - 1)


def _scatter(
    axes: "Axes", fit: Fit, sides: Sequence[Side], limits: Sequence[tuple[float, float]], *, legend: bool, label: bool
) -> None:
    fixed, moving = (_physical(side, limit) for side, limit in zip(sides, limits, strict=True))
    order = np.argsort(fit.weight)
    weight = fit.weight / fit.weight.max()
    size, shade = 2 + 26 * weight[order], np.tile([0.2, 0.2, 0.2, 0.0], (len(order), 1))
    shade[:, 3] = 0.12 + 0.75 * weight[order]
    axes.scatter(moving(fit.source[order]), fixed(fit.target[order]), s=size, color=shade, linewidths=0)
    for name, (colour, text) in LINES.items():
        axes.plot(moving(fit.grid), fixed(fit.curves[name]), color=colour, linewidth=1.6, label=text)
    low, high = fit.target.min(), fit.target.max()
    margin = 0.15 * (high - low)
    axes.set_ylim(*map(float, fixed(np.array([low - margin, high + margin]))))
    axes.locator_params(nbins=4)
    axes.grid(color="#eeeeee", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_ylabel(_labelled(sides[0]))
    if label:
        axes.set_xlabel(_labelled(sides[1]))
    if legend:
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)


def _labelled(side: Side) -> str:
    unit = side.window.intensity.unit
    return f"{side.name} ({unit})" if unit else side.name


def _physical(side: Side, limits: tuple[float, float]) -> Callable[[np.ndarray], np.ndarray]:
    """From intensities between 0 and 1 to physical ones."""

    def convert(unit: np.ndarray) -> np.ndarray:
        return side.window.intensity.to_physical(limits[0] + np.asarray(unit) * (limits[1] - limits[0]))

    return convert


def _place(made: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Axes at a place in inches."""
    return made.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))


def _picture(axes: "Axes", grey: np.ndarray, spacing: np.ndarray) -> None:
    show_slice(axes, grey, spacing)
    axes.set_axis_off()


def _mark(axes: "Axes", fit: Fit, spacing: np.ndarray, text: str) -> None:
    from matplotlib.patches import Rectangle

    reach = REACH + 0.5
    corner = (np.array(fit.centre[:2]) - reach) * spacing[:2]
    sides = 2 * reach * spacing[:2]
    axes.add_patch(Rectangle(tuple(corner), *sides, fill=False, edgecolor=YELLOW, linewidth=1.2))
    place = (float(corner[0]), float(corner[1] + sides[1]))
    axes.annotate(text, place, color=YELLOW, weight="bold", xytext=(2, 1), textcoords="offset points")


def _note(title: str, stem: Path, case: Case, fits: Sequence[Fit], sides: Sequence[Side]) -> FigureNote:
    errors = {name: ", ".join(f"{100 * fit.errors[name]:.1f}" for fit in fits) for name in LINES}
    numbers = (
        f"Weighted root mean squared residuals in percent of the range, windows 1 to {len(fits)}: learned "
        f"{errors['learned']}; polynomial {errors['polynomial']}."
    )
    return FigureNote(
        f"{stem.name}.png",
        title,
        f"Case {case.id}, which Locor aligned with the lowest loss. Left: the slice with {len(fits)} windows of "
        f"{2 * REACH + 1} voxels a side, where both images vary most; middle: the windows. Right: each point is a "
        f"voxel, the larger and darker the closer it is to the centre (Gaussian, standard deviation {WINDOW_SIGMA:g} "
        f"voxel). Blue: the combination of {FUNCTIONS} basis functions, learned once for the pair, that fits the "
        f"window best; red: a polynomial of degree {DEGREE}, with {DEGREE + 1} terms. Both are weighted least squares "
        f"fits. {numbers}",
        f"{sides[1].name} against {sides[0].name} in {len(fits)} windows, with fitted curves. {numbers}",
        min_width=640,
    )
