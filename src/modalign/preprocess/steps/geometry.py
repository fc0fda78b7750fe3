"""Steps that change the sampling grid: orientation, spacing, size, field of view."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modalign.cases import Case
from modalign.errors import ConfigError
from modalign.preprocess import truth
from modalign.preprocess.context import StepContext
from modalign.preprocess.sampling import kept_voxels, resample, resized_grid, respaced_grid
from modalign.volumes import apply_affine

Outcome = tuple[Case, dict[str, Any]]
Size = Sequence[int | None]


def reorient(case: Case, context: StepContext) -> Outcome:
    """Flip and swap axes so that both scans run along R, A, S; no interpolation."""
    record = {"fixed": case.fixed.grid.orientation, "moving": case.moving.grid.orientation}
    return truth.reoriented(case), record


def centre(case: Case, context: StepContext, *, when: str = "centred") -> Outcome:
    """Shift the moving scan's frame so that the centres of both grids meet.

    `when`: ``centred`` (only if the data set says that its scans have no common frame), ``always`` or ``never``.
    """
    if when not in ("centred", "always", "never"):
        raise ConfigError(f"step {context.step}: when is {when!r}; write centred, always or never")
    if when == "never" or (when == "centred" and not context.centred):
        return case, {"shift_mm": [0.0, 0.0, 0.0]}
    fixed, moving = (
        apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2) for grid in (case.fixed.grid, case.moving.grid)
    )
    matrix = np.eye(4)
    matrix[:3, 3] = moving - fixed
    return truth.move_frame(case, matrix), {"shift_mm": (fixed - moving).tolist()}


def resample_fixed(
    case: Case,
    context: StepContext,
    *,
    spacing_mm: Sequence[float],
    field_of_view_mm: Sequence[float | None] | None = None,
    size: Size | None = None,
    tolerance_mm: float = 0.01,
) -> Outcome:
    """Bring the fixed scan to a voxel size in mm, about the same centre; `one_grid` lets the moving scan follow.

    With `size` (voxels, None keeps an axis), the spacing becomes what puts so many voxels across `field_of_view_mm`
    (None: the scan's own extent). A scan that has that size already stays untouched, and without any
    `field_of_view_mm` the step leaves the work to `resize`.
    """
    grid = case.grid
    extent = np.array(grid.shape) * grid.spacing
    target = np.array(spacing_mm, dtype=float)
    if size is not None:
        if field_of_view_mm is None or _fits(grid.shape, size):
            return case, {"spacing_mm": grid.spacing.tolist()}
        view = [own if mm is None else mm for mm, own in zip(field_of_view_mm, extent, strict=True)]
        target = np.array([t if n is None else v / n for t, v, n in zip(target, view, size, strict=True)])
    if np.abs(target - grid.spacing).max() <= tolerance_mm:
        return case, {"spacing_mm": grid.spacing.tolist()}
    case = truth.regrid(case, "fixed", respaced_grid(grid, target), context.fill(case))
    return case, {"spacing_mm": target.tolist()}


def resize(
    case: Case,
    context: StepContext,
    *,
    size: Size,
    field_of_view_mm: Sequence[float | None] | None = None,
    keep_aspect: bool = False,
    enlarge: bool = True,
) -> Outcome:
    """Give the fixed scan `size` voxels (None keeps an axis) over the same field of view, or the middle of it.

    `field_of_view_mm` says how much of each axis to keep at most (None: all). With `keep_aspect`, x and y get one
    common factor, the largest that fits into `size`; a padding step completes them. Without `enlarge` that factor is
    at most 1.
    """
    old = case.grid.shape
    target = [n if want is None else want for n, want in zip(old, size, strict=True)]
    if keep_aspect:
        kept = kept_voxels(case.grid, field_of_view_mm)
        factor = float(min(target[0] / kept[0], target[1] / kept[1]))
        factor = factor if enlarge else min(factor, 1.0)
        target[:2] = [max(round(n * factor), 1) for n in kept[:2].tolist()]
    grid = resized_grid(case.grid, (target[0], target[1], target[2]), field_of_view_mm)
    if grid.same_as(case.grid):
        return case, {"shape": list(old)}
    case = truth.regrid(case, "fixed", grid, context.fill(case))
    return case, {"shape": target, "spacing_mm": grid.spacing.tolist()}


def one_grid(case: Case, context: StepContext) -> Outcome:
    """Resample the moving scan, with its mask and labels, to the fixed grid; done once, from the original voxels."""
    if case.on_one_grid:
        return case, {}
    return truth.regrid(case, "moving", case.grid, context.fill(case)), {}


def crop_or_pad(case: Case, context: StepContext, *, size: Size, multiple_of: int = 1) -> Outcome:
    """Crop or pad to `size` voxels about the centre (None keeps an axis), padding with the background.

    `multiple_of` lowers the in-plane size to a multiple, as the released RbG loader does at evaluation (16: 196
    becomes 192). A moving scan on the fixed grid follows; one on its own grid stays as it is.
    """
    old = case.grid.shape
    target = [n if want is None else want for n, want in zip(old, size, strict=True)]
    target[:2] = [max(n // multiple_of, 1) * multiple_of for n in target[:2]]
    start = [(n - want) // 2 for n, want in zip(old, target, strict=True)]
    return _cut_both(case, start, target, context), {"start": start, "shape": target}


def labelled_slices(
    case: Case, context: StepContext, *, margin: int = 0, splits: Sequence[str] = ("validation", "test")
) -> Outcome:
    """In cases of the given `splits`, keep the axial slices from the first to the last one that has a label.

    The fixed labels count or, without them, the moving ones on the same grid; `margin` slices are added at both ends.
    Without labels all slices stay.
    """
    depth = case.grid.shape[2]
    if case.split not in splits:
        return case, {"slices": [0, depth - 1]}
    labels = case.fixed_labels
    if labels is None and case.on_one_grid:
        labels = case.moving_labels
    found = np.flatnonzero(labels.data.any(axis=(0, 1))) if labels is not None else np.array([], dtype=int)
    if not found.size:
        return case, {"slices": [0, depth - 1]}
    first, last = max(int(found[0]) - margin, 0), min(int(found[-1]) + margin, depth - 1)
    size = [*case.grid.shape[:2], last - first + 1]
    return _cut_both(case, [0, 0, first], size, context), {"slices": [first, last]}


def assume_aligned(case: Case, context: StepContext, *, when: str = "always") -> Outcome:
    """Take the scans as aligned where the data set gives no truth: zero field, moving itself as the true image.

    `when`: ``always``, ``never``, or ``same_family`` (MR with MR, CT with CBCT; BraTS and IXI are aligned, MR-CT
    isn't). Scans of different patients never are.
    """
    if when not in ("always", "never", "same_family"):
        raise ConfigError(f"step {context.step}: when is {when!r}; write always, never or same_family")
    if when == "never" or context.between_patients or (when == "same_family" and len(context.sides("ct")) == 1):
        return case, {"assumed": False}
    if case.true_field is not None or case.true_image is not None:
        return case, {"assumed": False}
    image = resample(case.moving, case.grid, fill=context.fill(case)["moving"])
    field = np.zeros((3, *case.grid.shape), dtype=np.float32)
    return replace(case, true_field=field, true_image=image), {"assumed": True}


def _fits(shape: Sequence[int], size: Size) -> bool:
    return all(want is None or n == want for n, want in zip(shape, size, strict=True))


def _cut_both(case: Case, start: Sequence[int], size: Sequence[int], context: StepContext) -> Case:
    if not any(start) and tuple(size) == case.grid.shape:
        return case
    fill = context.fill(case)
    if case.on_one_grid:
        case = truth.cut(case, "moving", start, size, fill)
    return truth.cut(case, "fixed", start, size, fill)
