"""Random affine and elastic misalignment of training pairs: IMSE deforms both images of a pair in every step."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from modalign.instance.splines import separable
from modalign.seeds import generator
from modalign.spatial.warp import identity, warp
from modalign.training.options import Misalignment


def misaligned(
    moving: Tensor,
    fixed: Tensor,
    mask: Tensor | None,
    settings: Misalignment,
    spacing_mm: Sequence[float],
    seed: int,
    *purpose: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A batch of pairs (B, 1, *S), and the fixed masks, deformed by :func:`misalignment`; beyond the images their
    borders are repeated, beyond the masks nothing is valid."""
    moving = warp(moving, misalignment(moving, settings, spacing_mm, seed, *purpose, "moving"))
    if settings.of == "moving":
        return moving, fixed, mask
    field = misalignment(fixed, settings, spacing_mm, seed, *purpose, "fixed")
    deformed = None if mask is None else warp(mask, field, "nearest", "zeros")
    return moving, warp(fixed, field), deformed


def misalignment(
    images: Tensor, settings: Misalignment, spacing_mm: Sequence[float], seed: int, *purpose: str
) -> Tensor:
    """Random fields ``A x + e(x) - x``: A turns, scales and shifts about the image's centre, e is elastic.

    The elastic part is uniform noise, smoothed by a Gaussian with zeros around the image, times a factor. It and the
    affine part are distributed as those of the preparation step ``misalign`` with ``elastic: simard``.

    Args:
        images: (B, C, *S) to be warped.
        settings: the ranges.
        spacing_mm: voxel size along each axis; turning and scaling keep shapes in mm.
        seed: seeds the fields, together with `purpose`.
        purpose: what they are for, and for which step.

    Returns:
        (B, nD, *S) in voxels, array axis order.
    """
    rng = generator(seed, *purpose)
    batch, shape = len(images), tuple(images.shape[2:])
    dimension = len(shape)
    spacing = np.array(spacing_mm[:dimension])
    degrees = rng.uniform(-1, 1, (batch, 3)) * settings.rotation_deg
    if dimension == 2:
        degrees[:, :2] = 0
    factors = 1 + rng.uniform(-1, 1, (batch, 1, 1)) * settings.scale
    shifts = rng.uniform(-1, 1, (batch, dimension)) * settings.translation_half_fov[:dimension] * np.array(shape) / 2
    turned = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()[:, :dimension, :dimension] * factors
    changes = turned * spacing / spacing[:, None] - np.eye(dimension)
    centre = (torch.tensor(shape) - 1) / 2
    around = (identity(shape, images.device, torch.float32)[0].flatten(1).T - centre.to(images.device)).T
    # Mixed precision would multiply in half precision, which rounds positions to a voxel or so.
    with torch.autocast(images.device.type, enabled=False):
        affine = torch.from_numpy(changes).to(around) @ around + torch.from_numpy(shifts).to(around)[:, :, None]
    field = affine.unflatten(2, shape)
    return field if settings.alpha_voxels == 0 else field + _elastic(images, settings, rng)


def _elastic(images: Tensor, settings: Misalignment, rng: np.random.Generator) -> Tensor:
    shape = images.shape[2:]
    ratios = np.array(shape) / (shape if settings.nominal_size is None else settings.nominal_size[: len(shape)])
    # Smoothing white noise leaves a standard deviation proportional to the product of sigma^-1/2 over the axes.
    amplitudes = settings.alpha_voxels * ratios * np.sqrt(ratios.prod())
    noise = torch.from_numpy(rng.uniform(-1, 1, (len(images), len(shape), *shape)).astype(np.float32))
    matrices = [
        _smoothing(size, settings.sigma_voxels * ratio).to(images.device)
        for size, ratio in zip(shape, ratios, strict=True)
    ]
    with torch.autocast(images.device.type, enabled=False):
        smoothed = separable(noise.to(images.device), matrices)
    return smoothed * torch.from_numpy(amplitudes).to(smoothed).reshape(-1, *[1] * len(shape))


def _smoothing(size: int, sigma: float) -> Tensor:
    """A Gaussian along an axis, cut at 4 sigma, zeros beyond the axis, (size, size)."""
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    total = torch.exp(-0.5 * (offsets / sigma) ** 2).sum()
    places = torch.arange(size, dtype=torch.float64)
    distance = places[:, None] - places
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) / total
    return torch.where(distance.abs() <= reach, weights, 0).float()
