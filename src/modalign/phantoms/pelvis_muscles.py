"""Muscles and large vessels of the pelvis and the thighs, in the template of :mod:`modalign.phantoms.pelvis_bones`."""

import functools

import numpy as np

from modalign.phantoms.anatomy import Structure, solid
from modalign.phantoms.shapes import Distance, Lattice, nearest_two, plate, sampled, tube

Path = list[tuple[float, float, float]]

BODY = np.array([(-230.0, -175, -200), (230, 175, 200)])
"""A box, mm, that every body fits in."""

_TUBES: dict[str, tuple[Path, list[float]]] = {
    "psoas": ([(44, -14, 170), (54, 2, 100), (70, 27, 45), (83, 36, 8), (93, 14, -30), (107, -14, -62)],
              [21, 18, 15, 14, 13, 7]),
    "erector_spinae": ([(34, -84, 170), (24, -90, 105), (10, -98, 68)], [24, 16, 5]),
    "tensor_fasciae_latae": ([(132, 44, 62), (147, 32, -10), (150, 16, -100)], [8, 12, 6]),
    "sartorius": ([(122, 56, 66), (97, 68, -14), (62, 60, -90), (48, 44, -150)], [7, 9, 10, 11]),
    "rectus_femoris": ([(108, 36, 28), (118, 50, -40), (114, 54, -130)], [8, 15, 18]),
    "vastus_lateralis": ([(145, 6, -45), (144, 12, -110), (138, 14, -160)], [10, 25, 29]),
    "vastus_intermedius": ([(120, 20, -62), (112, 26, -150)], [11, 23]),
    "vastus_medialis": ([(102, 10, -80), (88, 20, -150)], [8, 20]),
    "pectineus": ([(38, 54, -10), (72, 32, -48), (100, 2, -80)], [10, 13, 8]),
    "obturator_externus": ([(30, 36, -34), (66, 10, -44), (108, -20, -34)], [10, 13, 7]),
    "adductor_longus": ([(20, 50, -42), (58, 34, -110), (72, 28, -160)], [7, 15, 15]),
    "adductor_magnus": ([(36, 8, -72), (64, -12, -115), (80, -8, -160)], [10, 27, 28]),
    "adductor_brevis": ([(20, 40, -50), (86, 6, -105)], [10, 14]),
    "gracilis": ([(13, 38, -54), (28, 6, -110), (36, -10, -160)], [5, 8, 9]),
    "hamstrings": ([(62, -40, -76), (84, -52, -118), (94, -48, -160)], [10, 19, 25]),
    "semitendinosus": ([(58, -44, -78), (58, -58, -120), (56, -52, -160)], [8, 16, 19]),
    "quadratus_femoris": ([(70, -32, -58), (112, -30, -52)], [11, 10]),
    "piriformis": ([(22, -66, 54), (70, -64, 32), (132, -24, 4)], [9, 13, 6]),
    "gemelli": ([(66, -50, -8), (130, -26, -8)], [9, 6]),
}  # fmt: skip
_PLATES: dict[str, tuple[Path, list[tuple[int, int, int]], list[float]]] = {
    # Fans around a middle corner, which comes last; numbers are half the thickness.
    "gluteus_maximus": (
        [
            (52, -98, 108),
            (26, -106, 70),
            (14, -98, 8),
            (28, -92, -42),
            (66, -82, -74),
            (118, -52, -68),
            (140, -46, -14),
            (112, -70, 52),
            (84, -88, 8),
        ],
        [(0, 1, 8), (1, 2, 8), (2, 3, 8), (3, 4, 8), (4, 5, 8), (5, 6, 8), (6, 7, 8), (7, 0, 8)],
        [7, 8, 11, 14, 15, 11, 8, 10, 22],
    ),
    "gluteus_medius": (
        [
            (126, -10, 136),
            (134, 34, 108),
            (132, 44, 74),
            (146, -4, 2),
            (110, -52, 44),
            (74, -82, 98),
            (96, -64, 122),
            (126, -22, 76),
        ],
        [(0, 1, 7), (1, 2, 7), (2, 3, 7), (3, 4, 7), (4, 5, 7), (5, 6, 7), (6, 0, 7)],
        [7, 6, 8, 8, 10, 8, 8, 19],
    ),
    "iliacus": (
        [(116, 38, 92), (114, 0, 128), (86, -50, 116), (62, -46, 78), (84, 26, 30), (92, 2, 84)],
        [(0, 1, 5), (1, 2, 5), (2, 3, 5), (3, 4, 5), (4, 0, 5)],
        [8, 6, 6, 6, 12, 11],
    ),
    "obturator_internus": (
        [(44, 28, 0), (52, 2, 26), (56, -34, 20), (58, -40, -26), (44, -4, -52), (26, 34, -36), (50, -6, -12)],
        [(0, 1, 6), (1, 2, 6), (2, 3, 6), (3, 4, 6), (4, 5, 6), (5, 0, 6)],
        [5, 5, 6, 8, 6, 5, 8],
    ),
    "levator_ani": (
        [(8, 40, -34), (42, 2, -18), (22, -62, -20), (7, -34, -56), (24, -10, -36)],
        [(0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)],
        [2, 2, 2, 4, 2.5],
    ),
}
_VESSELS: dict[str, tuple[Path, list[float]]] = {
    "artery": ([(14, 12, 170), (30, 6, 125), (50, 14, 86), (68, 42, 34), (76, 62, 2), (80, 54, -55), (82, 36, -160)],
               [8, 5.5, 5, 5, 5, 4.5, 4]),
    "vein": ([(16, -2, 170), (32, -6, 125), (48, 0, 86), (58, 36, 32), (64, 58, 0), (70, 48, -55), (76, 28, -160)],
             [9, 7, 6.5, 6.5, 6.5, 6, 5]),
    "internal_iliac": ([(44, 2, 92), (46, -36, 62), (44, -40, 30)], [4.5, 3.5, 2.5]),
    "saphenous": ([(56, 78, -20), (40, 74, -80), (30, 52, -160)], [3, 2.5, 2.5]),
    "sciatic_nerve": ([(40, -66, 44), (80, -56, 4), (88, -52, -60), (86, -40, -160)], [4.5, 5.5, 5, 5]),
}  # fmt: skip


_SWELLING_MM = {"piriformis": 2, "gemelli": 3, "iliacus": 1.5, "psoas": 1.5, "obturator_internus": 1, "levator_ani": 0,
                "erector_spinae": 6, "gluteus_maximus": 5, "gluteus_medius": 7, "gracilis": 3, "sartorius": 2,
                "tensor_fasciae_latae": 4, "obturator_externus": 5, "quadratus_femoris": 4}  # fmt: skip
"""How far a muscle fills the space up to its neighbours; 9 for those not named."""


def muscle_structures(
    streaks: Distance, fascia: Distance, gap_mm: float, fat_share: float, detail_mm: float
) -> list[Structure]:
    """The muscles of both sides as one structure.

    Args:
        streaks: noise drawn out along the fibres.
        fascia: the muscles stay within.
        gap_mm: width of the fat between muscles.
        fat_share: fraction of the muscle that streaks of fat take.
        detail_mm: lattice steps that broad muscles are tabulated with.
    """
    shapes = []
    for name, (path, radii) in _TUBES.items():
        shapes.append((tube(path, radii), _bounds(path, radii), float(_SWELLING_MM.get(name, 9))))
    for name, (path, _, radii) in _PLATES.items():
        shapes.append((_plate_table(name, detail_mm), _bounds(path, radii), float(_SWELLING_MM[name])))

    def inside(points: np.ndarray) -> np.ndarray:
        result = np.zeros(points.shape[1], dtype=bool)
        found = np.flatnonzero(fascia(points) < 0)
        # One side is described; points of the other are looked up mirrored.
        chosen = points[:, found]
        first, second = nearest_two(shapes, np.stack([np.abs(chosen[0]), chosen[1], chosen[2]]), 6.0)
        within = first < 0
        found, gap = found[within], (second - first)[within]
        winding = streaks(points[:, found])
        # A Gaussian variable lies within +-w with probability 0.8 w for small w.
        result[found] = (gap > gap_mm * (1 + 0.6 * winding)) & (np.abs(winding) > fat_share / 0.8)
        return result

    return [Structure("muscles", "muscle", inside, BODY)]


@functools.cache
def _plate_table(name: str, detail_mm: float) -> Lattice:
    path, triangles, radii = _PLATES[name]
    return sampled(plate(path, triangles, radii), np.add(_bounds(path, radii), [[-8], [8]]), detail_mm)


def _bounds(path: Path, radii: list[float]) -> np.ndarray:
    corners = np.asarray(path, dtype=float)
    return np.stack([corners.min(0) - max(radii), corners.max(0) + max(radii)])


def vessel_structures() -> list[Structure]:
    """The iliac and femoral vessels and the sciatic nerves of both sides."""
    found = []
    for side, sign in (("right", 1.0), ("left", -1.0)):
        for name, (path, radii) in _VESSELS.items():
            tissue = "ligament" if name == "sciatic_nerve" else "blood"
            nodes = _placed(path, sign)
            found.append(solid(f"{name}_{side}", tissue, tube(nodes, radii), nodes, max(radii) + 1))
    return found


def _placed(path: Path, sign: float) -> np.ndarray:
    return np.asarray(path, dtype=float) * [sign, 1, 1]
