"""RegGAN's generators and registration networks (Kong et al. 2021), trained together."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from modalign.networks.resunet import ResUnet
from modalign.spatial.warp import warp

OTHER = {"moving": "fixed", "fixed": "moving"}


class TranslateAndRegister(nn.Module):
    """For each contrast to be made, a generator, and a network that registers its fake with the real image.

    Args:
        contrasts: ``("moving",)``, or ``("moving", "fixed")`` to translate both ways.
        generator: makes a generator.
        register: makes a registration network.
    """

    def __init__(self, contrasts: Sequence[str], generator: Callable[[], nn.Module], register: Callable[[], ResUnet]):
        super().__init__()
        self.contrasts = tuple(contrasts)
        self.generators = nn.ModuleDict({contrast: generator() for contrast in contrasts})
        self.registrations = nn.ModuleDict({contrast: register() for contrast in contrasts})

    def forward(self, images: dict[str, Tensor], reverse: bool = False, cycle: bool = False) -> dict[str, Tensor]:
        """Translations, the fields that correct them, and both corrected.

        Args:
            images: `fixed` and `moving`, (B, 1, *S) in [-1, 1], a pair that may be misaligned.
            reverse: also deform first and translate then.
            cycle: also translate back; takes both contrasts.

        Returns:
            For each contrast c: ``fake c``, made from the other image; ``field c`` (B, nD, *S) in voxels, which brings
            the fake onto the real image; ``registered c``, the fake warped by it; ``reversed c``, made from the warped
            other image; ``cycled c``.
        """
        made: dict[str, Tensor] = {}
        for contrast in self.contrasts:
            source, target = images[OTHER[contrast]], images[contrast]
            fake = self.generators[contrast](source)
            field = self.registrations[contrast](fake, target)
            made |= {f"fake {contrast}": fake, f"field {contrast}": field, f"registered {contrast}": warp(fake, field)}
            if reverse:
                made[f"reversed {contrast}"] = self.generators[contrast](warp(source, field))
        if cycle:
            for contrast in self.contrasts:
                made[f"cycled {contrast}"] = self.generators[contrast](made[f"fake {OTHER[contrast]}"])
        return made


class ImageDiscriminator(nn.Module):
    """A patch discriminator whose logits are averaged to one an image, as RegGAN's are: (B, 1, *S) to (B, 1)."""

    def __init__(self, patches: nn.Module):
        super().__init__()
        self.patches = patches

    def forward(self, images: Tensor) -> Tensor:
        """One logit an image."""
        return self.patches(images).flatten(1).mean(1, keepdim=True)
