"""The organs of the upper abdomen.

Positions are mm in a template of average size: origin in the middle plane, in front of the spine, at the height of the
second lumbar vertebra; x to the right, y to the front, z up.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from modalign.phantoms.anatomy import Structure, solid
from modalign.phantoms.bowel import loop_structures, winding_path
from modalign.phantoms.shapes import (
    Distance,
    difference,
    ellipsoid,
    grown,
    half_space,
    intersection,
    rough,
    tube,
    union,
)

LIVER_CENTRE, SPLEEN_CENTRE = (72.0, 2.0, 68.0), (-104.0, -40.0, 72.0)
KIDNEY_CENTRES = {"right": (66.0, -50.0, 6.0), "left": (-64.0, -50.0, 20.0)}
_COLON = [(112, 8, -165), (116, 4, -90), (108, 12, -22), (72, 58, -20), (15, 72, -34), (-50, 66, -12), (-102, 24, 32),
          (-118, -12, 6), (-120, -12, -80), (-112, 4, -165)]  # fmt: skip
_STOMACH = [(-26, 4, 112), (-58, 14, 104), (-74, 34, 70), (-52, 56, 32), (-8, 62, 14), (26, 48, 14)]


def organ_structures(rng: np.random.Generator, folds: Distance, lumps: Distance, inside: Distance) -> list[Structure]:
    """Organs in painting order; they stay within `inside`, the cavity. `folds` and `lumps` are uneven noises."""
    found = _bowel(rng, folds)
    found += _stomach(rng, folds)
    found += _pancreas(folds)
    found += _vessels()
    for side in ("right", "left"):
        found += _kidney(rng, side, lumps)
    found += _liver(rng, lumps, inside)
    size = np.array([29.0, 46.0, 48.0]) * rng.uniform(0.85, 1.2)
    turn = Rotation.from_euler("xyz", [-15, 10, 22], degrees=True).as_matrix()
    hollow = ellipsoid((-72, -18, 66), (24, 40, 46))
    spleen = difference(rough(ellipsoid(SPLEEN_CENTRE, size, turn), lumps, 2.0), hollow)
    found.append(solid("spleen", "spleen", intersection(spleen, inside), [SPLEEN_CENTRE], 64))
    return found


def _liver(rng: np.random.Generator, lumps: Distance, inside: Distance) -> list[Structure]:
    s = float(rng.uniform(0.92, 1.08))
    right = ellipsoid(LIVER_CENTRE, (70 * s, 82 * s, 66 * s))
    tip = tube([(92, -8, 30), (98, 6, -30 * s)], [40, 14])
    left = ellipsoid((-8, 44, 88), (80 * s, 36, 30 * s), Rotation.from_euler("y", 10, degrees=True).as_matrix())
    porta = ellipsoid((22, -2, 40), (30, 24, 26))
    whole = difference(union(right, tip, left, blend_mm=24), porta, half_space((60, 30, -5), (-0.6, 0.5, 0.75)))
    whole = union(whole, intersection(tip, half_space((0, 30, 0), (0, 1, 0))), blend_mm=10)
    liver = intersection(rough(whole, lumps, 2.5), inside)
    box = [(-95, -95, -52), (155, 110, 140)]
    found = [solid("liver", "liver", liver, box)]
    deep = grown(liver, -5.0)
    trunks = [
        ([(20, 12, 36), (48, 10, 54), (86, -8, 62), (112, -30, 56)], [6.5, 5, 3.5, 1.5]),
        ([(48, 10, 54), (78, 30, 72), (102, 44, 84)], [4.5, 3, 1.2]),
        ([(34, 11, 46), (4, 36, 74), (-30, 48, 88)], [4.5, 3.5, 1.2]),
        ([(24, -12, 112), (62, -16, 92), (98, -30, 66)], [6, 4.5, 1.5]),
        ([(24, -10, 114), (58, 22, 94), (84, 44, 70)], [5.5, 4, 1.5]),
        ([(22, -8, 114), (2, 28, 96), (-22, 44, 92)], [5, 3.5, 1.5]),
    ]
    for number, (path, radii) in enumerate(trunks):
        bent = np.array(path, dtype=float) + rng.normal(0, 2.5, (len(path), 3))
        found.append(solid(f"hepatic_vessel{number}", "blood", intersection(tube(bent, radii), deep), bent, 8))
    for number in range(16):
        branch = winding_path(rng, LIVER_CENTRE, (62, 62, 52), 6, 11)
        vessel = intersection(tube(branch, np.linspace(2.6, 0.8, 6)), deep)
        found.append(solid(f"hepatic_branch{number}", "blood", vessel, branch, 4))
    gall = [(46, 56, 20), (50, 68, -8)]
    bladder = rough(tube(gall, [9, 13 * s]), lumps, 1.0)
    found.append(solid("gallbladder_wall", "bowel_wall", bladder, gall, 20))
    found.append(solid("gallbladder", "urine", grown(bladder, -1.8), gall, 20))
    return found


def _kidney(rng: np.random.Generator, side: str, lumps: Distance) -> list[Structure]:
    sign = 1 if side == "right" else -1
    centre = np.array(KIDNEY_CENTRES[side])
    size = np.array([27.0, 25.0, 54.0]) * rng.uniform(0.9, 1.1)
    turn = Rotation.from_euler("xyz", [12, sign * -10, sign * -25], degrees=True).as_matrix()
    hilum = centre + turn @ [-sign * 24, 6, 0]
    outer = difference(rough(ellipsoid(centre, size, turn), lumps, 1.2), ellipsoid(hilum, (13, 11, 18), turn))
    sinus = union(ellipsoid(hilum, (18, 12, 26), turn), ellipsoid(centre, size * [0.3, 0.32, 0.5], turn), blend_mm=8)
    parts = [
        solid(f"perirenal_fat_{side}", "fat", grown(outer, 7.0), [centre], 70),
        solid(f"kidney_{side}_cortex", "kidney_cortex", outer, [centre], 62),
    ]
    for number in range(9):
        angle = np.deg2rad(150 * (number % 3 - 1))
        height = (number // 3 - 1) * 0.52 * size[2] + (number % 3) * 4
        away = np.array([sign * np.cos(angle) * 0.62 * size[0], np.sin(angle) * 0.6 * size[1], height])
        pyramid = tube([centre + turn @ (away * [0.5, 0.5, 0.85]), centre + turn @ away], [3.0, 6.5])
        inner = intersection(pyramid, grown(outer, -6.0))
        parts.append(solid(f"kidney_{side}_pyramid{number}", "kidney_medulla", inner, [centre + turn @ away], 26))
    ureter = [hilum, np.add(centre, [-sign * 30, 8, -55]), np.add(centre, [-sign * 34, 12, -130])]
    pelvis = ellipsoid(hilum + turn @ [sign * 3, 0, 0], (9, 7, 12), turn)
    return [
        *parts,
        solid(f"renal_sinus_{side}", "fat", sinus, [hilum, centre], 34),
        solid(f"renal_pelvis_{side}", "urine", pelvis, [hilum], 18),
        solid(f"ureter_{side}", "urine", tube(ureter, 2.2), ureter, 4),
    ]


def _stomach(rng: np.random.Generator, folds: Distance) -> list[Structure]:
    full = float(rng.uniform(0.75, 1.15))
    radii = np.array([20, 33, 36, 27, 19, 13]) * full
    path = np.array(_STOMACH, dtype=float) + rng.normal(0, 3, (6, 3))
    return loop_structures("stomach", path, radii, 4.0, "stomach_content", float(rng.uniform(2, 14)), folds)


def _bowel(rng: np.random.Generator, folds: Distance) -> list[Structure]:
    found = []
    for number in range(11):
        radius = rng.uniform(10, 14)
        nodes = int(rng.integers(9, 15))
        centre = (rng.uniform(-55, 55), 34, rng.uniform(-150, -35))
        path = winding_path(rng, centre, (50, 26, 30), nodes, 1.3 * radius)
        radii = radius * rng.uniform(0.8, 1.1, nodes)
        gas = rng.uniform(2, 8) if rng.random() < 0.25 else None
        found += loop_structures(f"bowel{number}", path, radii, 2.2, "bowel_content", gas, folds)
    colon = np.array(_COLON, dtype=float) + rng.normal(0, 4, (len(_COLON), 3))
    radii = rng.uniform(16, 24, len(colon))
    found += loop_structures("colon", colon, radii, 2.6, "stool", float(rng.uniform(-2, 8)), folds)
    for number in range(18):
        path = winding_path(rng, (0, 28, -70), (75, 35, 70), 6, 13)
        found.append(solid(f"mesenteric{number}", "blood", tube(path, np.linspace(2.6, 1.0, 6)), path, 4))
    return found


def _pancreas(folds: Distance) -> list[Structure]:
    path = [(38, 8, -12), (34, 16, 10), (4, 24, 22), (-42, -4, 36), (-84, -26, 54)]
    duodenum = [(28, 46, 16), (46, 26, 14), (50, 6, -16), (30, -2, -40), (-16, 0, -36)]
    shape = tube(duodenum, [13, 13, 13, 12, 12])
    return [
        solid("duodenum", "bowel_wall", shape, duodenum, 15),
        solid("duodenum_content", "bowel_content", rough(grown(shape, -3.0), folds, 1.0), duodenum, 15),
        solid("pancreas", "pancreas", rough(tube(path, [13, 12, 9, 9, 8]), folds, 2.2), path, 18),
        solid("splenic_vein", "blood", tube([(14, 8, 26), (-40, -16, 40), (-86, -34, 58)], 4), path, 18),
    ]


def _vessels() -> list[Structure]:
    aorta = [(-16, -26, 210), (-10, -16, 80), (-6, -12, -60), (-4, -12, -88)]
    cava = [(20, 2, 150), (22, -8, 110), (24, -14, 40), (20, -16, -60), (16, -18, -95)]
    found = [
        solid("aorta", "blood", tube(aorta, [11.5, 11, 9.5, 9]), aorta, 13),
        solid("vena_cava", "blood", tube(cava, [12, 12, 11, 10.5, 10], flatten=1.2), cava, 14),
        solid("portal_vein", "blood", tube([(8, 8, 6), (20, 12, 36)], 6.5), [(8, 8, 6), (20, 12, 36)], 8),
        solid("mesenteric_trunk", "blood", tube([(-8, -2, 24), (-4, 14, -10), (0, 22, -90)], 3.6), _COLON, 8),
    ]
    for side, sign in (("right", 1), ("left", -1)):
        branch = [(sign * 6, -14, -86), (sign * 26, -12, -125), (sign * 42, 0, -200)]
        renal = [np.array([-4.0, -18, 10]), np.add(KIDNEY_CENTRES[side], [-sign * 22, 6, 0])]
        found.append(solid(f"iliac_artery_{side}", "blood", tube(branch, 6), branch, 8))
        lower = [(x + 4, y - 12, z - 8) for x, y, z in branch]
        found.append(solid(f"iliac_vein_{side}", "blood", tube(lower, 7.5), lower, 9))
        found.append(solid(f"renal_vessels_{side}", "blood", tube(renal, 3.8), renal, 6))
    return found
