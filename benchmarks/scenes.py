"""What the benchmarks run on: smooth seeded images and fields, and phantom archives."""

import logging
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi

from modalign.files import read_json
from modalign.phantoms.archives import VERSION, make_archive

log = logging.getLogger(__name__)


def smooth_image(shape: tuple[int, ...], seed: int, sigma: float = 2.0) -> np.ndarray:
    """Blurred noise between 0 and 1, float32."""
    noise = ndi.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def other_contrast(image: np.ndarray, seed: int) -> np.ndarray:
    """The same scene in another contrast: a curve that is not monotonic, with noise; between 0 and 1, float32."""
    noise = np.random.default_rng(seed).normal(0, 0.02, image.shape)
    return np.clip(4 * image * (1 - image) * 0.8 + 0.1 + noise, 0, 1).astype(np.float32)


def smooth_field(shape: tuple[int, int, int], seed: int, largest_voxels: float = 4.0, sigma: float = 8.0) -> np.ndarray:
    """A displacement field (3, X, Y, Z), float32, voxels, whose largest component is `largest_voxels`."""
    rng = np.random.default_rng(seed)
    field = np.stack([ndi.gaussian_filter(rng.standard_normal(shape), sigma) for _ in range(3)])
    return (field / np.abs(field).max() * largest_voxels).astype(np.float32)


def make_phantom(
    name: str, folder: Path, size: tuple[int, int, int], patients: int, seed: int, workers: int = 1
) -> None:
    """Write a phantom archive into `folder`, unless the same one is there."""
    marker = folder / "modalign-phantom.json"
    wanted = {"archive": name, "size": list(size), "patients": patients, "seed": seed, "version": VERSION}
    if marker.is_file() and read_json(marker) == wanted:
        return
    log.info("phantom %s, %s voxels, %d patients", name, size, patients)
    make_archive(name, folder, size=size, patients=patients, seed=seed, workers=workers)
