"""The deformation-aware cross-attention block (DACA) of RegistFormer and RbG, in 2D and 3D."""

from typing import Literal

import torch
from torch import Tensor, nn

from modalign.networks.daca_attention import deformable_window_attention

INSIDE = 8.0
"""What the logits of :func:`squared_distances` exceed the negative squared distance by, so that samples outside the
reference, whose logits are 0, are not taken for near ones."""


class DacaBlock(nn.Module):
    """Fuses features of a reference into those of a query, each pixel from a window around where a field points.

    Pointwise projections to query, key and value, attention, a pointwise projection of its result o, then
    ``GroupNorm(o + MLP(o))``. There is no residual connection to the query and no positional encoding, as in the
    released code.

    Args:
        channels: of all features; 14 in both papers (1,638 weights).
        heads: of the attention, divides `channels`.
        window: samples along each axis; 28 in both papers, at each of their three scales.
        dimension: 2 or 3.
        mlp_ratio: hidden channels of the MLP per channel.
        attention: "dot" compares queries and keys by their products, as in both papers; "distance" by the negative
            square of their difference, which no key wins by its length alone. Both have the same weights.
    """

    def __init__(
        self,
        channels: int = 14,
        heads: int = 2,
        window: int = 28,
        dimension: int = 2,
        mlp_ratio: int = 2,
        attention: Literal["dot", "distance"] = "dot",
    ) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimension]
        self.heads, self.window, self.attention = heads, window, attention
        self.query, self.key, self.value, self.fuse = (conv(channels, channels, 1, bias=False) for _ in range(4))
        hidden = mlp_ratio * channels
        self.mlp = nn.Sequential(conv(channels, hidden, 1), nn.LeakyReLU(0.2), conv(hidden, channels, 1))
        self.norm = nn.GroupNorm(1, channels)

    def forward(self, features: Tensor, reference: Tensor, field: Tensor) -> Tensor:
        """The reference's features at the query's pixels.

        Args:
            features: (B, C, *S) of the image to refine.
            reference: (B, C, *S).
            field: (B, nD, *S) in voxels of this scale, array axis order: pixel p looks around ``p + field(p)``.

        Returns:
            (B, C, *S).
        """
        query, key, value = self.query(features), self.key(reference), self.value(reference)
        if self.attention == "distance":
            query, key, value = squared_distances(query, key, value, self.heads)
        attended = deformable_window_attention(query, key, value, field, self.window, self.heads)
        fused = self.fuse(_channels_per_head(attended, self.heads, features.shape[1] // self.heads))
        return self.norm(fused + self.mlp(fused))


def squared_distances(query: Tensor, key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, C, *S) with one more channel a head, whose products are negative squared distances.

    The square of the query is the same for all keys of its pixel, and softmax takes no notice of it: ``2 q k - k k``
    is left. The further channel of the values is 0.
    """
    query, key, value = (image.unflatten(1, (heads, -1)) for image in (query, key, value))
    # The attention divides by the root of the channels, of which there is one more.
    scale = query.shape[2] ** -0.5 * (query.shape[2] + 1) ** 0.5
    one = torch.ones_like(query[:, :, :1])
    square = key.square().sum(2, keepdim=True)
    queries = torch.cat([2 * query, one], 2) * scale
    keys = torch.cat([key, INSIDE - square], 2)
    values = torch.cat([value, torch.zeros_like(one)], 2)
    return queries.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2)


def _channels_per_head(image: Tensor, heads: int, number: int) -> Tensor:
    """The first channels of every head."""
    return image.unflatten(1, (heads, -1))[:, :, :number].flatten(1, 2)
