"""Pictures of what every method does to a case, side by side."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modalign.cases import CaseStore
from modalign.report.figures_display import (
    checkerboard,
    draw_box,
    draw_contours,
    draw_grid,
    limit,
    show_slice,
    square_size,
    write_on,
    write_values,
)
from modalign.report.figures_style import RED, YELLOW, FigureNote, figure, number, save_figure
from modalign.report.figures_values import UNALIGNED, read_values
from modalign.report.panels_scene import Scene, View, make_scene, typical_cases

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, GAP, LINE, HEAD = 1.5, 0.05, 0.24, 0.3
"""Inches: width of a picture, gap between two, line of text above a row, column headings."""
DIFFERENCES = "PuOr"


def make_panels(
    store: Path,
    runs: Sequence[tuple[str, Path]],
    metrics: Sequence[Path],
    out: Path,
    *,
    cases: int = 1,
    labels: Mapping[str, str] | None = None,
) -> FigureNote:
    """Write ``panels.png`` and ``panels.pdf``: rows of methods, columns of views of one slice.

    The first row shows the fixed scan and, as far as it is known, the truth; the second the moving scan as it lies.
    Methods that failed have an empty frame with the reason.

    Args:
        store: case store.
        runs: variant and folder of its alignments (with the ``run-*.json`` of the job), in the order of the rows.
        metrics: metrics files, for the numbers on the pictures; may lack methods.
        out: folder to write into.
        cases: how many cases to show, those closest to the median first.
        labels: names of the variants, where they differ.

    Raises:
        DataError: the store or an alignment can't be read.
    """
    case_store = CaseStore(store)
    tested = case_store.ids(["test"])
    values = read_values(metrics, tested)
    runs = sorted(runs, key=lambda run: run[0] != UNALIGNED)
    scenes = [make_scene(case_store, case, runs, values) for case in typical_cases(tested, values, cases)]
    heights = [_row_height(scene) for scene in scenes]
    rows = [_rows(scene, labels or {}) for scene in scenes]
    columns = 5
    height = sum(HEAD + (len(r) + 1) * h for r, h in zip(rows, heights, strict=True))
    with figure(columns * (WIDTH + GAP) + GAP, height) as made:
        top = height
        for scene, scene_rows, row_height in zip(scenes, rows, heights, strict=True):
            _headings(made, scene, top)
            top -= HEAD
            _draw_target(made, scene, top, row_height)
            top -= row_height
            for title, view in scene_rows:
                _draw_row(made, scene, title, view, top, row_height)
                top -= row_height
        save_figure(made, out / "panels")
    return FigureNote("panels.png", "What the methods do", *_words(scenes, case_store), min_width=640)


def _rows(scene: Scene, labels: Mapping[str, str]) -> list[tuple[str, View]]:
    views = scene.views
    if not any(view.method == UNALIGNED for view in views):
        views = (View(UNALIGNED, scene.moving), *views)
    names = {UNALIGNED: "Moving scan, not aligned"}
    return [(names.get(view.method, labels.get(view.method, view.method)), view) for view in views]


def _row_height(scene: Scene) -> float:
    sides = np.array([high - low for low, high in scene.frame]) * scene.spacing[:2]
    return LINE + WIDTH * float(np.clip(sides[1] / sides[0], 0.4, 1.6)) + GAP


def _axes(made: "Figure", column: int, top: float, height: float) -> "Axes":
    width, total = made.get_size_inches()
    left = GAP + column * (WIDTH + GAP)
    axes = made.add_axes((left / width, (top - height) / total, WIDTH / width, (height - LINE - GAP) / total))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _headings(made: "Figure", scene: Scene, top: float) -> None:
    width, total = made.get_size_inches()
    fourth = "Aligned − truth" if scene.true_image is not None else "Fixed outlines"
    for column, text in enumerate(("Aligned", "Board with fixed", "Detail", fourth, "Deformation")):
        x = (GAP + column * (WIDTH + GAP) + WIDTH / 2) / width
        made.text(x, (top - 0.16) / total, text, ha="center", va="center", color="#555555", fontsize=9.5)


def _title(made: "Figure", top: float, title: str) -> None:
    width, total = made.get_size_inches()
    made.text(GAP / width, (top - 0.62 * LINE) / total, title, ha="left", va="center", weight="bold", fontsize=10)


def _draw_target(made: "Figure", scene: Scene, top: float, height: float) -> None:
    """The fixed scan, and the moving modality as it would look there."""
    known = scene.true_image is not None
    _title(made, top, "Fixed scan, and the truth" if known else "Fixed scan")
    fixed = scene.fixed_window.grey(scene.fixed)
    target = scene.moving_window.grey(scene.true_image) if scene.true_image is not None else fixed
    what = "truth" if known else "fixed"
    first, detail, fourth = (_axes(made, column, top, height) for column in (0, 2, 3))
    _show(first, fixed, scene, "fixed")
    draw_box(first, scene.box, scene.spacing, YELLOW)
    _show(detail, target, scene, what)
    draw_contours(detail, fixed, scene.spacing, YELLOW)
    limit(detail, scene.box, scene.spacing)
    _show(fourth, target, scene, what)
    if known:
        board = _axes(made, 1, top, height)
        _show(board, checkerboard(fixed, target, square_size(fixed.shape, scene.spacing)), scene, "fixed and truth")
    else:
        draw_contours(fourth, fixed, scene.spacing, YELLOW)
    if scene.true_field is not None and scene.true_folded is not None:
        _draw_deformation(_axes(made, 4, top, height), scene, scene.true_field, scene.true_folded)


def _draw_row(made: "Figure", scene: Scene, title: str, view: View, top: float, height: float) -> None:
    _title(made, top, title)
    if view.image is None:
        _draw_failure(made, view.reason, top, height)
        return
    fixed, grey = scene.fixed_window.grey(scene.fixed), scene.moving_window.grey(view.image)
    first, board, detail, fourth, last = (_axes(made, column, top, height) for column in range(5))
    _show(first, grey, scene)
    draw_box(first, scene.box, scene.spacing, YELLOW)
    write_values(first, view.values)
    _show(board, checkerboard(fixed, grey, square_size(grey.shape, scene.spacing)), scene)
    _show(detail, grey, scene)
    draw_contours(detail, fixed, scene.spacing, YELLOW)
    limit(detail, scene.box, scene.spacing)
    if scene.true_image is not None:
        reach = difference_limit(scene)
        difference = (view.image.astype(np.float32) - scene.true_image) * scene.moving_window.intensity.scale
        show_slice(fourth, difference, scene.spacing, limits=(-reach, reach), colours=DIFFERENCES)
        limit(fourth, scene.frame, scene.spacing)
    else:
        _show(fourth, grey, scene)
        draw_contours(fourth, fixed, scene.spacing, YELLOW)
    if view.field is not None and view.folded is not None:
        _draw_deformation(last, scene, view.field, view.folded)
    elif view.method != UNALIGNED:
        last.text(0.5, 0.5, "no field", ha="center", va="center", transform=last.transAxes, color="#777777")


def _show(axes: "Axes", grey: np.ndarray, scene: Scene, name: str = "") -> None:
    show_slice(axes, grey, scene.spacing)
    limit(axes, scene.frame, scene.spacing)
    if name:
        write_on(axes, name)


def _draw_deformation(axes: "Axes", scene: Scene, field: np.ndarray, folded: np.ndarray) -> None:
    axes.set_aspect("equal")
    draw_grid(axes, field, folded, scene.spacing, ("#33557a", RED))
    limit(axes, scene.frame, scene.spacing)


def _draw_failure(made: "Figure", reason: str, top: float, height: float) -> None:
    axes = _axes(made, 0, top, height)
    width, total = made.get_size_inches()
    axes.set_position((GAP / width, (top - height + GAP) / total, 1 - 2 * GAP / width, (height - LINE - GAP) / total))
    for spine in axes.spines.values():
        spine.set(visible=True, color="#999999", linestyle=(0, (4, 3)))
    words = "\n".join(textwrap.wrap(reason, 80)[:5])
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color="#8a1c1c", fontsize=10)


def difference_limit(scene: Scene) -> float:
    """Physical values at which differences reach full colour: the 98th percentile of moving - truth, before alignment.

    The same for every method, so that paler means better.
    """
    if scene.true_image is None:
        return 1.0
    difference = np.abs(scene.moving.astype(np.float32) - scene.true_image) * scene.moving_window.intensity.scale
    return max(float(np.percentile(difference, 98)), 1e-6)


def _words(scenes: Sequence[Scene], store: CaseStore) -> tuple[str, str]:
    first = scenes[0]
    known = first.true_image is not None
    places = ", ".join(f"{scene.case} (axial slice {scene.z + 1} of {scene.depth})" for scene in scenes)
    how = "displaced edges are strongest" if first.misaligned_mm is not None else "the edges of the scans differ most"
    unit = first.moving_window.intensity.unit
    fixed, moving = (str(store.manifest.get(f"{k}_modality", k)).upper() for k in ("fixed", "moving"))
    reach = difference_limit(first)
    parts = [
        f"Test case {places}, close to the median of all cases; slice and detail are where the {how}"
        + (f" ({first.misaligned_mm:.1f} mm on average)." if first.misaligned_mm is not None else "."),
        "Radiological display: the patient's right is on the left, anterior is up.",
        f"{moving}: {first.moving_window.text}; {fixed}: {first.fixed_window.text}; the same for all rows.",
        "Board: squares of fixed and aligned image in turns. Detail: the yellow box, with outlines of the fixed scan.",
        f"Aligned − truth: purple too high, orange too low, full colour at ± {number(reach, 0)} ({unit})."
        if known
        else "",
        "Deformation: where the field takes a regular grid of the fixed scan (its in-plane part); folded voxels red.",
        "Numbers on the aligned image: the values of this case.",
    ]
    failed = [view.method for view in first.views if view.image is None]
    alt = f"Slices of {first.case}: " + ", ".join(view.method for view in first.views) + " beside the "
    alt += "truth" if known else "fixed scan"
    alt += f"; failed: {', '.join(failed)}" if failed else ""
    return " ".join(part for part in parts if part), alt + "."
