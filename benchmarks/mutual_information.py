"""Mutual information as a loss, forward and backward, against MONAI."""

import torch
from monai.losses import GlobalMutualInformationLoss
from racing import Race
from scenes import other_contrast, smooth_image
from torch import Tensor

from modalign.similarity.mutual_information import mutual_information

SHAPE = (80, 80, 80)


def races() -> list[Race]:
    """Loss and gradient with 23 bins, the default of both."""
    scan = smooth_image(SHAPE, seed=0)
    fixed = torch.from_numpy(other_contrast(scan, seed=1))[None, None]
    warped = torch.from_numpy(scan)[None, None].requires_grad_()
    theirs = GlobalMutualInformationLoss(num_bins=23)

    def both(loss: Tensor) -> list[Tensor]:
        gradient = torch.autograd.grad(loss, warped)[0]
        return [loss, gradient / gradient.abs().max()]

    return [
        Race(
            "MI of 23 bins, loss and gradient, 80³",
            "MONAI `GlobalMutualInformationLoss`",
            lambda: both(mutual_information(fixed, warped)),
            lambda: both(theirs(warped, fixed)),
        )
    ]
