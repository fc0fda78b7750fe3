"""CycleGAN's pair of generators, and the discriminators of one or both contrasts."""

from collections.abc import Mapping

from torch import Tensor, nn

Logits = Tensor | list[Tensor]


class CyclePair(nn.Module):
    """A generator in each direction; forward gives what the losses of CycleGAN compare (Zhu et al. 2017).

    Args:
        to_moving: makes the moving contrast from fixed images.
        to_fixed: the other way round.
    """

    def __init__(self, to_moving: nn.Module, to_fixed: nn.Module):
        super().__init__()
        self.to_moving, self.to_fixed = to_moving, to_fixed

    def forward(self, fixed: Tensor, moving: Tensor, identity: bool = False) -> dict[str, Tensor]:
        """The translations ``moving`` and ``fixed``, and ``cycled_*``, what they are after the way back.

        If `identity`, also ``own_*``: what the generators make of images that have their contrast already. All images
        are (B, 1, *S).
        """
        result = {"moving": self.to_moving(fixed), "fixed": self.to_fixed(moving)}
        result |= {
            "cycled_fixed": self.to_fixed(result["moving"]),
            "cycled_moving": self.to_moving(result["fixed"]),
        }
        if identity:
            result |= {"own_moving": self.to_moving(moving), "own_fixed": self.to_fixed(fixed)}
        return result


class Discriminators(nn.ModuleDict):
    """A discriminator per contrast; forward judges real and fake images of each, as dictionaries by contrast."""

    def forward(self, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]) -> dict[str, tuple[Logits, Logits]]:
        """Logits of real and of fake images."""
        return {name: (judge(real[name]), judge(fake[name])) for name, judge in self.items()}
