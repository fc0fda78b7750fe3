"""Networks of deformation-equivariant synthesis (Honkamaa et al. 2023): U-Nets, and a conditional discriminator."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from modalign.networks.voxelmorph import pad_to_multiple


@dataclass(frozen=True)
class Widths:
    """Channels per resolution, from fine to coarse.

    Attributes:
        generator: of the synthesis U-Net.
        registration: of both registration U-Nets.
        discriminator: of the discriminator's halving blocks.
        groups: of the generator's group normalisation.
    """

    generator: tuple[int, ...]
    registration: tuple[int, ...]
    discriminator: tuple[int, ...]
    groups: int


WIDTHS = {
    "paper": Widths((64, 128, 256, 512, 512), (32, 64, 128, 256, 256), (64, 128, 256, 512, 512), 16),
    "small": Widths((16, 24, 32), (8, 16, 16, 16), (8, 16, 16), 8),
}
"""`paper`: those of the released settings for T1 to CT; in 3D, 71.7 million weights to synthesise, 17.9 for each of the
registrations, 59.3 to discriminate."""


class UNet(nn.Module):
    """Two convolutions of width 3 at each resolution, strided convolutions down, transposed ones up, skips by stacking.

    Args:
        dimension: 2 or 3.
        channels_in: of the input.
        channels_out: of the output, which has no activation.
        widths: channels per resolution, from fine to coarse.
        groups: of the group normalisation after every convolution below the full resolution; 0 for none.
        slope: of the leaky ReLU for negative values.
    """

    def __init__(
        self,
        dimension: int,
        channels_in: int,
        channels_out: int,
        widths: Sequence[int],
        groups: int = 0,
        slope: float = 0,
    ) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dimension - 2]
        conv_up = (nn.ConvTranspose2d, nn.ConvTranspose3d)[dimension - 2]
        self.halvings = len(widths) - 1

        def double(channels: int, width: int, normalise: bool) -> nn.Sequential:
            layers: list[nn.Module] = []
            for inputs in (channels, width):
                layers.append(conv(inputs, width, 3, padding=1))
                layers += [nn.GroupNorm(groups, width)] if normalise and groups else []
                layers.append(nn.LeakyReLU(slope))
            return nn.Sequential(*layers)

        self.first = double(channels_in, widths[0], normalise=False)
        self.down, self.up, self.encoder, self.decoder = (nn.ModuleList() for _ in range(4))
        for fine, coarse in pairwise(widths):
            self.down.append(conv(fine, coarse, 2, stride=2))
            self.encoder.append(double(coarse, coarse, normalise=True))
        for level in range(self.halvings, 0, -1):
            self.up.append(conv_up(widths[level], widths[level], 2, stride=2))
            self.decoder.append(double(widths[level] + widths[level - 1], widths[level - 1], normalise=level > 1))
        self.last = conv(widths[0], channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, *S) to (B, channels_out, *S); images are padded at their far ends, and cut back."""
        shape = x.shape[2:]
        features = self.first(pad_to_multiple(x, 2**self.halvings))
        skips = []
        for down, encoder in zip(self.down, self.encoder, strict=True):
            skips.append(features)
            features = encoder(down(features))
        for up, decoder in zip(self.up, self.decoder, strict=True):
            features = decoder(torch.cat([up(features), skips.pop()], dim=1))
        return self.last(features)[(slice(None), slice(None), *[slice(n) for n in shape])]


class RegistrationNet(nn.Module):
    """A U-Net that predicts a stationary velocity field, in voxels; it starts close to no movement at all."""

    def __init__(self, dimension: int, channels_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.unet = UNet(dimension, channels_in, dimension, widths)
        nn.init.normal_(self.unet.last.weight, std=1e-3)
        nn.init.zeros_(self.unet.last.bias)  # type: ignore[arg-type]

    def forward(self, *images: Tensor) -> Tensor:
        """The velocity (B, nD, *S) from images that are stacked along their channels."""
        return self.unet(torch.cat(images, dim=1))


class Discriminator(nn.Module):
    """How real an image looks beside the one that it was made from: a residual network with spectral normalisation.

    Args:
        dimension: 2 or 3.
        widths: channels of the blocks, each of which halves the resolution.
    """

    def __init__(self, dimension: int, widths: Sequence[int]) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dimension - 2]
        self.multiple = 2 ** len(widths)
        self.first = conv(2, widths[0], 1)
        self.blocks = nn.ModuleList([ResidualBlock(dimension, widths[0], widths[0], halve=False)])
        for inputs, width in zip((widths[0], *widths[:-1]), widths, strict=True):
            self.blocks.append(ResidualBlock(dimension, inputs, width, halve=True))
        self.blocks.append(ResidualBlock(dimension, widths[-1], widths[-1], halve=False))
        self.score = spectral_norm(nn.Linear(widths[-1], 1))

    def forward(self, condition: Tensor, image: Tensor) -> Tensor:
        """Logits (B,), positive for real, from two images (B, 1, *S)."""
        features = self.first(pad_to_multiple(torch.cat([condition, image], dim=1), self.multiple))
        for block in self.blocks:
            features = block(features)
        return self.score(features.relu().flatten(2).mean(dim=2))[:, 0]


class ResidualBlock(nn.Module):
    """Two spectrally normalised convolutions beside a short cut, at the same or half the resolution."""

    def __init__(self, dimension: int, channels_in: int, width: int, halve: bool) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dimension - 2]
        self.halve = halve
        self.pool = (functional.avg_pool2d, functional.avg_pool3d)[dimension - 2]
        size, stride = (4, 2) if halve else (3, 1)
        self.first = spectral_norm(conv(channels_in, width, size, stride=stride, padding=1))
        self.second = spectral_norm(conv(width, width, 3, padding=1))
        self.short_cut = spectral_norm(conv(channels_in, width, 1)) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, *S) to (B, width, *S or *S / 2)."""
        short_cut = self.short_cut(self.pool(x, 2) if self.halve else x)
        return short_cut + self.second(self.first(x).relu()).relu()
