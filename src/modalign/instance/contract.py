"""What the instance optimiser asks of a similarity: one small class, one row of a table."""

from typing import Protocol

import torch
from torch import Tensor, nn


class PairSimilarity(Protocol):
    """Compares two images of different contrasts, and says how their alignment should change.

    Subclass it and write :meth:`loss`; the other methods have defaults. Every tensor has the shape (1, C, *S) with two
    or three spatial axes S. One sample of a level is `spacing` voxels of the original image wide, along each axis.
    The optimiser registers in both directions: in the forward one the fixed image stays and the moving one is warped.
    """

    def networks(self) -> nn.Module | None:
        """What is learned together with the alignment of this pair, by an optimiser of its own; None for nothing."""
        return None

    def channels(self, image: Tensor, mask: Tensor) -> Tensor:
        """What is to be warped, computed once per pyramid level; by default the image.

        Args:
            image: (1, 1, *S), smoothed for its level, from 0 to 1 within its mask.
            mask: (1, 1, *S), 1 where the image is valid, else 0.

        Returns:
            (1, C, *S).
        """
        return image

    def validity(self, mask: Tensor) -> Tensor:
        """Where the channels can be trusted, (1, 1, *S): where the image is valid, or less if they need neighbours.

        The optimiser makes the mask of :meth:`loss` from the validities of both images.
        """
        return mask

    def target(self, channels: Tensor, mask: Tensor) -> Tensor:
        """What the warped image is compared with, computed once per level, as the image that stays is never warped.

        Args:
            channels: (1, C, *S), of the image that stays.
            mask: (1, 1, *S), its own mask.

        Returns:
            Anything of shape (1, D, *S), such as descriptors; by default the channels themselves.
        """
        return channels

    def loss(
        self, target: Tensor, source: Tensor, mask: Tensor, *, forward: bool, spacing: float, rng: torch.Generator
    ) -> Tensor:
        """The dissimilarity of one direction, lowest where the images are aligned.

        Args:
            target: (1, D, *S), what :meth:`target` made of the image that stays.
            source: (1, C, *S), the warped channels of the other image.
            mask: (1, 1, *S), from 0 to 1: where both images are valid. Nothing outside may count, and an empty mask
                has to give a finite loss.
            forward: whether the fixed image stays; measures with parameters of their own may keep two sets.
            spacing: voxels per sample of this level.
            rng: the only source of randomness, on the CPU.

        Returns:
            A scalar, differentiable in `source`, and in the parameters of :meth:`networks`.
        """
        ...
