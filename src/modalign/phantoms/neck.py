"""The neck: cervical spine and cord, muscles, vessels, airway."""

import numpy as np

from modalign.phantoms.anatomy import Structure
from modalign.phantoms.brain import both_sides, in_box
from modalign.phantoms.shapes import Distance, column, difference, ellipsoid, grown, intersection, plate, tube, union

_LEVELS = ((-94, -20), (-111, -19), (-128, -19), (-145, -20), (-162, -22), (-179, -25))
"""z and y (mm) of the middles of the vertebral bodies C3 to C8 (T1)."""
_CORD = [(0, -37, -58), (0, -40, -76), (0, -41, -100), (0, -40, -130), (0, -42, -165), (0, -46, -195)]


def neck_soft_tissue(rng: np.random.Generator, deep: Distance) -> tuple[Structure, ...]:
    """Muscles, vessels and airway, in painting order; muscles stay inside `deep`, what lies below the fat."""
    big = rng.uniform(0.85, 1.2)
    sternomastoid = tube([(58, -36, -54), (51, -25, -90), (40, 2, -130), (24, 24, -180)], [7 * big, 8, 9, 8])
    splenius = tube([(30, -84, -62), (26, -66, -95), (24, -64, -180)], [9 * big, 13 * big, 14 * big])
    semispinalis = tube([(12, -84, -58), (12, -66, -95), (12, -62, -180)], [8 * big, 10 * big, 11 * big])
    trapezius = tube([(12, -92, -70), (28, -82, -120), (52, -60, -180)], [4, 6 * big, 9 * big])
    longus = tube([(10, -10, -60), (11, -8, -120), (12, -10, -180)], [4, 5, 5])
    carotid = tube([(24, -10, -52), (28, -8, -90), (26, -2, -125), (22, -2, -185)], [2.6, 2.8, 3.6, 3.4])
    jugular = tube([(30, -18, -50), (36, -14, -90), (36, -4, -130), (32, -2, -185)], [3.4, 4.2, 5.4, 5.8])
    airway = column(
        [-190, -140, -118, -95, -70, -56],
        [(0, 12), (0, 14), (0, 10), (0, 4), (0, 6), (0, 12)],
        [(8, 9), (6, 9), (11, 7), (9, 6), (9, 5), (10, 9)],
        power=2.3,
    )
    within = lambda shape: intersection(shape, deep)  # noqa: E731
    trunk = (0, -104, -186)
    return (
        both_sides("splenius", "muscle", within(splenius), trunk, (70, 30, -40)),
        both_sides("semispinalis", "muscle", within(semispinalis), trunk, (70, 30, -40)),
        both_sides("trapezius", "muscle", within(trapezius), trunk, (70, 30, -40)),
        both_sides("sternomastoid", "muscle", within(sternomastoid), (10, -46, -186), (72, 40, -44)),
        both_sides("longus", "muscle", longus, (0, -18, -186), (20, 0, -54)),
        in_box("pharynx", "mucosa", grown(airway, 2.5), (-16, -10, -186), (16, 30, -52)),
        in_box("airway", "gas", airway, (-14, -6, -186), (14, 26, -54)),
        both_sides("carotid", "blood", carotid, (14, -18, -186), (34, 6, -46)),
        both_sides("jugular", "blood", jugular, (20, -24, -186), (44, 8, -44)),
    )


def neck_bones(rng: np.random.Generator) -> tuple[Structure, ...]:
    """Cervical vertebrae, discs, dens and spinal cord, in painting order."""
    lean = rng.normal(0, 1.0)
    bodies, arches = [_second_vertebra()], [_first_vertebra()]
    for z, y in _LEVELS:
        middle = y + lean * (z + 94) / 40
        bodies.append(column([z - 6.2, z + 6.2], [(0, middle)] * 2, [(9.5, 8.0)] * 2, power=2.6))
        bodies[-1] = _between(bodies[-1], z - 6.4, z + 6.4)
        arches.append(_arch(middle, z))
    body, arch = union(*bodies), union(*arches)
    disc = column([-180, -86], [(0, -22 + lean * -2), (0, -20)], [(9.5, 8)] * 2, power=2.6)
    canal = tube([(x, y + 0.5, z) for x, y, z in _CORD], 7.5)
    box = ((0, -86, -190), (44, -4, -60))
    return (
        in_box("discs", "intervertebral_disc", disc, (-11, -36, -186), (11, -8, -84)),
        both_sides("vertebrae", "cortical_bone", union(difference(arch, canal), body), *box),
        both_sides("vertebral_marrow", "trabecular_bone", grown(union(body, difference(arch, canal)), -1.5), *box),
        in_box("spinal_csf", "csf", canal, (-9, -60, -190), (9, -26, -58)),
        in_box(
            "spinal_cord", "spinal_cord", tube(_CORD, [5.5, 5.2, 5.4, 5.8, 5.2, 4.8]), (-7, -56, -190), (7, -30, -60)
        ),
    )


def _first_vertebra() -> Distance:
    ring = tube([(0, -13, -68), (12, -15, -68), (22, -26, -68), (20, -42, -69), (8, -56, -70), (0, -58, -70)], 4.2)
    mass = ellipsoid((20, -26, -67), (8, 9, 8))
    return union(ring, mass, tube([(20, -28, -68), (36, -28, -69)], [5, 3.5]), blend_mm=3)


def _second_vertebra() -> Distance:
    return union(tube([(0, -20, -60), (0, -20, -76)], [4.2, 5]), ellipsoid((0, -20, -81), (10, 8, 7)), blend_mm=5)


def _arch(y: float, z: float) -> Distance:
    pillar = ellipsoid((17, y - 13, z + 2), (6.5, 7, 8))
    lamina = plate([(16, y - 18, z + 5), (16, y - 20, z - 5), (0, y - 34, z - 4)], [(0, 1, 2)], [2.6, 2.6, 3.0])
    process = tube([(0, y - 34, z - 3), (0, y - 52, z - 9)], [3.4, 3.0])
    transverse = tube([(10, y - 2, z), (20, y - 3, z - 1), (17, y - 10, z)], [3, 3, 4])
    return union(pillar, lamina, process, transverse, blend_mm=3)


def _between(shape: Distance, low: float, high: float) -> Distance:
    return lambda points: np.maximum(shape(points), np.maximum(low - points[2], points[2] - high))
