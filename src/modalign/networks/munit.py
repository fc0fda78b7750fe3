"""UNIT and MUNIT: translation through a latent space, with and without a style code of its own."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.networks.gan import CONV, Padding, ResidualBlock, initialise, normalisation, padded_conv

BORDER: Padding = "reflect"

Style = Literal["reference", "random"]


class ContentEncoder(nn.Module):
    """Where things are: (B, 1, *S) to (B, 2^h `channels`, *S / 2^h), instance-normalised, with h `halvings`.

    Args:
        dimension: 2 for slices, 3 for volumes.
        channels: channels at full resolution.
        blocks: residual blocks at the lowest.
        halvings: how often the resolution is halved.
    """

    def __init__(self, dimension: int, channels: int = 64, blocks: int = 4, halvings: int = 2):
        super().__init__()
        widths = [channels * 2**k for k in range(halvings + 1)]
        layers: list[nn.Module] = []
        for before, after, kernel, stride in ((1, channels, 7, 1), *((a, b, 4, 2) for a, b in pairwise(widths))):
            layers.append(padded_conv(dimension, before, after, kernel, stride, BORDER))
            layers += [*normalisation("instance", dimension, after), nn.ReLU()]
        layers += [ResidualBlock(dimension, widths[-1], "instance", BORDER) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """The content code."""
        return self.layers(images)


class StyleEncoder(nn.Module):
    """What it looks like: (B, 1, *S), 16 voxels a side or more, to (B, `style`); no normalisation, as it would wipe out
    the contrast."""

    def __init__(self, dimension: int, channels: int = 64, style: int = 8):
        super().__init__()
        widths = [channels, 2 * channels, 4 * channels, 4 * channels, 4 * channels]
        layers: list[nn.Module] = [padded_conv(dimension, 1, channels, 7, 1, BORDER), nn.ReLU()]
        for before, after in pairwise(widths):
            layers += [padded_conv(dimension, before, after, 4, 2, BORDER), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.code = nn.Linear(widths[-1], style)

    def forward(self, images: Tensor) -> Tensor:
        """The style code."""
        return self.code(self.layers(images).flatten(2).mean(2))


class AdainBlock(nn.Module):
    """A residual block whose normalisations take their means and deviations from the style.

    Source: Huang et al. 2018, equation 7.
    """

    def __init__(self, dimension: int, channels: int):
        super().__init__()
        self.channels = channels
        self.first, self.second = (padded_conv(dimension, channels, channels, 3, 1, BORDER) for _ in range(2))

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        """`x` (B, C, *S) plus the convolutions' output; `parameters` (B, 4 C): mean, deviation, mean, deviation."""
        a_mean, a_deviation, b_mean, b_deviation = parameters.split(self.channels, dim=1)
        hidden = functional.relu(adaptive_instance_norm(self.first(x), a_mean, a_deviation))
        return x + adaptive_instance_norm(self.second(hidden), b_mean, b_deviation)


def adaptive_instance_norm(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Give every channel of every image in `x` (B, C, *S) the `mean` and `deviation` (B, C) (epsilon 1e-5)."""
    ones = (1,) * (x.ndim - 2)
    return functional.instance_norm(x) * deviation.reshape(*deviation.shape, *ones) + mean.reshape(*mean.shape, *ones)


class ImageNorm(nn.Module):
    """Zero mean and unit standard deviation over each image, all channels together; then a learned affine map of each
    channel (scale from U(0, 1) at first)."""

    def __init__(self, dimension: int, channels: int, epsilon: float = 1e-5):
        super().__init__()
        shape = (channels, *[1] * dimension)
        self.scale, self.shift = nn.Parameter(torch.rand(shape)), nn.Parameter(torch.zeros(shape))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S), normalised."""
        deviation, mean = torch.std_mean(x, dim=tuple(range(1, x.ndim)), keepdim=True)
        return (x - mean) / (deviation + self.epsilon) * self.scale + self.shift


class Decoder(nn.Module):
    """From a content code (and a style code, if ``style > 0``) back to an image in [-1, 1] at full resolution.

    Args:
        dimension: 2 for slices, 3 for volumes.
        channels: channels at full resolution.
        blocks: residual blocks; AdaIN ones if there is a style.
        style: length of the style code; 0 for none.
        hidden: width of the perceptron that turns it into the AdaIN parameters.
        halvings: those of the content encoder.
    """

    def __init__(
        self,
        dimension: int,
        channels: int = 64,
        blocks: int = 4,
        style: int = 8,
        hidden: int = 256,
        halvings: int = 2,
    ):
        super().__init__()
        widest = channels * 2**halvings
        self.style: nn.Sequential | None = None
        if style > 0:
            parameters = blocks * 4 * widest
            self.style = nn.Sequential(
                nn.Linear(style, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, parameters)
            )
            self.blocks = nn.ModuleList(AdainBlock(dimension, widest) for _ in range(blocks))
        else:
            self.blocks = nn.ModuleList(ResidualBlock(dimension, widest, "instance", BORDER) for _ in range(blocks))
        layers: list[nn.Module] = []
        for before in (widest // 2**k for k in range(halvings)):
            layers += [nn.Upsample(scale_factor=2), padded_conv(dimension, before, before // 2, 5, 1, BORDER)]
            layers += [ImageNorm(dimension, before // 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers, padded_conv(dimension, channels, 1, 7, 1, BORDER), nn.Tanh())

    def forward(self, content: Tensor, style: Tensor | None = None) -> Tensor:
        """The image (B, 1, *S) of a content code (B, 2^h `channels`, *S / 2^h)."""
        if self.style is None:
            for block in self.blocks:
                content = block(content)
        else:
            for block, parameters in zip(self.blocks, self.style(style).chunk(len(self.blocks), 1), strict=True):
                content = block(content, parameters)
        return self.layers(content)


class Munit(nn.Module):
    """Content encoder, style encoder and decoder of both contrasts (Huang et al. 2018).

    Forward takes images (B, 1, *S) of both contrasts, not of the same patients, with S multiples of 4, and gives what
    the losses compare: ``own_*``, the reconstructed images; ``moving``, the fixed images in the moving contrast, and
    ``fixed`` vice versa; ``content_*`` and ``style_*``, the codes that went into a translation, ``content_*_again`` and
    ``style_*_again``, those found in it; ``cycled_*``, images after a translation there and back.
    """

    def __init__(
        self,
        dimension: int,
        channels: int = 64,
        blocks: int = 4,
        style: int = 8,
        hidden: int = 256,
        halvings: int = 2,
    ):
        super().__init__()
        self.style_size = style
        contrasts = ("fixed", "moving")
        self.content = nn.ModuleDict({c: ContentEncoder(dimension, channels, blocks, halvings) for c in contrasts})
        self.style = nn.ModuleDict({c: StyleEncoder(dimension, channels, style) for c in contrasts})
        decoder = (dimension, channels, blocks, style, hidden, halvings)
        self.decode = nn.ModuleDict({c: Decoder(*decoder) for c in contrasts})
        initialise_for_relu(self)

    def forward(
        self, fixed: Tensor, moving: Tensor, style: Style = "reference", cycle: bool = True
    ) -> dict[str, Tensor]:
        """All that the losses compare; `style` says which one a translation gets, and `cycle` whether to go back."""
        images, other = {"fixed": fixed, "moving": moving}, {"fixed": "moving", "moving": "fixed"}
        content = {c: self.content[c](image) for c, image in images.items()}
        own = {c: self.style[c](image) for c, image in images.items()}
        result = {f"own_{c}": self.decode[c](content[c], own[c]) for c in images}
        for to, origin in other.items():
            given = own[to] if style == "reference" else torch.randn_like(own[to])
            result[to] = self.decode[to](content[origin], given)
            result[f"style_{to}"], result[f"content_{origin}"] = given, content[origin]
            result[f"style_{to}_again"] = self.style[to](result[to])
            result[f"content_{origin}_again"] = self.content[to](result[to])
            if cycle:
                result[f"cycled_{origin}"] = self.decode[origin](result[f"content_{origin}_again"], own[origin])
        return result

    def translate(self, fixed: Tensor, style: Tensor) -> Tensor:
        """Fixed images (B, 1, *S) in the moving contrast, in the given `style` (B, 8)."""
        return self.decode["moving"](self.content["fixed"](fixed), style)


class Unit(nn.Module):
    """Two variational autoencoders whose codes mean the same in both contrasts (Liu et al. 2017).

    Forward takes images as that of :class:`Munit` and gives ``own_*``, ``moving``, ``fixed`` and ``cycled_*`` likewise;
    ``code_*`` and ``code_*_again``, the means of the codes of the images and of their translations.

    Args:
        dimension: 2 for slices, 3 for volumes.
        channels: channels at full resolution.
        blocks: residual blocks of each encoder and decoder.
        shared: how many of them, next to the code, are the same for both contrasts.
        halvings: how often encoders halve the resolution.
    """

    def __init__(self, dimension: int, channels: int = 64, blocks: int = 4, shared: int = 1, halvings: int = 2):
        super().__init__()
        own, contrasts = blocks - shared, ("fixed", "moving")
        self.encode = nn.ModuleDict({c: ContentEncoder(dimension, channels, own, halvings) for c in contrasts})
        self.decode = nn.ModuleDict({c: Decoder(dimension, channels, own, 0, halvings=halvings) for c in contrasts})
        widest = channels * 2**halvings
        one = [ResidualBlock(dimension, widest, "instance", BORDER) for _ in range(2 * shared)]
        self.shared_encode, self.shared_decode = nn.Sequential(*one[:shared]), nn.Sequential(*one[shared:])
        initialise_for_relu(self)

    def forward(self, fixed: Tensor, moving: Tensor) -> dict[str, Tensor]:
        """All that the losses compare; every code that is decoded carries normal noise."""
        images, other = {"fixed": fixed, "moving": moving}, {"fixed": "moving", "moving": "fixed"}
        result = {f"code_{c}": self._code(c, image) for c, image in images.items()}
        noisy = {c: _with_noise(result[f"code_{c}"]) for c in images}
        for c in images:
            result[f"own_{c}"] = self._image(c, noisy[c])
        for to, origin in other.items():
            result[to] = self._image(to, noisy[origin])
            result[f"code_{origin}_again"] = self._code(to, result[to])
            result[f"cycled_{origin}"] = self._image(origin, _with_noise(result[f"code_{origin}_again"]))
        return result

    def translate(self, fixed: Tensor) -> Tensor:
        """Fixed images (B, 1, *S) in the moving contrast, without noise."""
        return self._image("moving", self._code("fixed", fixed))

    def _code(self, contrast: str, images: Tensor) -> Tensor:
        return self.shared_encode(self.encode[contrast](images))

    def _image(self, contrast: str, code: Tensor) -> Tensor:
        return self.decode[contrast](self.shared_decode(code))


def _with_noise(code: Tensor) -> Tensor:
    return code + torch.randn_like(code)


class MultiscaleDiscriminator(nn.Module):
    """Discriminators at full, half and quarter resolution, each of four halving layers without normalisation.

    Forward takes images (B, 1, *S), 64 voxels a side or more, and gives a list of logits (B, 1, *S'). Source: the
    released code of UNIT and MUNIT.
    """

    def __init__(self, dimension: int, channels: int = 64, layers: int = 4, scales: int = 3):
        super().__init__()
        pooling = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[dimension]
        self.halve = pooling(3, stride=2, padding=1, count_include_pad=False)

        def one() -> nn.Sequential:
            widths = [1, *(channels * 2**layer for layer in range(layers))]
            stack: list[nn.Module] = []
            for before, after in pairwise(widths):
                stack += [padded_conv(dimension, before, after, 4, 2, BORDER), nn.LeakyReLU(0.2)]
            return nn.Sequential(*stack, CONV[dimension](widths[-1], 1, 1))

        self.scales = nn.ModuleList(one() for _ in range(scales))
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits from fine to coarse."""
        logits = []
        for scale in self.scales:
            logits.append(scale(images))
            images = self.halve(images)
        return logits


def initialise_for_relu(network: nn.Module) -> None:
    """Normal weights whose variance is 2 / fan-in (He et al. 2015), zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
