"""The parts of adversarial translation networks: generator, discriminators, least-squares losses, pool of fakes."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["instance", "batch", "none"]
Padding = Literal["reflect", "replicate", "zeros"]

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
INSTANCE_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
LINEAR_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class PatchDiscriminator(nn.Module):
    """A convolutional classifier whose every output sees a patch of 70 voxels a side (with three layers).

    The plain one halves the image by strides of 2, the anti-aliased one by blurring before it drops every other voxel.
    Forward takes images (B, `in_channels`, *S) and gives unbounded logits (B, 1, *S'), S' about S / 8 - 2.

    Args:
        dimension: 2 for slices, 3 for volumes.
        in_channels: channels of the images.
        channels: channels of the first layer; they double up to eight times as many.
        layers: how often the image is halved. Volumes of few slices need fewer than three.
        norm: from the second layer on; ``batch`` drops the biases that it makes useless.
        antialias: blur before every halving.

    Source: Isola et al. 2017 (architecture); Zhang 2019 (anti-aliasing), as RbG and CUT apply it.
    """

    def __init__(
        self,
        dimension: int = 2,
        in_channels: int = 1,
        channels: int = 64,
        layers: int = 3,
        norm: Norm = "instance",
        antialias: bool = True,
    ):
        super().__init__()
        conv = CONV[dimension]
        stack: list[nn.Module] = []
        before = in_channels
        for layer in range(layers + 1):
            after = channels * 2 ** min(layer, 3)
            halving = layer < layers
            stride = 2 if halving and not antialias else 1
            own_norm: Norm = norm if layer > 0 else "none"
            stack.append(conv(before, after, 4, stride, padding=1, bias=own_norm != "batch"))
            stack += [*normalisation(own_norm, dimension, after), nn.LeakyReLU(0.2, inplace=True)]
            if halving and antialias:
                stack.append(BlurPool(dimension))
            before = after
        stack.append(conv(before, 1, 4, 1, padding=1))
        self.layers = nn.Sequential(*stack)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `images`, high where a patch looks real."""
        return self.layers(images)


class ResnetGenerator(nn.Module):
    """An image-to-image network: two halvings, residual blocks, two doublings.

    Forward takes images (B, `in_channels`, *S) of any size from 8 voxels a side, and gives images of the same size, in
    [-1, 1] with ``final="tanh"``. With 64 channels, 9 blocks and 1 image channel it has 11,365,633 parameters (2D).

    Args:
        dimension: 2 for slices, 3 for volumes.
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: channels at full resolution; twice and four times as many below.
        blocks: residual blocks; 9 is usual for 256 voxels a side, 6 for 128.
        norm: after every convolution but the last.
        antialias: halve by blur-pooling and double by linear interpolation, instead of by strides.
        interpolate: double by linear interpolation; null = with `antialias`.
        padding: what lies beyond the border.
        final: ``tanh``, or ``linear`` for unbounded outputs.

    Source: Johnson et al. 2016, Zhu et al. 2017; anti-aliasing as in CUT (Park et al. 2020).
    """

    def __init__(
        self,
        dimension: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: int = 64,
        blocks: int = 9,
        norm: Norm = "instance",
        antialias: bool = False,
        padding: Padding = "reflect",
        interpolate: bool | None = None,
        final: Literal["tanh", "linear"] = "tanh",
    ):
        super().__init__()
        bias, widest = norm != "batch", 4 * channels
        self.in_channels, self.channels = in_channels, channels

        def unit(before: int, after: int, kernel: int, stride: int, border: Padding) -> list[nn.Module]:
            conv = padded_conv(dimension, before, after, kernel, stride, border, bias)
            return [conv, *normalisation(norm, dimension, after), nn.ReLU()]

        def down(before: int) -> list[nn.Module]:
            if antialias:
                return [*unit(before, 2 * before, 3, 1, "zeros"), BlurPool(dimension)]
            return unit(before, 2 * before, 3, 2, "zeros")

        def up(before: int) -> list[nn.Module]:
            after = before // 2
            if antialias if interpolate is None else interpolate:
                return [Doubling(dimension), *unit(before, after, 3, 1, "zeros")]
            conv = TRANSPOSED[dimension](before, after, 3, 2, padding=1, output_padding=1, bias=bias)
            return [conv, *normalisation(norm, dimension, after), nn.ReLU()]

        middle = [ResidualBlock(dimension, widest, norm, padding) for _ in range(blocks)]
        first = unit(in_channels, channels, 7, 1, padding)
        self.encoder = nn.Sequential(*first, *down(channels), *down(2 * channels), *middle)
        last = [padded_conv(dimension, channels, out_channels, 7, 1, padding)]
        self.decoder = nn.Sequential(*up(widest), *up(2 * channels), *last, *([nn.Tanh()] if final == "tanh" else []))
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """The translated images."""
        inside = tuple(slice(0, n) for n in images.shape[2:])
        return self.decoder(self.encoder(images))[(..., *inside)]


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(x)))`` with 3-wide convolutions, each followed by a normalisation."""

    def __init__(self, dimension: int, channels: int, norm: Norm = "instance", padding: Padding = "reflect"):
        super().__init__()

        def unit() -> list[nn.Module]:
            conv = padded_conv(dimension, channels, channels, 3, 1, padding, norm != "batch")
            return [conv, *normalisation(norm, dimension, channels)]

        self.layers = nn.Sequential(*unit(), nn.ReLU(inplace=True), *unit())

    def forward(self, x: Tensor) -> Tensor:
        """The input plus what the convolutions make of it."""
        return x + self.layers(x)


class BlurPool(nn.Module):
    """Every other voxel of the image blurred by (1, 2, 1) / 4 along each axis; the border is mirrored (Zhang 2019)."""

    def __init__(self, dimension: int):
        super().__init__()
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to (B, C, *ceil(S / 2))."""
        x = F.pad(x, [1, 1] * self.dimension, mode="reflect")
        for axis in range(2, 2 + self.dimension):
            size = x.shape[axis]
            left, centre, right = (_every_other(x, axis, start, size - 2 + start) for start in range(3))
            x = 0.25 * (left + right) + 0.5 * centre
        return x


def _every_other(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    return x[(*[slice(None)] * axis, slice(start, stop, 2))]


class Doubling(nn.Module):
    """Twice the size by linear interpolation; the border is repeated."""

    def __init__(self, dimension: int):
        super().__init__()
        self.mode = LINEAR_INTERPOLATION[dimension]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) to (B, C, *2S)."""
        return F.interpolate(x, scale_factor=2, mode=self.mode, align_corners=False)


class ImagePool(nn.Module):
    """Earlier fakes, half of which the discriminator sees instead of the present ones (Shrivastava et al. 2017).

    The images are buffers, so that a training that goes on after a kill finds them again.

    Args:
        size: how many images are kept; 0 keeps none and always shows the present ones.
    """

    images: Tensor

    def __init__(self, size: int = 50):
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.empty(0))

    def exchange(self, fakes: Tensor, random: np.random.Generator) -> Tensor:
        """What the discriminator gets to see: for each fake itself or, once the pool is full, an earlier one.

        Args:
            fakes: (B, C, *S), of the same C and S at every call; images of another size pass as they are.
            random: decides which, so that it has to be a function of the step.

        Returns:
            (B, C, *S), detached.
        """
        fakes = fakes.detach()
        if self.size == 0 or (len(self.images) and fakes.shape[1:] != self.images.shape[1:]):
            return fakes
        shown = fakes.clone()
        for row, fake in enumerate(fakes):
            if len(self.images) < self.size:
                kept = self.images if len(self.images) else self.images.to(fake.device).reshape(0, *fake.shape)
                self.images = torch.cat([kept, fake[None].to(kept)])
            elif random.random() < 0.5:
                place = int(random.integers(self.size))
                shown[row] = self.images[place]
                self.images[place] = fake
        return shown

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        # The pool grows, so a loaded one may have another shape than this one.
        if (saved := state_dict.get(f"{prefix}images")) is not None:
            self.images = torch.empty_like(saved, device=self.images.device)
        super()._load_from_state_dict(state_dict, prefix, *others)


def lsgan_generator(fake_logits: Tensor | Sequence[Tensor]) -> Tensor:
    """How far the logits of fakes are from 1: their mean squared distance, summed over scales if there are several.

    Source: Mao et al. 2017, equation 9 with a = 0, b = c = 1, without its factor of a half.
    """
    return torch.stack([(logits - 1).square().mean() for logits in _scales(fake_logits)]).sum()


def lsgan_discriminator(real_logits: Tensor | Sequence[Tensor], fake_logits: Tensor | Sequence[Tensor]) -> Tensor:
    """Half the mean squared distances of real logits from 1 and of fake ones from 0, summed over scales.

    Source: Mao et al. 2017, equation 9.
    """
    pairs = zip(_scales(real_logits), _scales(fake_logits), strict=True)
    return torch.stack([0.5 * ((real - 1).square().mean() + fake.square().mean()) for real, fake in pairs]).sum()


def _scales(logits: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [logits] if isinstance(logits, Tensor) else logits


def padded_conv(
    dimension: int,
    before: int,
    after: int,
    kernel: int,
    stride: int = 1,
    padding: Padding = "reflect",
    bias: bool = True,
) -> nn.Module:
    """A convolution that keeps the size (but for its stride), with the given border."""
    return CONV[dimension](before, after, kernel, stride, (kernel - 1) // 2, bias=bias, padding_mode=padding)


def normalisation(norm: Norm, dimension: int, channels: int) -> list[nn.Module]:
    """The layers of a normalisation: one, or none."""
    if norm == "none":
        return []
    return [INSTANCE_NORM[dimension](channels) if norm == "instance" else BATCH_NORM[dimension](channels)]


def initialise(network: nn.Module, deviation: float = 0.02, xavier: bool = False) -> None:
    """Normal weights of convolutions, zero biases; batch norm starts near one.

    `deviation` is the weights' standard deviation or, with `xavier`, the factor of Glorot's, ``sqrt(2 / (in + out))``.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear):
            if xavier:
                nn.init.xavier_normal_(module.weight, gain=deviation)
            else:
                nn.init.normal_(module.weight, 0.0, deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.weight, 1.0, deviation)
            nn.init.zeros_(module.bias)
