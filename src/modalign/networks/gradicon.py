"""The multi-step network of GradICON (Tian et al. 2023): U-Nets whose maps are composed, from coarse to fine."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.networks.gan import BATCH_NORM, CONV, LINEAR_INTERPOLATION, TRANSPOSED
from modalign.networks.voxelmorph import crop
from modalign.spatial.integrate import resize_field
from modalign.spatial.pyramid import halved
from modalign.spatial.warp import warp

TALL = ((16, 32, 64, 256, 512), (16, 32, 64, 128, 256))
"""Channels downwards, and upwards from full resolution, of the published U-Net ("tallUNet2"): 4,756,902 parameters in
2D and 17,670,229 in 3D, for each step."""


class ResidualUNet(nn.Module):
    """A pre-activation U-Net: every halving and doubling is a convolution plus a resampled copy of its input.

    Forward takes a moving and a fixed image (B, 1, *S) of any size and gives displacements (B, nD, *S) in fractions of
    the image's extent, zero before training.

    Args:
        dimension: 2 or 3.
        down: channels after each halving.
        up: channels after each doubling, the last one first; as many as `down`.
    """

    def __init__(self, dimension: int, down: Sequence[int] = TALL[0], up: Sequence[int] = TALL[1]):
        super().__init__()
        if len(down) != len(up):
            raise ValueError(f"a U-Net goes up as often as down: {len(down)} and {len(up)} numbers of channels")
        skips = [2, *down[:-1]]
        self.mode = LINEAR_INTERPOLATION[dimension]
        self.down = nn.ModuleList(
            CONV[dimension](before, after, 3, stride=2, padding=1) for before, after in zip(skips, down, strict=True)
        )
        below = [*(wide + skip for wide, skip in zip(up[1:], skips[1:], strict=True)), down[-1]]
        self.up = nn.ModuleList(
            TRANSPOSED[dimension](before, after, 4, stride=2, padding=1)
            for before, after in zip(below, up, strict=True)
        )
        self.norms = nn.ModuleList(BATCH_NORM[dimension](after) for after in up)
        self.last = CONV[dimension](up[0] + skips[0], dimension, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Displacements in fractions of the image's extent along each axis."""
        x, skips = torch.cat([moving, fixed], dim=1), []
        pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[moving.ndim - 2]
        for conv in self.down:
            skips.append(x)
            y = conv(functional.leaky_relu(x))
            width = [min(n, 2) for n in x.shape[2:]]
            x = y + _with_channels(pool(x, width, ceil_mode=True), y.shape[1])
        for conv, norm, skip in zip(reversed(self.up), reversed(self.norms), reversed(skips), strict=True):
            y = conv(functional.leaky_relu(x))
            doubled = functional.interpolate(x, y.shape[2:], mode=self.mode, align_corners=False)
            x = norm(y + _with_channels(doubled, y.shape[1]))
            # Halving rounds up, so that odd sizes come back one voxel too long.
            x = torch.cat([crop(x, skip.shape[2:]), skip], dim=1)
        return self.last(x) / 10


def _with_channels(x: Tensor, channels: int) -> Tensor:
    """The first `channels` channels, or all of them after channels of zeros."""
    missing = channels - x.shape[1]
    if missing <= 0:
        return x[:, :channels]
    return torch.cat([x.new_zeros(x.shape[0], missing, *x.shape[2:]), x], dim=1)


class GradICON(nn.Module):
    """From a moving and a fixed image to the displacement field that brings moving onto fixed, in several steps.

    Each step sees the moving image warped by the map so far, and its own map goes first in the composition:
    ``phi(x) = phi_before(x + u(x))``.

    Args:
        dimension: 2 or 3.
        halvings: for each step, how often the images are halved before it; (2, 1, 0) is the published first stage of
            training, (2, 1, 0, 0) its second.
        down: channels of the U-Nets downwards.
        up: channels upwards, the last one first.
    """

    def __init__(
        self,
        dimension: int,
        halvings: Sequence[int] = (2, 1, 0),
        down: Sequence[int] = TALL[0],
        up: Sequence[int] = TALL[1],
    ):
        super().__init__()
        self.halvings = tuple(halvings)
        self.steps = nn.ModuleList(ResidualUNet(dimension, down, up) for _ in halvings)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The displacement field (B, nD, *S) in voxels, array axis order, of images (B, 1, *S) of any size."""
        pyramid = [torch.cat([moving, fixed], dim=1)]
        for _ in range(max(self.halvings)):
            pyramid.append(halved(pyramid[-1]))
        total: Tensor | None = None
        for halvings, unet in zip(self.halvings, self.steps, strict=True):
            small_moving, small_fixed = pyramid[halvings].split(1, dim=1)
            shape = small_moving.shape[2:]
            if total is None:
                total = _in_voxels(unet(small_moving, small_fixed))
            else:
                total = resize_field(total, shape)
                step = _in_voxels(unet(warp(small_moving, total), small_fixed))
                total = compose(total, step)
        assert total is not None
        return resize_field(total, moving.shape[2:])


def _in_voxels(fractions: Tensor) -> Tensor:
    shape = fractions.shape[2:]
    extent = torch.tensor([n - 1 for n in shape]).to(fractions).reshape(1, -1, *[1] * len(shape))
    return fractions.float() * extent


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The field of ``x -> phi_outer(phi_inner(x))``: where `inner` leads to, look up `outer`.

    Warping by the result equals warping by `outer`, then by `inner`.

    Args:
        outer: (B, nD, *S) in voxels.
        inner: (B, nD, *S) in voxels.
    """
    return inner + warp(outer, inner)
