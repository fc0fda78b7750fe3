"""CUT's generator with the features that it compares."""

import torch
from torch import Tensor, nn

from modalign.networks.gan import ResidualBlock, ResnetGenerator
from modalign.similarity.patch_nce import PatchSampler, patch_nce_of_maps


def feature_layers(generator: ResnetGenerator) -> list[int]:
    """The encoder's layers whose outputs CUT compares: both doublings of the channels, the first and the fifth block.

    Without a fifth block, the last one takes its place.
    """
    layers = list(generator.encoder)
    doublings = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d | nn.Conv3d)][1:]
    blocks = [i for i, layer in enumerate(layers) if isinstance(layer, ResidualBlock)]
    return [*doublings, *dict.fromkeys([blocks[0], blocks[:5][-1]])]


def feature_channels(generator: ResnetGenerator) -> list[int]:
    """Channels of what :func:`features` gives."""
    one = generator.channels
    return [generator.in_channels, 2 * one, *[4 * one] * (len(feature_layers(generator)) - 1)]


def features(generator: ResnetGenerator, images: Tensor) -> list[Tensor]:
    """The images themselves, and the outputs of the :func:`feature_layers` on the way to the code."""
    found, wanted = [images], feature_layers(generator)
    for number, layer in enumerate(generator.encoder):
        images = layer(images)
        if number in wanted:
            found.append(images)
        if number == wanted[-1]:
            break
    return found


class Cut(nn.Module):
    """A generator and the perceptrons through which its encoder's features are compared (Park et al. 2020).

    Args:
        generator: makes the moving contrast from fixed images.
        width: of the perceptrons, one for each layer of features.
    """

    def __init__(self, generator: ResnetGenerator, width: int = 256):
        super().__init__()
        self.to_moving = generator
        self.sampler = PatchSampler(feature_channels(generator), width)

    def forward(
        self,
        fixed: Tensor,
        moving: Tensor,
        random: torch.Generator,
        places: int = 256,
        own: bool = True,
        flip: bool = False,
    ) -> dict[str, Tensor]:
        """``moving``, the translation; ``nce``, how well places of it are found in the fixed images; and if `own`,
        ``own_nce``, the same for moving images that the generator has got to leave as they are.

        Args:
            fixed: (B, 1, *S).
            moving: (B, 1, *S).
            random: draws the places.
            places: per layer.
            own: whether to go through the moving images too.
            flip: mirror the fixed images along their last axis for the translation, and its features back.
        """
        made = self.to_moving(fixed.flip(-1) if flip else fixed)
        result = {"moving": made, "nce": self._nce(made, fixed, random, places, flip)}
        if own:
            result["own_nce"] = self._nce(self.to_moving(moving), moving, random, places)
        return result

    def _nce(self, made: Tensor, image: Tensor, random: torch.Generator, places: int, flip: bool = False) -> Tensor:
        query = features(self.to_moving, made)
        if flip:
            query = [layer.flip(-1) for layer in query]
        with torch.no_grad():
            key = features(self.to_moving, image)
        return patch_nce_of_maps(self.sampler, query, key, random, places)
