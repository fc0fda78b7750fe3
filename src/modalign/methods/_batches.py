"""The way from a volume to what a network works on, and back."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MULTIPLE, SMALLEST = 4, 16
"""Networks halve twice, and need 16 voxels a side for the style code; smaller images are padded."""


def to_batch(volume: np.ndarray, dimension: int) -> "Tensor":
    """A volume (X, Y, Z) as a batch of its axial slices (Z, 1, X, Y), or in 3D as (1, 1, X, Y, Z), float32."""
    import torch

    images = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
    return images.permute(2, 0, 1)[:, None].contiguous() if dimension == 2 else images[None, None]


def to_volume(batch: "Tensor") -> np.ndarray:
    """The way back from :func:`to_batch`, float32."""
    images = batch[:, 0].permute(1, 2, 0) if batch.ndim == 4 else batch[0, 0]
    return np.ascontiguousarray(images.float().cpu().numpy())


def to_network(images: "Tensor", limits: tuple[float, float]) -> "Tensor":
    """Intensities with the limits at -1 and 1, beyond which the networks' outputs can't go either."""
    low, high = limits
    return ((images - low) * (2 / (high - low)) - 1).clamp(-1, 1)


def from_network(images: "Tensor", limits: tuple[float, float]) -> "Tensor":
    """The way back from [-1, 1] to stored intensities."""
    low, high = limits
    return (images + 1) * ((high - low) / 2) + low


def padded(images: "Tensor") -> "Tensor":
    """Images (B, 1, *S) whose far ends are extended, by repeating the border, to a size that every network takes."""
    from torch.nn import functional

    missing = [max(SMALLEST, -(-n // MULTIPLE) * MULTIPLE) - n for n in images.shape[2:]]
    if not any(missing):
        return images
    return functional.pad(images, [side for n in reversed(missing) for side in (0, n)], mode="replicate")


def in_pieces(network: "Callable[..., Tensor]", *inputs: "Tensor", together: int, device: str) -> "Tensor":
    """What a network makes of batches, `together` rows at a time on `device`; without gradients, on the CPU."""
    import torch

    with torch.no_grad():
        pieces = [
            network(*(piece.to(device) for piece in some)).cpu()
            for some in zip(*(images.split(together) for images in inputs), strict=True)
        ]
    return torch.cat(pieces)
