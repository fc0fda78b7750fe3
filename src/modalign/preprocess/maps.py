"""Maps from a prepared scan's world back to the original scan's world, kept as a list of plain records.

Whatever preparation does in space is, for each scan, one map d with ``prepared(p) = original(d(p))``, p in RAS mm.
Resampling, cropping, padding and flipping leave world positions alone, so d lists only what moves: rigid
pre-registration, centring, synthetic misalignment. The list is in the order of application; steps that come later act
first, so they go to its front.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from modalign.preprocess.elastic import displacement, grid_of
from modalign.preprocess.sampling import sample_vectors
from modalign.volumes import Grid, apply_affine

Record = dict[str, Any]


def affine_record(matrix: np.ndarray) -> Record:
    """The map p -> matrix p (4 x 4, RAS mm) as a record."""
    return {"kind": "affine", "matrix": np.asarray(matrix, dtype=float).tolist()}


def apply(records: Sequence[Record], points_mm: np.ndarray) -> np.ndarray:
    """d(points): from the prepared world to the original world, (3, ...) RAS mm."""
    for record in records:
        points_mm = (
            apply_affine(np.array(record["matrix"]), points_mm)
            if record["kind"] == "affine"
            else points_mm + _at(record, points_mm)
        )
    return points_mm


def invert(
    records: Sequence[Record], points_mm: np.ndarray, tolerance_mm: float = 1e-3, iterations: int = 100
) -> np.ndarray:
    """The inverse of d: from the original world to the prepared world, (3, ...) RAS mm.

    Elastic parts are inverted by fixed-point iteration (Chen et al. 2008), which converges while the displacement
    changes by less than a mm per mm, as all misalignments here do away from folds.
    """
    for record in reversed(records):
        if record["kind"] == "affine":
            points_mm = apply_affine(np.linalg.inv(np.array(record["matrix"])), points_mm)
            continue
        estimate = points_mm - _at(record, points_mm)
        for _ in range(iterations):
            updated = points_mm - _at(record, estimate)
            change = float(np.abs(updated - estimate).max())
            estimate = updated
            if change < tolerance_mm:
                break
        points_mm = estimate
    return points_mm


def _at(record: Record, points_mm: np.ndarray) -> np.ndarray:
    positions = apply_affine(np.linalg.inv(grid_of(record).affine), points_mm)
    return sample_vectors(displacement(record), positions)


def world_points(grid: Grid) -> np.ndarray:
    """RAS mm positions of every voxel, (3, X, Y, Z)."""
    return apply_affine(grid.affine, np.indices(grid.shape, dtype=np.float64))


def similarity_about_centre(
    grid: Grid, rotation_deg: np.ndarray, translation_mm: np.ndarray, scale: float = 1.0
) -> np.ndarray:
    """The 4 x 4 map of a rotation (about R, then A, then S), an isotropic scaling and a translation about the centre
    of `grid`, RAS mm."""
    centre = apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix() * scale
    matrix[:3, 3] = centre + translation_mm - matrix[:3, :3] @ centre
    return matrix
