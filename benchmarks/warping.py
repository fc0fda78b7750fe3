"""Warping a volume by a displacement field, against MONAI and SciPy."""

import numpy as np
import scipy.ndimage as ndi
import torch
from monai.networks.blocks import Warp
from racing import Race
from scenes import smooth_field, smooth_image
from torch import Tensor

from modalign.spatial.warp import warp

SHAPE = (96, 96, 96)


def races() -> list[Race]:
    """Trilinear, with repeated borders; forward and backward, and forward alone."""
    image, field = smooth_image(SHAPE, seed=0), smooth_field(SHAPE, seed=1)
    scan, displacement = torch.from_numpy(image)[None, None], torch.from_numpy(field)[None].requires_grad_()
    constant = displacement.detach()
    monai = Warp(mode="bilinear", padding_mode="border")
    positions = np.indices(SHAPE, dtype=np.float32)

    def with_gradient(warped: Tensor) -> list[Tensor]:
        return [warped, torch.autograd.grad(warped.square().sum(), displacement)[0]]

    return [
        Race(
            "Warp and gradient of the field, 96³",
            "MONAI `Warp`",
            lambda: with_gradient(warp(scan, displacement)),
            lambda: with_gradient(monai(scan, displacement)),
        ),
        Race(
            "Warp, 96³",
            "SciPy `map_coordinates`",
            lambda: warp(scan, constant)[0, 0],
            lambda: ndi.map_coordinates(image, positions + field, order=1, mode="nearest"),
        ),
    ]
