"""Similarities of the instance optimiser, loss and gradient, against how they are usually written."""

import torch
from monai.losses import GlobalMutualInformationLoss
from racing import Race
from scenes import other_contrast, smooth_image
from torch import Tensor
from torch.nn import functional

from modalign.similarity.correlation_ratio import region_weights, srwcr
from modalign.similarity.mutual_information import histogram_information
from modalign.similarity.parzen import joint_histogram

SHAPE = (64, 64, 64)
BINS, STRIDE = 32, 4


def races() -> list[Race]:
    """SRWCR with 32 bins and regions 16 voxels wide; mutual information with 23 bins."""
    scan = smooth_image(SHAPE, seed=0)
    fixed = torch.from_numpy(other_contrast(scan, seed=1))[None, None]
    # Away from 0 and 1, where intensities are clipped and slopes have two sides.
    warped = torch.from_numpy(0.02 + 0.96 * scan)[None, None].requires_grad_()
    mask = torch.ones_like(fixed)
    monai = GlobalMutualInformationLoss(num_bins=23)

    def both(loss: Tensor) -> list[Tensor]:
        gradient = torch.autograd.grad(loss, warped)[0]
        return [loss, gradient / gradient.abs().max()]

    return [
        Race(
            "SRWCR of 32 bins, loss and gradient, 64³",
            "separable strided convolutions of every bin's weights (PyTorch)",
            lambda: both(srwcr(fixed, warped, mask, BINS, STRIDE)),
            lambda: both(_by_convolutions(fixed, warped)),
        ),
        Race(
            "MI of 23 bins for pairs, loss and gradient, 64³",
            "MONAI `GlobalMutualInformationLoss`",
            lambda: both(-histogram_information(joint_histogram(fixed, warped, mask, 23))),
            lambda: both(monai(warped, fixed)),
        ),
    ]


def _by_convolutions(fixed: Tensor, warped: Tensor) -> Tensor:
    """SRWCR by images of all bins' weights, summed over regions axis by axis."""
    centres = torch.linspace(0, 1, BINS).reshape(1, BINS, 1, 1, 1)

    def windows(image: Tensor) -> Tensor:
        t = ((image - centres) * (BINS - 1)).abs()
        near, far = 1 - 0.1 * t - 1.8 * t.square(), 1.9 - 3.7 * t + 1.8 * t.square()
        return torch.where(t < 0.5, near, torch.where(t < 1, far, torch.zeros(())))

    def regions(channels: Tensor) -> Tensor:
        kernel = region_weights(8 * STRIDE, STRIDE, fixed.device, fixed.dtype)[4, 2 * STRIDE : 6 * STRIDE]
        flat = functional.pad(channels, [2 * STRIDE] * 6).flatten(0, 1)[:, None]
        for axis in range(3):
            shape, step = [1] * 5, [1] * 3
            shape[2 + axis], step[axis] = -1, STRIDE
            flat = functional.conv3d(flat, kernel.reshape(shape), stride=step)
        return flat.reshape(1, channels.shape[1], *flat.shape[2:])

    of_fixed = windows(fixed)
    mean, square = (of_fixed * centres).sum(1, keepdim=True), (of_fixed * centres.square()).sum(1, keepdim=True)
    weights = windows(warped)
    count, first, second = regions(torch.cat([weights, weights * mean, weights * square], 1)).split(BINS, 1)
    within = (second - first.square() / count.clamp(min=1e-12)).sum(1)
    total = count.sum(1).clamp(min=1e-12)
    variance = second.sum(1) / total - (first.sum(1) / total).square()
    return (within / (variance.clamp(min=0) + 1e-6)).sum() / count.sum()
