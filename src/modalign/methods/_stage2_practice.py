"""A task with a known answer for stage 2: put together a deformed reference from the reference, given poor hints."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from modalign.seeds import generator
from modalign.similarity.filters import gaussian_mean
from modalign.spatial.warp import warp
from modalign.training.registration import random_field

FIELD_ERROR_VOXELS = 0.7
"""By which the field is wrong, as a standard deviation."""
BLUR_VOXELS = 0.7
"""Standard deviation of the Gaussian by which the first output is blurred."""
ERRORS = {8: 0.1, 20: 0.1}
"""Intensity errors of the first output: standard deviations, by the number of nodes along each axis."""


class Practice(NamedTuple):
    """What the network is given instead of stage 1's output and R's field, and what it should answer."""

    initial: Tensor
    field: Tensor
    target: Tensor


def practice(reference: Tensor, amplitude_voxels: float, seed: int, *purpose: str) -> Practice:
    """A task made of references (B, 1, *S) between -1 and 1.

    The target is the reference warped by a smooth random field. The field that comes with it is wrong by part of a
    voxel, and the first output is the target blurred, with smooth errors of intensity such as a translation makes: so
    structure has to come from the first output, and intensities and details from the reference.

    Args:
        reference: (B, 1, *S).
        amplitude_voxels: standard deviation of the deformation, in voxels.
        seed: seeds the task, together with `purpose`.
        purpose: words that tell this task from others.
    """
    field = random_field(reference, amplitude_voxels, seed, *purpose, "deformation")
    wrong = random_field(reference, FIELD_ERROR_VOXELS, seed, *purpose, "error of the field")
    target = warp(reference, field)
    return Practice(_translated(target, seed, *purpose), field + wrong, target)


def _translated(images: Tensor, seed: int, *purpose: str) -> Tensor:
    draw = generator(seed, *purpose, "errors of intensity")
    blurred = gaussian_mean(images, BLUR_VOXELS)
    mode = {4: "bilinear", 5: "trilinear"}[images.ndim]
    # A translation knows air and what is clipped: errors vanish at the ends of the intensities.
    weight = (1 - blurred.abs()).clamp(min=0).sqrt()
    made = blurred
    for nodes, spread in ERRORS.items():
        values = spread * draw.standard_normal((len(images), 1, *[nodes] * (images.ndim - 2)))
        error = torch.from_numpy(values).to(images)
        made = made + weight * functional.interpolate(error, images.shape[2:], mode=mode, align_corners=True)
    return made.clamp(-1, 1)
