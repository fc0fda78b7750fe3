"""Turning an anatomy into an image: one value per tissue, partial volume at surfaces, texture within tissues."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from modalign.phantoms.anatomy import Anatomy
from modalign.phantoms.motion import block_points
from modalign.volumes import Grid, apply_affine

Map = Callable[[np.ndarray], np.ndarray]
"""Points (3, ...), RAS mm of a scan -> the points (3, ...), mm, where the anatomy has this tissue."""

_BLOCK = (40, 40, 8)


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
            for block in _blocks(self.grid):
                points = _referred(block_points(self.grid, block), self.to_reference)
                image[block] += amplitude[block] * texture.noise(points)
        return image

    def labels(self, label_of: Mapping[str, int]) -> np.ndarray:
        """The label map (X, Y, Z), uint8, by structure name; structures not named are background."""
        table = np.array([label_of.get(name, 0) for name in self.anatomy.names], dtype=np.uint8)
        return table[self.centres]

    def fraction(self, tissue: str) -> np.ndarray:
        """How much of each voxel is `tissue`: (X, Y, Z), float32, 0 to 1."""
        return self.image({t: float(t == tissue) for t in self.anatomy.tissues})


def rasterise(anatomy: Anatomy, grid: Grid, *, supersample: int = 2, to_reference: Map | None = None) -> Raster:
    """Look the anatomy up at every voxel of `grid`, and more often in voxels near a surface.

    Args:
        anatomy: the body.
        grid: the voxels.
        supersample: points per axis in mixed voxels, of which every other is used; 1 for none.
        to_reference: maps the scan's points into the anatomy, such as :meth:`Motion.inverse`.
    """
    centres = np.empty(grid.shape, dtype=np.uint8)
    for block in _blocks(grid):
        centres[block] = anatomy.at(_referred(block_points(grid, block), to_reference))
    surface = _at_surface(centres) if supersample > 1 else np.zeros(grid.shape, dtype=bool)
    offsets = _offsets(supersample)
    mixed, parts = [], []
    for block in _blocks(grid):
        found = np.nonzero(surface[block])
        if not found[0].size:
            continue
        voxels = np.stack([f + b.start for f, b in zip(found, block, strict=True)])
        points = apply_affine(grid.affine, voxels[:, :, None] + offsets)
        mixed.append(np.ravel_multi_index(tuple(voxels), grid.shape))
        parts.append(anatomy.at(_referred(points, to_reference)))
    if not mixed:
        empty = np.zeros((0, offsets.shape[2]), dtype=np.uint8)
        return Raster(grid, anatomy, centres, np.zeros(0, dtype=np.intp), empty, to_reference)
    return Raster(grid, anatomy, centres, np.concatenate(mixed), np.concatenate(parts), to_reference)


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


def _at_surface(centres: np.ndarray) -> np.ndarray:
    """Voxels with another structure in one of the six voxels that they share a face with."""
    surface = np.zeros(centres.shape, dtype=bool)
    for axis in range(3):
        here, there = [slice(None)] * 3, [slice(None)] * 3
        here[axis], there[axis] = slice(None, -1), slice(1, None)
        differs = centres[tuple(here)] != centres[tuple(there)]
        surface[tuple(here)] |= differs
        surface[tuple(there)] |= differs
    return surface


def _offsets(supersample: int) -> np.ndarray:
    """Points (3, 1, S) within a voxel, in voxels from its centre: every other one of ``supersample^3``, like black
    fields of a chessboard, which cover all axes evenly at half the cost."""
    steps = np.arange(supersample)
    black = np.array([p for p in itertools.product(steps, repeat=3) if sum(p) % 2 == 0], dtype=float)
    return ((black + 0.5) / supersample - 0.5).T[:, None, :]


def _referred(points: np.ndarray, to_reference: Map | None) -> np.ndarray:
    return (points if to_reference is None else to_reference(points)).astype(np.float32)


def _blocks(grid: Grid) -> Iterator[tuple[slice, slice, slice]]:
    """Boxes of neighbouring voxels, small enough to stay in the processor's cache."""
    for corner in itertools.product(*[range(0, n, b) for n, b in zip(grid.shape, _BLOCK, strict=True)]):
        x, y, z = (slice(c, min(c + b, n)) for c, b, n in zip(corner, _BLOCK, grid.shape, strict=True))
        yield x, y, z
