"""What the scanners of the body phantoms do: one body, two scans, the images they give."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi

from modalign.phantoms.anatomy import Anatomy
from modalign.phantoms.ct import acquire_ct, correlated_noise, cupping, hu_table
from modalign.phantoms.motion import Motion
from modalign.phantoms.mr import acquire_mr
from modalign.phantoms.render import Raster, Texture, rasterise
from modalign.phantoms.shapes import smooth_noise
from modalign.phantoms.tissues import TISSUES
from modalign.volumes import Grid

_CT_BLUR_MM = np.array([1.1, 1.1, 0.8])
"""Standard deviation of the blur of a soft-tissue kernel and of resampling to the archive's grid."""


_MR_BLUR_MM = np.array([0.9, 0.9, 0.0])
"""Standard deviation of the blur of a finite k-space, filtered and interpolated."""
_STREAKS_LEFT = 0.35
"""The share of metal streaks that a scanner's artefact reduction leaves."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One body scanned twice: the fixed scan as it lies, the moving scan after `motion`."""

    fixed: Raster
    moving: Raster
    motion: Motion
    texture: Texture

    def signal(self, raster: Raster, values: Mapping[str, float]) -> np.ndarray:
        """The noise-free MR signal (X, Y, Z), with texture and blur, of one of the two scans; metal leaves a void."""
        amplitude = {name: 0.6 * values[name] * tissue.texture for name, tissue in TISSUES.items()}
        image = raster.image(values, Texture(self.texture.noise, amplitude)).clip(min=0)
        if "metal" in raster.anatomy.tissues:
            # The field is distorted beyond the metal itself.
            void = ndi.gaussian_filter(raster.fraction("metal"), 7.0 / raster.grid.spacing)
            image *= np.exp(-8 * void)
        return ndi.gaussian_filter(image, _MR_BLUR_MM / raster.grid.spacing)

    def hounsfield(self, raster: Raster) -> np.ndarray:
        """The noise-free CT numbers (X, Y, Z), HU, with texture and the scanner's blur, of one of the two scans."""
        values = hu_table()
        amplitude = {n: t.texture * (110 + 0.5 * max(t.hu - 100, 0)) for n, t in TISSUES.items()}
        sharp = raster.image(values, Texture(self.texture.noise, amplitude)).clip(-1024, 3071)
        return ndi.gaussian_filter(sharp, _CT_BLUR_MM / raster.grid.spacing)


def scan_twice(
    anatomy: Anatomy,
    motion: Motion,
    grids: tuple[Grid, Grid],
    rng: np.random.Generator,
    gas_chance: float = 0.55,
) -> Pair:
    """Put a body on the grids of the fixed and of the moving scan; gas comes and goes between the two."""
    gas = [s for s, tissue in zip(anatomy.names, anatomy.tissues, strict=True) if tissue == "gas"]
    bodies = [anatomy.without(*[g for g in gas if rng.random() > gas_chance]) for _ in range(2)]
    coarse, fine = smooth_noise(rng, 25.0), smooth_noise(rng, 4.0, nodes=64)
    texture = Texture(lambda points: 0.45 * coarse(points) + 0.9 * fine(points), {})
    return Pair(
        rasterise(bodies[0], grids[0]), rasterise(bodies[1], grids[1], to_reference=motion.inverse), motion, texture
    )


def mr_scan(signal: np.ndarray, grid: Grid, rng: np.random.Generator, *, snr: float, bias: float) -> np.ndarray:
    """An MR image (X, Y, Z), int16 in arbitrary units, of a noise-free signal.

    `snr` and `bias` are those of :func:`modalign.phantoms.mr.acquire_mr`. Parallel imaging with a body-sized reference
    scan leaves little noise where that scan shows no signal: 15 % of it, some way off the skin.
    """
    image = acquire_mr(signal, rng, snr=snr, bias=bias)
    top = float(np.percentile(signal, 99))
    seen = _blurred((_blurred(signal, 3.0, grid) > 0.1 * top).astype(np.float32), 6.0, grid)
    return scanner_units(image * (0.15 + 0.85 * np.clip(2 * seen, 0, 1)))


def scanner_units(signal: np.ndarray) -> np.ndarray:
    """Signal relative to fully relaxed water as integers in a scanner's arbitrary units, int16."""
    return np.rint(signal * 4000).clip(0, 32767).astype(np.int16)


def ct_scan(
    pair: Pair,
    raster: Raster,
    rng: np.random.Generator,
    noise_hu: tuple[float, float],
    beam_hardening: float = 0.0,
) -> np.ndarray:
    """A CT image (X, Y, Z), int16 HU, with streaks where there is metal.

    The standard deviation of the noise in the middle of the body is drawn from the range `noise_hu`, for voxels up to
    1.5 mm. Rays through air keep their photons, so there is a quarter of the noise outside. The centre of the body is
    too dark by `beam_hardening` HU.
    """
    metal = raster.fraction("metal") > 0.5 if "metal" in raster.anatomy.tissues else None
    hu = pair.hounsfield(raster)
    streaked = acquire_ct(hu, rng, noise_hu=0.0, metal=metal, spacing_mm=float(raster.grid.spacing[0]))
    clean = hu + _STREAKS_LEFT * (streaked - hu)
    if beam_hardening:
        clean = clean - beam_hardening * cupping(hu > -500)
    depth = _blurred((hu > -600).astype(np.float32), 11.0, raster.grid)
    # Wide voxels average their noise.
    sd = float(rng.uniform(*noise_hu)) * min(1.0, 1.5 / float(raster.grid.spacing[0]))
    noise = correlated_noise(hu.shape, rng, sd, correlation_voxels=0.7)
    return np.rint(clean + noise * (0.25 + 0.75 * depth)).clip(-1024, 3071).astype(np.int16)


def covering(
    size: tuple[int, int, int], field_mm: tuple[float, float, float], middle_mm: tuple[float, float, float]
) -> Grid:
    """A grid along R, A, S of `size` voxels that covers a field of view around `middle_mm`, whatever the size."""
    spacing = np.divide(field_mm, size)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.asarray(middle_mm) - spacing * (np.array(size) - 1) / 2
    return Grid(size, affine)


def _blurred(image: np.ndarray, sigma_mm: float, grid: Grid) -> np.ndarray:
    """Smoothed within slices."""
    return ndi.gaussian_filter(image, [sigma_mm / grid.spacing[0], sigma_mm / grid.spacing[1], 0])
