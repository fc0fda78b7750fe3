"""What does the image look like by itself? Sharpness within slices, change between slices."""

import numpy as np

from modalign.metrics.pair import Pair, Value


def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian (4 neighbours, mirrored at the border) of an 8-bit slice (H, W).

    Range 0 and up. The papers count higher as better, though noise and artefacts raise it as much as detail does; even
    background lowers it. Source: RbG section IV-B; the kernel is that of its code.
    """
    import cv2

    return float(cv2.Laplacian(np.ascontiguousarray(image, dtype=np.float32), cv2.CV_32F).var(dtype=np.float64))


def tv_z(image: np.ndarray) -> np.ndarray:
    """Total variation between neighbouring axial slices, ``sum |v[z+1] - v[z]| m[z+1] / sum m[z+1]``.

    The volume is clipped at its 1st and 99th percentile and scaled to 0..1; m is its foreground by Otsu's threshold
    (256 bins). Range 0 to 1; best is what the reference scan has: smoothing lowers it, slice-wise generation raises
    it. Background plays no part. It counts per slice interval, whatever the slice spacing. Source: RbG section V-A
    (TV-z), with the normalisation and mask of its notebook.

    Args:
        image: 8-bit volume (X, Y, Z).

    Returns:
        One value per interval, (Z - 1,); NaN where slice z + 1 has no foreground, everywhere if the image is constant.
    """
    low, high = np.percentile(image, [1, 99])
    intervals = image.shape[2] - 1
    if high <= low or intervals < 1:
        return np.full(max(intervals, 0), np.nan)
    volume = (np.clip(image, low, high) - low) / (high - low)
    mask = (volume > otsu_threshold(volume))[:, :, 1:]
    change = (np.abs(np.diff(volume, axis=2)) * mask).sum(axis=(0, 1))
    size = mask.sum(axis=(0, 1))
    return np.where(size > 0, change / np.maximum(size, 1), np.nan)


def otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    """The centre of the histogram bin that best separates two classes (Otsu 1979: largest between-class variance)."""
    counts, edges = np.histogram(values, bins=bins)
    centres = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    mean_below = np.cumsum(counts * centres) / np.maximum(below, 1)
    mean_above = np.cumsum((counts * centres)[::-1])[::-1] / np.maximum(above, 1)
    between = below[:-1].astype(float) * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(centres[np.argmax(between)])


def measure_sharpness(pair: Pair) -> list[Value]:
    """Sharpness of every axial slice of the aligned image."""
    return [Value(sharpness(pair.image_u8[:, :, z]), z) for z in range(pair.image.shape[2])]


def measure_tv_z(pair: Pair) -> list[Value]:
    """TV-z of every slice interval of the aligned image; the value at slice z is that between z and z + 1."""
    return [Value(float(v), z) for z, v in enumerate(tv_z(pair.image_u8))]
