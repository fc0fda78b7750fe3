"""The organs of the pelvis, in the template of :mod:`modalign.phantoms.pelvis_bones`."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from modalign.phantoms.anatomy import Structure, solid
from modalign.phantoms.bowel import loop_structures, winding_path
from modalign.phantoms.shapes import (
    Distance,
    ellipsoid,
    grown,
    intersection,
    rough,
    tube,
)

RECTUM_PATH = np.array([(0, -34, -52), (0, -31, -28), (0, -38, -4), (3, -50, 20), (4, -56, 44), (12, -48, 66),
                        (24, -26, 84)], dtype=float)  # fmt: skip
PROSTATE_CENTRE, PROSTATE_RADII = (0.0, 10.0, -24.0), (25.0, 17.0, 20.0)
BLADDER_BASE = np.array([0.0, 20.0, -4.0])


@dataclass(frozen=True, eq=False)
class PelvisOrgans:
    """What varies between patients about the organs.

    Attributes:
        male: prostate and seminal vesicles, or uterus.
        bladder_radii: mm, half axes; volume is ``4/3 pi`` times their product.
        prostate_scale: relative length of the prostate; 1 is about 35 ml.
        rectum_radius: mm, outer.
        rectal_gas: mm in front of the rectum's middle line from where on there is gas; None for none.
        loops: number of bowel loops.
    """

    male: bool
    bladder_radii: tuple[float, float, float]
    prostate_scale: float
    rectum_radius: float
    rectal_gas: float | None
    loops: int

    @property
    def bladder_centre(self) -> np.ndarray:
        """Centre of the bladder, mm; it grows upwards from its base."""
        lift = 0.0 if self.male else -4.0
        return np.add(BLADDER_BASE, [0, 0.12 * self.bladder_radii[1], 0.86 * self.bladder_radii[2] + lift])


def draw_organs(rng: np.random.Generator, male: bool) -> PelvisOrgans:
    """Draw a patient's organs: bladder 60 to 350 ml, prostate 20 to 65 ml, rectum 24 to 40 mm wide."""
    side = (rng.uniform(60e3, 350e3) / (4 / 3 * np.pi)) ** (1 / 3)
    shape = np.array([1.12, 0.92, 0.97]) * rng.uniform(0.9, 1.1, 3)
    shape /= shape.prod() ** (1 / 3)
    radii = side * shape
    return PelvisOrgans(
        male=male,
        bladder_radii=(float(radii[0]), float(radii[1]), float(radii[2])),
        prostate_scale=float(rng.uniform(0.85, 1.22)),
        rectum_radius=float(rng.uniform(12, 20)),
        rectal_gas=float(rng.uniform(-4, 5)),
        loops=int(rng.integers(7, 11)),
    )


def organ_structures(
    organs: PelvisOrgans, rng: np.random.Generator, folds: Distance, lumps: Distance
) -> list[Structure]:
    """Bowel, rectum, bladder, and the male or female organs, in painting order.

    `folds` and `lumps` are noises that change over some 8 and 25 mm.
    """
    found = _bowel(organs, rng, folds)
    radii = organs.rectum_radius * np.array([0.62, 0.95, 1.1, 1.15, 1.05, 0.9, 0.8])
    # A wide rectum makes room for itself towards the sacrum, not into the prostate.
    path = RECTUM_PATH - np.outer(np.clip(radii - 15, -6, 6), [0, 0.8, 0])
    found += loop_structures("rectum", path, radii, 3.4, "stool", organs.rectal_gas, folds)
    anal = tube([(0, -36, -78), (0, -34, -50)], [13, 12])
    found.append(solid("anal_sphincter", "muscle", anal, [(0, -36, -78), (0, -34, -50)], 14))
    found.append(solid("anal_canal", "bowel_wall", grown(anal, -7.5), [(0, -36, -78), (0, -34, -50)], 14))
    found += _genitals(organs, folds, lumps) if organs.male else _uterus(organs, folds, lumps)
    centre, size = organs.bladder_centre, np.array(organs.bladder_radii)
    bladder = rough(ellipsoid(centre, size), lumps, 0.045 * float(size.min()))
    corners = [centre - size, centre + size]
    found.insert(0, solid("bladder_bed", "fat", grown(bladder, 3.5), corners, 10))
    found.append(solid("bladder_wall", "bowel_wall", bladder, corners, 6))
    found.append(solid("bladder_urine", "urine", grown(bladder, -3.0), corners, 6))
    if organs.male:
        found += _prostate(organs, folds)
    return found


def _bowel(organs: PelvisOrgans, rng: np.random.Generator, folds: Distance) -> list[Structure]:
    found = []
    floor = float(organs.bladder_centre[2] + organs.bladder_radii[2])
    for number in range(organs.loops):
        radius = rng.uniform(9, 14)
        nodes = int(rng.integers(9, 15))
        height = max(floor + 14, 70) + rng.uniform(0, 50)
        path = winding_path(rng, (rng.uniform(-45, 45), 40, height), (62, 26, 26), nodes, 1.25 * radius)
        path[:, 2] = np.maximum(path[:, 2], floor + radius - 6 * (path[:, 1] < 10))
        radii = radius * rng.uniform(0.8, 1.15, nodes)
        colon = number < 2
        gas = rng.uniform(0, 8) if colon or rng.random() < 0.35 else None
        content = "stool" if colon else "bowel_content"
        found += loop_structures(f"bowel{number}", path, radii * (1.35 if colon else 1.0), 2.2, content, gas, folds)
    for number in range(14):
        path = winding_path(rng, (0, 10, 95), (70, 45, 55), 6, 12)
        found.append(solid(f"mesenteric{number}", "blood", tube(path, np.linspace(2.4, 1.0, 6)), path, 4))
    return found


def _prostate(organs: PelvisOrgans, folds: Distance) -> list[Structure]:
    s = organs.prostate_scale
    centre, size = PROSTATE_CENTRE, np.array(PROSTATE_RADII) * s
    whole = rough(ellipsoid(centre, size), folds, 0.8)
    corners = [centre - size, centre + size]
    inner = rough(ellipsoid((0, 13.0, -21.0), size * [0.66, 0.72, 0.74]), folds, 1.0)
    urethra = tube([(0, 14, -4), (0, 9, -24), (0, 10, -46)], 2.2)
    return [
        solid("prostate_capsule", "ligament", grown(whole, 0.8), corners, 4),
        solid("prostate_peripheral", "prostate_peripheral", whole, corners, 4),
        solid("prostate_central", "prostate", intersection(inner, grown(whole, -1.5)), corners, 4),
        solid("prostate_urethra", "bowel_wall", intersection(urethra, whole), corners, 4),
    ]


def _genitals(organs: PelvisOrgans, folds: Distance, lumps: Distance) -> list[Structure]:
    found = []
    for side, sign in (("right", 1), ("left", -1)):
        path = [(sign * 4, -8, -2), (sign * 18, -12, 5), (sign * 33, -13, 11)]
        found.append(
            solid(f"seminal_vesicle_{side}", "seminal_vesicle", rough(tube(path, [4, 6.5, 5]), folds, 1.2), path, 9)
        )
        crus = [(sign * 34, 12, -66), (sign * 18, 30, -62), (sign * 9, 58, -66), (sign * 8, 82, -78)]
        found.append(solid(f"corpus_{side}", "seminal_vesicle", rough(tube(crus, [5, 8, 9, 9]), lumps, 0.8), crus, 12))
        testis = (sign * 18.0, 66.0, -112.0)
        turn = Rotation.from_euler("y", 12 * sign, degrees=True).as_matrix()
        found.append(
            solid(f"testis_{side}", "prostate_peripheral", ellipsoid(testis, (14, 15, 21), turn), [testis], 24)
        )
    bulb = [(0, 8, -64), (0, 26, -66), (0, 54, -72)]
    found.append(solid("bulb", "seminal_vesicle", tube(bulb, [8, 8, 6]), bulb, 10))
    return found


def _uterus(organs: PelvisOrgans, folds: Distance, lumps: Distance) -> list[Structure]:
    top = float(organs.bladder_centre[2] + organs.bladder_radii[2])
    path = np.array([(0, -6, 2), (0, -8, 22), (2, 0, max(top - 6, 36)), (4, 16, max(top + 14, 52))], dtype=float)
    body = rough(tube(path, [10, 12, 19, 23]), lumps, 1.8)
    cavity = tube(path[1:], [1.0, 2.0, 3.5], flatten=1.6)
    vagina = tube([(0, 6, -58), (0, -4, -25), (0, -6, 2)], [12, 12, 10], flatten=1.9)
    found = [
        solid("vagina", "bowel_wall", vagina, [(0, 6, -58), (0, -6, 2)], 16),
        solid("uterus_bed", "fat", grown(body, 3.0), path, 32),
        solid("uterus_body", "uterus", body, path, 28),
        solid("uterus_cavity", "seminal_vesicle", cavity, path, 8),
    ]
    for side, sign in (("right", 1), ("left", -1)):
        ovary = (sign * 44.0, -6.0, 50.0)
        follicle = (sign * 46.0, -3.0, 53.0)
        found.append(solid(f"ovary_{side}", "uterus", rough(ellipsoid(ovary, (13, 10, 16)), folds, 1.0), [ovary], 20))
        found.append(solid(f"follicle_{side}", "urine", ellipsoid(follicle, (5, 4, 5)), [follicle], 8))
    return found
