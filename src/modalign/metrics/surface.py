"""How far apart are the surfaces of warped and fixed structures? Hausdorff and average surface distance, in mm."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage as ndi

from modalign.metrics import LOST
from modalign.metrics.choices import check_option
from modalign.metrics.overlap import structures
from modalign.metrics.pair import Pair, Value


class SurfaceDistances(NamedTuple):
    """Distances in mm from every surface voxel of one mask to the nearest one of the other, both ways."""

    forward: np.ndarray
    backward: np.ndarray


def surface_distances(
    a: np.ndarray, b: np.ndarray, spacing_mm: Sequence[float] | np.ndarray, flat: Sequence[int] | None = None
) -> SurfaceDistances:
    """Distances between the surfaces of two non-empty masks.

    A surface voxel is one of the mask with a face neighbour outside it (the border of the array counts as outside);
    distances are Euclidean between voxel centres, with the spacing.

    Args:
        a: bool, (X, Y, Z).
        b: bool, the same shape.
        spacing_mm: voxel size along each axis.
        flat: axes across which the scan has a single slice, so that a contour is the outline within the plane, not
            every voxel of it; None: those along which the arrays have size 1.
    """
    if flat is None:
        flat = [axis for axis, size in enumerate(a.shape) if size == 1]
    surface_a, surface_b = _surface(a, flat), _surface(b, flat)
    to_a = ndi.distance_transform_edt(~surface_a, sampling=spacing_mm)
    to_b = ndi.distance_transform_edt(~surface_b, sampling=spacing_mm)
    return SurfaceDistances(to_b[surface_a], to_a[surface_b])


def _surface(mask: np.ndarray, flat: Sequence[int]) -> np.ndarray:
    footprint = ndi.generate_binary_structure(3, 1)
    for axis in flat:
        footprint = footprint & (np.indices((3, 3, 3))[axis] == 1)
    return mask & ~ndi.binary_erosion(mask, footprint)


def hausdorff(distances: SurfaceDistances, percentile: float = 100, directions: str = "max") -> float:
    """Hausdorff distance, or a percentile of it (Huttenlocher et al. 1993; Taha and Hanbury 2015, section 2.5).

    Unit mm, range 0 and up, lower is better; background plays no part.

    Args:
        distances: between the surfaces of two structures, in mm.
        percentile: 100 for the Hausdorff distance itself, which a single stray voxel decides, 95 for HD95.
        directions: ``max``: the larger of both directed percentiles (MONAI, and DeepMind's code in the Learn2Reg
            evaluation); ``pooled``: the percentile of both directions' distances together (medpy, which IMSE uses).

    Raises:
        ConfigError: the directions are neither.
    """
    check_option("hd95_mm", "directions", directions)
    if directions == "pooled":
        return float(np.percentile(np.concatenate(distances), percentile))
    return float(max(np.percentile(d, percentile) for d in distances))


def average_surface_distance(distances: SurfaceDistances) -> float:
    """Mean distance over all surface voxels of both masks (Cao et al. 2018, section 3.1; MONAI's with `symmetric`).

    Unit mm, range 0 and up, lower is better; background plays no part.
    """
    return float(np.concatenate(distances).mean())


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float] | np.ndarray) -> float:
    """Diagonal of a grid in mm, which no distance within it exceeds; axes of size 1 don't count, so that a slice has
    the diagonal of its plane."""
    sides = np.where(np.array(shape) > 1, np.array(shape) * np.asarray(spacing_mm, dtype=np.float64), 0.0)
    return float(np.sqrt((sides**2).sum()))


def lost_distance(pair: Pair, structure: str, missing: str, flat: bool = False) -> float:
    """What the distance to a structure counts that the truth has and the result lacks, in mm.

    See :data:`~modalign.metrics.choices.MISSING`.

    Args:
        pair: the case; a remark says of which structures a distance is made up.
        structure: its name.
        missing: ``diagonal`` or ``drop``.
        flat: whether the distance is one within an axial slice.

    Raises:
        ConfigError: `missing` is neither.
    """
    check_option("hd95_mm", "missing", missing)
    if missing == "drop":
        return float("nan")
    pair.remarks.add(f"{structure} {LOST}")
    x, y, z = pair.case.grid.shape
    return diagonal_mm((x, y, 1 if flat else z), pair.case.fixed.spacing)


def measure_hausdorff(pair: Pair, interpolation: str, region: str, per_slice: bool, missing: str) -> list[Value]:
    """Hausdorff distance of every structure between fixed labels and moving labels warped by the field.

    Unit mm, range 0 and up, lower is better; background plays no part.

    Args:
        pair: the case and its alignment.
        interpolation: as :func:`~modalign.metrics.overlap.measure_dice`.
        region: as :func:`~modalign.metrics.overlap.measure_dice`.
        per_slice: as :func:`~modalign.metrics.overlap.measure_dice`; distances are then within the slice.
        missing: what counts where warping drives a structure out of the grid, the region or the slice, so that there
            is no distance: see :data:`~modalign.metrics.choices.MISSING`.

    NaN where the fixed or the moving scan lacks the structure, which is not the alignment's doing.
    """
    return _measure(pair, hausdorff, interpolation, region, per_slice, missing)


def measure_hd95(
    pair: Pair, interpolation: str, region: str, per_slice: bool, directions: str, missing: str
) -> list[Value]:
    """95th percentile of the Hausdorff distance of every structure, in mm: range 0 and up, lower is better.

    `directions` as :func:`hausdorff`, everything else as :func:`measure_hausdorff`; background plays no part.
    """
    return _measure(pair, lambda d: hausdorff(d, 95, directions), interpolation, region, per_slice, missing)


def measure_asd(pair: Pair, interpolation: str, region: str, per_slice: bool, missing: str) -> list[Value]:
    """Symmetric average surface distance of every structure (Cao et al. 2018, section 3.1), in mm.

    Range 0 and up, lower is better; background plays no part. Options and NaN as :func:`measure_hausdorff`.
    """
    return _measure(pair, average_surface_distance, interpolation, region, per_slice, missing)


class _Lost(NamedTuple):
    """Stands for the distances to a structure that the result lacks."""


def _measure(
    pair: Pair,
    score: Callable[[SurfaceDistances], float],
    interpolation: str,
    region: str,
    per_slice: bool,
    missing: str,
) -> list[Value]:
    # The three measures of this file share their distances, which is where the time goes.
    key = ("surface", interpolation, region, per_slice)
    if key not in pair.memory:
        pair.memory[key] = [
            (name, z, _distances(pair, a, b, per_slice))
            for name, z, a, b in structures(pair, interpolation, region, per_slice)
        ]
    values = []
    for name, z, distances in pair.memory[key]:
        if isinstance(distances, _Lost):
            value = lost_distance(pair, name, missing, flat=per_slice)
        else:
            value = float("nan") if distances is None else score(distances)
        values.append(Value(value, z, name))
    return values


def _distances(
    pair: Pair, a: np.ndarray | None, b: np.ndarray | None, per_slice: bool
) -> SurfaceDistances | _Lost | None:
    """Distances between the fixed structure `a` and the warped `b`; None where the truth has nothing to compare."""
    if a is None or b is None or not a.any():
        return None
    if not b.any():
        return _Lost()
    return surface_distances(a, b, pair.case.fixed.spacing, flat_axes(pair.case.grid.shape, per_slice))


def flat_axes(shape: tuple[int, int, int], per_slice: bool = False) -> list[int]:
    """The axes along which a scan of `shape`, or a slice of it, is flat.

    Structures don't tell: one of a single voxel's thickness, cropped, has axes of size 1 as well.
    """
    x, y, z = shape
    return [axis for axis, size in enumerate((x, y, 1 if per_slice else z)) if size == 1]
