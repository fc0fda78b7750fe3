"""An upper abdomen with everything in it, different for every patient."""

import functools
from dataclasses import dataclass

import numpy as np

from modalign.phantoms.abdomen_organs import (
    KIDNEY_CENTRES,
    LIVER_CENTRE,
    SPLEEN_CENTRE,
    organ_structures,
)
from modalign.phantoms.anatomy import Anatomy, Structure, solid
from modalign.phantoms.motion import Filling, Shift
from modalign.phantoms.shapes import (
    Distance,
    Lattice,
    column,
    difference,
    ellipsoid,
    grown,
    half_space,
    intersection,
    marbled,
    mirrored,
    plate,
    rough,
    sampled,
    smooth_noise,
    stretched,
    tube,
    union,
    wobble,
)

_BODY = np.array([(-205.0, -160, -205), (205, 160, 205)])
_SPINE_Y = -52.0
_LEVEL_MM = 34.0
_PARTS = {1: ("liver", "hepatic_"), 2: ("spleen",), 3: ("kidney_right_",), 4: ("kidney_left_",)}


@dataclass(frozen=True, eq=False)
class Abdomen:
    """One patient's abdomen.

    Attributes:
        anatomy: the structures, with all gas.
        spine: signed distance of the spine in the template, mm.
        scale: (3,) size of the patient relative to the template.
    """

    anatomy: Anatomy
    spine: Distance
    scale: np.ndarray

    def stiffness(self, points: np.ndarray) -> np.ndarray:
        """How much tissue at `points` (3, ...), mm, resists deformation: near 1 in the spine, 0 from 20 mm away on."""
        flat = (points.reshape(3, -1) / self.scale[:, None]).astype(np.float32)
        away = np.clip(self.spine(flat) / 20, 0, 1)
        return 0.85 * (1 - away * away * (3 - 2 * away)).reshape(points.shape[1:])

    def breathing(self, rng: np.random.Generator) -> list[Filling | Shift]:
        """What another depth of breath does, up or down: the liver follows the diaphragm most, the kidneys least."""
        rise = float(rng.uniform(5, 14)) * (1 if rng.random() < 0.5 else -1)
        organs = [(LIVER_CENTRE, (85, 90, 75), 1.0), (SPLEEN_CENTRE, (38, 50, 52), 0.8)]
        organs += [(centre, (30, 30, 55), 0.5) for centre in KIDNEY_CENTRES.values()]
        moves: list[Filling | Shift] = []
        for centre, radii, share in organs:
            vector = np.array([0, 0.25 * rise * share, rise * share]) + rng.normal(0, 1.0, 3)
            moves.append(Shift(np.array(centre) * self.scale, np.array(radii) * self.scale, vector * 0.75, reach=0.6))
        swell = float(rng.uniform(-0.15, 0.2))
        return [*moves, Filling(np.array([-62, 32, 75]) * self.scale, np.array([40, 40, 45]), swell)]


def label_of(anatomy: Anatomy) -> dict[str, int]:
    """The label value of every structure of an abdomen that has one."""
    return {name: value for name in anatomy.names for value, starts in _PARTS.items() if name.startswith(starts)}


def draw_abdomen(rng: np.random.Generator, *, detail_mm: float = 2.0) -> Abdomen:
    """Draw a patient; `detail_mm` is the lattice step that the spine is tabulated with."""
    scale = rng.normal(1, 0.03) * rng.normal(1, [0.025, 0.035, 0.03])
    fat_mm = float(np.clip(rng.gamma(4.0, 4.0), 6, 30))
    folds, lumps, streaks = (smooth_noise(rng, mm) for mm in (8.0, 28.0, 11.0))
    frame = _frame(detail_mm)
    outline = sampled(_outline(fat_mm), _BODY, 4 * detail_mm)
    cavity = grown(frame, -13.0)
    spine = _spine(detail_mm)
    structures = [
        Structure("skin", "skin", lambda p: outline(p) < 0, _BODY),
        Structure("fat", "fat", lambda p: outline(p) < -2.2, _BODY),
        *_wall(frame, stretched(streaks, (1.4, 1.4, 3.0))),
        Structure("cavity", "fat", lambda p: cavity(p) < 0, _BODY),
        *_back(stretched(streaks, (1.0, 1.0, 3.0)), float(rng.uniform(0.03, 0.08))),
        *_chest(cavity, lumps),
        *organ_structures(rng, folds, lumps, grown(cavity, -2.0)),
        *_ribs(rng),
        *_spine_structures(spine, float(rng.uniform(1.3, 1.8))),
        *_iliac_wings(detail_mm),
    ]
    uneven = wobble(rng, _BODY, [(75.0, 3.5), (14.0, 0.7)], 7.0)
    inverse_scale = (1 / scale).astype(np.float32)[:, None]

    def to_template(points: np.ndarray) -> np.ndarray:
        return uneven(points * inverse_scale).astype(np.float32)

    return Abdomen(Anatomy(tuple(structures), to_template), spine, scale)


def _outline(fat_mm: float) -> Distance:
    f = fat_mm
    front = np.array([94, 98, 92, 96, 100]) + f * np.array([1.3, 1.4, 1.0, 0.7, 0.6])
    back = np.array([-112, -108, -106, -104, -104]) - f * np.array([1.0, 0.9, 0.7, 0.6, 0.6])
    across = np.array([148, 140, 142, 150, 152]) + f * np.array([1.3, 1.2, 0.9, 0.7, 0.6])
    centres = np.stack([np.zeros(5), (front + back) / 2], 1)
    body = column([-190, -90, 0, 100, 190], centres, np.stack([across, (front - back) / 2], 1), power=2.35)
    return intersection(body, half_space((0, float(back.min()) + 5, 0), (0, -1, 0)))


@functools.cache
def _frame(detail_mm: float) -> Lattice:
    """The outer surface of the muscles of belly and chest."""
    shape = column([-190, -90, 0, 100, 190], [(0, -2)] * 5,
                  [(142, 92), (134, 94), (137, 90), (144, 94), (144, 96)], power=2.3)  # fmt: skip
    return sampled(shape, _BODY, 3 * detail_mm)


def _wall(frame: Distance, streaks: Distance) -> list[Structure]:
    inner = grown(frame, -12.0)
    sheets = [difference(grown(frame, -at), grown(frame, -at - 0.9)) for at in (3.6, 7.6)]
    lateral = difference(union(*sheets), ellipsoid((0, 90, 0), (72, 50, 400)))
    alba = intersection(ellipsoid((0, 92, 0), (2.6, 40, 400)), grown(frame, 0.0))
    muscle = marbled(difference(frame, inner), streaks, 0.03)
    return [
        Structure("wall", "muscle", lambda p: muscle(p) < 0, _BODY),
        Structure("wall_septa", "fat", lambda p: lateral(p) < 0, _BODY),
        Structure("linea_alba", "ligament", lambda p: np.maximum(alba(p), -inner(p)) < 0, _BODY),
    ]


def _back(streaks: Distance, fat_share: float) -> list[Structure]:
    found = []
    tubes = {
        "erector_spinae": ([(34, -84, 210), (36, -86, 0), (34, -88, -210)], [20, 25, 27]),
        "multifidus": ([(14, -84, 210), (15, -86, 0), (16, -90, -210)], [11, 13, 16]),
        "latissimus": ([(95, -84, 210), (92, -84, 90), (70, -90, 10)], [10, 9, 5]),
        "psoas": ([(30, -40, 40), (38, -38, -30), (46, -30, -110), (54, -14, -210)], [7, 15, 21, 22]),
        "quadratus_lumborum": ([(62, -70, 40), (72, -66, -40), (82, -60, -120)], [9, 13, 14]),
        "crus": ([(14, -26, 90), (16, -24, 30), (14, -28, -20)], [6, 7, 3]),
    }
    for side, sign in (("right", 1.0), ("left", -1.0)):
        for name, (path, radii) in tubes.items():
            nodes = np.asarray(path, dtype=float) * [sign, 1, 1]
            shape = marbled(tube(nodes, radii), streaks, fat_share)
            found.append(solid(f"{name}_{side}", "muscle", shape, nodes, max(radii) + 1))
    return found


def _chest(cavity: Distance, lumps: Distance) -> list[Structure]:
    """The lungs above the domes of the diaphragm, and the heart."""
    domes = union(
        ellipsoid((72, 0, 30), (80, 98, 106)),
        ellipsoid((-76, 0, 26), (76, 98, 98)),
        ellipsoid((0, 30, 30), (70, 80, 92)),
    )
    pleural = intersection(cavity, half_space((0, -20, 66), (0, 0.45, -1)))
    above = rough(difference(pleural, domes), lumps, 1.0)
    heart = rough(ellipsoid((-28, 36, 166), (66, 50, 44)), lumps, 2.0)
    mediastinum = ellipsoid((-4, -24, 200), (32, 44, 110))
    lungs = difference(grown(above, -3.0), heart, mediastinum)
    box = [(-150, -105, 40), (150, 105, 205)]
    return [
        solid("diaphragm", "muscle", above, box),
        solid("mediastinum", "fat", intersection(above, mediastinum), box),
        solid("lungs", "lung", lungs, box),
        solid("heart_wall", "muscle", intersection(heart, above), box),
        solid("heart_blood", "blood", intersection(grown(heart, -11.0), above), box),
    ]


def _ribs(rng: np.random.Generator) -> list[Structure]:
    found = []
    slope = float(rng.uniform(58, 72))
    # From the twelfth pair upwards: height at the spine, and how far round the chest they reach.
    for number, (start, reach) in enumerate(
        [(34, 0.32), (62, 0.5), (90, 0.82), (118, 0.9), (146, 0.95), (174, 1.0), (202, 1.0)]
    ):
        share = np.linspace(0, reach, 9)
        angle = np.deg2rad(-78 + 140 * share)
        for side, sign in (("right", 1), ("left", -1)):
            path = np.stack([sign * 136 * np.cos(angle), -3 + 87 * np.sin(angle), start - slope * share**1.1], 1)
            bone = tube(path, 5.2, flatten=1.0)
            found.append(solid(f"rib{number}_{side}_cortex", "cortical_bone", bone, path, 7))
            found.append(solid(f"rib{number}_{side}_marrow", "red_marrow", grown(bone, -1.6), path, 7))
            if reach > 0.8:
                tip = [path[-1], path[-1] * [0.62, 1.0, 1.0] + [0, 9, 14]]
                found.append(solid(f"rib{number}_{side}_cartilage", "cartilage", tube(tip, 5.0), tip, 7))
    return found


@functools.cache
def _spine(detail_mm: float) -> Lattice:
    parts = []
    for level in range(-6, 7):
        z = level * _LEVEL_MM
        parts += [
            column([z - 14, z, z + 14], [(0, _SPINE_Y)] * 3, [(24, 18), (21.5, 16), (24, 18)], 2.3),
            tube([(13, _SPINE_Y - 12, z + 4), (15, _SPINE_Y - 28, z + 2), (0, _SPINE_Y - 37, z - 6)], [6, 5, 4]),
            tube([(-13, _SPINE_Y - 12, z + 4), (-15, _SPINE_Y - 28, z + 2), (0, _SPINE_Y - 37, z - 6)], [6, 5, 4]),
            tube([(0, _SPINE_Y - 36, z - 4), (0, _SPINE_Y - 58, z - 12)], [4.5, 4]),
            tube([(15, _SPINE_Y - 24, z + 2), (44, _SPINE_Y - 26, z + 4)], [5, 3.5]),
            tube([(-15, _SPINE_Y - 24, z + 2), (-44, _SPINE_Y - 26, z + 4)], [5, 3.5]),
            tube([(17, _SPINE_Y - 28, z + 14), (17, _SPINE_Y - 30, z - 18)], [4, 5]),
            tube([(-17, _SPINE_Y - 28, z + 14), (-17, _SPINE_Y - 30, z - 18)], [4, 5]),
        ]
        body = parts[-8]
        parts[-8] = intersection(body, half_space((0, 0, z + 13), (0, 0, 1)), half_space((0, 0, z - 13), (0, 0, -1)))
    vertebrae = difference(union(*parts), tube([(0, _SPINE_Y - 24, -230), (0, _SPINE_Y - 24, 230)], 9.5, flatten=1.2))
    return sampled(vertebrae, np.array([(-52.0, -118, -215), (52, -28, 215)]), detail_mm)


def _spine_structures(spine: Lattice, cortex_mm: float) -> list[Structure]:
    corners = [(-52, -118, -215), (52, -28, 215)]
    line = [(0, _SPINE_Y - 24, -230), (0, _SPINE_Y - 24, 230)]
    canal, sac = tube(line, 9.5, flatten=1.2), tube(line, 7.5, flatten=1.2)
    cord = tube([(0, _SPINE_Y - 24, 8), (0, _SPINE_Y - 24, 40), (0, _SPINE_Y - 24, 230)], [1.5, 5, 5])
    discs = column([-230, 230], [(0, _SPINE_Y)] * 2, [(23.5, 17.5)] * 2, 2.3)
    return [
        solid("discs", "intervertebral_disc", discs, corners),
        solid("canal", "fat", canal, line, 12),
        solid("spine_cortex", "cortical_bone", spine, corners),
        solid("spine_marrow", "red_marrow", grown(spine, -cortex_mm), corners),
        solid("thecal_sac", "csf", sac, line, 12),
        solid("cord", "spinal_cord", cord, line, 12),
    ]


@functools.cache
def _iliac_wing(detail_mm: float) -> Lattice:
    corners = [(122, 40, -172), (126, 0, -142), (100, -52, -126), (54, -86, -150), (70, -50, -230), (108, 10, -230)]
    bone = plate(corners, [(0, 1, 5), (1, 2, 5), (2, 4, 5), (2, 3, 4)], [7, 6, 6, 9, 9, 4])
    return sampled(bone, np.array([(40.0, -102, -212), (140, 52, -112)]), detail_mm)


def _iliac_wings(detail_mm: float) -> list[Structure]:
    wing = _iliac_wing(detail_mm)
    found = []
    for side, shape in (("right", wing), ("left", mirrored(wing))):
        sign = 1 if side == "right" else -1
        corners = [(sign * 40, -102, -212), (sign * 140, 52, -112)]
        found.append(solid(f"ilium_{side}_cortex", "cortical_bone", shape, corners))
        found.append(solid(f"ilium_{side}_marrow", "red_marrow", grown(shape, -1.8), corners))
    return found
