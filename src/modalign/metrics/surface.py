"""How far apart are the surfaces of warped and fixed structures? Hausdorff and average surface distance, in mm."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage as ndi

from modalign.errors import ConfigError
from modalign.metrics.overlap import structures
from modalign.metrics.pair import Pair, Value


class SurfaceDistances(NamedTuple):
    """Distances in mm from every surface voxel of one mask to the nearest one of the other, both ways."""

    forward: np.ndarray
    backward: np.ndarray


def surface_distances(a: np.ndarray, b: np.ndarray, spacing_mm: Sequence[float] | np.ndarray) -> SurfaceDistances:
    """Distances between the surfaces of two non-empty masks.

    A surface voxel is one of the mask with a face neighbour outside it (the border of the array counts as outside);
    distances are Euclidean between voxel centres, with the spacing.

    Args:
        a: bool, 3D, or flat along axes of size 1.
        b: bool, the same shape.
        spacing_mm: voxel size along each axis.
    """
    surface_a, surface_b = _surface(a), _surface(b)
    to_a = ndi.distance_transform_edt(~surface_a, sampling=spacing_mm)
    to_b = ndi.distance_transform_edt(~surface_b, sampling=spacing_mm)
    return SurfaceDistances(to_b[surface_a], to_a[surface_b])


def _surface(mask: np.ndarray) -> np.ndarray:
    # An axis of size 1 is a slice: its contour is the outline within the plane, not every voxel of it.
    footprint = ndi.generate_binary_structure(3, 1)
    for axis, size in enumerate(mask.shape):
        if size == 1:
            footprint = footprint & (np.indices((3, 3, 3))[axis] == 1)
    return mask & ~ndi.binary_erosion(mask, footprint)


def hausdorff(distances: SurfaceDistances, percentile: float = 100, directions: str = "max") -> float:
    """Hausdorff distance in mm, or a percentile of it; range 0 and up, lower is better.

    `directions` ``max``: the larger of both directed percentiles (MONAI, and DeepMind's code in the Learn2Reg
    evaluation); ``pooled``: the percentile of both directions' distances together (medpy, which IMSE uses).
    """
    if directions not in ("max", "pooled"):
        raise ConfigError(f"directions {directions!r} of hd95_mm are not known; write 'max' or 'pooled'")
    if directions == "pooled":
        return float(np.percentile(np.concatenate(distances), percentile))
    return float(max(np.percentile(d, percentile) for d in distances))


def average_surface_distance(distances: SurfaceDistances) -> float:
    """Mean distance in mm over all surface voxels of both masks; range 0 and up, lower is better."""
    return float(np.concatenate(distances).mean())


def measure_hausdorff(pair: Pair, interpolation: str, region: str, per_slice: bool) -> list[Value]:
    """Hausdorff distance of every structure; options as :func:`~modalign.metrics.overlap.measure_dice`."""
    return _measure(pair, hausdorff, interpolation, region, per_slice)


def measure_hd95(pair: Pair, interpolation: str, region: str, per_slice: bool, directions: str) -> list[Value]:
    """95th percentile of the Hausdorff distance of every structure; `directions` as :func:`hausdorff`."""
    return _measure(pair, lambda d: hausdorff(d, 95, directions), interpolation, region, per_slice)


def measure_asd(pair: Pair, interpolation: str, region: str, per_slice: bool) -> list[Value]:
    """Symmetric average surface distance of every structure (Cao et al. 2018, section 3.1)."""
    return _measure(pair, average_surface_distance, interpolation, region, per_slice)


def _measure(
    pair: Pair, score: Callable[[SurfaceDistances], float], interpolation: str, region: str, per_slice: bool
) -> list[Value]:
    # The three measures of this file share their distances, which is where the time goes.
    key = ("surface", interpolation, region, per_slice)
    if key not in pair.memory:
        pair.memory[key] = [
            (name, z, _distances(pair, a, b)) for name, z, a, b in structures(pair, interpolation, region, per_slice)
        ]
    return [Value(float("nan") if d is None else score(d), z, name) for name, z, d in pair.memory[key]]


def _distances(pair: Pair, a: np.ndarray | None, b: np.ndarray | None) -> SurfaceDistances | None:
    if a is None or b is None or not a.any() or not b.any():
        return None
    return surface_distances(a, b, pair.case.fixed.spacing)
