"""Loops of bowel: winding tubes with a wall, contents, and gas that collects at the front."""

from collections.abc import Sequence

import numpy as np

from modalign.phantoms.anatomy import Structure
from modalign.phantoms.shapes import Distance, tube


def winding_path(
    rng: np.random.Generator, centre: Sequence[float], radii: Sequence[float], nodes: int, step_mm: float
) -> np.ndarray:
    """A random path (nodes, 3), mm, that turns gently and stays within an ellipsoid."""
    middle, size = np.asarray(centre, dtype=float), np.asarray(radii, dtype=float)
    direction = rng.normal(size=3)
    point = middle + size * rng.uniform(-0.6, 0.6, 3)
    path = [point]
    while len(path) < nodes:
        # Beyond the ellipsoid the way back weighs in.
        offset = (point - middle) / size
        direction = direction / np.linalg.norm(direction) + 0.55 * rng.normal(size=3)
        direction -= max(float(np.linalg.norm(offset)) - 0.5, 0.0) * 2.0 * offset
        direction /= np.linalg.norm(direction)
        point = point + step_mm * direction
        path.append(point)
    return np.asarray(path)


def loop_structures(
    name: str,
    path: np.ndarray,
    radii: np.ndarray,
    wall_mm: float,
    content: str,
    gas_level: float | None,
    folds: Distance,
) -> list[Structure]:
    """One loop: wall, contents and, above `gas_level`, gas.

    Args:
        name: of the loop; the parts are called ``<name>_wall``, ``<name>_content`` and ``<name>_gas``.
        path: (N, 3) mm, its middle line.
        radii: (N,) mm, outer radius at the nodes.
        wall_mm: thickness of the wall.
        content: tissue that fills it.
        gas_level: mm in front of the middle line from where on there is gas; None for no gas.
        folds: noise that makes the wall uneven.
    """
    outer = tube(path, radii)
    bounds = np.stack([path.min(0) - radii.max() - 3, path.max(0) + radii.max() + 3])
    smoothed = np.interp(np.linspace(0, 1, 200), np.linspace(0, 1, len(path)), path[:, 1])
    order = np.linspace(0, 1, 200)
    nodes = np.stack([np.interp(order, np.linspace(0, 1, len(path)), path[:, axis]) for axis in (0, 2)])

    def uneven(points: np.ndarray) -> np.ndarray:
        return outer(points) + 1.2 * folds(points)

    def gas(points: np.ndarray) -> np.ndarray:
        inside = uneven(points) < -wall_mm
        # Gas rises while the patient lies on the back: the level is that of the nearest part of the loop.
        found = np.flatnonzero(inside)
        chosen = points[:, found]
        gap = (chosen[0][:, None] - nodes[0]) ** 2 + (chosen[2][:, None] - nodes[1]) ** 2
        gap += (chosen[1][:, None] - smoothed) ** 2
        level = smoothed[gap.argmin(1)] + gas_level
        inside[found] = chosen[1] > level
        return inside

    parts = [
        Structure(f"{name}_wall", "bowel_wall", lambda points: uneven(points) < 0, bounds),
        Structure(f"{name}_content", content, lambda points: uneven(points) < -wall_mm, bounds),
    ]
    if gas_level is not None:
        parts.append(Structure(f"{name}_gas", "gas", gas, bounds))
    return parts
