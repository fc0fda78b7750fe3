"""The residual U-Net that NeMAR, RegGAN and IMSE register with: one displacement field, no integration."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.errors import DataError
from modalign.networks.gan import CONV, LINEAR_INTERPOLATION, ResidualBlock

REGGAN = (32, 64, 64, 64, 64, 64, 64)
IMSE = (32, 64, 64, 64, 64, 64)


class ResUnet(nn.Module):
    """Residual blocks with instance norm downwards and at the bottom, plain convolutions upwards, one refinement.

    Args:
        dimension: 2 or 3.
        channels: from full resolution downwards; each number is followed by a halving. Upwards they come in reverse.
        bottom_blocks: residual blocks at the lowest resolution, with twice the channels there.
    """

    def __init__(self, dimension: int = 2, channels: Sequence[int] = REGGAN, bottom_blocks: int = 3):
        super().__init__()
        conv, before, lowest = CONV[dimension], 2, channels[-1]
        self.mode = LINEAR_INTERPOLATION[dimension]

        def unit(before: int, after: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(conv(before, after, kernel, padding=kernel // 2), nn.LeakyReLU(0.2))

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for after in channels:
            self.down.append(nn.Sequential(unit(before, after, 3), ResidualBlock(dimension, after)))
            before = after
        self.bottom = nn.Sequential(
            unit(lowest, 2 * lowest, 1),
            *(ResidualBlock(dimension, 2 * lowest) for _ in range(bottom_blocks)),
            unit(2 * lowest, lowest, 1),
        )
        for skip in reversed(channels):
            self.up.append(unit(before + skip, skip, 3))
            before = skip
        self.refine = nn.Sequential(ResidualBlock(dimension, before), unit(before, before, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.output = conv(before, dimension, 3, padding=1)
        # Training has to start at the identity.
        nn.init.normal_(self.output.weight, std=1e-5)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The displacement field that brings moving onto fixed.

        Images whose sides don't leave two voxels at the bottom are extended at their far ends by repeating the border,
        to no more than twice their size; the field is that of the image alone.

        Args:
            moving: (B, 1, *S).
            fixed: (B, 1, *S).

        Returns:
            (B, nD, *S) in voxels, array axis order.

        Raises:
            DataError: the images are too small for that many levels: more than half of the network would see padding.
        """
        levels, shape = len(self.down), moving.shape[2:]
        needed, smallest = 2 ** (levels + 1), min(shape)
        if 2 * smallest < needed:
            message = f"a residual U-Net of {levels} levels needs {needed // 2} voxels or more along each axis"
            possible = smallest.bit_length() - 1
            raise DataError(f"{message}, and this image has {smallest}: give it {possible} levels or fewer")
        padding = [side for n in reversed(shape) for side in (0, max(0, needed - n))]
        if any(padding):
            moving, fixed = (functional.pad(image, padding, mode="replicate") for image in (moving, fixed))
        pool = {2: functional.max_pool2d, 3: functional.max_pool3d}[moving.ndim - 2]
        x, skips = torch.cat([moving, fixed], dim=1), []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = pool(x, 2)
        x = self.bottom(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = functional.interpolate(x, skip.shape[2:], mode=self.mode, align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        field = self.output(self.refine(x)).float()
        return field[(slice(None), slice(None), *map(slice, shape))]
