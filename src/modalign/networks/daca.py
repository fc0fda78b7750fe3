"""The deformation-aware cross-attention block (DACA) of RegistFormer and RbG, in 2D and 3D."""

from torch import Tensor, nn

from modalign.networks.daca_attention import deformable_window_attention


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
    """

    def __init__(
        self, channels: int = 14, heads: int = 2, window: int = 28, dimension: int = 2, mlp_ratio: int = 2
    ) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimension]
        self.heads, self.window = heads, window
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
        fused = self.fuse(deformable_window_attention(query, key, value, field, self.window, self.heads))
        return self.norm(fused + self.mlp(fused))
