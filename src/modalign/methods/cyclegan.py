"""CycleGAN: unpaired translation in both directions that has to come back to where it started."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from modalign.methods._translation import Images, Translation, TranslationOptions, mean_difference

if TYPE_CHECKING:
    from torch import Tensor, nn

PAPER: dict[str, Any] = {
    "epochs": 100,
    "batch": 1,
    "crop": (96, 96),
    "paired": True,
    "learning_rate": 1e-4,
    "betas": (0.5, 0.999),
    "weight_decay": 1e-4,
}
"""How RbG and RegistFormer train all translations: on pairs as they are, although no loss compares their images."""
SMALL: dict[str, Any] = {
    "steps": 300,
    "batch": 2,
    "paired": True,
    "learning_rate": 2e-3,
    "betas": (0.5, 0.999),
    "schedule": "linear",
    "channels": 8,
    "discriminator_channels": 12,
    "antialias": False,
}
"""Training and networks for demonstrations: slices of 64 x 64 in half a minute on one core."""


class CycleGan(Translation):
    """Two generators and two discriminators, held together by the way there and back."""

    label = "CycleGAN"
    source = "Zhu et al. 2017; settings of RbG and RegistFormer, who call it CGAN"

    class Options(TranslationOptions):
        """Settings of CycleGAN."""

        presets: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": {**PAPER, "cycle_weight": 100.0},
            "original": {
                "epochs": 200,
                "batch": 1,
                "learning_rate": 2e-4,
                "betas": (0.5, 0.999),
                "schedule": "linear",
                "cycle_weight": 10.0,
                "identity_weight": 5.0,
                "pool": 50,
                "antialias": False,
            },
            "small": {**SMALL, "blocks": 3, "cycle_weight": 10.0},
        }

        preset: Literal["paper", "original", "small"] = Field(
            "paper",
            description="paper = RbG's and RegistFormer's baseline; original = Zhu et al.; small = for demonstrations",
        )
        channels: int = Field(64, ge=1, description="channels of the generators at full resolution")
        blocks: int = Field(9, ge=1, description="residual blocks of each generator")
        cycle_weight: float = Field(10.0, ge=0, description="weight of the difference after the way there and back")
        identity_weight: float = Field(
            0.0, ge=0, description="weight of the change that generators make to images of their own target contrast"
        )

    def _network(self) -> "nn.Module":
        from modalign.networks.cyclegan import CyclePair
        from modalign.networks.gan import ResnetGenerator

        options = self.options
        return CyclePair(
            *(ResnetGenerator(self.dimension, channels=options.channels, blocks=options.blocks) for _ in range(2))
        )

    def _terms(self, generators: "nn.Module", images: Images, step: int) -> "tuple[Images, dict[str, Tensor]]":
        options = self.options
        made = generators(images["fixed"], images["moving"], identity=options.identity_weight > 0)
        terms = {
            f"cycle {contrast}": options.cycle_weight * mean_difference(made[f"cycled_{contrast}"], images[contrast])
            for contrast in self.contrasts
        }
        if options.identity_weight > 0:
            changes = [mean_difference(made[f"own_{contrast}"], images[contrast]) for contrast in self.contrasts]
            terms["identity"] = options.identity_weight * sum(changes)
        return made, terms

    def _translate(self, generators: Any, fixed: "Tensor", moving: "Tensor") -> "Tensor":
        return generators.to_moving(fixed)
