"""Bones and cavities of the face: orbits, nose, sinuses, jaws, teeth."""

import numpy as np

from modalign.phantoms.anatomy import Structure
from modalign.phantoms.brain import both_sides, in_box
from modalign.phantoms.cortex import sheets
from modalign.phantoms.shapes import (
    Distance,
    difference,
    ellipsoid,
    grown,
    intersection,
    plate,
    rough,
    smooth_noise,
    tube,
    union,
)


def face_structures(rng: np.random.Generator) -> tuple[Structure, ...]:
    """The face of one subject, in painting order: bones, then what is hollowed out of them, then eyes and teeth."""
    size = rng.uniform(0.8, 1.15)
    return (*_bones(), *_orbits(), *_nose_and_sinuses(rng, size), *_jaw(rng), *_teeth(rng))


def _bones() -> list[Structure]:
    maxilla = union(ellipsoid((14, 58, -56), (22, 20, 16)), ellipsoid((0, 68, -62), (20, 12, 9)), blend_mm=5)
    zygoma = plate(
        [(30, 74, -32), (46, 66, -24), (48, 58, -46), (34, 70, -46)], [(0, 1, 2), (0, 2, 3)], [3.0, 3.5, 3.0, 3.0]
    )
    arch = tube([(48, 58, -40), (60, 36, -38), (64, 10, -36), (60, -8, -34)], [3.2, 2.4, 2.4, 3.0])
    brow = tube([(4, 79, -4), (18, 81, -2), (34, 77, -4), (46, 66, -10), (48, 62, -24)], [4, 4.5, 4, 4, 3.5])
    nasal = plate([(1, 80, -6), (1, 92, -24), (8, 82, -26)], [(0, 1, 2)], [2.2, 1.3, 1.2])
    wings = plate([(12, 26, -40), (14, 22, -70), (22, 14, -68)], [(0, 1, 2)], [1.2, 1.2, 1.2])
    return [
        both_sides("maxilla", "cortical_bone", maxilla, (0, 30, -76), (42, 84, -38)),
        both_sides("maxilla_marrow", "trabecular_bone", grown(maxilla, -1.8), (0, 30, -76), (42, 84, -38)),
        both_sides("zygoma", "cortical_bone", union(zygoma, arch, blend_mm=3), (26, -14, -54), (70, 82, -18)),
        both_sides("brow", "cortical_bone", union(brow, nasal), (0, 56, -30), (54, 96, 4)),
        both_sides("pterygoid_plates", "cortical_bone", wings, (8, 10, -74), (26, 30, -38)),
    ]


def _orbits() -> list[Structure]:
    cone = tube([(33, 68, -20), (26, 44, -20), (15, 22, -17)], [17, 13, 4])
    globe = ellipsoid((32, 69, -21), (12, 12, 12))
    muscles = union(
        tube([(43, 70, -20), (35, 50, -20), (16, 24, -17)], [1.2, 2.4, 1.2]),
        tube([(22, 70, -20), (19, 50, -20), (14, 24, -17)], [1.2, 2.4, 1.2]),
        tube([(32, 70, -10), (28, 50, -11), (15, 24, -15)], [1.2, 2.2, 1.2]),
        tube([(32, 70, -32), (28, 50, -30), (15, 24, -19)], [1.2, 2.4, 1.2]),
    )
    nerve = tube([(31, 58, -21), (24, 42, -20), (14, 22, -16)], 2.0)
    box = ((6, 14, -40), (52, 88, 0))
    # In front, the orbit opens between the lids.
    wall = intersection(grown(cone, 1.4), lambda p: p[1] - 66)
    return [
        both_sides("orbit_wall", "cortical_bone", wall, *box),
        both_sides("orbital_fat", "fat", intersection(cone, lambda p: p[1] - 76), *box),
        both_sides("eye_muscles", "muscle", muscles, *box),
        both_sides("optic_nerve", "white_matter", nerve, *box),
        both_sides("sclera", "sclera", globe, *box),
        both_sides("vitreous", "eye_vitreous", grown(globe, -1.2), *box),
        both_sides("lens", "lens", ellipsoid((32, 78, -21), (4.6, 2.2, 4.6)), *box),
    ]


def _nose_and_sinuses(rng: np.random.Generator, size: float) -> list[Structure]:
    noise, cells = smooth_noise(rng, 9.0), sheets(rng, 15.0, nodes=32, step=2.0)
    cavity = union(
        ellipsoid((0, 52, -40), (12, 30, 18)),
        tube([(6, 92, -50), (6, 76, -46)], 4),
        tube([(6, 30, -46), (4, 16, -52), (0, 10, -60)], [7, 7, 8]),
        blend_mm=4,
    )
    turbinates = union(
        tube([(8, 74, -49), (8, 36, -49)], [3.6, 4.2]), tube([(6.5, 66, -36), (6.5, 36, -36)], [2.6, 3.2])
    )
    septum = lambda p: np.abs(p[0] + 0.8 * np.sin(p[1] / 9)) - 1.3  # noqa: E731
    maxillary = rough(ellipsoid((29, 50, -44), (11 * size, 15 * size, 14 * size)), noise, 1.2)
    frontal = rough(ellipsoid((12, 69.5, 3), (12 * size, 4 * size, 9 * size)), noise, 1.0)
    sphenoid = rough(ellipsoid((7, 12, -24), (7.5 * size, 10 * size, 8 * size)), noise, 0.8)
    ethmoid = ellipsoid((7, 46, -20), (7, 22, 10))
    mastoid = ellipsoid((57, -32, -42), (8, 11, 15))
    swollen = grown(maxillary, -rng.choice([0.6, 0.8, 3.5]))
    box = ((0, -2, -70), (16, 98, -20))
    parts: list[tuple[str, Distance, tuple, tuple]] = [
        ("maxillary", maxillary, (14, 30, -62), (46, 70, -26)),
        ("frontal", frontal, (0, 60, -10), (32, 84, 24)),
        ("sphenoid", sphenoid, (0, -2, -36), (18, 28, -12)),
    ]
    structures = []
    for name, shape, low, high in parts:
        walls = np.array(low) - 2, np.array(high) + 2
        structures.append(both_sides(f"{name}_wall", "cortical_bone", grown(shape, 1.3), *walls))
        structures.append(both_sides(f"{name}_mucosa", "mucosa", shape, low, high))
        hollow = swollen if name == "maxillary" else grown(shape, -0.6)
        structures.append(both_sides(f"{name}_sinus", "gas", hollow, low, high))
    honeycomb = intersection(ethmoid, lambda p: 1.0 - np.abs(cells(p)))
    pneumatised = intersection(mastoid, lambda p: 1.2 - np.abs(cells(p)))
    airway = difference(cavity, septum)
    return [
        *structures,
        both_sides("ethmoid_walls", "diploe", grown(ethmoid, 0.8), (0, 20, -32), (16, 70, -8)),
        both_sides("ethmoid_mucosa", "mucosa", grown(honeycomb, 0.6), (0, 22, -32), (15, 70, -8)),
        both_sides("ethmoid_cells", "gas", honeycomb, (0, 22, -32), (15, 70, -8)),
        both_sides("mastoid_cells", "gas", pneumatised, (46, -46, -60), (68, -18, -24)),
        both_sides("nasal_mucosa", "mucosa", grown(cavity, 1.5), *box),
        both_sides("nasal_cavity", "gas", airway, *box),
        both_sides("turbinates", "mucosa", turbinates, *box),
        in_box("hard_palate", "cortical_bone", ellipsoid((0, 48, -61), (19, 26, 2.2)), (-20, 20, -64), (20, 76, -58)),
    ]


def _jaw(rng: np.random.Generator) -> list[Structure]:
    long = rng.uniform(-3, 5)
    body = tube(
        [(46, 0, -82), (42, 18, -91 - long / 2), (30, 46, -97 - long), (14, 64, -101 - long), (0, 68, -102 - long)],
        [6.5, 7, 7.5, 8.5, 8.5],
    )
    ramus = plate(
        [(50, 0, -36), (47, 20, -40), (43, 24, -86), (46, -1, -82)], [(0, 1, 2), (0, 2, 3)], [4.5, 2.5, 4.5, 4.5]
    )
    mandible = union(body, ramus, blend_mm=6)
    box = ((0, -14, -118), (58, 80, -30))
    return [
        both_sides("mandible", "cortical_bone", mandible, *box),
        both_sides("mandible_marrow", "trabecular_bone", grown(mandible, -2.4), *box),
    ]


def _teeth(rng: np.random.Generator) -> list[Structure]:
    """Eight teeth a side and jaw along parabolic arches: roots of dentine, crowns of enamel; a few are missing."""
    structures = []
    arches = (("upper", 0.0, -69.0, 12.0), ("lower", -2.5, -80.0, -12.0))
    for name, back, bite, root in arches:
        roots, crowns = [], []
        for t in np.linspace(0.06, 1, 8):
            if rng.random() < 0.08:
                continue
            x, y = 25 * t**0.8, 80 + back - 40 * t**1.7
            radius = 2.9 + 1.7 * t
            roots.append(tube([(x, y, bite + 0.2 * root), (x, y - 2, bite + 1.1 * root)], [radius * 0.9, 1.6]))
            crowns.append(ellipsoid((x, y, bite), (radius, radius, 5.5)))
        low = (0, 34, min(bite, bite + 1.3 * root) - 7)
        high = (32, 90, max(bite, bite + 1.3 * root) + 7)
        structures += [
            both_sides(f"{name}_roots", "dentine", union(*roots), low, high),
            both_sides(f"{name}_crowns", "enamel", union(*crowns), low, high),
            both_sides(f"{name}_dentine", "dentine", grown(union(*crowns), -1.6), low, high),
        ]
    if rng.random() < 0.35:
        side, x, y = rng.choice([-1.0, 1.0]), 20.5, 52.0
        crown = ellipsoid((side * x, y, -69), (4.2, 4.2, 4.0))
        around = np.array([side * x, y, -69])
        structures.append(in_box("metal_crown", "metal", crown, around - 6, around + 6))
    return structures
