"""Local normalised cross-correlation as a loss, forward and backward, against MONAI."""

import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss
from racing import Race
from scenes import other_contrast, smooth_image
from torch import Tensor

from modalign.similarity.ncc import local_ncc

SHAPE = (96, 96, 96)


def races() -> list[Race]:
    """Loss and gradient of windows 9 voxels wide."""
    scan = smooth_image(SHAPE, seed=0)
    fixed = torch.from_numpy(other_contrast(scan, seed=1))[None, None]
    warped = torch.from_numpy(scan)[None, None].requires_grad_()
    theirs = LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=9, smooth_nr=0.0)

    def both(loss: Tensor) -> list[Tensor]:
        gradient = torch.autograd.grad(loss, warped)[0]
        return [loss, gradient / gradient.abs().max()]

    return [
        Race(
            "LNCC of 9³ windows, loss and gradient, 96³",
            "MONAI `LocalNormalizedCrossCorrelationLoss`",
            lambda: both(local_ncc(fixed, warped, window=9)),
            lambda: both(theirs(warped, fixed)),
        )
    ]
