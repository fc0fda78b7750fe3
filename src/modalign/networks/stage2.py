"""The refining network (stage 2) of RbG and RegistFormer: features of a reference fused into a first output."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.networks.daca import DacaBlock

SCALES = 3
"""Full, half and quarter resolution."""
SHARPNESS = 3.0
"""Queries over keys of a network that starts as the identity."""
KEY_SCALE = 2.0
"""Keys over features of a network that starts as the identity and compares by distances."""


class Stage2(nn.Module):
    """Two feature extractors, a DACA block at each of three scales, and a reconstruction network.

    With the papers' settings, 2D: 21,602 weights for the input and the first output, 21,476 for the reference, 4,914
    for the blocks and 23,241 for the reconstruction, 71,233 in all.

    Args:
        channels: of all features.
        window: samples of the attention along each axis, in voxels of each scale.
        heads: of the attention, divides `channels`.
        dimension: 2 or 3.
        attention: of the blocks, see :class:`~modalign.networks.daca.DacaBlock`.
        output_gain: what tanh is multiplied by. With more than 1 the ends of the intensities can be reached, and what
            is beyond them is cut when aligning.
        initialisation: of the convolutions' weights: "normal" with a standard deviation of 0.02 (released code), or
            "kaiming" (RegistFormer's text), or "identity" for short trainings: features pass through unchanged but for
            noise, and query and key start as the same features of first output and reference, so that the attention
            matches them from the start. Biases start at 0.

    Source: RbG section III-D and RegistFormer section 3.2; layers as in the released code.
    """

    def __init__(
        self,
        channels: int = 14,
        window: int = 28,
        heads: int = 2,
        dimension: int = 2,
        initialisation: Literal["normal", "kaiming", "identity"] = "normal",
        attention: Literal["dot", "distance"] = "dot",
        output_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.output_gain = output_gain
        self.extract_images = FeatureExtractor(2, channels, dimension)
        self.extract_reference = FeatureExtractor(1, channels, dimension)
        self.fuse = nn.ModuleList(
            DacaBlock(channels, heads, window, dimension, attention=attention) for _ in range(SCALES)
        )
        self.reconstruct = Reconstruction(channels, dimension)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                if initialisation == "normal":
                    nn.init.normal_(module.weight, std=0.02)
                else:
                    nn.init.kaiming_normal_(module.weight, a=0.2)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if initialisation == "identity":
            self._start_as_identity()

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and module.in_channels == module.out_channels:
                module.weight.copy_(nn.init.dirac_(module.weight) + 0.02 * torch.randn_like(module.weight))
        # Features of flat regions bend at intensities all over -1..1. Without a bias they would differ by a factor
        # alone, and attention, which compares by products, would take the brightest for the most alike.
        first = self.extract_reference.first[0]
        assert isinstance(first, nn.Conv2d | nn.Conv3d)
        assert first.bias is not None
        first.weight.div_(_sums(first.weight).abs().clamp(min=0.2))
        first.bias.copy_(-_sums(first.weight).flatten() * torch.linspace(-1, 1, len(first.bias)))
        for of_images, of_reference in zip(
            self.extract_images.parameters(), self.extract_reference.parameters(), strict=True
        ):
            # The first convolution sees the first output in its second channel; the fixed image joins in later.
            same = of_images.shape == of_reference.shape
            of_images.copy_(of_reference if same else torch.cat([torch.zeros_like(of_reference), of_reference], 1))
        for block in self.fuse:
            assert isinstance(block, DacaBlock)
            if block.attention == "distance":
                block.key.weight.mul_(KEY_SCALE)
            sharpness = SHARPNESS if block.attention == "dot" else 1.0
            block.query.weight.copy_(sharpness * block.key.weight)
        # Sums over the skips would drive tanh to its ends.
        self.reconstruct.image.weight.mul_(0.03)

    def forward(
        self,
        fixed: Tensor,
        initial: Tensor,
        reference: Tensor,
        field: Tensor | None = None,
        compare: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor], list[Tensor]]:
        """The refined image, in the reference's contrast on the fixed image's anatomy.

        Args:
            fixed: the input image x, (B, 1, *S), from -1 to 1, any size.
            initial: the first output, (B, 1, *S), from -1 to 1.
            reference: the reference image y, (B, 1, *S), from -1 to 1.
            field: (B, nD, *S) in voxels, array axis order, from the fixed grid into the reference
                (:func:`daca_field`); None is a zero field.
            compare: also return what the extractor of the reference sees of the refined image, and what the other one
                saw of the input and the first output, at each scale and the latter without gradient.

        Returns:
            (B, 1, *S), from -1 to 1.
        """
        if field is None:
            field = fixed.new_zeros(len(fixed), fixed.ndim - 2, *fixed.shape[2:])
        images = self.extract_images(torch.cat([fixed, initial], dim=1))
        references = self.extract_reference(reference)
        fused = [
            block(image, of_reference, scale_field(field, image.shape[2:]))
            for block, image, of_reference in zip(self.fuse, images, references, strict=True)
        ]
        image = self.output_gain * self.reconstruct(fused)
        image = image if self.training else image.clamp(-1, 1)
        if not compare:
            return image
        return image, self.extract_reference(image), [features.detach() for features in images]


class FeatureExtractor(nn.Module):
    """A small U-Net with added skips, whose decoder gives features at full, half and quarter resolution."""

    def __init__(self, channels_in: int, channels: int, dimension: int) -> None:
        super().__init__()
        self.first = _convolutions(dimension, channels_in, channels, 1)
        self.down = nn.ModuleList(_convolutions(dimension, channels, channels, 2, stride=2) for _ in range(SCALES - 1))
        self.bottom = _convolutions(dimension, channels, channels, 2)
        self.up = nn.ModuleList(_convolutions(dimension, channels, channels, 2) for _ in range(SCALES - 1))
        self.last = _convolutions(dimension, channels, channels, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features (B, C, *S), (B, C, *S / 2) and (B, C, *S / 4) of images (B, channels_in, *S); halves round up."""
        full = self.first(images)
        half = self.down[0](full)
        quarter = self.down[1](half)
        quarter = self.bottom(quarter) + quarter
        half = self.up[0](_doubled(quarter, half)) + half
        full = self.up[1](_doubled(half, full)) + full
        return [self.last(full), half, quarter]


class Reconstruction(nn.Module):
    """From fused features at three scales to an image: a U-Net to whose levels they are added on both ways."""

    def __init__(self, channels: int, dimension: int) -> None:
        super().__init__()
        self.first = _convolutions(dimension, channels, channels, 2)
        self.down = nn.ModuleList(_convolutions(dimension, channels, channels, 2, stride=2) for _ in range(SCALES - 1))
        self.bottom = _convolutions(dimension, channels, channels, 2)
        self.up = nn.ModuleList(_convolutions(dimension, channels, channels, 2) for _ in range(SCALES - 1))
        self.last = _convolutions(dimension, channels, channels, 1)
        self.image = (nn.Conv2d, nn.Conv3d)[dimension - 2](channels, 1, 3, padding=1)

    def forward(self, fused: list[Tensor]) -> Tensor:
        """An image (B, 1, *S) between -1 and 1 from features at full, half and quarter resolution."""
        at_full, at_half, at_quarter = fused
        full = self.first(at_full)
        half = self.down[0](full) + at_half
        quarter = self.down[1](half) + at_quarter
        up = self.bottom(quarter) + at_quarter + quarter
        up = self.up[0](_doubled(up, half)) + at_half + half
        up = self.up[1](_doubled(up, full)) + at_full + full
        return torch.tanh(self.image(self.last(up)))


def _sums(weight: Tensor) -> Tensor:
    """The response of each filter to a constant 1, shaped to multiply the weights."""
    return weight.flatten(1).sum(1).reshape(-1, *[1] * (weight.ndim - 1))


def scale_field(field: Tensor, shape: torch.Size) -> Tensor:
    """A field resampled linearly to another resolution of the same extent, in voxels of that resolution.

    Unlike :func:`modalign.spatial.integrate.resize_field` the outer edges of the images coincide, not the centres of
    their corner voxels, which is how the features' resolutions are related.
    """
    if field.shape[2:] == shape:
        return field
    factor = field.new_tensor([new / old for new, old in zip(shape, field.shape[2:], strict=True)])
    mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
    return functional.interpolate(field, shape, mode=mode, align_corners=False) * factor.reshape(
        1, -1, *[1] * len(shape)
    )


def daca_field(
    register: Callable[[Tensor, Tensor], Tensor],
    initial: Tensor,
    reference: Tensor,
    mode: Literal["corrected", "as_released", "zero"] = "corrected",
) -> Tensor:
    """The field along which DACA looks into the reference, from a registration network R.

    "corrected": R warps the reference onto the first output, so that its field lives on the fixed grid and points into
    the reference, which is where DACA has to look. "as_released": R warps the first output onto the reference, so that
    its field points the other way (so RbG eq. 5, RegistFormer eq. 4 and the released code), and its components, rows
    first, are taken as columns first. "zero": no field, the ablation.

    Args:
        register: from moving and fixed image, (B, 1, *S), to the field (B, nD, *S) in voxels, array axis order, with
            ``warped(x) = moving(x + field(x))``.
        initial: the first output, (B, 1, *S).
        reference: the reference image, (B, 1, *S).
        mode: see above.

    Returns:
        (B, nD, *S) in voxels, array axis order.

    Raises:
        ValueError: the mode is unknown, or as_released is asked for in 3D, where nothing was released.
    """
    dimension = initial.ndim - 2
    if mode == "corrected":
        return register(reference, initial)
    if mode == "zero":
        return initial.new_zeros(len(initial), dimension, *initial.shape[2:])
    if mode != "as_released":
        raise ValueError(f"daca_flow is corrected, as_released or zero, not {mode!r}")
    if dimension != 2:
        raise ValueError("daca_flow as_released exists in 2D alone: write corrected or zero")
    return register(initial, reference).flip(1)


def _convolutions(dimension: int, channels_in: int, channels: int, number: int, stride: int = 1) -> nn.Sequential:
    conv = (nn.Conv2d, nn.Conv3d)[dimension - 2]
    layers: list[nn.Module] = []
    for index in range(number):
        of_input = channels if index else channels_in
        layers += [conv(of_input, channels, 3, stride=1 if index else stride, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


def _doubled(image: Tensor, like: Tensor) -> Tensor:
    """Every voxel repeated along each axis, cut to the size of the finer features (halves of odd sizes round up)."""
    doubled = functional.interpolate(image, scale_factor=2, mode="nearest")
    return doubled[(slice(None), slice(None), *[slice(n) for n in like.shape[2:]])]
