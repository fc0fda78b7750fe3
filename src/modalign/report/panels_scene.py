"""What a panel figure shows of one case: which slice, which detail, and every method's result there."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modalign.cases import Case, CaseStore
from modalign.methods.base import moving_on_fixed_grid
from modalign.metrics.field import jacobian_determinant
from modalign.report.figures_display import Box, Window, choose_window
from modalign.report.figures_values import Values, known_measure
from modalign.spatial.fields import field_to_mm, read_itk_field
from modalign.volumes import read_volume

SHOWN = ("tre_mm", "mae_hu", "dice", "gc", "nmi", "folding_percent")
"""Measures that are written on the pictures, if a method has them."""
DETAIL = 0.4
"""Part of each side of the frame that the enlarged detail takes."""
INNER = 0.15
"""Part of the slices at either end that is never chosen: there, much of what moves isn't in both scans."""


@dataclass(frozen=True, eq=False)
class View:
    """One method's result in the slice.

    Attributes:
        method: variant.
        image: (X, Y), stored intensities of the moving modality; None if the method failed.
        field: (3, X, Y) in voxels, None if there is none.
        folded: bool (X, Y), where the field folds.
        values: measures of the case with their units, to be written on the image.
        reason: why there is no image.
    """

    method: str
    image: np.ndarray | None
    field: np.ndarray | None = None
    folded: np.ndarray | None = None
    values: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Scene:
    """A slice of a case.

    Attributes:
        case: id.
        z: index of the axial slice; `depth` slices in all.
        depth: number of axial slices.
        frame: what is shown of the slice, as first and last + 1 voxel along both axes: the body with a margin.
        box: the detail, likewise.
        spacing: voxel size in mm, (3,).
        fixed: (X, Y), stored intensities.
        moving: (X, Y), the moving scan before alignment on the fixed grid.
        true_image: (X, Y), the moving modality as it should come out; None if not known.
        true_field: (3, X, Y) in voxels; None if not known.
        true_folded: bool (X, Y), where the true field folds.
        fixed_window: how fixed is shown.
        moving_window: how moving and all results are shown.
        misaligned_mm: mean true displacement in the mask of this slice; None if not known.
        views: every method's result.
    """

    case: str
    z: int
    depth: int
    frame: Box
    box: Box
    spacing: np.ndarray
    fixed: np.ndarray
    moving: np.ndarray
    true_image: np.ndarray | None
    true_field: np.ndarray | None
    true_folded: np.ndarray | None
    fixed_window: Window
    moving_window: Window
    misaligned_mm: float | None
    views: tuple[View, ...]


def make_scene(
    store: CaseStore,
    case_id: str,
    runs: Sequence[tuple[str, Path]],
    values: Values,
    z: int | None = None,
    shown: Sequence[str] = SHOWN,
) -> Scene:
    """Read a case and choose the slice and the detail in which fixed and moving differ most.

    That is displacement times image gradient where the true field is known (the gradient alone where nothing is
    displaced), and the difference of the two scans' gradient magnitudes where it isn't: the slice is the one with the
    largest mean among those whose mask has at least half of the largest area, and the detail lies where it is largest.

    Args:
        store: case store.
        case_id: the case.
        runs: variant and folder of its alignments.
        values: of the measures.
        z: index of the slice, if it is not to be chosen.
        shown: measures that are written on the pictures, where there are values.
    """
    case = moving_on_fixed_grid(store.load(case_id))
    windows = (
        choose_window(case.fixed.data, case.fixed_intensity),
        choose_window(case.moving.data, case.moving_intensity),
    )
    inside = _foreground(case)
    score, displacement = _misalignment(case, windows, inside)
    if z is None:
        z = _slice(score, inside)
    truth = None if case.true_field is None else case.true_field[..., z]
    frame = _frame(inside[:, :, z])
    return Scene(
        case=case_id,
        z=z,
        depth=case.grid.shape[2],
        frame=frame,
        box=_box(score[:, :, z], frame),
        spacing=case.grid.spacing,
        fixed=case.fixed.data[:, :, z],
        moving=case.moving.data[:, :, z],
        true_image=None if case.true_image is None else case.true_image.data[:, :, z],
        true_field=truth,
        true_folded=None if case.true_field is None else _folded(case.true_field, z),
        fixed_window=windows[0],
        moving_window=windows[1],
        misaligned_mm=None if displacement is None else float(displacement[:, :, z][inside[:, :, z]].mean()),
        views=tuple(_view(case, method, folder, z, values, shown) for method, folder in runs),
    )


def typical_cases(ids: Sequence[str], values: Values, count: int, measures: Sequence[str] = SHOWN) -> list[str]:
    """The cases that methods do about averagely well on: those closest to the median of the first of `measures` that
    has values, averaged over methods; without values, the first ones."""
    for metric in measures:
        found = [by_case for (_, name), by_case in values.per_case.items() if name == metric]
        means = {
            case: float(np.mean([v[case] for v in found if case in v])) for case in ids if any(case in v for v in found)
        }
        if means:
            middle = float(np.median(list(means.values())))
            return sorted(means, key=lambda case: (abs(means[case] - middle), case))[:count]
    return list(ids[:count])


def _foreground(case: Case) -> np.ndarray:
    if case.measured_in is not None and (case.measured_in.data > 0).any():
        return case.measured_in.data > 0
    inside = case.fixed.data > np.percentile(case.fixed.data, 30)
    return inside if inside.any() else np.ones(case.grid.shape, dtype=bool)


def _misalignment(
    case: Case, windows: tuple[Window, Window], inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """How much misalignment is to be seen where (X, Y, Z), and the true displacement in mm, if it is known."""
    gradients = []
    for volume, window in zip((case.fixed, case.moving), windows, strict=True):
        gradient = np.gradient(window.grey(volume.data), axis=(0, 1))
        gradients.append(np.hypot(*gradient))
    if case.true_field is None:
        return np.where(inside, np.abs(gradients[0] - gradients[1]), 0), None
    displacement = np.linalg.norm(field_to_mm(case.true_field, case.grid), axis=0)
    seen = displacement if displacement[inside].any() else 1.0
    return np.where(inside, seen * gradients[1], 0), displacement


def _slice(score: np.ndarray, inside: np.ndarray) -> int:
    area = inside.sum(axis=(0, 1))
    means = np.where(inside, score, 0).sum(axis=(0, 1)) / np.maximum(area, 1)
    skipped = int(INNER * len(area))
    allowed = area >= area.max() / 2
    allowed[:skipped] = allowed[len(area) - skipped :] = False
    return int(np.argmax(np.where(allowed, means, -1)))


def _frame(inside: np.ndarray, margin: float = 0.06) -> Box:
    if not inside.any():
        return (0, inside.shape[0]), (0, inside.shape[1])
    sides = []
    for axis, length in enumerate(inside.shape):
        occupied = np.flatnonzero(inside.any(axis=1 - axis))
        extra = max(2, round(margin * length))
        sides.append((max(int(occupied[0]) - extra, 0), min(int(occupied[-1]) + 1 + extra, length)))
    return sides[0], sides[1]


def _box(score: np.ndarray, frame: Box) -> Box:
    from scipy.ndimage import uniform_filter

    size = [min(max(4, round(DETAIL * (high - low))), high - low) for low, high in frame]
    smooth = uniform_filter(score.astype(np.float32), size, mode="constant")
    centre = np.unravel_index(np.argmax(smooth), smooth.shape)
    sides = []
    for c, n, (low, high) in zip(centre, size, frame, strict=True):
        start = int(np.clip(int(c) - n // 2, low, high - n))
        sides.append((start, start + n))
    return sides[0], sides[1]


def _folded(field: np.ndarray, z: int) -> np.ndarray:
    low = max(z - 1, 0)
    return jacobian_determinant(field[..., low : z + 2])[:, :, z - low] <= 0


def _view(case: Case, method: str, folder: Path, z: int, values: Values, shown: Sequence[str]) -> View:
    reason = _failure(folder, case.id)
    path = folder / case.id / "image.nii.gz"
    if reason or not path.is_file():
        return View(method, None, reason=reason or "not run")
    field_path = folder / case.id / "field.nii.gz"
    field = read_itk_field(field_path, case.grid) if field_path.is_file() else None
    return View(
        method,
        read_volume(path).data[:, :, z],
        None if field is None else field[..., z],
        None if field is None else _folded(field, z),
        _written(values, method, case.id, shown),
    )


def _failure(folder: Path, case: str) -> str:
    """Why a case failed, from the status files beside the results; empty if it didn't."""
    for path in sorted(folder.glob("run-*.json")):
        status = json.loads(path.read_text(encoding="utf-8"))
        for result in status["cases"]:
            if result["case"] == case and not result["ok"]:
                return f"failed: {result['error']}"
    return ""


def _written(values: Values, method: str, case: str, shown: Sequence[str], most: int = 4) -> tuple[str, ...]:
    parts = []
    for metric in shown:
        value = values.per_case.get((method, metric), {}).get(case)
        measure = known_measure(metric)
        if value is not None and measure is not None:
            unit = measure.unit if measure.unit == "%" else f" {measure.unit}" if measure.unit else ""
            parts.append(f"{measure.label} {value:.{measure.digits}f}{unit}")
    return tuple(parts[:most])
