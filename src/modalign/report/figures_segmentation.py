"""Structures that a segmenter finds in the aligned images: overlays, bones in relief, and smoothness across slices.

After figure 6 of RbG: a method that makes slices one by one may look right in each and still jump from one to the next,
which shows in the bones and in TV-z.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.ndimage as ndi

from modalign.cases import Case, CaseStore
from modalign.errors import DataError
from modalign.files import read_json
from modalign.report.figures_display import choose_window, show_slice
from modalign.report.figures_style import COLOURS, FigureNote, figure, save_figure
from modalign.report.figures_values import UNALIGNED, read_values
from modalign.report.panels_scene import typical_cases
from modalign.report.paper_figures import PaperFigure, RowFiles
from modalign.segmentation import DONE
from modalign.volumes import read_volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, GAP, HEAD, LINE = 1.9, 0.06, 0.3, 0.36
BONES = ("hip_bones", "femurs", "sacrum")
LIGHT = np.array([-0.4, -0.8, 0.5])
"""Where the light of the relief comes from, in R, A, S: from the front, the patient's left, and above."""


@dataclass(frozen=True)
class _Row:
    """A line of the figure: what it is called, an image of the case, and the structures in it."""

    text: str
    image: np.ndarray
    labels: np.ndarray


def make_segmentations(
    store: Path,
    runs: Sequence[tuple[str, Path]],
    segmented: Sequence[tuple[str, Path]],
    metrics: Sequence[Path],
    out: Path,
    *,
    labels: Mapping[str, str] | None = None,
) -> FigureNote | None:
    """Write ``segmentation.png`` and ``.pdf``: a row per method, with an axial and a coronal overlay and the bones.

    Args:
        store: case store with labels of the fixed scans.
        runs: variant and folder of its alignments.
        segmented: variant and folder of the label maps of its aligned images; others aren't shown.
        metrics: metrics files, for the numbers beside the names.
        out: folder to write into.
        labels: names of the variants, where they differ.

    Returns:
        The figure's texts; None if nothing is segmented.
    """
    found = dict(segmented)
    shown = sorted((run for run in runs if run[0] in found), key=lambda run: run[0] != UNALIGNED)
    if not shown:
        return None
    methods = [(method, (labels or {}).get(method, method), folder, found[method]) for method, folder in shown]
    return _draw(CaseStore(store), methods, metrics, out / "segmentation", "Structures in the aligned images")


def make_segmentation_figure(
    described: PaperFigure, rows: Sequence[RowFiles], stem: Path, *, seed: int = 0
) -> FigureNote:
    """Draw ``stem.{png,pdf}``, the same for the methods that a paper shows.

    Args:
        described: what the figure shows.
        rows: where the results of its only row lie, label maps among them.
        stem: path without suffix.
        seed: nothing is drawn at random.

    Raises:
        DataError: the fixed scan has no labels, or an image can't be read.
    """
    (row,), (files,) = described.rows, rows
    methods = [
        (method, label, aligned, found)
        for (method, label), aligned, found in zip(row.methods, files.aligned, files.segmented, strict=True)
    ]
    return _draw(CaseStore(files.store), methods, files.metrics, stem, described.title)


def _draw(
    store: CaseStore, methods: Sequence[tuple[str, str, Path, Path]], metrics: Sequence[Path], stem: Path, title: str
) -> FigureNote:
    """The figure of `methods`: variant, name, folder of the alignments, folder of the label maps."""
    tested = store.ids(["test"])
    values = read_values(metrics, tested)
    case = store.load(typical_cases(tested, values, 1)[0])
    if case.fixed_labels is None:
        raise DataError(
            f"{store.folder}: case {case.id} is segmented, but its fixed scan has no labels to compare with"
        )
    rows = [_Row("True contours, fixed scan", case.fixed.data, case.fixed_labels.data)]
    for method, label, aligned, found in methods:
        path = found / case.id / "labels.nii.gz"
        if path.is_file():
            text = f"{label}{_numbers(values.per_case, method, case.id)}"
            image = read_volume(aligned / case.id / "image.nii.gz").data
            rows.append(_Row(text, image, read_volume(path).data))
    names = store.label_names
    bones = [value for value, name in names.items() if name in BONES]
    z, y = _busiest(case.fixed_labels.data, 2), _busiest(case.fixed_labels.data, 1)
    size = np.array(case.grid.shape) * case.grid.spacing
    axial, coronal = WIDTH * size[1] / size[0], WIDTH * size[2] / size[0]
    height = LINE + max(axial, coronal)
    total, spacing, true = HEAD + height * len(rows), case.grid.spacing, case.fixed_labels.data
    with figure(3 * (WIDTH + GAP) + GAP, total) as made:

        def axes_at(column: int, top: float, tall: float) -> "Axes":
            left = GAP + column * (WIDTH + GAP)
            box = (left / made.get_figwidth(), (top - tall) / total, WIDTH / made.get_figwidth(), tall / total)
            axes = made.add_axes(box)
            axes.set_axis_off()
            return axes

        for column, heading in enumerate(("axial", "coronal", "bones from the front")):
            x = (GAP + column * (WIDTH + GAP) + WIDTH / 2) / made.get_figwidth()
            made.text(x, (total - 0.2) / total, heading, ha="center", fontsize=9, color="#555555")
        for number, row in enumerate(rows):
            top = total - HEAD - number * height
            made.text(GAP / made.get_figwidth(), (top - 0.22) / total, row.text, fontsize=9.5)
            source = case.fixed if number == 0 else case.moving
            window = choose_window(source.data, case.fixed_intensity if number == 0 else case.moving_intensity)
            grey, body = window.grey(row.image), top - LINE
            _overlay(axes_at(0, body, axial), grey[:, :, z], row.labels[:, :, z], true[:, :, z], spacing[[0, 1]])
            _overlay(axes_at(1, body, coronal), grey[:, y], row.labels[:, y], true[:, y], spacing[[0, 2]])
            solid = relief(np.isin(row.labels, bones), spacing)
            show_slice(axes_at(2, body, coronal), solid, spacing[[0, 2]])
        save_figure(made, stem)
    return _note(case, store, methods[0][3], z, stem, title)


def relief(mask: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """A mask as a solid seen from the front, lit from the front, the left and above.

    Each ray along the second axis ends at the first voxel of the mask that it meets from the patient's front. The
    surface's direction comes from the gradient of the slightly smoothed mask there.

    Args:
        mask: bool (X, Y, Z), RAS.
        spacing_mm: voxel size, (3,).

    Returns:
        (X, Z), 0 (nothing) to 1 (fully lit).
    """
    if not mask.any():
        return np.zeros((mask.shape[0], mask.shape[2]))
    smooth = ndi.gaussian_filter(mask.astype(np.float32), 2.0 * spacing_mm.min() / spacing_mm)
    outward = -np.stack(np.gradient(smooth, *spacing_mm))
    outward /= np.maximum(np.linalg.norm(outward, axis=0), 1e-6)
    hit = mask.any(axis=1)
    depth = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    x, z = np.indices(depth.shape)
    # The front is +A, so light from the front shines along -A: the sign of LIGHT's second component turns around.
    light = LIGHT * (1, -1, 1) / np.linalg.norm(LIGHT)
    brightness = np.clip(np.einsum("c...,c->...", outward[:, x, depth, z], light), 0, 1)
    return np.where(hit, 0.25 + 0.75 * brightness, 0.0)


def _overlay(axes: "Axes", grey: np.ndarray, found: np.ndarray, true: np.ndarray, spacing: np.ndarray) -> None:
    show_slice(axes, grey, spacing)
    positions = [np.arange(n) * s for n, s in zip(grey.shape, spacing, strict=True)]
    for labels, line, width in ((true, "--", 0.6), (found, "-", 0.9)):
        for value in np.unique(labels[labels > 0]):
            colour = "white" if line == "--" else COLOURS[(int(value) - 1) % len(COLOURS)]
            mask = (labels == value).astype(float)
            axes.contour(*positions, mask.T, levels=[0.5], colors=[colour], linewidths=width, linestyles=line)


def _busiest(labels: np.ndarray, axis: int) -> int:
    """The plane across `axis` in which most structures lie; among those, the one with most labelled voxels."""
    planes = np.moveaxis(labels, axis, 0)
    scores = [(len(np.unique(plane)), int((plane > 0).sum())) for plane in planes]
    return max(range(len(scores)), key=scores.__getitem__)


def _numbers(values: Mapping[tuple[str, str], Mapping[str, float]], method: str, case: str) -> str:
    parts = []
    for metric, name in (("segmented_dice", "Dice"), ("tv_z", "TV-z")):
        value = values.get((method, metric), {}).get(case)
        if value is not None:
            parts.append(f"{name} {value:.2f}" if metric == "segmented_dice" else f"{name} {value:.4f}")
    return "   " + ", ".join(parts) if parts else ""


def _note(case: Case, store: CaseStore, found: Path, z: int, stem: Path, title: str) -> FigureNote:
    segmenter = read_json(found / DONE)["segmenter"]
    caption = (
        f"What {segmenter} finds in the aligned images of case {case.id} (coloured lines) beside the contours of the "
        f"fixed scan (white, dashed); axial slice {z + 1} of {case.grid.shape[2]}. On the right, the bones as a solid: "
        "steps across slices are slices that don’t fit their neighbours. Dice is the mean over structures of this "
        "case, TV-z the mean difference of neighbouring slices."
    )
    alt = f"Contours found in the aligned images of {store.dataset} and the bones in relief, one row per method"
    return FigureNote(stem.with_suffix(".png").name, title, caption, alt, min_width=560)
