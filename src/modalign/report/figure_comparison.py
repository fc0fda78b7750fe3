"""Figures that put the results of some methods side by side: the two scans, every method, and the truth if known."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modalign.cases import INPUTS, CaseStore
from modalign.datasets.index import read_index
from modalign.methods.base import moving_on_fixed_grid
from modalign.report.figures_display import Box, draw_box, limit, show_slice, write_on
from modalign.report.figures_style import YELLOW, FigureNote, figure, save_figure
from modalign.report.figures_values import read_values
from modalign.report.panels_scene import SHOWN, Scene, make_scene, typical_cases
from modalign.report.paper_figures import FigureRow, PaperFigure, RowFiles
from modalign.spatial.fields import warp_volume
from modalign.volumes import Volume, read_volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, GAP, HEAD, NAME, SPACE = 1.5, 0.05, 0.26, 0.22, 0.1
"""Inches: width of a picture, gap between two, line above a row, name above a picture, space below a row."""
GAS_HU, METAL_HU = -400.0, 2000.0
"""Below the one is gas (inside the body), above the other is metal: bone ends at about 1900 HU."""
LEAST_ML = 0.5
"""Volume of metal that counts as such."""


def make_comparison(described: PaperFigure, rows: Sequence[RowFiles], stem: Path, *, seed: int = 0) -> FigureNote:
    """Draw ``stem.{png,pdf}``: for each row of the figure a slice, and below it a detail of every picture.

    A row for which there is no case (none with metal, say) says so.

    Args:
        described: what the figure shows.
        rows: where the results of each of its rows lie.
        stem: path without suffix.
        seed: nothing is drawn at random.

    Raises:
        DataError: a store or an alignment can't be read.
    """
    found = [(row, _scene(row, files)) for row, files in zip(described.rows, rows, strict=True)]
    scenes = [(row, scene) for row, scene in found if scene is not None]
    missing = [f"{row.title or row.dataset}: no case of {row.dataset}." for row, scene in found if scene is None]
    columns = max(3 + len(row.methods) for row in described.rows)
    heights = [HEAD + SPACE if scene is None else _height(scene) for _, scene in found]
    with figure(columns * (WIDTH + GAP) + GAP, sum(heights)) as made:
        top = sum(heights)
        for (row, scene), height in zip(found, heights, strict=True):
            _draw_row(made, row, scene, top)
            top -= height
        save_figure(made, stem)
    stores = {row.dataset: CaseStore(files.store) for row, files in zip(described.rows, rows, strict=True)}
    texts = [_words(row, scene, stores[row.dataset]) for row, scene in scenes]
    caption = " ".join(
        [
            "From left to right the fixed scan, the moving scan before alignment, the methods, and the truth where it "
            "is known; below, the yellow box of each.",
            *texts,
            "Numbers: the values of the case. Radiological display.",
            *missing,
        ]
    )
    names = "; ".join(", ".join(label for _, label in row.methods) for row, _ in scenes)
    alt = f"Slices beside fixed and moving scan: {names}."
    return FigureNote(stem.with_suffix(".png").name, described.title, caption, alt, min_width=110 * columns)


def _scene(row: FigureRow, files: RowFiles) -> Scene | None:
    """The case and the slice that a row shows; None if no case has what it asks for."""
    store = CaseStore(files.store)
    runs = [(method, folder) for (method, _), folder in zip(row.methods, files.aligned, strict=True)]
    # Variants of an ablation may have been run on another split than others, and a method may have failed on all.
    made = [{case for case in store.ids() if (folder / case / "image.nii.gz").is_file()} for _, folder in runs]
    ids = [case for case in store.ids() if all(case in cases for cases in made if cases) and any(made)]
    values = read_values(files.metrics, ids)
    if row.choice == "typical":
        chosen = typical_cases(ids, values, 1, (*row.measures, *SHOWN))
        return make_scene(store, chosen[0], runs, values, shown=row.measures) if chosen else None
    volumes = {case: _volumes(row, files, store, case) for case in ids}
    if row.choice == "gas":
        ranked = sorted((case for case in ids if volumes[case].sum() > 0), key=lambda case: -volumes[case].sum())
    else:
        ranked = sorted((c for c in ids if volumes[c].sum() >= LEAST_ML), key=lambda case: volumes[case].sum())
        if row.choice == "much metal":
            # With a single such case, it is shown as the one with little.
            ranked = ranked[:0:-1]
    if not ranked:
        return None
    return make_scene(store, ranked[0], runs, values, int(volumes[ranked[0]].argmax()), shown=row.measures)


def _volumes(row: FigureRow, files: RowFiles, store: CaseStore, case_id: str) -> np.ndarray:
    """How much gas or metal (ml) the moving scan as it came holds in each slice of the fixed grid."""
    case = moving_on_fixed_grid(store.load(case_id, INPUTS))
    raw = _as_it_came(files.index, case_id)
    if raw is None:
        return np.zeros(case.grid.shape[2])
    scan = warp_volume(raw, None, case.grid, order=1 if row.choice == "gas" else 0, outside=float(raw.data.min()))
    found = scan.data < GAS_HU if row.choice == "gas" else scan.data > METAL_HU
    if row.choice == "gas":
        found &= _inside(scan.data)
    return found.sum((0, 1)) * float(np.prod(case.grid.spacing)) / 1000


def _as_it_came(index: Path, case_id: str) -> Volume | None:
    """The moving scan of a case in HU, as the archive has it; None where its values aren't HU or its file is gone."""
    record, rows = read_index(index)
    path = next((Path(record["folder"]) / line["moving"] for line in rows if line["case"] == case_id), None)
    if path is None or not path.is_file() or record.get("moving_modality") != "ct":
        return None
    return read_volume(path)


def _inside(hu: np.ndarray) -> np.ndarray:
    """What skin surrounds, slice by slice, without its outermost voxels."""
    from scipy.ndimage import binary_erosion, binary_fill_holes

    body = np.stack([binary_fill_holes(hu[:, :, z] > GAS_HU) for z in range(hu.shape[2])], axis=2)
    return binary_erosion(body, np.ones((3, 3, 1)), iterations=2)


def _height(scene: Scene) -> float:
    return HEAD + NAME + _tall(scene, scene.frame) + GAP + _tall(scene, scene.box) + SPACE


def _tall(scene: Scene, box: Box) -> float:
    """The height in inches of a picture that is :data:`WIDTH` wide."""
    sides = np.array([high - low for low, high in box]) * scene.spacing[:2]
    return WIDTH * float(np.clip(sides[1] / sides[0], 0.4, 1.6))


def _draw_row(made: "Figure", row: FigureRow, scene: Scene | None, top: float) -> None:
    width, total = made.get_size_inches()
    title = (row.title or row.dataset) + ("" if scene is not None else ": there is no such case")
    made.text(GAP / width, (top - 0.6 * HEAD) / total, title, va="center", weight="bold", fontsize=10.5)
    if scene is None:
        return
    fixed, moving = scene.fixed_window, scene.moving_window
    labels = dict(row.methods)
    pictures: list[tuple[str, np.ndarray | None, str]] = [
        ("Fixed", fixed.grey(scene.fixed), ""),
        ("Moving", moving.grey(scene.moving), ""),
    ]
    for view in scene.views:
        grey = None if view.image is None else moving.grey(view.image)
        pictures.append((labels[view.method], grey, "\n".join(view.values)))
    if scene.true_image is not None:
        pictures.append(("Truth", moving.grey(scene.true_image), ""))
    upper = top - HEAD - NAME
    for column, (name, grey, numbers) in enumerate(pictures):
        left = GAP + column * (WIDTH + GAP)
        made.text((left + WIDTH / 2) / width, (upper + 0.4 * NAME) / total, name, ha="center", va="center", fontsize=10)
        for box, high in ((scene.frame, upper), (scene.box, upper - _tall(scene, scene.frame) - GAP)):
            tall = _tall(scene, box)
            axes = made.add_axes((left / width, (high - tall) / total, WIDTH / width, tall / total))
            axes.set_axis_off()
            if grey is None:
                axes.text(0.5, 0.5, "failed", ha="center", va="center", transform=axes.transAxes)
                continue
            show_slice(axes, grey, scene.spacing)
            limit(axes, box, scene.spacing)
            if box is scene.frame:
                draw_box(axes, scene.box, scene.spacing, YELLOW)
            if box is scene.frame and numbers:
                write_on(axes, numbers)


def _words(row: FigureRow, scene: Scene, store: CaseStore) -> str:
    split = next(name for name in ("test", "validation", "train") if scene.case in store.ids([name]))
    where = f"{row.title or row.dataset}: {split} case {scene.case} of {row.dataset}, slice {scene.z + 1}"
    strongest = "displaced edges are strongest" if scene.misaligned_mm is not None else "the scans' edges differ most"
    chosen = {
        "typical": f"near the median of the cases, where {strongest}",
        "gas": "the case and slice with most gas in the moving scan",
        "little metal": "the case with least metal of those with any, where there is most of it",
        "much metal": "the case with most metal, where there is most of it",
    }
    return f"{where} of {scene.depth} ({chosen[row.choice]}); {scene.moving_window.text}."
