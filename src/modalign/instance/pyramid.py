"""An image at one level of the pyramid: smoothed, sampled, with its channels, ready to be warped."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from modalign.errors import DataError
from modalign.instance.contract import PairSimilarity
from modalign.instance.splines import Lattice, centred_lattice, separable

FEWEST_SAMPLES = 6
"""A level keeps this many samples along each axis, so that windows and central differences mean something."""


@dataclass(frozen=True)
class Level:
    """One image of the pair, sampled on `lattice` (in its own voxels).

    Attributes:
        channels: (1, C, *lattice), to be warped.
        target: (1, D, *lattice), to be compared with the other image's warped channels.
        validity: (1, 1, *lattice), 1 where the channels can be trusted, else 0.
        box: if everything in a box is valid and nothing else, its corners as normalised coordinates, last axis first.
    """

    lattice: Lattice
    channels: Tensor
    target: Tensor
    validity: Tensor
    box: tuple[Tensor, Tensor] | None

    def warp(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Channels (1, C, *T) and validity (1, 1, *T) at normalised points (1, *T, nD)."""
        channels = functional.grid_sample(self.channels, where, "bilinear", "border", align_corners=True)
        with torch.no_grad():
            if self.box is not None:
                inside = ((where >= self.box[0]) & (where <= self.box[1])).all(-1)
            else:
                sampled = functional.grid_sample(self.validity, where, "bilinear", "zeros", align_corners=True)
                inside = sampled[:, 0] > 1 - 1e-3
        return channels, inside[:, None].to(channels.dtype)


def normalised_intensity(image: Tensor, mask: Tensor, role: str) -> Tensor:
    """The image with the least and greatest values inside its mask at 0 and 1; values outside are clipped.

    Raises:
        DataError: the mask is empty, or the image has a single value inside it.
    """
    inside = image[mask > 0]
    if inside.numel() == 0:
        raise DataError(f"the mask of the {role} image is empty: leave it out, or draw it")
    low, high = inside.min(), inside.max()
    if not high > low:
        raise DataError(f"inside its mask, every voxel of the {role} image is {float(low):g}: nothing to register")
    return ((image - low) / (high - low)).clamp(0, 1)


def level_spacing(size: Sequence[int], spacing: float) -> tuple[float, ...]:
    """`spacing` along each axis, less where an image of `size` voxels would be left with too few samples."""
    return tuple(max(1.0, min(spacing, (n - 1) / (FEWEST_SAMPLES - 1))) for n in size)


def make_level(image: Tensor, mask: Tensor, spacing: float, similarity: PairSimilarity, role: str) -> Level:
    """Smooth and sample an image for a level.

    A Gaussian of ``spacing / 3`` voxels (none at a spacing of 1), cut off at 4 standard deviations, is evaluated at
    the points of the level; it weighs valid voxels alone. A point is valid where most of its weight is.

    Args:
        image: (1, 1, *S), from 0 to 1.
        mask: (1, 1, *S), 0 or 1.
        spacing: distance of the points in voxels.
        similarity: makes the channels.
        role: names the image in errors.

    Raises:
        DataError: no valid point is left.
    """
    size = image.shape[2:]
    step = level_spacing(size, spacing)
    lattice = centred_lattice(size, step)
    matrices = [
        _smoothing_matrix(lattice.axis(a), n, s, image) for a, (n, s) in enumerate(zip(size, step, strict=True))
    ]
    weight = separable(mask, matrices)
    smooth = separable(image * mask, matrices) / weight.clamp(min=1e-6)
    inside = (weight > 0.5).to(image.dtype)
    smooth = smooth * (weight > 1e-6)
    validity = similarity.validity(inside)
    if not validity.any():
        raise DataError(
            f"the mask of the {role} image is too thin to be seen at {spacing:g} voxels per sample: widen it, or leave "
            "it out"
        )
    channels = similarity.channels(smooth, inside)
    target = similarity.target(channels, inside)
    return Level(lattice, channels.contiguous(), target.contiguous(), validity, _box(validity))


def _smoothing_matrix(positions: np.ndarray, size: int, spacing: float, like: Tensor) -> Tensor:
    distance = positions[:, None] - np.arange(size)
    if spacing == 1:
        matrix = np.clip(1 - np.abs(distance), 0, None)
    else:
        sigma = spacing / 3
        # Half a voxel more reaches at least one voxel on each side of a point that lies between two.
        matrix = np.exp(-0.5 * (distance / sigma) ** 2) * (np.abs(distance) <= 4 * sigma)
        matrix /= matrix.sum(1, keepdims=True)
    return torch.from_numpy(matrix).to(like)


def _box(validity: Tensor) -> tuple[Tensor, Tensor] | None:
    inside = validity[0, 0] > 0
    low, high = [], []
    for axis, size in enumerate(inside.shape):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        found = torch.nonzero(inside.any(others) if len(others) == 1 else inside.amax(others)).ravel()
        first, last = int(found[0]), int(found[-1])
        inside = inside.narrow(axis, first, last - first + 1)
        low.append(2 * first / (size - 1) - 1)
        high.append(2 * last / (size - 1) - 1)
    if not inside.all():
        return None
    # Rounding must not take the border of an image away that isn't warped at all.
    tolerance = 1e-5
    return (
        validity.new_tensor(low[::-1]) - tolerance,
        validity.new_tensor(high[::-1]) + tolerance,
    )
