"""The bones of the pelvis: hip bones, femurs, sacrum and the lowest vertebra.

Positions are mm in a template of average size, origin midway between the centres of the femoral heads, x to the
right, y to the front, z up. One-sided parts are given for the right side.
"""

import functools
from dataclasses import dataclass

import numpy as np

from modalign.phantoms.anatomy import Structure, solid
from modalign.phantoms.shapes import (
    Distance,
    Lattice,
    difference,
    ellipsoid,
    grown,
    half_space,
    intersection,
    mirrored,
    plate,
    sampled,
    tube,
    union,
)

Tubes = list[tuple[list[tuple[float, float, float]], list[float]]]

HEAD = (90.0, 0.0, 0.0)
HEAD_RADIUS = 24.0

_ILIUM = (
    # Corners with half the thickness of the bone there: around the thin middle of the iliac fossa.
    [(88, 4, 26), (120, 50, 88), (129, 22, 124), (122, -25, 140), (88, -66, 126), (50, -88, 92), (62, -58, 46),
     (98, -8, 84)],
    [(0, 1, 7), (1, 2, 7), (2, 3, 7), (3, 4, 7), (4, 5, 7), (5, 6, 7), (6, 0, 7)],
    [13, 6, 6, 6, 7, 10, 10, 3.2],
)  # fmt: skip
_HIP_TUBES: Tubes = [
    ([(78, 20, 6), (52, 45, -4), (24, 56, -13), (10, 56, -18)], [13, 8, 8, 8]),
    ([(10, 54, -17), (10, 49, -38)], [8, 7]),
    ([(11, 47, -40), (32, 22, -62), (50, -6, -76)], [6.5, 5.5, 8]),
    ([(88, -26, -4), (74, -38, -34), (60, -32, -64), (54, -14, -77)], [15, 13, 15, 10]),
    ([(72, -44, -8), (56, -54, -12)], [6, 3]),
]
_SACRUM_TUBES: Tubes = [
    ([(0, -36, 100), (0, -57, 78), (0, -74, 56), (0, -83, 34), (0, -84, 14), (0, -76, -4), (0, -66, -17)],
     [17, 13.5, 11, 9, 7, 5, 4]),
    ([(14, -44, 100), (46, -64, 88)], [17, 14]),
    ([(14, -64, 76), (42, -72, 66)], [12, 10]),
    ([(10, -78, 50), (27, -80, 44)], [9, 7]),
    ([(0, -86, 100), (0, -100, 74), (0, -100, 48)], [4, 4.5, 4]),
    ([(12, -72, 104), (14, -86, 80), (10, -94, 50)], [6, 6, 5]),
]  # fmt: skip
CANAL_PATH = [(0, -52, 150), (0, -60, 120), (0, -72, 98), (0, -85, 72), (0, -92, 52)]
CANAL_RADII = [9.5, 9.5, 8.5, 6.5, 4.5]
_FORAMINA = [((18, -90), 88), ((16, -98), 64), ((13, -100), 45)]
_FEMUR_TUBES: Tubes = [
    ([(92, 0, 0), (124, -7, -30)], [17, 17]),
    ([(132, -12, -34), (139, -20, -6)], [17, 11]),
    ([(127, -9, -40), (122, -7, -66), (113, 0, -112), (108, 4, -160)], [18, 16.5, 14.5, 14]),
    ([(112, -18, -56), (106, -24, -62)], [8, 6]),
]


@dataclass(frozen=True, eq=False)
class PelvisBones:
    """Signed distances of the bones of both sides, tabulated."""

    hips: tuple[Lattice, Lattice]
    femurs: tuple[Lattice, Lattice]
    sacrum: Lattice
    lumbar: Lattice
    canal: Distance

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distance in mm to the nearest bone (3, ...) -> (...), negative inside; right within some 15 mm."""
        shapes = (*self.hips, *self.femurs, self.sacrum, self.lumbar)
        return np.minimum.reduce([shape(points) for shape in shapes])


@functools.cache
def pelvis_bones(detail_mm: float) -> PelvisBones:
    """Tabulate the bones with lattice steps of `detail_mm`."""
    canal = tube(CANAL_PATH, CANAL_RADII, flatten=1.25)
    holes = [tube([(x, -50, z + 4), (x + 1, y, z - 6)], 4.0) for (x, y), z in _FORAMINA]
    half = difference(union(*[tube(path, radii) for path, radii in _SACRUM_TUBES], blend_mm=5), *holes)
    sacrum = union(half, mirrored(half))
    lumbar = union(
        ellipsoid((0, -18, 133), (28, 21, 18)),
        tube([(-18, -26, 140), (-22, -60, 140)], 6),
        tube([(18, -26, 140), (22, -60, 140)], 6),
        tube([(-22, -62, 142), (0, -76, 136), (22, -62, 142)], 5),
        tube([(0, -74, 138), (0, -98, 128)], 5),
        tube([(-22, -42, 140), (-48, -46, 144)], 6),
        tube([(22, -42, 140), (48, -46, 144)], 6),
        blend_mm=5,
    )
    spine_box = _box([(-62, -112, -25), (62, 0, 165)])
    sacral_table = sampled(difference(sacrum, grown(canal, 0.0)), spine_box, detail_mm)
    hip_box, femur_box = _box([(-2, -105, -95), (142, 72, 150)]), _box([(62, -50, -170), (160, 32, 32)])
    hip = difference(_hip(), grown(sacral_table, 1.4))
    flip = np.array([[-1], [1], [1]], dtype=float)
    hips: list[Lattice] = []
    femurs: list[Lattice] = []
    for side in (1, -1):
        for shape, box, out in ((hip, hip_box, hips), (_femur(), femur_box, femurs)):
            own = box if side == 1 else np.sort(box * flip.T, axis=0)
            out.append(sampled(shape if side == 1 else mirrored(shape), own, detail_mm))
    return PelvisBones(
        (hips[0], hips[1]),
        (femurs[0], femurs[1]),
        sacral_table,
        sampled(difference(lumbar, canal), spine_box, detail_mm),
        canal,
    )


def _hip() -> Distance:
    corners, triangles, radii = _ILIUM
    socket = intersection(ellipsoid(HEAD, (33, 33, 33)), half_space((97, 4, -6), (0.8, 0.35, -0.5)))
    solid_bone = union(
        plate(corners, triangles, radii), socket, *[tube(path, radii) for path, radii in _HIP_TUBES], blend_mm=8
    )
    # Half the width of the symphysis stays free on either side.
    return difference(solid_bone, ellipsoid(HEAD, (25.8, 25.8, 25.8)), half_space((2.2, 0, 0), (1, 0, 0)))


def _femur() -> Distance:
    parts = [tube(path, radii) for path, radii in _FEMUR_TUBES]
    return union(ellipsoid(HEAD, (HEAD_RADIUS,) * 3), *parts, blend_mm=8)


def _box(corners: list[tuple[float, float, float]]) -> np.ndarray:
    return np.asarray(corners, dtype=float)


def _marrow(bone: Lattice, thickness_mm: Distance) -> Distance:
    return lambda points: bone(points) + thickness_mm(points)


def bone_structures(bones: PelvisBones, cortex_mm: float) -> list[Structure]:
    """Cortex, marrow, cartilage and the contents of the spinal canal, in painting order.

    `cortex_mm` is the thickness of the cortex of flat bones; the shafts of the femurs have three times that.
    """

    def flat(points: np.ndarray) -> np.ndarray:
        return np.full(points.shape[1], cortex_mm, dtype=np.float32)

    def femoral(points: np.ndarray) -> np.ndarray:
        return np.interp(points[2], [-95, -45, -10], [3.2 * cortex_mm, 2 * cortex_mm, cortex_mm]).astype(np.float32)

    found = [
        solid("symphysis", "cartilage", ellipsoid((0, 51, -27), (6, 9, 18)), [(0, 51, -27)], 20),
        solid("canal", "fat", bones.canal, CANAL_PATH, 12),
    ]
    spine = [("sacrum", bones.sacrum, "trabecular_bone"), ("lumbar", bones.lumbar, "red_marrow")]
    limbs = []
    for side, hip, femur in zip(("right", "left"), bones.hips, bones.femurs, strict=True):
        sign = 1 if side == "right" else -1
        head = (sign * HEAD[0], HEAD[1], HEAD[2])
        lining = intersection(ellipsoid(head, (26.2,) * 3), half_space((sign * 97, 4, -6), (sign * 0.8, 0.35, -0.5)))
        found.append(solid(f"hip_joint_{side}", "cartilage", lining, [head], 29))
        limbs += [(f"hip_bone_{side}", hip, flat), (f"femur_{side}", femur, femoral)]
    found.append(solid("disc", "intervertebral_disc", ellipsoid((0, -28, 115), (27, 19, 8)), [(0, -28, 115)], 30))
    for name, bone, marrow in spine:
        found += _shell(name, bone, flat, marrow)
    for name, bone, thickness in limbs:
        found += _shell(name, bone, thickness, "trabecular_bone")
    sac = tube(CANAL_PATH, [r - 2.0 for r in CANAL_RADII], flatten=1.25)
    found.append(solid("thecal_sac", "csf", sac, CANAL_PATH, 12))
    roots = union(*[tube([(x, y - 0.06 * z, z) for z in (150, 120)] + [(x * 0.7, -75 + y, 95)], 1.3)
                    for x, y in ((-3, -46), (3, -46), (-1, -48), (1.5, -49), (-5, -45), (5, -45))])  # fmt: skip
    found.append(solid("nerve_roots", "spinal_cord", intersection(roots, grown(sac, -0.5)), CANAL_PATH, 12))
    return found


def _shell(name: str, bone: Lattice, thickness: Distance, marrow: str) -> list[Structure]:
    low = bone.origin
    corners = [low, low + (np.array(bone.values.shape) - 1) * bone.step]
    return [
        solid(f"{name}_cortex", "cortical_bone", bone, corners),
        solid(f"{name}_marrow", marrow, _marrow(bone, thickness), corners),
    ]
