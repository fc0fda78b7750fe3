"""Keeping a case's parts and its truth consistent while its scans are moved or resampled.

Every spatial step goes through these functions, so that masks, labels, the true field and the true image follow.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modalign.cases import Case
from modalign.preprocess import maps
from modalign.preprocess.sampling import resample, sample_at, sample_vectors
from modalign.spatial.fields import field_from_mm, field_to_mm
from modalign.volumes import Grid, Volume, apply_affine

FIXED_PARTS = {"fixed": 1, "fixed_mask": 0, "fixed_labels": 0, "true_image": 1, "evaluation_mask": 0}
MOVING_PARTS = {"moving": 1, "moving_mask": 0, "moving_labels": 0}
"""The parts on each scan's grid, with the interpolation order. `true_image` has the fixed scan's geometry."""


def parts_of(side: str) -> dict[str, int]:
    """The parts that lie on the grid of `side`."""
    return FIXED_PARTS if side == "fixed" else MOVING_PARTS


def regrid(case: Case, side: str, grid: Grid, fill: dict[str, float]) -> Case:
    """Resample everything on one side to `grid`; nothing moves in the world."""
    old = getattr(case, side).grid
    changed: dict[str, Any] = {
        part: resample(volume, grid, order, fill.get(part, 0.0))
        for part, order in parts_of(side).items()
        if (volume := getattr(case, part)) is not None
    }
    if side == "fixed" and case.true_field is not None:
        positions = apply_affine(np.linalg.inv(old.affine) @ grid.affine, np.indices(grid.shape, dtype=np.float64))
        vectors_mm = sample_vectors(field_to_mm(case.true_field, old), positions)
        changed["true_field"] = field_from_mm(vectors_mm, grid).astype(np.float32)
    return replace(case, **changed)


def cut(case: Case, side: str, start: Sequence[int], size: Sequence[int], fill: dict[str, float]) -> Case:
    """Crop and pad everything on one side, voxel for voxel: new voxel i is old voxel ``start + i``."""

    def pick(data: np.ndarray, value: float | None) -> np.ndarray:
        shape = data.shape[-3:]
        inner: tuple[Any, ...] = tuple(
            slice(max(s, 0), min(s + n, m)) for s, n, m in zip(start, size, shape, strict=True)
        )
        before = [max(-s, 0) for s in start]
        after = [max(s + n - m, 0) for s, n, m in zip(start, size, shape, strict=True)]
        padding = [(0, 0)] * (data.ndim - 3) + list(zip(before, after, strict=True))
        inside = data[(..., *inner)]
        if value is None:
            return np.pad(inside, padding, mode="edge")
        return np.pad(inside, padding, constant_values=value)

    affine = getattr(case, side).affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(start, dtype=float)
    changed: dict[str, Any] = {
        part: Volume(pick(volume.data, fill.get(part, 0)), affine.copy())
        for part in parts_of(side)
        if (volume := getattr(case, part)) is not None
    }
    if side == "fixed" and case.true_field is not None:
        changed["true_field"] = pick(case.true_field, None)
    return replace(case, **changed)


def reoriented(case: Case) -> Case:
    """All parts with axes along R, A, S (flips and swaps only)."""
    changed: dict[str, Any] = {
        part: volume.canonical()
        for part in (*FIXED_PARTS, *MOVING_PARTS)
        if (volume := getattr(case, part)) is not None
    }
    if case.true_field is not None:
        components = [Volume(c, case.grid.affine).canonical() for c in field_to_mm(case.true_field, case.grid)]
        vectors_mm = np.stack([c.data for c in components])
        changed["true_field"] = field_from_mm(vectors_mm, components[0].grid).astype(np.float32)
    return replace(case, **changed)


def move_frame(case: Case, matrix: np.ndarray) -> Case:
    """Put the moving scan elsewhere without touching its voxels.

    `matrix` (4 x 4, RAS mm) maps the new world to the old one, as a registration's fixed-to-moving transform does.
    """
    new_affine = np.linalg.inv(matrix) @ case.moving.affine
    changed: dict[str, Any] = {
        part: Volume(volume.data, new_affine.copy())
        for part in MOVING_PARTS
        if (volume := getattr(case, part)) is not None
    }
    record = maps.affine_record(matrix)
    return _remember(replace(case, **changed, true_field=_follow(case, [record])), "moving", [record])


def deform(case: Case, side: str, records: list[maps.Record], fill: dict[str, float]) -> Case:
    """Deform one scan with all that belongs to it: ``new(p) = old(d(p))``, d given by `records` (see maps.py)."""
    grid: Grid = getattr(case, side).grid
    old_points = maps.apply(records, maps.world_points(grid))
    changed: dict[str, Any] = {
        part: Volume(sample_at(volume, old_points, order, fill.get(part, 0)), grid.affine.copy())
        for part, order in parts_of(side).items()
        if (volume := getattr(case, part)) is not None
    }
    if case.true_field is None:
        field = None
    elif side == "moving":
        field = _follow(case, records)
    else:
        positions = apply_affine(np.linalg.inv(grid.affine), old_points)
        partners = old_points + sample_vectors(field_to_mm(case.true_field, grid), positions)
        field = _field_to(partners, grid)
    return _remember(replace(case, **changed, true_field=field), side, records)


def _follow(case: Case, records: list[maps.Record]) -> np.ndarray | None:
    """The true field once the moving scan has moved: its partner q is now found at d^-1(q)."""
    if case.true_field is None:
        return None
    partners = maps.world_points(case.grid) + field_to_mm(case.true_field, case.grid)
    return _field_to(maps.invert(records, partners), case.grid)


def _field_to(points_mm: np.ndarray, grid: Grid) -> np.ndarray:
    return field_from_mm(points_mm - maps.world_points(grid), grid).astype(np.float32)


def _remember(case: Case, side: str, records: list[maps.Record]) -> Case:
    transforms = dict(case.record.get("transforms", {"fixed": [], "moving": []}))
    transforms[side] = [*records, *transforms[side]]
    return replace(case, record={**case.record, "transforms": transforms})
