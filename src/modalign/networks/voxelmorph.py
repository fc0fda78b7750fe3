"""The VoxelMorph network (Balakrishnan et al. 2019): a U-Net that predicts a stationary velocity field, in 2D or 3D."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.spatial.integrate import integrate, resize_field


@dataclass(frozen=True)
class Architecture:
    """Channels of the U-Net, one convolution each.

    Attributes:
        encoder: channels from full resolution downwards.
        decoder: channels from the coarsest resolution upwards; the first ones (one per halving) are upsampled and
            concatenated with the encoder's features, the rest stay at full resolution.
        down: "pool" halves by max-pooling after every encoder convolution, "stride" by a stride of 2 in every encoder
            convolution but the first.
        half: leave out the last upsampling, so that the velocity comes at half resolution, where it is integrated
            anyway; takes `int_downsize` 2.
    """

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    down: Literal["pool", "stride"] = "pool"
    half: bool = False

    @property
    def halvings(self) -> int:
        """How often the resolution is halved."""
        return len(self.encoder) - (self.down == "stride")


ARCHITECTURES = {
    "paper": Architecture((16, 32, 32, 32), (32, 32, 32, 32, 32, 16, 16)),
    "small": Architecture((8, 16, 32, 32), (32, 32, 32, 16), half=True),
    "imse2d": Architecture((16, 32, 32, 64, 64), (64, 64, 32, 32, 16, 16), "stride"),
    "imse3d": Architecture((16, 32, 32, 64, 64), (64, 64, 32, 32, 16, 16), "stride"),
    "imse3d-pure": Architecture((16, 32, 32, 32, 32), (32, 32, 32, 32, 16, 16), "stride"),
}
"""`paper` is VoxelMorph's own (109 170 weights in 2D, 327 331 in 3D); the `imse` ones are those of IMSE's released 3D
code (Kong et al. 2023), whose 2D code has another network: `imse2d` is the same as `imse3d`, as the paper says."""


class UNet(nn.Module):
    """Convolutions of width 3 with leaky ReLU (0.2), nearest-neighbour upsampling, concatenated skips, no norm."""

    def __init__(self, dimension: int, channels_in: int, architecture: Architecture):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dimension - 2]
        halvings, strided = architecture.halvings, architecture.down == "stride"
        if len(architecture.decoder) < halvings:
            message = f"an encoder that halves {halvings} times needs {halvings} decoder channels or more"
            raise ValueError(f"{message}, not {architecture.decoder}")
        self.pool = None if strided else (nn.MaxPool2d, nn.MaxPool3d)[dimension - 2](2)
        self.halvings = halvings
        channels, skips = channels_in, []
        self.encoder = nn.ModuleList()
        for level, width in enumerate(architecture.encoder):
            self.encoder.append(conv(channels, width, 3, stride=2 if strided and level > 0 else 1, padding=1))
            channels = width
            skips.append(width)
        if strided:
            skips.pop()
        self.upsamplings = halvings - architecture.half
        self.decoder = nn.ModuleList()
        for level, width in enumerate(architecture.decoder):
            self.decoder.append(conv(channels, width, 3, padding=1))
            channels = width + skips.pop() if level < self.upsamplings else width
        self.channels = channels
        # PyTorch's default shrinks features from layer to layer, so that the coarse levels would take long to wake up.
        for layer in [*self.encoder, *self.decoder]:
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, `channels`, *S) of an input whose sizes are multiples of ``2 ** halvings``; `half` halves S."""
        skips = []
        for conv in self.encoder:
            x = functional.leaky_relu(conv(x), 0.2)
            skips.append(x)
            x = x if self.pool is None else self.pool(x)
        if self.pool is None:
            skips.pop()
        for level, conv in enumerate(self.decoder):
            x = functional.leaky_relu(conv(x), 0.2)
            if level < self.upsamplings:
                x = torch.cat([functional.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()], dim=1)
        return x


class VoxelMorph(nn.Module):
    """From a moving and a fixed image to the displacement field that brings moving onto fixed.

    Args:
        dimension: 2 or 3.
        architecture: the U-Net's channels.
        int_steps: squaring steps of the integration; 0 takes the network's output as the displacement.
        int_downsize: factor by which the velocity is coarser than the image during integration.
    """

    def __init__(
        self,
        dimension: int,
        architecture: Architecture = ARCHITECTURES["paper"],
        int_steps: int = 7,
        int_downsize: int = 2,
    ):
        super().__init__()
        if architecture.half and (int_downsize != 2 or int_steps == 0):
            raise ValueError(
                "a network without its last upsampling gives velocities: int_downsize 2, int_steps above 0"
            )
        self.int_steps, self.int_downsize, self.half_resolution = int_steps, int_downsize, architecture.half
        self.unet = UNet(dimension, 2, architecture)
        self.flow = (nn.Conv2d, nn.Conv3d)[dimension - 2](self.unet.channels, dimension, 3, padding=1)
        # Training has to start at the identity.
        nn.init.normal_(self.flow.weight, std=1e-5)
        nn.init.zeros_(self.flow.bias)  # type: ignore[arg-type]

    def forward(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """The displacement field and the velocity it was integrated from.

        Any image size will do: images are padded at their far ends to what the U-Net needs, and the field is cut back.

        Args:
            moving: (B, 1, *S).
            fixed: (B, 1, *S).

        Returns:
            The field (B, nD, *S) in voxels, array axis order, and the velocity at the resolution of the integration, in
            voxels of its own grid; without integration, the field twice.
        """
        images = torch.cat([moving, fixed], dim=1)
        shape = images.shape[2:]
        padded = pad_to_multiple(images, 2**self.unet.halvings)
        full = padded.shape[2:]
        velocity = self.flow(self.unet(padded)).float()
        if self.int_steps == 0:
            field = crop(velocity, shape)
            return field, field
        if not self.half_resolution:
            velocity = resize_field(velocity, [max(n // self.int_downsize, 2) for n in full])
        field = resize_field(integrate(velocity, self.int_steps), full)
        return crop(field, shape), velocity


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Repeat the last voxels along each axis until its size is a multiple of `multiple`, (B, C, *S)."""
    amounts = [-n % multiple for n in images.shape[2:]]
    return functional.pad(images, [a for n in reversed(amounts) for a in (0, n)], mode="replicate")


def crop(field: Tensor, shape: Sequence[int]) -> Tensor:
    """The first `shape` voxels along each axis of (B, C, *S): what :func:`pad_to_multiple` added is gone."""
    return field[(slice(None), slice(None), *[slice(n) for n in shape])]
