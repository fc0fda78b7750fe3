"""Similarities of the instance optimiser, loss and gradient, against how they are usually written."""

import torch
from monai.losses import GlobalMutualInformationLoss
from racing import Race
from scenes import other_contrast, smooth_image
from torch import Tensor
from torch.nn import functional

from modalign.similarity.correlation_ratio import correlation_ratio, region_weights, srwcr
from modalign.similarity.mind import mind
from modalign.similarity.mutual_information import histogram_information
from modalign.similarity.ncc import masked_local_ncc
from modalign.similarity.parzen import joint_histogram

SHAPE = (64, 64, 64)
BINS, STRIDE = 32, 4


def races() -> list[Race]:
    """SRWCR with 32 bins and regions 16 voxels wide, the other histograms with 23 or 32 bins, MIND and local NCC."""
    scan = smooth_image(SHAPE, seed=0)
    fixed = torch.from_numpy(other_contrast(scan, seed=1))[None, None]
    # Away from 0 and 1, where intensities are clipped and slopes have two sides.
    warped = torch.from_numpy(0.02 + 0.96 * scan)[None, None].requires_grad_()
    mask = torch.ones_like(fixed)
    monai = GlobalMutualInformationLoss(num_bins=23)
    of_fixed = mind(fixed)
    part = (fixed > fixed.median()).float()

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
        Race(
            "NMI of 23 bins for pairs, loss and gradient, 64³",
            "the formula with all weights of all voxels (PyTorch)",
            lambda: both(-histogram_information(joint_histogram(fixed, warped, mask, 23), normalised=True)),
            lambda: both(_nmi_of_all_weights(fixed, warped)),
        ),
        Race(
            "correlation ratio of 32 bins, loss and gradient, 64³",
            "the formula with all weights of all voxels (PyTorch)",
            lambda: both(correlation_ratio(fixed, warped, mask, BINS)),
            lambda: both(_ratio_of_all_weights(fixed, warped)),
        ),
        Race(
            "MIND and gradient, 64³",
            "the formula with shifted images and `conv3d` (PyTorch)",
            lambda: both((mind(warped) - of_fixed).square().mean()),
            lambda: both((_mind_by_convolutions(warped) - of_fixed).square().mean()),
        ),
        Race(
            "LNCC of 5³ windows inside a mask, loss and gradient, 64³",
            "the formula with `conv3d` (PyTorch)",
            lambda: both(masked_local_ncc(fixed, warped, part, 5)),
            lambda: both(_ncc_by_convolutions(fixed, warped, part, 5)),
        ),
    ]


def _nmi_of_all_weights(fixed: Tensor, warped: Tensor) -> Tensor:
    """Minus (H(a) + H(b)) / H(a, b), with an array of 23 bins times voxels for each image."""
    centres = torch.arange(23, dtype=fixed.dtype)[:, None]
    positions = [image.flatten().clamp(0, 1) * 22 for image in (fixed, warped)]
    weights = [torch.softmax(-2 * (position - centres).square(), 0) for position in positions]
    joint = weights[0] @ weights[1].T / fixed.numel()
    apart = sum(-(p * (p + 1e-7).log()).sum() for p in (joint.sum(0), joint.sum(1)))
    return -(apart + 1e-6) / (-(joint * (joint + 1e-7).log()).sum() + 1e-6)


def _ratio_of_all_weights(fixed: Tensor, warped: Tensor) -> Tensor:
    """The unexplained share of the variance, with an array of 32 bins times voxels."""
    weights = _polynomial_windows(warped).flatten(2)[0]
    values = fixed.flatten()
    count, first = weights.sum(1), weights @ values
    within = values.square().sum() - (first.square() / count.clamp(min=1e-12)).sum()
    variance = values.square().mean() - values.mean().square()
    return within / (variance + 1e-6) / values.numel()


def _mind_by_convolutions(image: Tensor) -> Tensor:
    """Six shifted images, patches of 5³ under a Gaussian of half a voxel, as one convolution each."""
    padded = functional.pad(image, [1] * 6, mode="replicate")
    size = image.shape[2:]
    distances = []
    for axis in range(3):
        for start in (0, 2):
            shifted = padded
            for a in range(3):
                shifted = shifted.narrow(2 + a, start if a == axis else 1, size[a])
            squared = functional.pad((image - shifted).square(), [2] * 6, mode="replicate")
            distances.append(functional.conv3d(squared, _gaussian_patch(2, 0.5)))
    distance = torch.cat(distances, 1)
    descriptor = torch.exp(-distance / (distance.mean(1, keepdim=True) + 1e-5))
    return descriptor / descriptor.amax(1, keepdim=True)


def _gaussian_patch(radius: int, sigma: float) -> Tensor:
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma).square())
    taps = taps / taps.sum()
    return torch.einsum("x,y,z->xyz", taps, taps, taps)[None, None]


def _ncc_by_convolutions(fixed: Tensor, warped: Tensor, mask: Tensor, window: int) -> Tensor:
    """Sums over the valid voxels of every window as one convolution each."""
    box = torch.ones(1, 1, window, window, window)
    count, a, b, aa, bb, ab = (
        functional.conv3d(image * mask, box, padding=window // 2)
        for image in (torch.ones_like(fixed), fixed, warped, fixed.square(), warped.square(), fixed * warped)
    )
    count = count.clamp(min=1e-6)
    scale = window**3
    covariance = scale * (ab / count - a * b / count.square())
    variances = [scale * (s / count - (m / count).square()).clamp(min=0) for s, m in ((aa, a), (bb, b))]
    return -(mask * covariance.square() / (variances[0] * variances[1] + 1e-5)).sum() / mask.sum()


def _polynomial_windows(image: Tensor) -> Tensor:
    """The weights of every bin for every voxel, (1, BINS, *S) of (1, 1, *S)."""
    t = ((image - torch.linspace(0, 1, BINS).reshape(1, BINS, 1, 1, 1)) * (BINS - 1)).abs()
    near, far = 1 - 0.1 * t - 1.8 * t.square(), 1.9 - 3.7 * t + 1.8 * t.square()
    return torch.where(t < 0.5, near, torch.where(t < 1, far, torch.zeros(())))


def _by_convolutions(fixed: Tensor, warped: Tensor) -> Tensor:
    """SRWCR by images of all bins' weights, summed over regions axis by axis."""
    centres = torch.linspace(0, 1, BINS).reshape(1, BINS, 1, 1, 1)

    def regions(channels: Tensor) -> Tensor:
        kernel = region_weights(8 * STRIDE, STRIDE, fixed.device, fixed.dtype)[4, 2 * STRIDE : 6 * STRIDE]
        flat = functional.pad(channels, [2 * STRIDE] * 6).flatten(0, 1)[:, None]
        for axis in range(3):
            shape, step = [1] * 5, [1] * 3
            shape[2 + axis], step[axis] = -1, STRIDE
            flat = functional.conv3d(flat, kernel.reshape(shape), stride=step)
        return flat.reshape(1, channels.shape[1], *flat.shape[2:])

    of_fixed = _polynomial_windows(fixed)
    mean, square = (of_fixed * centres).sum(1, keepdim=True), (of_fixed * centres.square()).sum(1, keepdim=True)
    weights = _polynomial_windows(warped)
    count, first, second = regions(torch.cat([weights, weights * mean, weights * square], 1)).split(BINS, 1)
    within = (second - first.square() / count.clamp(min=1e-12)).sum(1)
    total = count.sum(1).clamp(min=1e-12)
    variance = second.sum(1) / total - (first.sum(1) / total).square()
    return (within / (variance.clamp(min=0) + 1e-6)).sum() / count.sum()
