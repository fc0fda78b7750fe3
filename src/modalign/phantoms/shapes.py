"""Organic shapes as signed distances: negative inside, in mm, approximate away from the surface."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import ArrayLike

from modalign.phantoms.lookup import look_up

Distance = Callable[[np.ndarray], np.ndarray]
"""Points (3, N), mm -> signed distance (N,), mm, negative inside."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """Values on a regular lattice, looked up between its nodes by trilinear interpolation.

    Attributes:
        values: (X, Y, Z), float32.
        origin: mm, position of the first node.
        step: mm between nodes.
        wrap: whether the lattice repeats itself in all directions; otherwise its border values continue outwards.
    """

    values: np.ndarray
    origin: np.ndarray
    step: float
    wrap: bool = False

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """The values at `points` (3, ...), mm: float32 (...)."""
        positions = (points - self.origin.reshape(3, *[1] * (points.ndim - 1)).astype(points.dtype)) / self.step
        if not self.wrap:
            return look_up(self.values[None], positions)[0]
        around = np.asarray(self.values.shape).reshape(3, *[1] * (points.ndim - 1))
        return look_up(np.pad(self.values, (0, 1), mode="wrap")[None], np.mod(positions, around))[0]


def lattice_points(bounds: np.ndarray, step: float) -> np.ndarray:
    """Nodes (3, X, Y, Z), float32 mm, of a lattice that covers the box `bounds` (2, 3)."""
    low, high = np.asarray(bounds, dtype=float)
    axes = [a + step * np.arange(int(np.ceil((b - a) / step)) + 1) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def smooth_noise(rng: np.random.Generator, scale_mm: float, nodes: int = 24) -> Lattice:
    """Smooth random field with mean 0 and standard deviation 1 that repeats after ``nodes * scale_mm / 2``.

    `scale_mm` is the distance over which it changes sign, roughly; the lattice has two nodes per scale.
    """
    values = ndi.gaussian_filter(rng.standard_normal((nodes,) * 3), 1.0, mode="wrap")
    values = (values - values.mean()) / values.std()
    origin = rng.uniform(-1, 1, 3) * nodes * scale_mm
    return Lattice(values.astype(np.float32), origin, scale_mm / 2, wrap=True)


def sampled(distance: Distance, bounds: np.ndarray, step: float) -> Lattice:
    """A costly distance, tabulated over the box `bounds` (2, 3) mm so that asking often becomes cheap.

    Distances are nearly linear across a surface, so the surface stays accurate to a fraction of `step`.
    """
    points = lattice_points(bounds, step)
    values = distance(points.reshape(3, -1)).reshape(points.shape[1:])
    return Lattice(values.astype(np.float32), np.asarray(bounds, dtype=float)[0], step)


def ellipsoid(centre: ArrayLike, radii: ArrayLike, rotation: np.ndarray | None = None) -> Distance:
    """An ellipsoid; `rotation` (3, 3) turns its axes into RAS."""
    middle = np.asarray(centre, dtype=np.float32)[:, None]
    axes = np.asarray(radii, dtype=np.float32)
    turn = None if rotation is None else np.asarray(rotation, dtype=np.float32).T

    def distance(points: np.ndarray) -> np.ndarray:
        p = points - middle
        if turn is not None:
            p = turn @ p
        u, v, w = p[0] / axes[0], p[1] / axes[1], p[2] / axes[2]
        length = np.sqrt(u * u + v * v + w * w)
        u, v, w = u / axes[0], v / axes[1], w / axes[2]
        # Dividing by the gradient's length makes the level function a distance to first order.
        slope = np.sqrt(u * u + v * v + w * w) + np.float32(1e-6)
        return np.where(length > 0.05, (length - 1) * length / slope, -axes.min())

    return distance


def tube(path: ArrayLike, radii: ArrayLike, flatten: float = 1.0) -> Distance:
    """A round tube along the polyline `path` (N, 3) with radius `radii` at its nodes.

    `flatten` scales distances along y: below 1 the tube is deeper (anterior-posterior) than wide, above 1 flatter.
    """
    weights = np.array([1, flatten, 1], dtype=np.float32)
    nodes = np.asarray(path, dtype=np.float32) * weights
    sizes = np.broadcast_to(np.asarray(radii, dtype=np.float32), len(nodes))
    start, along = nodes[:-1], nodes[1:] - nodes[:-1]
    length2 = np.maximum((along**2).sum(1), 1e-6)
    taper = np.diff(sizes)

    def distance(points: np.ndarray) -> np.ndarray:
        result: np.ndarray | None = None
        p = points if flatten == 1 else points * weights[:, None]
        for a, d, l2, r, dr in zip(start, along, length2, sizes[:-1], taper, strict=True):
            x, y, z = p[0] - a[0], p[1] - a[1], p[2] - a[2]
            t = np.clip((x * d[0] + y * d[1] + z * d[2]) / l2, 0, 1)
            x -= t * d[0]
            y -= t * d[1]
            z -= t * d[2]
            gap = np.sqrt(x * x + y * y + z * z) - (r + dr * t)
            result = gap if result is None else np.minimum(result, gap, out=result)
        assert result is not None
        return result

    return distance


def plate(corners: ArrayLike, triangles: Sequence[Sequence[int]], radii: ArrayLike) -> Distance:
    """A bent sheet of bone or muscle: triangles between `corners` (N, 3), `radii` (N,) half its thickness there."""
    nodes, sizes = np.asarray(corners, dtype=np.float32), np.asarray(radii, dtype=np.float32)

    def distance(points: np.ndarray) -> np.ndarray:
        result = np.full(points.shape[1], np.inf, dtype=np.float32)
        for triangle in triangles:
            np.minimum(result, _triangle(points, nodes[list(triangle)], sizes[list(triangle)]), out=result)
        return result.astype(np.float32)

    return distance


def _triangle(points: np.ndarray, corners: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Distance to a triangle less the thickness interpolated at the foot point."""
    a, ab, ac = corners[0], corners[1] - corners[0], corners[2] - corners[0]
    p = points - a[:, None]
    d1, d2 = ab @ p, ac @ p
    bb, bc, cc = ab @ ab, ab @ ac, ac @ ac
    scale = bb * cc - bc * bc
    v, w = (cc * d1 - bc * d2) / scale, (bb * d2 - bc * d1) / scale
    in_face = (v >= 0) & (w >= 0) & (v + w <= 1)
    face = np.sqrt(np.maximum(((p - np.outer(ab, v) - np.outer(ac, w)) ** 2).sum(0), 0))
    face -= radii[0] + (radii[1] - radii[0]) * v + (radii[2] - radii[0]) * w
    best = np.where(in_face, face, np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = corners[j] - corners[i]
        q = points - corners[i][:, None]
        t = np.clip(edge @ q / (edge @ edge), 0, 1)
        gap = np.sqrt(((q - np.outer(edge, t)) ** 2).sum(0)) - (radii[i] + (radii[j] - radii[i]) * t)
        np.minimum(best, gap, out=best, where=~in_face)
    return best


def column(z: ArrayLike, centres: ArrayLike, half_widths: ArrayLike, power: float = 2.0) -> Distance:
    """A body along z whose axial sections are superellipses ``|x/a|^power + |y/b|^power = 1``.

    Args:
        z: mm, knots in increasing order; the section stays as it is beyond the ends.
        centres: (N, 2) mm, x and y of the section's centre.
        half_widths: (N, 2) mm, a and b.
        power: 2 for ellipses, more for boxier sections.
    """
    knots, middle, widths = (np.asarray(v, dtype=np.float32) for v in (z, centres, half_widths))

    def distance(points: np.ndarray) -> np.ndarray:
        at = [np.interp(points[2], knots, column).astype(np.float32) for column in (*middle.T, *widths.T)]
        u, v = np.abs(points[0] - at[0]) / at[2], np.abs(points[1] - at[1]) / at[3]
        level = u**power + v**power
        radius = level ** (1 / power)
        grow = np.maximum(radius, 0.05) ** (1 - power)
        slope = np.hypot(u ** (power - 1) / at[2], v ** (power - 1) / at[3]) * grow + 1e-6
        return np.where(radius > 0.05, (radius - 1) / slope, -np.minimum(at[2], at[3]))

    return distance


def half_space(point: ArrayLike, normal: ArrayLike) -> Distance:
    """Everything behind the plane through `point`, whose outer `normal` points away from it."""
    n = np.asarray(normal, dtype=np.float32) / np.linalg.norm(normal)
    offset = np.float32(n @ np.asarray(point))
    return lambda points: n @ points - offset


def union(*shapes: Distance, blend_mm: float = 0.0) -> Distance:
    """What lies in any of the shapes; with `blend_mm` the seams are rounded over that width."""

    def distance(points: np.ndarray) -> np.ndarray:
        result = shapes[0](points)
        for shape in shapes[1:]:
            other = shape(points)
            if blend_mm > 0:
                mix = np.maximum(blend_mm - np.abs(result - other), 0) / blend_mm
                result = np.minimum(result, other) - mix**2 * (blend_mm / 4)
            else:
                result = np.minimum(result, other)
        return result

    return distance


def intersection(*shapes: Distance) -> Distance:
    """What lies in all of the shapes."""

    def distance(points: np.ndarray) -> np.ndarray:
        result = shapes[0](points)
        for shape in shapes[1:]:
            result = np.maximum(result, shape(points))
        return result

    return distance


def difference(shape: Distance, *others: Distance) -> Distance:
    """What lies in `shape` and in none of the others."""

    def distance(points: np.ndarray) -> np.ndarray:
        result = shape(points)
        for other in others:
            result = np.maximum(result, -other(points))
        return result

    return distance


def grown(shape: Distance, by_mm: float) -> Distance:
    """The shape with its surface moved outwards by `by_mm` (inwards if negative)."""
    return lambda points: shape(points) - np.float32(by_mm)


def rough(shape: Distance, noise: Distance, amplitude_mm: float) -> Distance:
    """The shape with an uneven surface, displaced by `amplitude_mm` times a :func:`smooth_noise`."""
    return lambda points: shape(points) + np.float32(amplitude_mm) * noise(points)


def mirrored(shape: Distance) -> Distance:
    """The shape mirrored at the plane x = 0."""
    flip = np.array([[-1], [1], [1]], dtype=np.float32)
    return lambda points: shape(points * flip)


def marbled(shape: Distance, noise: Distance, share: float) -> Distance:
    """The shape cut by thin winding gaps where a :func:`smooth_noise` is near 0, like muscle by sheets of fat.

    `share` is about the fraction of the volume that the gaps take.
    """
    # A Gaussian variable lies within +-w with probability 0.8 w for small w.
    width = np.float32(share / 0.8)
    return lambda points: np.maximum(shape(points), (width - np.abs(noise(points))) * 10)


def stretched(noise: Distance, factors: ArrayLike) -> Distance:
    """A noise drawn out along the axes by `factors`, such as along the fibres of a muscle."""
    scale = (1 / np.asarray(factors, dtype=np.float32))[:, None]
    return lambda points: noise(points * scale)


def wobble(
    rng: np.random.Generator, bounds: np.ndarray, parts: Sequence[tuple[float, float]], step: float
) -> Callable[[np.ndarray], np.ndarray]:
    """A random smooth map of points (3, N), mm, that makes the shapes looked up there individual and uneven.

    Args:
        rng: the source of randomness.
        bounds: (2, 3) mm, where the map varies.
        parts: (scale, amplitude) mm of the displacements that add up, see :func:`smooth_noise`.
        step: mm, lattice spacing of the map; at most half the finest scale.
    """
    tables = []
    for _ in range(3):
        noises = [(smooth_noise(rng, scale), amplitude) for scale, amplitude in parts]
        tables.append(sampled(_total(noises), bounds, step))

    def moved(points: np.ndarray) -> np.ndarray:
        return points + np.stack([table(points) for table in tables])

    return moved


def _total(noises: list[tuple[Lattice, float]]) -> Distance:
    return lambda points: sum(np.float32(amplitude) * noise(points) for noise, amplitude in noises)  # type: ignore[return-value]


def nearest_two(
    shapes: Sequence[tuple[Distance, np.ndarray, float]], points: np.ndarray, reach_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (N,) to the nearest and the second nearest of neighbours that have swollen until they touch.

    Args:
        shapes: (distance, bounds (2, 3) mm, swelling mm) of each, bounds before swelling.
        points: (3, N), mm.
        reach_mm: distances above this are not told apart.
    """
    first = np.full(points.shape[1], reach_mm, dtype=np.float32)
    second = first.copy()
    if points.size == 0:
        return first, second
    low, high = points.min(1), points.max(1)
    for shape, bounds, swelling in shapes:
        margin = swelling + reach_mm
        if (low > bounds[1] + margin).any() or (high < bounds[0] - margin).any():
            continue
        own = shape(points) - np.float32(swelling)
        np.minimum(second, np.maximum(first, own), out=second)
        np.minimum(first, own, out=first)
    return first, second
