"""The network of Cao et al. 2018: a 3D U-Net without padding, which predicts the field of the centre of its input."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def margin_of(convolutions: int) -> int:
    """Voxels at each side of the input for which there is no output, by the number of convolutions per level."""
    return 10 * convolutions


def fits(shape: Sequence[int], convolutions: int = 2) -> bool:
    """Whether the network takes an input of these sizes: multiples of 4 from 44 on; with one convolution per level,
    from 26 on, 2 more than multiples of 4."""
    return all((n + 2 * convolutions) % 4 == 0 and n > 2 * margin_of(convolutions) for n in shape)


class ValidUNet(nn.Module):
    """From two images to the displacement field at their centre (Cao et al. 2018, section 2.2 and figure 3).

    Two convolutions of width 3 without padding per level, each followed by batch normalisation and ReLU; two poolings
    by 2 (the maximum), two upsamplings by 2, skips cut to their centre and concatenated; a last convolution of width 1
    and nothing after it. Along an axis, 68 voxels become 64 | 28 | 10 | 16 | 28, which the sizes in the paper leave
    as the only layout with two convolutions per level.

    The paper gives neither the numbers of channels, nor how features are upsampled: here by transposed convolutions of
    width 2, as in the U-Net that it cites. No padding and no interpolation anywhere: the output at a voxel depends on
    nothing but the voxels around it, so that tiles whose starts are multiples of 4 join without a seam.

    Args:
        channels: of the convolutions of each level, from full resolution downwards; those upwards have as many.
        convolutions: per level, 2 as in the paper; with 1, a smaller network that needs half the margin.
    """

    def __init__(self, channels: tuple[int, int, int] = (32, 64, 128), convolutions: int = 2):
        super().__init__()
        fine, middle, coarse = channels
        self.convolutions = convolutions
        self.down = nn.ModuleList([_level(2, fine, convolutions), _level(fine, middle, convolutions)])
        self.bottom = _level(middle, coarse, convolutions)
        self.widen = nn.ModuleList([nn.ConvTranspose3d(coarse, middle, 2, 2), nn.ConvTranspose3d(middle, fine, 2, 2)])
        self.up = nn.ModuleList([_level(2 * middle, middle, convolutions), _level(2 * fine, fine, convolutions)])
        self.flow = nn.Conv3d(fine, 3, 1)
        # Training has to start at the identity.
        nn.init.normal_(self.flow.weight, std=1e-5)
        nn.init.zeros_(self.flow.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """The displacement at the centre of the images.

        Args:
            images: (B, 2, *S), sizes that :func:`fits`.

        Returns:
            (B, 3, *(S - 2 margin)) in voxels, array axis order; the margin is 20 voxels, or that of :func:`margin_of`.

        Raises:
            ValueError: the network doesn't take this size.
        """
        if not fits(images.shape[2:], self.convolutions):
            sizes, least = " x ".join(map(str, images.shape[2:])), 8 + 18 * self.convolutions
            raise ValueError(f"the network takes sizes of {least}, {least + 4}, {least + 8} ... voxels, not {sizes}")
        x, skips = images, []
        for level in self.down:
            x = level(x)
            skips.append(x)
            x = functional.max_pool3d(x, 2)
        x = self.bottom(x)
        for widen, level in zip(self.widen, self.up, strict=True):
            x = widen(x)
            x = level(torch.cat([x, centre(skips.pop(), x.shape[2:])], dim=1))
        return self.flow(x).float()


def centre(images: Tensor, shape: Sequence[int]) -> Tensor:
    """The voxels of (B, C, *S) at the centre, (B, C, *shape)."""
    starts = [(n - wanted) // 2 for n, wanted in zip(images.shape[2:], shape, strict=True)]
    return images[(slice(None), slice(None), *[slice(s, s + n) for s, n in zip(starts, shape, strict=True)])]


def _level(channels_in: int, channels_out: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (channels_in, *[channels_out] * (convolutions - 1)):
        # Batch normalisation would take away a bias.
        layers += [nn.Conv3d(width, channels_out, 3, bias=False), nn.BatchNorm3d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers)
