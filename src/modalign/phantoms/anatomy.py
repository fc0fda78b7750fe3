"""Bodies made of structures that are painted over one another, as functions of position in mm."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

Inside = Callable[[np.ndarray], np.ndarray]
"""Points (3, N) in RAS mm -> bool (N,)."""


@dataclass(frozen=True, eq=False)
class Structure:
    """A named part of the body.

    Attributes:
        name: unique within an anatomy, such as ``bladder``.
        tissue: what it is made of, a key of :data:`modalign.phantoms.tissues.TISSUES`.
        inside: tells which points (3, N), RAS mm, lie in it.
        bounds: (2, 3) mm, lowest and highest corner of a box around it; only points in the box are asked for.
    """

    name: str
    tissue: str
    inside: Inside
    bounds: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Structures in painting order: where two overlap, the later one wins.

    Attributes:
        structures: the parts, described in the coordinates of a template.
        to_template: maps points (3, N), mm, of this body to the template, so that one description gives many bodies;
            None if the template is the body itself.
    """

    structures: tuple[Structure, ...]
    to_template: Callable[[np.ndarray], np.ndarray] | None = None

    def __post_init__(self) -> None:
        if len(self.structures) > 254:
            raise ValueError(f"an anatomy holds up to 254 structures, not {len(self.structures)}")
        names = [s.name for s in self.structures]
        if repeated := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"structure names have to be unique, these are not: {sorted(repeated)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Structure names by index; index 0 is ``outside``."""
        return ("outside", *(s.name for s in self.structures))

    @property
    def tissues(self) -> tuple[str, ...]:
        """Tissue names by structure index; index 0 is ``air``."""
        return ("air", *(s.tissue for s in self.structures))

    def at(self, points: np.ndarray) -> np.ndarray:
        """The structure index at each of `points` (3, ...), RAS mm: uint8 (...), 0 outside the body.

        Fastest for some ten thousand points that lie close together, since far structures are passed over.
        """
        flat = np.ascontiguousarray(points.reshape(3, -1))
        if self.to_template is not None:
            flat = self.to_template(flat)
        indices = np.zeros(flat.shape[1], dtype=np.uint8)
        if flat.size == 0:
            return indices.reshape(points.shape[1:])
        low, high = flat.min(1), flat.max(1)
        for number, structure in enumerate(self.structures, start=1):
            if structure.bounds is None:
                indices[structure.inside(flat)] = number
                continue
            if (low > structure.bounds[1]).any() or (high < structure.bounds[0]).any():
                continue
            candidates = _in_box(flat, structure.bounds)
            if candidates.size:
                indices[candidates[structure.inside(flat[:, candidates])]] = number
        return indices.reshape(points.shape[1:])

    def without(self, *names: str) -> "Anatomy":
        """The same body lacking some structures, such as gas that only one scan shows."""
        if unknown := set(names) - set(self.names):
            raise ValueError(f"no structures {sorted(unknown)} in this anatomy")
        return Anatomy(tuple(s for s in self.structures if s.name not in names), self.to_template)


def solid(
    name: str, tissue: str, distance: Callable[[np.ndarray], np.ndarray], around: ArrayLike, margin_mm: float = 0.0
) -> Structure:
    """A structure whose inside is where a signed distance (see :mod:`modalign.phantoms.shapes`) is negative.

    It has to lie in the box around the points `around` (N, 3), mm, enlarged by `margin_mm`.
    """
    corners = np.asarray(around, dtype=float)
    bounds = np.stack([corners.min(0) - margin_mm, corners.max(0) + margin_mm])
    return Structure(name, tissue, lambda points: distance(points) < 0, bounds)


def _in_box(points: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    low, high = np.asarray(bounds, dtype=points.dtype)
    inside = (points[2] >= low[2]) & (points[2] <= high[2])
    for axis in (0, 1):
        inside &= (points[axis] >= low[axis]) & (points[axis] <= high[axis])
    return np.flatnonzero(inside)
