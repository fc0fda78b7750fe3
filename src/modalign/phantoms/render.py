"""Turning an anatomy into an image: one value per tissue, partial volume at surfaces, texture within tissues."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi

from modalign.phantoms.anatomy import Anatomy
from modalign.phantoms.motion import slab_points
from modalign.volumes import Grid, apply_affine

Map = Callable[[np.ndarray], np.ndarray]
"""Points (3, ...), RAS mm of a scan -> the points (3, ...), mm, where the anatomy has this tissue."""

_POINTS_AT_ONCE = 500_000


@dataclass(frozen=True, eq=False)
class Texture:
    """Smooth variation within tissues that is attached to the material, so that both scans show the same.

    Attributes:
        noise: position in the anatomy (3, N), mm -> values (N,) with mean 0 and standard deviation 1.
        amplitude: standard deviation by tissue name, in the units of the image; 0 for tissues not named.
    """

    noise: Callable[[np.ndarray], np.ndarray]
    amplitude: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Raster:
    """An anatomy on a grid: the structure at every voxel's centre, and at more points where voxels are mixed.

    Attributes:
        grid: the voxels.
        anatomy: what the indices refer to.
        centres: (X, Y, Z) uint8 structure indices.
        mixed: (M,) flat indices of the voxels near a surface.
        parts: (M, S) uint8 structure indices at S points spread over each of them.
        to_reference: maps points of this scan into the anatomy; None if they are the same.
    """

    grid: Grid
    anatomy: Anatomy
    centres: np.ndarray
    mixed: np.ndarray
    parts: np.ndarray
    to_reference: Map | None

    def image(self, values: Mapping[str, float], texture: Texture | None = None) -> np.ndarray:
        """The image (X, Y, Z), float32, in which every tissue has its value from `values`."""
        if missing := set(self.anatomy.tissues) - set(values):
            raise ValueError(f"no value for the tissues {sorted(missing)}")
        table = np.array([values[t] for t in self.anatomy.tissues], dtype=np.float32)
        image = table[self.centres]
        image.ravel()[self.mixed] = table[self.parts].mean(1)
        if texture is not None:
            strength = np.array([texture.amplitude.get(t, 0.0) for t in self.anatomy.tissues], dtype=np.float32)
            amplitude = strength[self.centres]
            amplitude.ravel()[self.mixed] = strength[self.parts].mean(1)
            for start, stop in _slabs(self.grid):
                noise = texture.noise(_referred(slab_points(self.grid, start, stop), self.to_reference))
                image[..., start:stop] += amplitude[..., start:stop] * noise
        return image

    def labels(self, label_of: Mapping[str, int]) -> np.ndarray:
        """The label map (X, Y, Z), uint8, by structure name; structures not named are background."""
        table = np.array([label_of.get(name, 0) for name in self.anatomy.names], dtype=np.uint8)
        return table[self.centres]

    def fraction(self, tissue: str) -> np.ndarray:
        """How much of each voxel is `tissue`: (X, Y, Z), float32, 0 to 1."""
        return self.image({t: float(t == tissue) for t in self.anatomy.tissues})


def rasterise(anatomy: Anatomy, grid: Grid, *, supersample: int = 2, to_reference: Map | None = None) -> Raster:
    """Look the anatomy up at every voxel of `grid`, and `supersample`^3 times in voxels near a surface.

    Args:
        anatomy: the body.
        grid: the voxels.
        supersample: points per axis in mixed voxels; 1 for none.
        to_reference: maps the scan's points into the anatomy, such as :meth:`Motion.inverse`.
    """
    centres = np.empty(grid.shape, dtype=np.uint8)
    for start, stop in _slabs(grid):
        centres[..., start:stop] = anatomy.at(_referred(slab_points(grid, start, stop), to_reference))
    if supersample == 1:
        mixed, parts = np.zeros(0, dtype=np.intp), np.zeros((0, 1), dtype=np.uint8)
        return Raster(grid, anatomy, centres, mixed, parts, to_reference)
    surface = ndi.maximum_filter(centres, 3) != ndi.minimum_filter(centres, 3)
    mixed = np.flatnonzero(surface)
    steps = (np.arange(supersample) + 0.5) / supersample - 0.5
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")).reshape(3, 1, -1)
    parts = np.empty((mixed.size, offsets.shape[2]), dtype=np.uint8)
    chunk = _POINTS_AT_ONCE // offsets.shape[2]
    for start in range(0, mixed.size, chunk):
        voxels = np.stack(np.unravel_index(mixed[start : start + chunk], grid.shape))[:, :, None]
        points = apply_affine(grid.affine, voxels + offsets)
        parts[start : start + chunk] = anatomy.at(_referred(points, to_reference))
    return Raster(grid, anatomy, centres, mixed, parts, to_reference)


def render(
    anatomy: Anatomy,
    grid: Grid,
    values: Mapping[str, float],
    *,
    supersample: int = 2,
    to_reference: Map | None = None,
    texture: Texture | None = None,
) -> np.ndarray:
    """The image (X, Y, Z), float32, of an anatomy in which every tissue has its value, with partial volume.

    To make several images of one anatomy on one grid, call :func:`rasterise` once and its methods instead.
    """
    return rasterise(anatomy, grid, supersample=supersample, to_reference=to_reference).image(values, texture)


def render_labels(
    anatomy: Anatomy, grid: Grid, label_of: Mapping[str, int], to_reference: Map | None = None
) -> np.ndarray:
    """The label map (X, Y, Z), uint8: the label of the structure at each voxel's centre, by structure name."""
    return rasterise(anatomy, grid, supersample=1, to_reference=to_reference).labels(label_of)


def _referred(points: np.ndarray, to_reference: Map | None) -> np.ndarray:
    return (points if to_reference is None else to_reference(points)).astype(np.float32)


def _slabs(grid: Grid) -> list[tuple[int, int]]:
    thickness = max(1, _POINTS_AT_ONCE // (grid.shape[0] * grid.shape[1]))
    return [(z, min(z + thickness, grid.shape[2])) for z in range(0, grid.shape[2], thickness)]
