"""What CT and cone-beam CT scanners make of true attenuation: noise, shading, streaks, truncation."""

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import ArrayLike

from modalign.phantoms.tissues import TISSUES

WATER_PER_MM = 0.0193
"""Linear attenuation of water at 70 keV, about the mean of a 120 kV spectrum (NIST XCOM)."""
TITANIUM_OVER_WATER = 12.0
"""How much stronger titanium attenuates there."""


def hu_table() -> dict[str, float]:
    """The CT number of every tissue in HU."""
    return {name: tissue.hu for name, tissue in TISSUES.items()}


def acquire_ct(
    hu: np.ndarray,
    rng: np.random.Generator,
    *,
    noise_hu: float = 12.0,
    correlation_voxels: float = 0.6,
    beam_hardening: float = 0.0,
    metal: np.ndarray | None = None,
    spacing_mm: ArrayLike = 1.0,
    blur_mm: float = 0.0,
    air_noise: float = 1.0,
) -> np.ndarray:
    """A CT image of true CT numbers.

    Args:
        hu: (X, Y, Z), HU.
        rng: where the noise comes from.
        noise_hu: standard deviation of the noise in the middle of the body.
        correlation_voxels: in-plane width (Gaussian sigma) of the noise's correlation, as the kernel leaves it.
        beam_hardening: how many HU the centre of the body is too dark.
        metal: (X, Y, Z) bool, True in metal; its slices get streaks.
        spacing_mm: voxel size, one number or one per axis; matters only with metal or blur.
        blur_mm: Gaussian sigma of the system's blur.
        air_noise: noise outside the body relative to `noise_hu`; below 1, since rays that cross nothing are measured
            well.

    Returns:
        (X, Y, Z) int16 HU, clipped to -1024 .. 3071 as scanners do.
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), (3,))
    image = hu.astype(np.float32)
    if blur_mm:
        image = ndi.gaussian_filter(image, blur_mm / spacing)
    depth = cupping(hu > -500) if beam_hardening or air_noise < 1 else np.float32(1)
    if beam_hardening:
        image = image - beam_hardening * depth
    if metal is not None and metal.any():
        for z in np.flatnonzero(metal.any(axis=(0, 1))):
            image[:, :, z] += metal_streaks(hu[:, :, z], metal[:, :, z], rng, float(spacing[0]))
    noise = correlated_noise(image.shape, rng, noise_hu, correlation_voxels)
    image = image + noise * (air_noise + (1 - air_noise) * depth)
    return _to_int16(image)


def acquire_cbct(
    hu: np.ndarray,
    rng: np.random.Generator,
    spacing_mm: ArrayLike,
    *,
    scatter: float = 90.0,
    noise_hu: float = 22.0,
    correlation_voxels: float = 0.8,
    fov_radius_mm: float | None = None,
    fov_centre_mm: tuple[float, float] = (0.0, 0.0),
    shift_hu: float = -30.0,
    contrast: float = 0.9,
    blur_mm: float = 0.9,
    air_noise: float = 0.25,
) -> np.ndarray:
    """A cone-beam CT image of true CT numbers.

    Args:
        hu: (X, Y, Z), HU.
        rng: where noise and shading come from.
        spacing_mm: voxel size, one number or one per axis.
        scatter: how many HU the centre of the body is too dark because of scattered photons.
        noise_hu: standard deviation of the noise in the middle of the body.
        correlation_voxels: width (Gaussian sigma) of the noise's correlation along all axes.
        fov_radius_mm: radius of the reconstructed cylinder; None for all of the grid.
        fov_centre_mm: where the axis of the cylinder lies from the centre of the grid, along the first two axes.
        shift_hu: error of the HU calibration in the body.
        contrast: HU of tissue relative to water, times this; scatter lowers it below 1.
        blur_mm: Gaussian sigma of the system's blur (detector, motion during the minute of rotation).
        air_noise: noise outside the body relative to `noise_hu`.

    Returns:
        (X, Y, Z) int16 HU, clipped to -1024 .. 3071; -1024 beyond the field of view.
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), (3,))
    image = hu.astype(np.float32)
    if blur_mm:
        image = ndi.gaussian_filter(image, blur_mm / spacing)
    inside = (hu > -500).astype(np.float32)
    body = ndi.gaussian_filter(inside, 1.5 / spacing)
    image = np.where(image > -500, image * contrast, image) + shift_hu * body
    shading = ndi.gaussian_filter(rng.normal(size=[max(2, n // 8) for n in hu.shape]).astype(np.float32), 1.5)
    shading = ndi.zoom(shading, np.divide(hu.shape, shading.shape), order=1, grid_mode=True, mode="nearest")
    shading *= 0.15 * scatter / max(float(shading.std()), 1e-6)
    depth = cupping(inside > 0)
    image = image - scatter * depth + shading * body
    noise = correlated_noise(image.shape, rng, noise_hu, correlation_voxels, axes=(0, 1, 2))
    image = image + noise * (air_noise + (1 - air_noise) * depth)
    if fov_radius_mm is not None:
        image = _truncate(image, spacing, fov_radius_mm, fov_centre_mm)
    return _to_int16(image)


def cupping(inside: np.ndarray) -> np.ndarray:
    """How deep each voxel lies, slice by slice: 0 at the edge of `inside` and beyond, 1 at its deepest point.

    Rays through the centre cross more tissue, lose more of their low energies and meet more scatter, so the error grows
    with depth; it is close to quadratic (a parabola across a disc).
    """
    depth = np.zeros(inside.shape, np.float32)
    for z in range(inside.shape[2]):
        filled = ndi.binary_fill_holes(inside[:, :, z])
        if filled.any():
            distance = ndi.distance_transform_edt(filled)
            relative = distance / distance.max()
            depth[:, :, z] = ndi.gaussian_filter(1 - (1 - relative) ** 2, 1.0) * filled
    return depth


def correlated_noise(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    sd: float,
    correlation_voxels: float,
    axes: tuple[int, ...] = (0, 1),
) -> np.ndarray:
    """Gaussian noise of standard deviation `sd`, smoothed along `axes` with a Gaussian of that sigma in voxels."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if correlation_voxels:
        impulse = ndi.gaussian_filter1d(np.eye(1, 33, 16)[0], correlation_voxels)
        gain = float(np.sqrt((impulse**2).sum()))
        for axis in axes:
            noise = ndi.gaussian_filter1d(noise, correlation_voxels, axis=axis, mode="wrap") / gain
    return noise * np.float32(sd)


def metal_streaks(hu: np.ndarray, metal: np.ndarray, rng: np.random.Generator, spacing_mm: float) -> np.ndarray:
    """The error, in HU, that metal leaves in one slice (X, Y) after filtered back projection.

    The slice is projected, and rays through metal are measured wrongly in the three ways that matter: detectors
    saturate, photon starvation makes them noisy, and the beam hardens (a term quadratic in the metal's path). The
    difference between wrong and right projections is reconstructed; the rest of the slice isn't touched.
    Source: De Man et al. 1999 (doi 10.1109/23.775600).
    """
    from skimage.transform import iradon, radon

    side = max(hu.shape)
    pad = [((side - n) // 2, side - n - (side - n) // 2) for n in hu.shape]
    step = max(1, int(np.ceil(side / 256)))
    attenuation = np.pad((hu.clip(-1000, 3000) + 1000) / 1000 * WATER_PER_MM, pad)
    metal_part = np.pad(metal.astype(float), pad) * TITANIUM_OVER_WATER * WATER_PER_MM
    attenuation, metal_part = (ndi.zoom(a, 1 / step, order=1) if step > 1 else a for a in (attenuation, metal_part))
    angles = np.linspace(0, 180, 180, endpoint=False)
    pixel_mm = spacing_mm * step
    through_metal = radon(metal_part, angles, circle=False) * pixel_mm
    total = radon(attenuation, angles, circle=False) * pixel_mm + through_metal
    measured = np.minimum(total, 7.0) - 0.08 * np.minimum(through_metal, 5) ** 2
    starvation = np.sqrt(np.exp(np.minimum(total, 9.0)) / 2e6)
    measured += rng.standard_normal(total.shape) * starvation * (through_metal > 0)
    wrong = np.where(through_metal > 1e-3, measured - total, 0.0)
    error = iradon(wrong, angles, circle=False, output_size=attenuation.shape[0], filter_name="shepp-logan")
    error = ndi.zoom(error, (side / error.shape[0], side / error.shape[1]), order=1) * 1000 / WATER_PER_MM / pixel_mm
    error = error[pad[0][0] : pad[0][0] + hu.shape[0], pad[1][0] : pad[1][0] + hu.shape[1]]
    return np.where(metal, 0, error).astype(np.float32)


def _truncate(image: np.ndarray, spacing: np.ndarray, radius_mm: float, centre_mm: tuple[float, float]) -> np.ndarray:
    # What lies beyond the field of view still attenuates: its mass piles up as a bright rim along the border.
    axes = zip(image.shape[:2], spacing[:2], centre_mm, strict=True)
    x, y = ((np.arange(n) - (n - 1) / 2) * s - c for n, s, c in axes)
    radius = np.hypot(x[:, None], y[None, :])[:, :, None]
    cut = (np.where(radius > radius_mm, image, -1000).max(axis=(0, 1)) > -500)[None, None, :]
    rim = 150 * np.exp(-((radius_mm - radius) / 6).clip(min=0)) * cut * (image > -500)
    return np.where(radius > radius_mm, -1024, image + rim)


def _to_int16(image: np.ndarray) -> np.ndarray:
    return np.rint(image).clip(-1024, 3071).astype(np.int16)
