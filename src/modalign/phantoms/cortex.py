"""The folded surfaces of a brain: hemispheres cut by sulci, a cerebellum cut into folia.

Positions are in the millimetres of an average adult brain, RAS, with the anterior commissure near the origin.
"""

import numpy as np
import scipy.ndimage as ndi

from modalign.phantoms.shapes import (
    Distance,
    Lattice,
    difference,
    ellipsoid,
    half_space,
    intersection,
    smooth_noise,
    union,
)

FOURTH_VENTRICLE = (0.0, -42.0, -33.0)
"""Middle of the fourth ventricle, from which the cerebellum's folia fan out, mm."""
_FISSURE_MM = 0.7


def to_right(points: np.ndarray) -> np.ndarray:
    """The points (3, N) mirrored to where x is positive."""
    return np.stack([np.abs(points[0]), points[1], points[2]])


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


def smooth_hemispheres() -> Distance:
    """Both hemispheres' smooth outline, without the fissure between them."""
    vault = ellipsoid((0, -18, 10), (66, 85, 66))
    floor = half_space((0, 0, -17), (0, -0.08, -1))
    temporal = ellipsoid((37, -10, -22), (26, 41, 21))

    def outline(points: np.ndarray) -> np.ndarray:
        right = to_right(points)
        # Foreheads are narrower than the parietal bulge.
        right[0] *= 1 + 0.0016 * (right[1] + 25)
        upper = intersection(vault, floor)
        return union(upper, temporal, blend_mm=10)(right)

    return outline


def smooth_cerebellum() -> Distance:
    """The cerebellum's outline without its folia."""
    half = ellipsoid((23, -64, -37), (29, 31, 24))
    vermis = ellipsoid((0, -61, -30), (13, 27, 23))
    notch = ellipsoid((0, -100, -48), (5, 16, 22))
    shape = difference(union(half, vermis, blend_mm=6), notch)
    return lambda points: shape(to_right(points))


def folded(outline: Distance, rng: np.random.Generator, atrophy: float) -> Distance:
    """Depth (mm) below the pia, negative in sulci and outside: the smooth outline cut by sulci that run inwards."""
    deep, shallow, reach = sheets(rng, 29.0), sheets(rng, 21.0), smooth_noise(rng, 22.0)
    bend = [smooth_noise(rng, 20.0) for _ in range(3)]
    centre = np.array([[31.0], [-18.0], [12.0]], dtype=np.float32)
    radii = np.array([[35.0], [84.0], [62.0]], dtype=np.float32)
    shift = np.array([[300.0], [150.0], [70.0]], dtype=np.float32)
    width = 0.1 + 0.45 * atrophy

    def depth(points: np.ndarray) -> np.ndarray:
        right = to_right(points)
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
        sylvian = _sylvian(right) - (0.4 + 0.8 * atrophy)
        return _smooth_minimum(_smooth_minimum(below, np.minimum(first, second), 3.0), sylvian, 3.0)

    return depth


def _sylvian(right: np.ndarray) -> np.ndarray:
    x, y, z = right
    sheet = np.abs(z - (-5 - 0.33 * y)) * 0.95
    insula = np.hypot((36 - x).clip(0), ((y - 20).clip(0) + (-42 - y).clip(0)))
    # Over the insula the fissure widens upwards and downwards.
    return np.hypot((sheet - 7 * np.exp(-(((x - 37) / 1.2) ** 2) - ((y + 6) / 18) ** 2)).clip(0), insula)


def _smooth_minimum(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    mix = (width - np.abs(a - b)).clip(0) / width
    return np.minimum(a, b) - mix**2 * (width / 4)


def foliated(outline: Distance, rng: np.random.Generator) -> Distance:
    """Depth (mm) below the cerebellum's surface: folia are sheets that fan out from the fourth ventricle."""
    noise, reach = smooth_noise(rng, 18.0), smooth_noise(rng, 7.0)

    def depth(points: np.ndarray) -> np.ndarray:
        below = -outline(points)
        y, z = points[1] - FOURTH_VENTRICLE[1], points[2] - FOURTH_VENTRICLE[2]
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
