"""A brain: folded cortex, white matter, deep nuclei, ventricles, cerebellum, brainstem, CSF, dura.

Positions are in the millimetres of an average adult brain, RAS, with the anterior commissure near the origin.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from modalign.phantoms.anatomy import Structure
from modalign.phantoms.cortex import FOURTH_VENTRICLE, folded, foliated, smooth_cerebellum, smooth_hemispheres, to_right
from modalign.phantoms.shapes import (
    Distance,
    ellipsoid,
    intersection,
    mirrored,
    sampled,
    tube,
    union,
)

CEREBRUM_BOX = np.array([[-72.0, -108, -50], [72, 74, 82]])
CAVITY_BOX = np.array([[-90.0, -125, -80], [90, 92, 98]])
CEREBELLUM_BOX = np.array([[-58.0, -102, -66], [58, -26, -6]])
_CORTEX_MM = 2.4


def in_box(name: str, tissue: str, shape: Distance, low: ArrayLike, high: ArrayLike) -> Structure:
    """A structure of everything inside `shape` within a box from `low` to `high` (mm)."""
    return Structure(name, tissue, lambda points: shape(points) < 0, np.array([low, high], dtype=float))


def both_sides(name: str, tissue: str, shape: Distance, low: ArrayLike, high: ArrayLike) -> Structure:
    """A structure on the right, given by `shape` with x > 0 and its box, together with its mirror image."""
    bounds = np.array([low, high], dtype=float)
    bounds[0, 0] = -bounds[1, 0]
    return Structure(name, tissue, lambda points: shape(to_right(points)) < 0, bounds)


@dataclass(frozen=True, eq=False)
class Brain:
    """The parts of a brain that the skull and a tumour have to know about.

    Attributes:
        cavity: the inside of the skull, dura included.
        white: the cerebrum as if it were white matter throughout.
        structures: in painting order, from CSF to deep nuclei; ``grey_matter`` follows ``white_matter``.
    """

    cavity: Distance
    white: Distance
    structures: tuple[Structure, ...]


def make_brain(rng: np.random.Generator, voxel_mm: float = 1.0) -> Brain:
    """Draw a brain.

    Args:
        rng: the subject.
        voxel_mm: the smallest voxel side of the images to come: how finely shapes have to be tabulated.
    """
    atrophy = rng.uniform(0, 1)
    step = tabulation_mm(voxel_mm)
    cerebellum = smooth_cerebellum()
    around = np.stack([CEREBRUM_BOX[0] - step, CEREBRUM_BOX[1] + step])
    hemispheres = remembered(sampled(smooth_hemispheres(), around, step))
    depth_to_pia = folded(hemispheres, rng, atrophy)
    folia = foliated(cerebellum, rng)
    if voxel_mm < 2.8:
        # Folds are costly, so that big images look them up; for small ones, filling the table costs more.
        fine = max(0.8 * voxel_mm, 1.0)
        depth_to_pia = sampled(depth_to_pia, CEREBRUM_BOX, fine)
        folia = sampled(folia, CEREBELLUM_BOX, fine)
    cavity = remembered(sampled(_cavity(smooth_hemispheres(), cerebellum), CAVITY_BOX, step))
    depth_to_pia, folia = remembered(depth_to_pia), remembered(folia)
    low, high = CEREBRUM_BOX
    white = in_box("white_matter", "white_matter", lambda p: hemispheres(p) + 0.5, low, high)
    grey = Structure("grey_matter", "grey_matter", lambda p: _between(depth_to_pia(p), -0.1, _CORTEX_MM), CEREBRUM_BOX)
    sulci = Structure("sulci", "csf", lambda p: (depth_to_pia(p) <= 0) & (hemispheres(p) < 1), CEREBRUM_BOX)
    structures = [
        Structure("csf", "csf", lambda p: cavity(p) < 0, CAVITY_BOX),
        *_dura(cerebellum, cavity),
        white,
        grey,
        sulci,
        Structure("cerebellum_white_matter", "white_matter", lambda p: folia(p) > 0, CEREBELLUM_BOX),
        Structure("cerebellum", "grey_matter", lambda p: _between(folia(p), 0, 1.9), CEREBELLUM_BOX),
        *_midline(rng),
        *_nuclei(),
        *_ventricles(rng, atrophy),
    ]
    return Brain(cavity, hemispheres, tuple(structures))


def remembered(distance: Distance) -> Distance:
    """The same distance, where asking again about the same points costs next to nothing.

    Structures with the same box are asked about the same points one after the other.
    """
    last: tuple[np.ndarray, np.ndarray] = np.empty((3, 0)), np.empty(0)

    def answer(points: np.ndarray) -> np.ndarray:
        nonlocal last
        if not np.array_equal(points, last[0]):
            last = points, distance(points)
        return last[1]

    return answer


def tabulation_mm(voxel_mm: float) -> float:
    """The lattice step at which smooth outlines are tabulated for images of this voxel size."""
    return min(max(voxel_mm, 2.0), 4.0)


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values > low) & (values < high)


def _cavity(hemispheres: Distance, cerebellum: Distance) -> Distance:
    canal = tube([(0, -28, -30), (0, -33, -52), (0, -37, -70)], [20, 15, 9])
    inside = union(hemispheres, cerebellum, canal, blend_mm=8)
    clivus = tube([(0, 22, -24), (0, 2, -26), (0, -6, -34), (0, -18, -54)], [10, 9, 8, 5])
    return lambda points: np.maximum(inside(points) - np.float32(2.0), -clivus(points))


def _dura(cerebellum: Distance, cavity: Distance) -> list[Structure]:
    tent = lambda p: np.abs(cerebellum(p) - 1.8) - 0.6 + 100 * (p[2] < -32)  # noqa: E731
    sinus = tube(
        [(0, 66, 22), (0, 52, 54), (0, 15, 76), (0, -30, 79), (0, -75, 60), (0, -102, 20), (0, -106, -12)], 4.2
    )
    return [
        in_box("falx", "dura", intersection(lambda p: np.abs(p[0]) - 0.35, cavity), (-1, -104, -14), (1, 70, 80)),
        in_box("tentorium", "dura", tent, (-60, -104, -34), (60, -32, -4)),
        in_box("sagittal_sinus", "blood", intersection(sinus, lambda p: cavity(p) - 1), (-5, -111, -18), (5, 72, 84)),
    ]


def _midline(rng: np.random.Generator) -> list[Structure]:
    thick = rng.uniform(3.0, 4.2)
    path = [(0, 14, -4), (0, 27, 0), (0, 31, 9), (0, 22, 19), (0, 0, 25), (0, -20, 24), (0, -34, 19), (0, -38, 12)]
    sizes = [thick * s for s in (0.5, 0.9, 1.4, 1.1, 0.9, 0.9, 1.2, 1.5)]
    arch = tube(path, sizes)
    squash = np.array([[0.18], [1.0], [1.0]], dtype=np.float32)
    core = ellipsoid((0, -8, 8), (17, 34, 17))
    stem = tube(
        [(0, -12, -4), (0, -20, -15), (0, -22, -24), (0, -25, -34), (0, -30, -46), (0, -35, -62), (0, -39, -76)],
        [12, 14, 13, 12, 8.5, 6.5, 5.5],
    )
    peduncle = tube([(4, -26, -32), (20, -46, -36)], [9, 6])
    stem = union(stem, ellipsoid((0, -21, -32), (15, 10, 11)), blend_mm=5)
    septum = ellipsoid((0, 2, 11), (1.6, 28, 11))
    return [
        in_box("callosal_white_matter", "white_matter", core, (-18, -44, -10), (18, 28, 26)),
        in_box("septum", "csf", septum, (-2, -28, 0), (2, 32, 23)),
        in_box("corpus_callosum", "white_matter", lambda p: arch(p * squash), (-20, -46, -12), (20, 40, 32)),
        both_sides("cerebellar_peduncle", "white_matter", peduncle, (0, -54, -44), (28, -16, -22)),
        in_box("brainstem", "brainstem", stem, (-16, -48, -84), (16, 4, 12)),
    ]


def _nuclei() -> list[Structure]:
    caudate = union(ellipsoid((13, 13, 6), (5, 10, 9)), tube([(15, 6, 14), (19, -12, 21), (21, -28, 20)], [4, 2.6, 2]))
    putamen = ellipsoid((26, 3, 2), (5, 15, 9), _turn_z(-12))
    thalamus = union(ellipsoid((11, -16, 7), (8.5, 14, 9)), ellipsoid((15, -28, 6), (7, 7, 6)), blend_mm=3)
    hippocampus = tube([(23, -6, -20), (27, -16, -18), (30, -28, -11), (26, -38, -3)], [7, 5, 4.5, 3])
    return [
        both_sides("caudate", "deep_grey", caudate, (5, -32, -5), (26, 26, 26)),
        both_sides("putamen", "deep_grey", putamen, (16, -16, -9), (36, 20, 13)),
        both_sides("pallidum", "brainstem", ellipsoid((19, -3, 0), (4, 9, 6), _turn_z(-20)), (12, -14, -7), (26, 8, 7)),
        both_sides("thalamus", "deep_grey", thalamus, (1, -38, -4), (24, 0, 18)),
        both_sides("hippocampus", "grey_matter", hippocampus, (14, -44, -30), (38, 4, 4)),
    ]


def _ventricles(rng: np.random.Generator, atrophy: float) -> list[Structure]:
    size = 0.75 + 0.45 * atrophy + rng.uniform(0, 0.2)
    body = [(11, 31, 7), (6, 20, 13), (5.5, 2, 17), (8, -18, 18), (18, -34, 17), (24, -44, 9)]
    radii = [size * r for r in (2.8, 4.4, 4.2, 4.2, 5.0, 5.2)]
    horns = union(
        tube(body, radii),
        tube([(24, -44, 9), (22, -62, 6), (19, -76, 5)], [5 * size, 3 * size, 1.2]),
        tube([(24, -44, 9), (33, -34, -6), (34, -18, -15), (31, -6, -18)], [4.5 * size, 2.6 * size, 1.8 * size, 1.6]),
        blend_mm=2,
    )
    lateral = intersection(horns, lambda p: np.float32(0.9) - p[0])
    third = intersection(ellipsoid((0, -9, 0), (20, 14, 10)), lambda p: np.abs(p[0]) - np.float32(1.3 + 1.6 * atrophy))
    fourth = union(
        ellipsoid(FOURTH_VENTRICLE, (6 * size, 4.5, 9)), tube([(0, -27, -4), (0, -33, -18), (0, -39, -30)], 1.3)
    )
    choroid = tube([(12, -18, 17), (20, -34, 15), (24, -43, 7)], [1.2, 1.8, 2.4])
    calcified = mirrored(ellipsoid((0, -31, 3), (2.2, 3.2, 2.2)))
    return [
        both_sides("lateral_ventricles", "csf", lateral, (0, -80, -24), (46, 40, 32)),
        in_box("third_ventricle", "csf", third, (-4, -28, -14), (4, 10, 14)),
        in_box("fourth_ventricle", "csf", fourth, (-14, -54, -48), (14, -22, 0)),
        both_sides("choroid_plexus", "tumour_core", choroid, (8, -50, 2), (30, -12, 22)),
        in_box("pineal", "tumour_core", calcified, (-4, -36, -1), (4, -26, 7)),
    ]


def _turn_z(degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
