"""A whole head and neck around a brain: scalp, skull with diploe, orbits, sinuses, jaws, teeth, spine, glands, airway.

Positions are in the millimetres of an average adult, RAS, with the anterior commissure near the origin.
"""

from collections.abc import Mapping

import numpy as np

from modalign.phantoms.anatomy import Anatomy, Structure
from modalign.phantoms.brain import Brain, both_sides, in_box, make_brain, remembered, tabulation_mm
from modalign.phantoms.cortex import sheets
from modalign.phantoms.face import face_structures
from modalign.phantoms.glioma import glioma
from modalign.phantoms.neck import neck_bones, neck_soft_tissue
from modalign.phantoms.shapes import Distance, Lattice, column, ellipsoid, sampled, smooth_noise, tube, union

HEAD_BOX = np.array([[-98.0, -130, -185], [98, 125, 105]])
"""Where a head of average size lies, mm."""
LABELS = {
    1: "brain",
    2: "skull",
    3: "mandible",
    4: "ventricles",
    5: "eyes",
    6: "parotid_l",
    7: "parotid_r",
    8: "spinal_cord",
}
"""Label values of a head's structures."""
OARS = {1: "parotid_l", 2: "parotid_r", 3: "mandible", 4: "spinal_cord", 5: "brainstem"}
"""Label values of the organs at risk that radiotherapy of the head and neck spares."""

_PARTS = {
    "brain": (
        *("white_matter", "grey_matter", "corpus_callosum", "callosal_white_matter", "hippocampus"),
        # As in the masks that skull stripping makes, the CSF between the gyri counts as brain.
        *("sulci", "septum"),
        *("caudate", "putamen", "pallidum", "thalamus", "pineal", "choroid_plexus"),
        *("brainstem", "cerebellum", "cerebellum_white_matter", "cerebellar_peduncle"),
    ),
    "skull": ("skull", "diploe", "skull_base", "skull_base_marrow", "petrous_bone"),
    "mandible": ("mandible", "mandible_marrow"),
    "ventricles": ("lateral_ventricles", "third_ventricle", "fourth_ventricle"),
    "eyes": ("sclera", "vitreous", "lens"),
}


def make_head(rng: np.random.Generator, voxel_mm: float = 1.0) -> Anatomy:
    """Draw a head: sizes of brain, face, fat, skull and sinuses differ between subjects.

    Args:
        rng: the subject.
        voxel_mm: the smallest voxel side of the images to come: how finely shapes have to be tabulated.
    """
    brain = make_brain(rng, voxel_mm)
    fat_mm, skull_mm = rng.uniform(3.0, 6.0), rng.uniform(5.5, 7.5)
    skin = remembered(sampled(_skin(brain.cavity, skull_mm + fat_mm + 2.0, rng), HEAD_BOX, tabulation_mm(voxel_mm)))
    thickness = smooth_noise(rng, 30.0)
    septa = sheets(rng, 34.0)
    structures = (
        Structure("skin", "skin", lambda p: skin(p) < 0, HEAD_BOX),
        Structure("subcutaneous_fat", "fat", lambda p: skin(p) < -1.8, HEAD_BOX),
        *_deep_tissue(skin, septa, fat_mm),
        *neck_soft_tissue(rng, lambda p: skin(p) + np.float32(fat_mm + 1.5)),
        *_skull(brain, skull_mm, thickness),
        *neck_bones(rng),
        *face_structures(rng),
        *brain.structures,
    )
    return Anatomy(structures)


def make_stripped_brain(rng: np.random.Generator, high_grade: bool, voxel_mm: float = 1.0) -> Anatomy:
    """Draw a brain with a glioma and nothing around it, as skull stripping leaves it: no dura, no outer CSF."""
    brain = make_brain(rng, voxel_mm)
    parts = glioma(rng, brain, high_grade)
    outer = ("csf", "falx", "tentorium", "sagittal_sinus")
    rim = Structure("csf", "csf", lambda p: brain.cavity(p) < -1.6, None)
    # The stem is cut where the skull ends.
    stump = Structure("below_the_cut", "air", lambda p: p[2] < -62, None)
    return Anatomy((rim, *(p for p in parts if p.name not in outer), stump))


def label_of(anatomy: Anatomy, labels: Mapping[int, str]) -> dict[str, int]:
    """Structure name -> label value, for the named parts of a head such as :data:`LABELS` or :data:`OARS`."""
    values = {part: value for value, name in labels.items() for part in _PARTS.get(name, (name,))}
    return {part: value for part, value in values.items() if part in anatomy.names}


def _skin(cavity: Distance, over_cavity_mm: float, rng: np.random.Generator) -> Distance:
    wide, long = rng.uniform(0.93, 1.07), rng.uniform(0.95, 1.05)
    face = ellipsoid((0, 34, -48), (64 * wide, 58, 66 * long))
    chin = ellipsoid((0, 42, -94 * long), (46 * wide, 46, 36))
    # Parotid glands and masseters round out the angle of the jaw.
    jowl = ellipsoid((48, -2, -68), (21 * wide, 36, 38))
    nose = union(tube([(0, 84, -14), (0, 97, -40)], [8, 11]), ellipsoid((0, 96, -46), (16, 13, 10)), blend_mm=6)
    lips = ellipsoid((0, 84, -72), (24, 10, 13))
    neck = column(
        [-190, -150, -120, -90, -60],
        [(0, -22), (0, -22), (0, -24), (0, -26), (0, -28)],
        [(70 * wide, 62), (58 * wide, 56), (57 * wide, 55), (58 * wide, 58), (60 * wide, 62)],
        power=2.4,
    )
    glabella = ellipsoid((0, 64, -3), (34, 17, 15))
    ear = tube([(79, -12, -48), (85, -20, -30), (86, -26, -14), (82, -14, -8)], [4, 4.5, 4, 3])
    sockets = ellipsoid((32, 92, -20), (17, 11, 10))
    noise = smooth_noise(rng, 40.0)

    def skin(points: np.ndarray) -> np.ndarray:
        right = np.stack([np.abs(points[0]), points[1], points[2]])
        cranium = cavity(points) - np.float32(over_cavity_mm)
        neck_here = np.maximum(neck(points), points[2] + 45)
        shape = union(lambda _: cranium, face, chin, jowl, lambda _: neck_here, blend_mm=24)(right)
        shape = union(lambda _: shape, nose, lips, glabella, blend_mm=10)(right)
        hollow = -sockets(right) - 4
        shape = np.maximum(shape, hollow)
        return union(lambda _: shape, ear, blend_mm=4)(right) + np.float32(0.8) * noise(points)

    return skin


def _deep_tissue(skin: Distance, septa: Lattice, fat_mm: float) -> list[Structure]:
    """What fills face and neck below the subcutaneous fat: muscle bellies with fat between them."""
    # Muscles of the neck run downwards, and so do the planes between them.
    grain = np.array([[1.0], [1.0], [0.45]], dtype=np.float32)
    below = np.array([HEAD_BOX[0], [98, 125, 30]])
    deep = np.float32(fat_mm + 4.0)

    def muscle(points: np.ndarray) -> np.ndarray:
        # Cheeks carry more fat than the neck.
        cheeks = 4 * np.exp(-(((points[1] - 55) / 25) ** 2) - ((points[2] + 50) / 30) ** 2)
        return (skin(points) < -(deep + cheeks)) & (np.abs(septa(points * grain)) > 0.5)

    temporalis = ellipsoid((66, 8, -18), (14, 36, 40))
    masseter = ellipsoid((55, 22, -66), (8, 15, 24))
    pterygoid = ellipsoid((36, 12, -58), (9, 13, 17))
    tongue = ellipsoid((0, 38, -76), (21, 27, 16))
    # Between jaw and mastoid, with a deep lobe, a sheet over the masseter and a tail below the angle of the jaw.
    parotid = union(
        ellipsoid((58, -11, -64), (14, 13, 29)),
        ellipsoid((45, -12, -61), (11, 10, 22)),
        ellipsoid((60, 8, -64), (10, 19, 22)),
        ellipsoid((55, -10, -88), (11, 13, 15)),
        blend_mm=6,
    )
    submandibular = ellipsoid((28, 18, -100), (8, 13, 10))
    right = ((34, -30, -106), (84, 26, -30))
    left = ((-84, -30, -106), (-34, 26, -30))
    mirror = np.array([[-1], [1], [1]], dtype=np.float32)
    within = lambda shape: lambda p: np.maximum(shape(p), skin(p) + 5.5)  # noqa: E731
    buccal, parapharyngeal = ellipsoid((38, 42, -64), (8, 11, 15)), ellipsoid((24, -2, -60), (5, 9, 17))
    mouth_septum = in_box("lingual_septum", "fat", lambda p: np.abs(p[0]) - 0.8, (-1, 22, -90), (1, 58, -66))
    return [
        Structure("deep_muscle", "muscle", muscle, below),
        both_sides("buccal_fat", "fat", buccal, (28, 28, -82), (48, 56, -46)),
        both_sides("parapharyngeal_fat", "fat", parapharyngeal, (18, -12, -80), (30, 8, -42)),
        in_box("parotid_r", "parotid", within(parotid), *right),
        in_box("parotid_l", "parotid", within(lambda p: parotid(p * mirror)), *left),
        both_sides("temporalis", "muscle", within(temporalis), (50, -30, -60), (82, 46, 24)),
        both_sides("masseter", "muscle", within(masseter), (44, 4, -92), (66, 40, -40)),
        both_sides("pterygoid", "muscle", pterygoid, (24, -4, -78), (48, 28, -38)),
        in_box("tongue", "muscle", tongue, (-22, 8, -94), (22, 68, -58)),
        mouth_septum,
        both_sides("submandibular", "gland", submandibular, (18, 2, -112), (38, 34, -88)),
    ]


def _skull(brain: Brain, skull_mm: float, thickness: Lattice) -> list[Structure]:
    cavity = brain.cavity
    box = np.array([[-86.0, -122, -72], [86, 90, 96]])

    @remembered
    def wall(points: np.ndarray) -> np.ndarray:
        # Calvaria above, thin floors of the fossae below; the border drops from the brow to the nape.
        floor = np.interp(points[1], [-90, -40, 20, 60], [-58, -48, -26, -10]).astype(np.float32)
        vault = ((points[2] - floor) / 18).clip(0, 1)
        return (np.float32(2.6) + vault * (np.float32(skull_mm - 2.6) + 0.9 * thickness(points))).astype(np.float32)

    def bone(points: np.ndarray) -> np.ndarray:
        gap = cavity(points)
        return (gap >= 0) & (gap < wall(points)) & ~((np.hypot(points[0], points[1] + 35) < 13) & (points[2] < -45))

    def diploe(points: np.ndarray) -> np.ndarray:
        gap, whole = cavity(points), wall(points)
        return (gap > 1.5) & (gap < whole - 1.7)

    base = union(
        tube([(0, 20, -24), (0, 2, -26), (0, -6, -34), (0, -18, -54)], [11, 10, 9, 6]),
        tube([(12, 16, -24), (34, 8, -42)], [4, 3]),
        blend_mm=6,
    )
    petrous = union(
        tube([(16, -16, -38), (34, -24, -36), (56, -28, -34)], [6, 8, 10]),
        ellipsoid((56, -32, -44), (10, 13, 18)),
        blend_mm=5,
    )
    return [
        both_sides("skull_base", "cortical_bone", base, (0, -36, -60), (54, 24, -10)),
        both_sides("skull_base_marrow", "trabecular_bone", lambda p: base(p) + 2.2, (0, -36, -60), (54, 24, -10)),
        both_sides("petrous_bone", "cortical_bone", petrous, (8, -50, -66), (72, -6, -20)),
        Structure("skull", "cortical_bone", bone, box),
        Structure("diploe", "diploe", diploe, box),
    ]
