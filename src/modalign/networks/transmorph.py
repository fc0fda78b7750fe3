"""TransMorph (Chen et al. 2022): a Swin transformer as encoder, convolutions as decoder, one displacement field."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import PatchEmbed
from monai.networks.nets.swin_unetr import BasicLayer, PatchMergingV2
from torch import Tensor, nn
from torch.nn import functional

from modalign.networks.gan import CONV, INSTANCE_NORM, LINEAR_INTERPOLATION
from modalign.networks.voxelmorph import crop, pad_to_multiple

PATCH = 4
"""Voxels along each axis of a patch; the decoder's last two doublings come from that."""


class SwinEncoder(nn.Module):
    """The features of four transformer stages, each taken before its patches are merged, at 1/4 to 1/32.

    Built from MONAI's blocks. MONAI's own encoder hands out features after merging, which would leave the finest
    stage without a skip connection.
    """

    def __init__(
        self,
        dimension: int,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window: Sequence[int],
        drop_path: float,
    ):
        super().__init__()
        self.embed = PatchEmbed(PATCH, 2, embed_dim, norm_layer=nn.LayerNorm, spatial_dims=dimension)
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        widths = [embed_dim * 2**stage for stage in range(len(depths))]
        self.stages = nn.ModuleList(
            BasicLayer(width, depth, heads, window, rates[sum(depths[:stage]) : sum(depths[: stage + 1])])
            for stage, (width, depth, heads) in enumerate(zip(widths, depths, num_heads, strict=True))
        )
        self.merge = nn.ModuleList(PatchMergingV2(width, spatial_dims=dimension) for width in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features (B, C, *S), finest first, of images whose sizes are multiples of the patch."""
        x = self.embed(images)
        features = []
        for number, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            x = stage(x)
            features.append(norm(x.movedim(1, -1)).movedim(-1, 1))
            if number < len(self.merge):
                x = self.merge[number](x.movedim(1, -1)).movedim(-1, 1)
        return features


class Doubling(nn.Module):
    """Twice the resolution by linear interpolation, the skip connection beside it, and two convolutions."""

    def __init__(self, dimension: int, before: int, skip: int, after: int):
        super().__init__()
        self.mode = LINEAR_INTERPOLATION[dimension]
        self.convs = nn.Sequential(_unit(dimension, before + skip, after), _unit(dimension, after, after))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Features at the resolution of `skip`; (B, C, *S), (B, C', *S') to (B, C'', *S'), S' = 2 S or 2 S - 1."""
        x = functional.interpolate(x, scale_factor=2, mode=self.mode, align_corners=False)
        return self.convs(torch.cat([crop(x, skip.shape[2:]), skip], dim=1))


def _unit(dimension: int, before: int, after: int) -> nn.Sequential:
    conv = CONV[dimension](before, after, 3, padding=1, bias=False)
    return nn.Sequential(conv, INSTANCE_NORM[dimension](after), nn.LeakyReLU())


class TransMorph(nn.Module):
    """From a moving and a fixed image to the displacement field that brings moving onto fixed.

    Args:
        dimension: 2 or 3.
        embed_dim: channels of the first stage; twice as many in each that follows.
        depths: transformer blocks of the four stages.
        num_heads: attention heads of the four stages.
        window: patches along each axis within which attention acts; clipped to the image.
        head_channels: channels at full resolution.
        drop_path: largest share of blocks that are skipped at random in training, in the last one.
    """

    def __init__(
        self,
        dimension: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 4, 2),
        num_heads: Sequence[int] = (4, 4, 8, 8),
        window: Sequence[int] = (5, 6, 7),
        head_channels: int = 16,
        drop_path: float = 0.3,
    ):
        super().__init__()
        self.encoder = SwinEncoder(dimension, embed_dim, depths, num_heads, window[:dimension], drop_path)
        half = embed_dim // 2
        self.skips = nn.ModuleList([_unit(dimension, 2, half), _unit(dimension, 2, head_channels)])
        widths = [embed_dim * 2**stage for stage in reversed(range(len(depths)))]
        steps = [(before, after, after) for before, after in pairwise(widths)]
        steps += [(embed_dim, half, half), (half, head_channels, head_channels)]
        self.decoder = nn.ModuleList(Doubling(dimension, *step) for step in steps)
        self.flow = CONV[dimension](head_channels, dimension, 3, padding=1)
        # Training has to start at the identity.
        nn.init.normal_(self.flow.weight, std=1e-5)
        nn.init.zeros_(self.flow.bias)  # type: ignore[arg-type]

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The displacement field (B, nD, *S) in voxels, array axis order, of images (B, 1, *S).

        Any size will do that exceeds four patches along one axis: padding at the far ends is cut off again.

        Raises:
            ValueError: the images are smaller.
        """
        images = torch.cat([moving, fixed], dim=1)
        if max(images.shape[2:]) <= 4 * PATCH:
            message = f"TransMorph needs more than {4 * PATCH} voxels along an axis, not {tuple(images.shape[2:])}"
            raise ValueError(f"{message}: register these images by another method")
        padded = pad_to_multiple(images, PATCH)
        pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[images.ndim - 2]
        *finer, x = self.encoder(padded)
        skips = [*reversed(finer), self.skips[0](pool(padded, 3, stride=2, padding=1)), self.skips[1](padded)]
        for doubling, skip in zip(self.decoder, skips, strict=True):
            x = doubling(x, skip)
        return crop(self.flow(x), images.shape[2:]).float()
