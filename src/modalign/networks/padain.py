"""RbG's synthesis network: the input's structure, with local style from a coarse version of the reference (PAdaIN).

RbG, section III-C, Eq. 2-4; the layout, which the paper leaves out, is that of its released code.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.similarity.patch_nce import PatchSampler, patch_nce_of_maps

Factor = int | Literal["global"]
Scale = Literal["same", "down", "up"]
REACH = 5
"""How many rows of a block of constant style come out differently: two at each side, which see the neighbours through
two convolutions of width 3, and one for all between."""


class Style(NamedTuple):
    """A style map (B, 1, h, w) that stands for a full one whose row i is row ``rows[i]`` of this one, columns alike."""

    map: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None


def coarse_reference(reference: Tensor, factor: Factor, reduce: Literal["bilinear", "mean"] = "bilinear") -> Tensor:
    """The reference (B, 1, H, W) on a grid that is `factor` times coarser.

    Args:
        reference: intensities in -1..1.
        factor: reduction along each axis; "global" leaves one pixel, the mean.
        reduce: "bilinear" looks up points whose corners are the image's corners (as released), "mean" averages.
    """
    height, width = reference.shape[2:]
    if factor == "global":
        return reference.mean((2, 3), keepdim=True)
    size = (max(1, height // factor), max(1, width // factor))
    if reduce == "mean" or size == (1, 1):
        return functional.adaptive_avg_pool2d(reference, size)
    return functional.interpolate(reference, size, mode="bilinear", align_corners=True)


def style_for(
    coarse: Tensor, size: tuple[int, int], interpolation: Literal["nearest", "bilinear"], fast: bool = True
) -> Style:
    """The coarse reference brought to the size of a feature map.

    With "nearest", blocks wider than :data:`REACH` are cut down to that width, for whatever is computed from it by
    convolutions that reach two pixels far gives the same number in all that is left out.

    Args:
        coarse: (B, 1, h, w).
        size: of the feature map.
        interpolation: "nearest" (as released) or "bilinear" (as printed).
        fast: False always gives the full map.
    """
    if interpolation == "bilinear":
        return Style(functional.interpolate(coarse, size, mode="bilinear", align_corners=False))
    (rows, kept_rows), (columns, kept_columns) = (
        _blocks(few, many, fast) for few, many in zip(coarse.shape[2:], size, strict=True)
    )
    device = coarse.device
    reduced = coarse[:, :, kept_rows.to(device)][..., kept_columns.to(device)]
    if tuple(reduced.shape[2:]) == size:
        return Style(reduced)
    return Style(reduced, rows.to(device), columns.to(device))


def _blocks(few: int, many: int, fast: bool) -> tuple[Tensor, Tensor]:
    """Along an axis of `many` pixels over `few` blocks: where each pixel is kept, and the block of each kept pixel."""
    block = torch.arange(many) * few // many
    if not fast:
        return torch.arange(many), block
    width = torch.bincount(block, minlength=few)
    kept_width = width.clamp(max=REACH)
    start, kept_start = width.cumsum(0) - width, kept_width.cumsum(0) - kept_width
    before = torch.arange(many) - start[block]
    behind = width[block] - 1 - before
    inside = torch.minimum(before, torch.full_like(before, REACH // 2))
    inside = torch.maximum(inside, kept_width[block] - 1 - behind)
    return kept_start[block] + inside, torch.repeat_interleave(torch.arange(few), kept_width)


class _Spread(torch.autograd.Function):
    """Rows and columns picked by index, repeatedly; the gradient adds them up by two products with 0/1 matrices."""

    @staticmethod
    def forward(ctx, reduced: Tensor, rows: Tensor, columns: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(rows, columns)
        ctx.size = reduced.shape[2:]
        return reduced.index_select(2, rows).index_select(3, columns)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        rows, columns = ctx.saved_tensors
        of_rows, of_columns = (
            functional.one_hot(index, size).to(gradient.dtype)
            for index, size in zip((rows, columns), ctx.size, strict=True)
        )
        return of_rows.T @ (gradient @ of_columns), None, None


class PAdaIN(nn.Module):
    """Instance normalisation, noise, then scale and shift by what two small networks make of the style map (Eq. 3-4).

    Args:
        channels: of the features.
        hidden: channels of the layer that both networks share.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.shared = nn.Conv2d(1, hidden, 3, padding=1)
        self.gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden, channels, 3, padding=1)
        self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, style: Style, random: torch.Generator | None) -> Tensor:
        """Features (B, C, H, W) in the local style; `random` draws the noise, None leaves it out."""
        x = functional.instance_norm(features)
        if random is not None:
            noise = torch.empty(x.shape, device=random.device, dtype=torch.float32).normal_(generator=random)
            x = x + self.noise_strength * noise.to(x)
        hidden = functional.relu(self.shared(style.map))
        gamma, beta = self.gamma(hidden), self.beta(hidden)
        if style.rows is not None:
            gamma, beta = (_Spread.apply(part, style.rows, style.columns) for part in (gamma, beta))
        return torch.addcmul(beta, x, gamma)


class StyleConv(nn.Module):
    """A convolution, PAdaIN and a leaky ReLU (0.2).

    `scale` "down" is a 1 x 1 convolution with stride 2, "up" doubles by nearest neighbour before a 3 x 3 convolution.
    """

    def __init__(self, channels_in: int, channels: int, hidden: int, scale: Scale = "same"):
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(channels_in, channels, 1, 2) if scale == "down" else _conv3(channels_in, channels)
        self.padain = PAdaIN(channels, hidden)

    def forward(self, x: Tensor, styles: dict[tuple[int, int], Style], random: torch.Generator | None) -> Tensor:
        """Features in the style map that has their size."""
        if self.scale == "up":
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = self.conv(x)
        height, width = x.shape[2:]
        return functional.leaky_relu(self.padain(x, styles[height, width], random), 0.2)


def _conv3(channels_in: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, padding=1)


GROUPS: tuple[tuple[Scale, ...], ...] = (
    ("same",),
    ("down", "same"),
    ("down", "same"),
    ("same", "same"),
    ("up", "same"),
    ("up", "same"),
    ("same",),
)
"""The twelve blocks, in groups that give feat0 ... feat6."""


class Synthesis(nn.Module):
    """The synthesis network G of RbG: 33,826,317 weights with 256 channels and 512 hidden ones.

    Twelve blocks of convolution and PAdaIN, down to a quarter of the resolution and back, with additive skips, and a
    last convolution with tanh. Sizes that aren't multiples of four are padded by repeating the border.

    Args:
        channels: of all features.
        hidden: channels inside the networks that make scale and shift from the style.
        factor: how much the reference is downsampled, or "global" for one style of the whole image.
        interpolation: how it is brought back to the features' size, "nearest" (as released) or "bilinear" (as printed).
        reduce: how it is downsampled, see :func:`coarse_reference`.
        fast: evaluate the networks of the style on blocks of five pixels; exact, see :func:`style_for`.
    """

    def __init__(
        self,
        channels: int = 256,
        hidden: int = 512,
        factor: Factor = 32,
        interpolation: Literal["nearest", "bilinear"] = "nearest",
        reduce: Literal["bilinear", "mean"] = "bilinear",
        fast: bool = True,
    ):
        super().__init__()
        self.factor, self.interpolation, self.reduce, self.fast = factor, interpolation, reduce, fast
        self.groups = nn.ModuleList(
            nn.ModuleList(StyleConv(channels if number else 1, channels, hidden, scale) for scale in group)
            for number, group in enumerate(GROUPS)
        )
        self.last = nn.Conv2d(channels, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor, reference: Tensor, random: torch.Generator | None = None) -> Tensor:
        """The image in the contrast of the reference, (B, 1, H, W) in -1..1.

        Args:
            image: (B, 1, H, W), the input, in -1..1.
            reference: (B, 1, H, W), in -1..1; needn't be aligned.
            random: draws the noise, on the device where it draws; None for no noise.
        """
        height, width = image.shape[2:]
        padded, reference = (_pad_to_multiple(x, 4) for x in (image, reference))
        features = self.features(padded, reference, random)
        return torch.tanh(self.last(features[-1]))[:, :, :height, :width]

    def features(
        self, image: Tensor, reference: Tensor, random: torch.Generator | None = None, deepest: int = len(GROUPS) - 1
    ) -> list[Tensor]:
        """feat0 ... feat<deepest>, (B, channels, ...) at 1, 1/2, 1/4, 1/4, 1/2, 1 and 1 of the resolution.

        Args:
            image: (B, 1, H, W), H and W multiples of four.
            reference: (B, 1, H, W).
            random: draws the noise.
            deepest: which feature is the last one that is wanted.
        """
        coarse = coarse_reference(reference, self.factor, self.reduce)
        height, width = image.shape[2:]
        sizes = [(height // n, width // n) for n in (1, 2, 4)]
        styles = {size: style_for(coarse, size, self.interpolation, self.fast) for size in sizes}
        found: list[Tensor] = []
        x = image
        for number in range(deepest + 1):
            if number >= 4:  # feat3 + feat2, feat4 + feat1, feat5 + feat0
                x = x + found[6 - number]
            for block in self.groups[number].children():
                x = block(x, styles, random)
            found.append(x)
        return found


class Stage1(nn.Module):
    """The synthesis network with the perceptron by which PatchNCE compares its features.

    Args:
        synthesis: the generator.
        layers: its features that are compared, 0 to 6.
        width: of the perceptron.
    """

    def __init__(self, synthesis: Synthesis, layers: Sequence[int], width: int):
        super().__init__()
        self.synthesis, self.layers = synthesis, tuple(layers)
        self.sampler = PatchSampler([synthesis.last.in_channels] * len(layers), width, shared=True)

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        noise: torch.Generator | None,
        places: torch.Generator,
        count: int,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        """The translation of `fixed` in the style of `moving`, and the PatchNCE between it and `fixed`.

        Query features come from the translation in the style of `fixed` itself, key features from `fixed` in the style
        of `moving`, as released; there the keys are computed once more, with other noise.

        Args:
            fixed: (B, 1, H, W) in -1..1, H and W multiples of four.
            moving: (B, 1, H, W).
            noise: draws the noise inside the generator.
            places: draws the places of PatchNCE, on the CPU.
            count: places per layer.
            temperature: of PatchNCE.
        """
        features = self.synthesis.features(fixed, moving, noise)
        made = torch.tanh(self.synthesis.last(features[-1]))
        again = self.synthesis.features(made, fixed, noise, deepest=max(self.layers))
        query, key = ([found[layer] for layer in self.layers] for found in (again, features))
        return made, patch_nce_of_maps(self.sampler, query, key, places, count, temperature)


def _pad_to_multiple(x: Tensor, n: int) -> Tensor:
    bottom, right = (-size % n for size in x.shape[2:])
    return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
