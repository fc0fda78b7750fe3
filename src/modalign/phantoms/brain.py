"""A folded brain: cortex around sulci, white matter, deep nuclei, ventricles, cerebellum, brainstem, and gliomas.

Positions are in the millimetres of an average adult brain, RAS, with the anterior commissure near the origin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi

from modalign.phantoms.anatomy import Structure
from modalign.phantoms.shapes import (
    Distance,
    Lattice,
    difference,
    ellipsoid,
    half_space,
    intersection,
    mirrored,
    rough,
    sampled,
    smooth_noise,
    tube,
    union,
)

CEREBRUM_BOX = np.array([[-72.0, -108, -50], [72, 74, 82]])
CAVITY_BOX = np.array([[-90.0, -125, -80], [90, 92, 98]])
CEREBELLUM_BOX = np.array([[-58.0, -102, -66], [58, -26, -6]])
_CORTEX_MM = 2.4
_FISSURE_MM = 0.7
_FOURTH_VENTRICLE = (0.0, -42.0, -33.0)


def in_box(name: str, tissue: str, shape: Distance, low: Sequence[float], high: Sequence[float]) -> Structure:
    """A structure of everything inside `shape` within a box from `low` to `high` (mm)."""
    return Structure(name, tissue, lambda points: shape(points) < 0, np.array([low, high], dtype=float))


def both_sides(name: str, tissue: str, shape: Distance, low: Sequence[float], high: Sequence[float]) -> Structure:
    """A structure on the right, given by `shape` with x > 0 and its box, together with its mirror image."""
    low, high = np.array([-high[0], low[1], low[2]]), np.array(high, dtype=float)
    return Structure(name, tissue, lambda points: shape(_to_right(points)) < 0, np.array([low, high]))


def sheets(rng: np.random.Generator, wavelength_mm: float, nodes: int = 72, step: float = 3.0) -> Lattice:
    """Signed distance (mm) from the zero level of band-limited noise: evenly spaced, winding sheets.

    Where such sheets cut a surface, they draw the maze that sulci draw on a brain.
    """
    frequency = np.fft.fftfreq(nodes, step)
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(frequency, frequency, frequency, indexing="ij", sparse=True)))
    band = np.exp(-(((radius * wavelength_mm - 1) / 0.22) ** 2))
    noise = np.fft.ifftn(np.fft.fftn(rng.standard_normal((nodes,) * 3)) * band).real
    slope = np.sqrt(sum(((np.roll(noise, -1, a) - np.roll(noise, 1, a)) / (2 * step)) ** 2 for a in range(3)))
    # Beyond the sheets the ratio would blow up where the slope vanishes, hence the floor.
    distance = noise / np.maximum(ndi.gaussian_filter(slope, 1.5, mode="wrap"), 0.4 * slope.mean())
    return Lattice(distance.astype(np.float32), np.zeros(3), step, wrap=True)


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


def make_brain(rng: np.random.Generator, tabulate_mm: float | None = None) -> Brain:
    """Draw a brain.

    Args:
        rng: the subject.
        tabulate_mm: lattice step to tabulate the folds at, which is faster for big images; None to compute them at
            every point.
    """
    atrophy = rng.uniform(0, 1)
    hemispheres, cerebellum = _hemispheres(), _cerebellum()
    depth_to_pia = _folded(hemispheres, rng, atrophy)
    folia = _foliated(cerebellum, rng)
    if tabulate_mm is not None:
        depth_to_pia = sampled(depth_to_pia, CEREBRUM_BOX, tabulate_mm)
        folia = sampled(folia, CEREBELLUM_BOX, tabulate_mm)
    cavity = _cavity(hemispheres, cerebellum)
    if tabulate_mm is not None:
        hemispheres, cavity = sampled(hemispheres, CEREBRUM_BOX, 2.0), sampled(cavity, CAVITY_BOX, 2.0)
    low, high = CEREBRUM_BOX
    white = in_box("white_matter", "white_matter", lambda p: hemispheres(p) + 0.5, low, high)
    grey = Structure("grey_matter", "grey_matter", lambda p: _between(depth_to_pia(p), -0.1, _CORTEX_MM), CEREBRUM_BOX)
    sulci = Structure("sulci", "csf", lambda p: (depth_to_pia(p) <= 0) & (hemispheres(p) < 1), CEREBRUM_BOX)
    structures = [
        Structure("csf", "csf", lambda p: cavity(p) < 0, CAVITY_BOX),
        *_dura(cerebellum),
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


def glioma(rng: np.random.Generator, brain: Brain, high_grade: bool) -> tuple[tuple[Structure, ...], np.ndarray]:
    """A glioma in one hemisphere's white matter.

    Returns:
        The brain's structures with ``edema``, ``enhancing`` (in high-grade tumours) and ``necrosis`` (or, in low-grade
        ones, the non-enhancing ``tumour_core``) in their places, and the tumour's centre (3,), mm. Edema spreads
        through white matter and spares the cortex.
    """
    side = rng.choice([-1.0, 1.0])
    centre = np.array([side * rng.uniform(28, 38), rng.uniform(-55, 38), rng.uniform(12, 38)])
    radii = rng.uniform(11, 19, 3) if high_grade else rng.uniform(12, 20, 3)
    noise, lobes = smooth_noise(rng, 9.0), smooth_noise(rng, 18.0)
    within = lambda shape: intersection(shape, lambda p: brain.white(p) + 0.5)  # noqa: E731
    mass = within(rough(rough(ellipsoid(centre, radii), lobes, 3.0), noise, 1.2))
    edema = within(rough(rough(ellipsoid(centre, radii + rng.uniform(9, 16)), lobes, 6.0), noise, 1.5))
    box = np.array([centre - 42, centre + 42])

    def structure(name: str, tissue: str, shape: Distance) -> Structure:
        return Structure(name, tissue, lambda points: shape(points) < 0, box)

    if high_grade:
        rim = rng.uniform(3.0, 5.0)
        dead = lambda p: mass(p) + np.float32(rim) + 2.0 * noise(p)  # noqa: E731
        core = [structure("enhancing", "enhancing", mass), structure("necrosis", "necrosis", dead)]
    else:
        core = [structure("tumour_core", "tumour_core", mass)]
    result: list[Structure] = []
    for part in brain.structures:
        result.append(part)
        if part.name == "white_matter":
            result.append(structure("edema", "edema", edema))
        if part.name == "sulci":
            result.extend(core)
    return tuple(result), centre


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values > low) & (values < high)


def _to_right(points: np.ndarray) -> np.ndarray:
    return np.stack([np.abs(points[0]), points[1], points[2]])


def _hemispheres() -> Distance:
    """Both hemispheres' smooth outline, without the fissure between them."""
    vault = ellipsoid((0, -18, 10), (66, 85, 66))
    floor = half_space((0, 0, -17), (0, -0.08, -1))
    temporal = ellipsoid((39, -10, -22), (24, 40, 21))

    def outline(points: np.ndarray) -> np.ndarray:
        right = _to_right(points)
        # Foreheads are narrower than the parietal bulge.
        right[0] *= 1 + 0.0016 * (right[1] + 25)
        upper = intersection(vault, floor)
        return union(upper, temporal, blend_mm=10)(right)

    return outline


def _cerebellum() -> Distance:
    half = ellipsoid((23, -64, -37), (29, 31, 24))
    vermis = ellipsoid((0, -61, -30), (13, 27, 23))
    notch = ellipsoid((0, -100, -48), (5, 16, 22))
    shape = difference(union(half, vermis, blend_mm=6), notch)
    return lambda points: shape(_to_right(points))


def _cavity(hemispheres: Distance, cerebellum: Distance) -> Distance:
    canal = tube([(0, -28, -30), (0, -33, -52), (0, -37, -70)], [20, 15, 9])
    inside = union(hemispheres, cerebellum, canal, blend_mm=10)
    return lambda points: inside(points) - np.float32(2.0)


def _folded(outline: Distance, rng: np.random.Generator, atrophy: float) -> Distance:
    """Depth (mm) below the pia, negative in sulci and outside: the smooth outline cut by sulci that run inwards."""
    deep, shallow, reach = sheets(rng, 29.0), sheets(rng, 21.0), smooth_noise(rng, 22.0)
    bend = [smooth_noise(rng, 20.0) for _ in range(3)]
    centre = np.array([[31.0], [-18.0], [12.0]], dtype=np.float32)
    radii = np.array([[35.0], [84.0], [62.0]], dtype=np.float32)
    shift = np.array([[300.0], [150.0], [70.0]], dtype=np.float32)
    width = 0.1 + 0.45 * atrophy

    def depth(points: np.ndarray) -> np.ndarray:
        right = _to_right(points)
        below = np.minimum(-outline(points), (right[0] - _FISSURE_MM))
        offset = right - centre
        along = np.sqrt(((offset / radii) ** 2).sum(0)).clip(0.3)
        # Sulci are made of rays from the hemisphere's middle; left and right look up different parts of the maze.
        anchor = centre + offset / along + shift * (points[0] < 0)
        anchor += np.stack([2.5 * b(points) for b in bend])
        ends = 17 + 4.5 * reach(anchor)
        gaping = width * (1 + 1.5 * np.exp(-below.clip(0) / 4)) + 0.5 * np.exp(-below.clip(0) / 3)
        first = np.hypot(deep(anchor) * along, (below - ends).clip(0)) - gaping
        second = np.hypot(shallow(anchor) * along, (below - 0.4 * ends).clip(0)) - 0.6 * gaping
        sylvian = _sylvian(right) - (0.7 + 0.8 * atrophy)
        return _smooth_minimum(_smooth_minimum(below, np.minimum(first, second), 3.0), sylvian, 3.0)

    return depth


def _sylvian(right: np.ndarray) -> np.ndarray:
    x, y, z = right
    sheet = np.abs(z - (-5 - 0.33 * y)) * 0.95
    insula = np.hypot((36 - x).clip(0), ((y - 20).clip(0) + (-42 - y).clip(0)))
    # Over the insula the fissure widens upwards and downwards.
    return np.hypot((sheet - 9 * np.exp(-(((x - 37) / 2.0) ** 2))).clip(0), insula)


def _smooth_minimum(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    mix = (width - np.abs(a - b)).clip(0) / width
    return np.minimum(a, b) - mix**2 * (width / 4)


def _foliated(outline: Distance, rng: np.random.Generator) -> Distance:
    """Depth (mm) below the cerebellum's surface: folia are sheets that fan out from the fourth ventricle."""
    noise, reach = smooth_noise(rng, 18.0), smooth_noise(rng, 7.0)

    def depth(points: np.ndarray) -> np.ndarray:
        below = -outline(points)
        y, z = points[1] - _FOURTH_VENTRICLE[1], points[2] - _FOURTH_VENTRICLE[2]
        angle = np.arctan2(z, -y) + 0.12 * noise(points)
        radius = np.hypot(y, z).clip(8)
        sheet = np.float32(0)
        result = below
        for count, ends in ((26, 13.0), (52, 5.0)):
            phase = angle * count / (2 * np.pi)
            sheet = np.abs(phase - np.rint(phase)) * (2 * np.pi / count) * radius
            gap = np.hypot(sheet, (below - ends - 3 * reach(points)).clip(0)) - 0.35
            result = _smooth_minimum(result, gap, 2.0)
        return result

    return depth


def _dura(cerebellum: Distance) -> list[Structure]:
    tent = lambda p: np.abs(cerebellum(p) - 1.8) - 0.6 + 100 * (p[2] < -32)  # noqa: E731
    sinus = tube([(0, 66, 22), (0, 52, 54), (0, 15, 76), (0, -30, 79), (0, -75, 60), (0, -102, 20), (0, -106, -12)], 4.2)
    return [
        in_box("falx", "dura", lambda p: np.abs(p[0]) - 0.35, (-1, -104, -14), (1, 70, 80)),
        in_box("tentorium", "dura", tent, (-60, -104, -34), (60, -32, -4)),
        in_box("sagittal_sinus", "blood", sinus, (-5, -111, -18), (5, 72, 84)),
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
        ellipsoid(_FOURTH_VENTRICLE, (6 * size, 4.5, 9)), tube([(0, -27, -4), (0, -33, -18), (0, -39, -30)], 1.3)
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
