"""A pelvis with everything in it, different for every patient."""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from modalign.phantoms.anatomy import Anatomy, Structure, solid
from modalign.phantoms.motion import Filling
from modalign.phantoms.pelvis_bones import PelvisBones, bone_structures, pelvis_bones
from modalign.phantoms.pelvis_muscles import BODY, muscle_structures, vessel_structures
from modalign.phantoms.pelvis_organs import (
    BLADDER_BASE,
    PROSTATE_CENTRE,
    PROSTATE_RADII,
    RECTUM_PATH,
    PelvisOrgans,
    draw_organs,
    organ_structures,
)
from modalign.phantoms.shapes import (
    Distance,
    Lattice,
    column,
    difference,
    ellipsoid,
    grown,
    half_space,
    intersection,
    plate,
    sampled,
    smooth_noise,
    stretched,
    tube,
    union,
    wobble,
)

LABELS = {
    1: "bladder",
    2: "rectum",
    3: "prostate",
    4: "uterus",
    5: "hip_bones",
    6: "femurs",
    7: "sacrum",
    8: "spinal_cord",
}
"""Label values of the pelvis phantoms."""

_PARTS = {
    "bladder": ("bladder_wall", "bladder_urine"),
    "rectum": ("rectum_",),
    "prostate": ("prostate_peripheral", "prostate_central", "prostate_urethra"),
    "uterus": ("uterus_body", "uterus_cavity"),
    "hip_bones": ("hip_bone_",),
    "femurs": ("femur_", "implant_"),
    "sacrum": ("sacrum_",),
    "spinal_cord": ("thecal_sac", "nerve_roots"),
}


Implant = Literal["hip", "nail"]


@dataclass(frozen=True, eq=False)
class Pelvis:
    """One patient's pelvis.

    Attributes:
        anatomy: the structures, with all gas.
        bones: their signed distances, in the template.
        organs: what was drawn about the organs.
        scale: (3,) size of the patient relative to the template.
    """

    anatomy: Anatomy
    bones: PelvisBones
    organs: PelvisOrgans
    scale: np.ndarray

    def stiffness(self, points: np.ndarray) -> np.ndarray:
        """How much tissue at `points` (3, ...), mm, resists deformation: 0.85 in bone, 0 from 22 mm away on.

        The prostate (in women, what lies there) yields to its full neighbours by moving more than by changing its size.
        """
        flat = points.reshape(3, -1).astype(np.float32)
        assert self.anatomy.to_template is not None
        template = self.anatomy.to_template(flat)
        bone = 0.85 * _fading(self.bones.distance(template), 22.0)
        floor = 0.6 * _fading(ellipsoid(PROSTATE_CENTRE, PROSTATE_RADII)(template), 20.0)
        return np.maximum(bone, floor).reshape(points.shape[1:])

    def fillings(self, bladder: float, rectum: float) -> list[Filling]:
        """Bladder and rectum longer along each axis by these fractions."""
        # The bladder grows away from its base; half its length is counted from there.
        reach = self.scale * self.organs.bladder_radii * np.array([1.0, 1.0, 1.75])
        wide = 1.1 * self.organs.rectum_radius
        return [
            Filling(self.scale * BLADDER_BASE, reach, bladder * np.array([0.8, 0.8, 1.0])),
            Filling(
                self.scale * RECTUM_PATH[2:5].mean(0), self.scale * [wide, wide, 38], rectum * np.array([1, 1, 0.05])
            ),
        ]


def _fading(distance_mm: np.ndarray, reach_mm: float) -> np.ndarray:
    """1 inside, falling smoothly to 0 at `reach_mm` from the surface."""
    share = np.clip(distance_mm / reach_mm, 0, 1)
    return 1 - share * share * (3 - 2 * share)


def label_of(anatomy: Anatomy) -> dict[str, int]:
    """The label value of every structure of a pelvis that has one."""
    number = {name: value for value, name in LABELS.items()}
    return {
        structure: number[label]
        for structure in anatomy.names
        for label, starts in _PARTS.items()
        if structure.startswith(starts)
    }


def draw_pelvis(
    rng: np.random.Generator,
    *,
    male: bool | None = None,
    implant: Implant | None = None,
    left: bool = False,
    detail_mm: float = 2.0,
) -> Pelvis:
    """Draw a patient.

    Args:
        rng: the source of randomness.
        male: None to draw the sex.
        implant: metal: a prosthesis of the hip joint, or a nail in the thigh with a screw in its neck.
        left: on which side it is.
        detail_mm: lattice steps that bones are tabulated with.
    """
    male = bool(rng.random() < 0.5) if male is None else male
    organs = draw_organs(rng, male)
    scale = rng.normal(1, 0.035) * rng.normal(1, [0.02, 0.035, 0.025])
    fat_mm = float(np.clip(rng.gamma(4.0, 5.0), 8, 38))
    folds, lumps, streaks = (smooth_noise(rng, mm) for mm in (8.0, 25.0, 11.0))
    sheets = stretched(smooth_noise(rng, 13.0), (1.6, 1.0, 1.6))
    bones = pelvis_bones(detail_mm)
    fibres = stretched(streaks, (1.0, 1.0, 3.0))
    outline = sampled(_outline(fat_mm, male), BODY, 4 * detail_mm)
    fat_share = float(rng.uniform(0.01, 0.05))
    structures = [
        *_body(outline, sheets, fat_mm),
        *muscle_structures(fibres, grown(outline, -0.75 * fat_mm), 1.2, fat_share, detail_mm),
        *_wall(detail_mm),
        *vessel_structures(),
        *organ_structures(organs, rng, folds, lumps),
        *bone_structures(bones, cortex_mm=float(rng.uniform(1.5, 2.1))),
    ]
    if implant is not None:
        structures.append(_implant(implant, -1 if left else 1))
    uneven = wobble(rng, BODY, [(70.0, 3.0), (13.0, 0.7)], 6.0)
    inverse_scale = (1 / scale).astype(np.float32)[:, None]

    def to_template(points: np.ndarray) -> np.ndarray:
        return uneven(points * inverse_scale).astype(np.float32)

    return Pelvis(Anatomy(tuple(structures), to_template), bones, organs, scale)


def _body(outline: Distance, sheets: Distance, fat_mm: float) -> list[Structure]:
    cleft = sampled(
        plate(
            [(0, -150, 55), (0, -112, 25), (0, -98, -50), (0, -150, -60)], [(0, 1, 2), (0, 2, 3)], [2.5, 0.4, 0.5, 3]
        ),
        np.array([(-30.0, -165, -80), (30, -80, 80)]),
        3.0,
    )
    body = difference(outline, cleft)
    box = np.array([(-165 - 1.2 * fat_mm, -175, -200), (165 + 1.2 * fat_mm, 175, 200)])
    return [
        Structure("skin", "skin", lambda p: body(p) < 0, box),
        Structure("fat", "fat", lambda p: body(p) < -2.2, box),
        # Sheets of connective tissue, half a millimetre thin.
        Structure("septa", "ligament", lambda p: (np.abs(sheets(p)) < 0.03) & (outline(p) < -4), box),
    ]


def _outline(fat_mm: float, male: bool) -> Distance:
    f = fat_mm
    front = np.array([66, 80, 82, 88, 94]) + f * np.array([0.7, 0.9, 1.0, 1.1, 1.1])
    back = np.array([-96, -104, -112, -112, -112]) - f * np.array([0.9, 1.1, 1.0, 0.9, 0.8])
    across = np.array([160, 165, 160, 152, 150]) + f * np.array([1.0, 1.1, 1.1, 1.0, 1.0])
    centres = np.stack([np.zeros(5), (front + back) / 2], 1)
    halves = np.stack([across, (front - back) / 2], 1)
    trunk = intersection(
        column([-80, -20, 20, 80, 150], centres, halves, power=2.35),
        half_space((0, 30, -84), (0, -0.25, -1)),
        # The couch flattens the back.
        half_space((0, float(back.min()) + 5, 0), (0, -1, 0)),
    )
    legs = []
    for sign in (1, -1):
        centre = [(sign * 100, -2), (sign * 96, -4), (sign * 92, -2)]
        half = [(80 + 0.8 * f, 84 + 0.8 * f), (78 + 0.8 * f, 86 + 0.8 * f), (72 + 0.6 * f, 84 + 0.6 * f)]
        leg = column([-160, -110, -60], centre, half, power=2.2)
        legs.append(intersection(leg, half_space((0, 0, -10), (0, 0, 1))))
    parts = [trunk, *legs]
    if male:
        parts += [ellipsoid((0, 72, -110), (38, 26, 34)), tube([(0, 70, -70), (0, 98, -78), (0, 104, -105)], 16)]
    return union(*parts, blend_mm=22)


def _wall(detail_mm: float) -> list[Structure]:
    """The muscles of the belly and the cavity they close, above the symphysis."""
    corners = [(-150, -60, -30), (150, 105, 175)]
    outer, wall = _wall_tables(detail_mm)
    sheet = difference(grown(wall, -4.0), grown(outer, -4.7), ellipsoid((0, 90, 80), (70, 60, 200)))
    alba = intersection(wall, ellipsoid((0, 85, 80), (2.5, 60, 160)))
    return [
        solid("belly_wall", "muscle", difference(wall, grown(outer, -10.0)), corners),
        solid("belly_septum", "fat", sheet, corners),
        solid("linea_alba", "ligament", difference(alba, grown(outer, -10.0)), corners),
    ]


@functools.cache
def _wall_tables(detail_mm: float) -> tuple[Lattice, Lattice]:
    outer = intersection(
        column([0, 40, 90, 160], [(0, 20), (0, 2), (0, -4), (0, -6)], [(70, 56), (112, 80), (132, 90), (144, 96)], 2.4),
        half_space((0, 66, -18), (0, 0.3, -1)),
    )
    # Below the iliac crests the wall reaches only from the front to the inguinal ligament.
    front = union(half_space((0, 44, 0), (0, -1, 0)), half_space((0, 44, 82), (0, -1, -1.3)))
    box = np.array([(-155.0, -65, -35), (155, 110, 180)])
    return sampled(outer, box, 2 * detail_mm), sampled(intersection(outer, front), box, 2 * detail_mm)


def _implant(kind: Implant, side: int) -> Structure:
    """The metal of one hip; `side` is 1 (right) or -1."""

    def path(*points: tuple[float, float, float]) -> list[tuple[float, float, float]]:
        return [(side * x, y, z) for x, y, z in points]

    (joint,) = path((90, 0, 0))
    if kind == "nail":
        nail = tube(path((122, -6, -18), (117, -4, -80), (111, 2, -140)), 6.0)
        metal = union(nail, tube(path((88, 0, 2), (124, -7, -34)), 5.0))
    else:
        stem = tube(path((90, 0, 0), (122, -7, -32), (117, -4, -80), (111, 2, -140)), [7, 8, 6.5, 4.5])
        cup = difference(ellipsoid(joint, (27, 27, 27)), ellipsoid(joint, (23, 23, 23)))
        socket = intersection(cup, half_space((side * 97, 4, -6), (side * 0.8, 0.35, -0.5)))
        metal = union(ellipsoid(joint, (16, 16, 16)), stem, socket)
    around = path((62, -30, -145), (150, 30, 30))
    return solid(f"implant_{'right' if side > 0 else 'left'}", "metal", metal, around)
