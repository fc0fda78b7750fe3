"""The Laplacian pyramid network LapIRN (Mok and Chung 2020): velocities refined from coarse to fine, in 2D or 3D."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.networks.gan import CONV, TRANSPOSED
from modalign.networks.voxelmorph import crop, pad_to_multiple
from modalign.spatial.integrate import integrate, resize_field
from modalign.spatial.pyramid import halved
from modalign.spatial.warp import warp


class Level(nn.Module):
    """One level of the pyramid: features, five residual blocks at half their resolution, a residual velocity.

    Args:
        dimension: 2 or 3.
        channels_in: 2 images, and from the second level on also the velocity of the level below.
        channels: width of all its layers; none has a bias.
        range_flow: largest residual velocity, in halves of the image's extent.
    """

    def __init__(self, dimension: int, channels_in: int, channels: int, range_flow: float):
        super().__init__()
        conv = CONV[dimension]

        def conv3(before: int, after: int, stride: int = 1) -> nn.Module:
            return conv(before, after, 3, stride, padding=1, bias=False)

        self.range_flow = range_flow
        self.features = nn.Sequential(conv3(channels_in, channels), nn.LeakyReLU(0.2), conv3(channels, channels))
        self.down = conv3(channels, channels, stride=2)
        self.blocks = nn.Sequential(
            *(ResidualBlock(conv3(channels, channels), conv3(channels, channels)) for _ in range(5))
        )
        self.up = TRANSPOSED[dimension](channels, channels, 2, stride=2, bias=False)
        last = conv3(channels, dimension)
        self.output = nn.Sequential(conv3(2 * channels, channels), nn.LeakyReLU(0.2), last, nn.Softsign())
        # PyTorch's default lets features fade from layer to layer; and training has to start at the identity.
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.2)
        nn.init.normal_(next(last.parameters()), std=1e-5)

    def forward(self, images: Tensor, embedding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The residual velocity and the features for the next level.

        Args:
            images: (B, `channels_in`, *S), S even.
            embedding: the features of the level below, (B, `channels`, *S / 2).

        Returns:
            The velocity (B, nD, *S), in halves of the image's extent, within `range_flow`; the features (B, C, *S).
        """
        features = self.features(images)
        x = self.down(features)
        if embedding is not None:
            x = x + embedding
        x = self.up(self.blocks(x))
        return self.output(torch.cat([x, features], dim=1)) * self.range_flow, x


class ResidualBlock(nn.Module):
    """Two convolutions, an activation before each and after the sum with the input."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to the same shape."""
        inner = self.first(functional.leaky_relu(x, 0.2))
        return functional.leaky_relu(x + self.second(functional.leaky_relu(inner, 0.2)), 0.2)


class LapIRN(nn.Module):
    """From a moving and a fixed image to a diffeomorphic displacement field, level by level.

    With 7 start channels and three levels it has 923,748 parameters in 3D, as published.

    Args:
        dimension: 2 or 3.
        start_channel: a quarter of the channels of every layer.
        range_flow: largest residual velocity of a level, in halves of the image's extent.
        levels: pyramid levels, each at twice the resolution of the one before.
        int_steps: squaring steps of the integration; 0 takes velocities as displacements (the `disp` variant).
    """

    def __init__(
        self, dimension: int, start_channel: int = 7, range_flow: float = 0.4, levels: int = 3, int_steps: int = 7
    ):
        super().__init__()
        self.int_steps = int_steps
        self.levels = nn.ModuleList(
            Level(dimension, 2 if number == 0 else 2 + dimension, 4 * start_channel, range_flow)
            for number in range(levels)
        )

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, *S) at the levels' resolutions, coarsest first, padded at their far ends to what they need."""
        result = [pad_to_multiple(images, 2 ** len(self.levels))]
        for _ in range(1, len(self.levels)):
            result.append(halved(result[-1]))
        return result[::-1]

    def forward(
        self,
        moving: Tensor,
        fixed: Tensor,
        levels: Sequence[nn.Module] | None = None,
        frozen_below: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The displacement field and the velocity it was integrated from, at the resolution of the last level run.

        Any image size will do, see :meth:`pyramid`; at full resolution the padding is cut off again.

        Args:
            moving: (B, 1, *S).
            fixed: (B, 1, *S).
            levels: the levels to run, from the coarsest; None runs all. They are arguments so that a training can pass
                its wrapped ones.
            frozen_below: no gradient reaches the levels below the last one.

        Returns:
            Field and velocity, (B, nD, *S'), in voxels of their own grid, array axis order.
        """
        running = list(self.levels) if levels is None else list(levels)
        pyramid = self.pyramid(torch.cat([moving, fixed], dim=1))
        field = velocity = embedding = None
        for number, (level, images) in enumerate(zip(running, pyramid, strict=False)):
            shape = images.shape[2:]
            half = torch.tensor([(n - 1) / 2 for n in shape]).to(images).reshape(1, -1, *[1] * len(shape))
            with torch.no_grad() if frozen_below and number < len(running) - 1 else nullcontext():
                if field is None or velocity is None:
                    residual, embedding = level(images)
                    velocity = residual.float() * half
                else:
                    warped = warp(images[:, :1], resize_field(field, shape))
                    below = resize_field(velocity, shape)
                    residual, embedding = level(torch.cat([warped, images[:, 1:], below / half], 1), embedding)
                    velocity = below + residual.float() * half
                field = integrate(velocity, self.int_steps)
        assert field is not None
        assert velocity is not None
        if len(running) == len(self.levels):
            field, velocity = crop(field, moving.shape[2:]), crop(velocity, moving.shape[2:])
        return field, velocity
