"""How a body moves between two scans: patient set-up, soft-tissue deformation, organs that fill and empty."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from modalign.phantoms.lookup import look_up
from modalign.phantoms.shapes import lattice_points
from modalign.spatial.fields import field_from_mm
from modalign.volumes import Grid, apply_affine


@dataclass(frozen=True, eq=False)
class Filling:
    """An organ that is fuller (or emptier) in the moving scan.

    Attributes:
        centre: mm RAS, the point that stays; at an organ's base for one that grows away from it.
        radii: mm, half axes of the region that scales as a whole.
        growth: relative change in length along each axis, such as 0.2 for 20 % longer; (3,) or one number.
        reach: how far the tissue around gives way, as a fraction of `radii`.
    """

    centre: np.ndarray
    radii: np.ndarray
    growth: np.ndarray | float
    reach: float = 0.8

    def displacement(self, points: np.ndarray) -> np.ndarray:
        """Displacement (3, ...), mm, at `points` (3, ...), mm."""
        column = (3, *[1] * (points.ndim - 1))
        offset = points - np.asarray(self.centre, dtype=float).reshape(column)
        radius = np.sqrt(((offset / np.asarray(self.radii, dtype=float).reshape(column)) ** 2).sum(0))
        weight = np.exp(-((np.maximum(radius - 1, 0) / self.reach) ** 2))
        return offset * weight * np.broadcast_to(np.asarray(self.growth, dtype=float), 3).reshape(column)


@dataclass(frozen=True, eq=False)
class Shift:
    """A region that is moved as a whole and drags its surroundings along, like the liver in breathing.

    Attributes:
        centre: mm RAS.
        radii: mm, half axes of the region.
        vector: mm, where to.
        reach: how far the tissue around follows, as a fraction of `radii`.
    """

    centre: np.ndarray
    radii: np.ndarray
    vector: np.ndarray
    reach: float = 0.8

    def displacement(self, points: np.ndarray) -> np.ndarray:
        """Displacement (3, ...), mm, at `points` (3, ...), mm."""
        column = (3, *[1] * (points.ndim - 1))
        offset = (points - np.reshape(self.centre, column)) / np.reshape(self.radii, column)
        beyond = np.maximum(np.sqrt((offset**2).sum(0)) - 1, 0)
        return np.exp(-((beyond / self.reach) ** 2)) * np.reshape(self.vector, column)


@dataclass(frozen=True, eq=False)
class Motion:
    """The map from points of the fixed scan to the same tissue's points in the moving scan.

    ``forward(x) = rigid(x + d(x))``, where d is tabulated on a lattice and interpolated linearly between its nodes.

    Attributes:
        rigid: 4 x 4, RAS mm.
        displacement: (3, X, Y, Z), mm, d at the nodes.
        origin: mm, the first node.
        step: mm between nodes.
    """

    rigid: np.ndarray
    displacement: np.ndarray
    origin: np.ndarray
    step: float

    def __post_init__(self) -> None:
        if steepest(self.displacement, self.step) >= 1:
            raise ValueError("the displacement changes by more than the distance: the motion may fold space")

    def forward(self, points: np.ndarray) -> np.ndarray:
        """Where tissue at `points` (3, ...), RAS mm of the fixed scan, lies in the moving scan (3, ...), mm."""
        return apply_affine(self.rigid, points + self._look_up(self.displacement, points))

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Where tissue at `points` (3, ...), RAS mm of the moving scan, lies in the fixed scan (3, ...), mm.

        Starts from the inverse at the lattice nodes and repeats ``x = y - d(x)`` where that still changes x, until
        ``forward(inverse(points))`` is within 0.02 mm of `points` or, in the most squeezed tissue, 0.1 mm.
        """
        straight = apply_affine(np.linalg.inv(self.rigid), points).reshape(3, -1)
        found = straight + self._look_up(self._inverse_displacement, straight)
        moving = np.arange(found.shape[1])
        for _ in range(25):
            updated = straight[:, moving] - self._look_up(self.displacement, found[:, moving])
            change = np.abs(updated - found[:, moving]).max(0)
            found[:, moving] = updated
            moving = moving[change > 0.02]
            if not moving.size:
                break
        return found.reshape(points.shape)

    def true_field(self, grid: Grid, backwards: bool = False) -> np.ndarray:
        """The displacement field (3, X, Y, Z), voxels of the fixed `grid`, that brings the moving scan onto it.

        With `backwards`, `grid` is that of the moving scan, and the field brings the fixed scan onto it.
        """
        field = np.empty((3, *grid.shape), dtype=np.float32)
        for z in range(grid.shape[2]):
            points = block_points(grid, (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(z, z + 1)))
            there = self.inverse(points) if backwards else self.forward(points)
            field[..., z : z + 1] = field_from_mm(there - points, grid)
        return field

    @cached_property
    def _inverse_displacement(self) -> np.ndarray:
        nodes = self._nodes()
        found = -self.displacement
        for _ in range(30):
            updated = -self._look_up(self.displacement, nodes + found)
            change = float(np.abs(updated - found).max())
            found = updated
            if change < 0.2:
                break
        return found

    def _nodes(self) -> np.ndarray:
        indices = np.stack(np.meshgrid(*map(np.arange, self.displacement.shape[1:]), indexing="ij"))
        return (indices * self.step + self.origin.reshape(3, 1, 1, 1)).astype(np.float32)

    def _look_up(self, table: np.ndarray, points: np.ndarray) -> np.ndarray:
        positions = (points - self.origin.reshape(3, *[1] * (points.ndim - 1))) / self.step
        return look_up(table, positions)


def steepest(displacement: np.ndarray, step: float) -> float:
    """The largest gradient (Frobenius norm) of d (3, X, Y, Z) on a lattice.

    Below 1, ``x + d(x)`` can't fold, and ``x = y - d(x)`` converges to its inverse.
    """
    squared = np.zeros([n - 1 for n in displacement.shape[1:]])
    for axis in (1, 2, 3):
        change = np.diff(displacement, axis=axis)[:, : squared.shape[0], : squared.shape[1], : squared.shape[2]]
        squared += (change**2).sum(0)
    return float(np.sqrt(squared.max())) / step


def block_points(grid: Grid, block: tuple[slice, slice, slice]) -> np.ndarray:
    """World positions (3, X, Y, Z), mm RAS, of the voxels of a box cut out of `grid`."""
    indices = np.meshgrid(*[np.arange(b.start, b.stop, dtype=float) for b in block], indexing="ij")
    return apply_affine(grid.affine, np.stack(indices))


def rigid_about(centre: ArrayLike, rotation_deg: ArrayLike, translation_mm: ArrayLike) -> np.ndarray:
    """A 4 x 4 rigid map: turn about `centre` (Euler angles about x, y, z), then shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix()
    matrix[:3, 3] = np.asarray(centre) - matrix[:3, :3] @ np.asarray(centre) + np.asarray(translation_mm)
    return matrix


def random_motion(
    rng: np.random.Generator,
    bounds: np.ndarray,
    *,
    rotation_deg: float = 1.0,
    translation_mm: float = 2.0,
    deformation_mm: float = 3.0,
    smoothness_mm: float = 30.0,
    fillings: Sequence[Filling | Shift] = (),
    stiffness: Callable[[np.ndarray], np.ndarray] | None = None,
    step: float = 4.0,
) -> Motion:
    """Draw how a body moved between two scans.

    Args:
        rng: the source of randomness.
        bounds: (2, 3) mm, the box that the body takes up.
        rotation_deg: standard deviation of the rotation about each axis through the middle of the box.
        translation_mm: standard deviation of the shift along each axis.
        deformation_mm: mean length of the smooth random displacement.
        smoothness_mm: standard deviation of the Gaussian that the random displacement is smoothed with.
        fillings: organs that fill, empty or shift on top of that.
        stiffness: position (3, ...), mm -> 0 where tissue deforms freely, 1 where not at all, as in bone.
        step: mm, lattice spacing.
    """
    bounds = np.asarray(bounds, dtype=float)
    rigid = rigid_about(bounds.mean(0), rng.normal(0, rotation_deg, 3), rng.normal(0, translation_mm, 3))
    nodes = lattice_points(np.add(bounds, [[-2 * step], [2 * step]]), step).astype(float)
    smooth = _smooth_displacement(rng, nodes.shape[1:], step, smoothness_mm) * deformation_mm
    # Filling first, then the smooth part at the place where the filling has brought the tissue.
    filled = np.zeros_like(nodes)
    for filling in fillings:
        filled = filled + filling.displacement(nodes + filled)
    origin = nodes[:, 0, 0, 0]
    moved = (nodes + filled - origin.reshape(3, 1, 1, 1)) / step
    total = filled + look_up(smooth, moved)
    if stiffness is not None:
        total = total * (1 - stiffness(nodes))
    # Opposing deformations may squeeze what lies between them to nothing; tissue doesn't, so both are less.
    for _ in range(20):
        if steepest(total, step) < 0.85:
            break
        total = total * 0.93
    return Motion(rigid, total.astype(np.float32), origin, step)


def _smooth_displacement(
    rng: np.random.Generator, shape: tuple[int, ...], step: float, smoothness_mm: float
) -> np.ndarray:
    """Gaussian-smoothed white noise (3, ...), scaled to mean length 1."""
    # Drawn on a lattice of its own, so that the result depends little on `step`.
    coarse = max(smoothness_mm / 2, step)
    nodes = [int(np.ceil(n * step / coarse)) + 9 for n in shape]
    noise = ndi.gaussian_filter(rng.standard_normal((3, *nodes)), (0, *[smoothness_mm / coarse] * 3), mode="wrap")
    at = np.meshgrid(*[np.arange(n) * step / coarse + 4 for n in shape], indexing="ij")
    smooth = np.stack([ndi.map_coordinates(c, at, order=3, mode="nearest") for c in noise])
    return smooth / np.linalg.norm(smooth, axis=0).mean()
