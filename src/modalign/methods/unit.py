"""UNIT: translation through a latent space that both contrasts share."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from modalign.methods._translation import Images, mean_difference
from modalign.methods._translation_features import FeatureOptions, FeatureTranslation
from modalign.methods.cyclegan import PAPER, SMALL

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.networks.munit import Unit as Network

ORIGINAL: dict[str, Any] = {
    "steps": 1_000_000,
    "batch": 1,
    "crop": (256, 256),
    "learning_rate": 1e-4,
    "betas": (0.5, 0.999),
    "weight_decay": 1e-4,
    "schedule": "halving",
    "discriminator": "multiscale",
}
"""The released training of UNIT and MUNIT."""


class Unit(FeatureTranslation):
    """Two variational autoencoders; a translation encodes by the one and decodes by the other."""

    label = "UNIT"
    source = "Liu et al. 2017; settings of RbG and RegistFormer"

    class Options(FeatureOptions):
        """Settings of UNIT."""

        presets: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": {**PAPER, "perceptual_weight": 1.0},
            "original": {
                **ORIGINAL,
                "image_weight": 10.0,
                "cycle_weight": 10.0,
                "code_weight": 0.01,
                "cycle_code_weight": 0.01,
                "shared_blocks": 0,
            },
            # With weights of 10, translations can end with bright and dark exchanged, which the way back undoes.
            "small": {**SMALL, "blocks": 2, "image_weight": 4.0, "cycle_weight": 4.0},
        }

        preset: Literal["paper", "original", "small"] = Field(
            "paper",
            description="paper = RbG's and RegistFormer's baseline; original = the released training of UNIT; small = "
            "for demonstrations",
        )
        channels: int = Field(64, ge=1, description="channels at full resolution")
        halvings: int = Field(2, ge=1, le=2, description="how often the resolution of the content codes is halved")
        blocks: int = Field(4, ge=1, description="residual blocks of each encoder and decoder")
        shared_blocks: int = Field(
            1, ge=0, description="of them, next to the code, shared by both contrasts (1 in the paper, 0 as released)"
        )
        image_weight: float = Field(1.0, ge=0, description="weight of the difference of reconstructed images")
        code_weight: float = Field(0.001, ge=0, description="weight of the codes' mean square (Kullback-Leibler)")
        cycle_weight: float = Field(1.0, ge=0, description="weight of the difference after the way there and back")
        cycle_code_weight: float = Field(0.001, ge=0, description="weight of the mean square of translations' codes")

        @model_validator(mode="after")
        def _fitting(self) -> "Unit.Options":
            if self.shared_blocks > self.blocks:
                raise ValueError(f"shared_blocks is {self.shared_blocks}, and there are {self.blocks} blocks")
            return self

    def _network(self) -> "Network":
        from modalign.networks.munit import Unit as Network

        options = self.options
        return Network(self.dimension, options.channels, options.blocks, options.shared_blocks, options.halvings)

    def _terms(self, generators: "nn.Module", images: Images, step: int) -> "tuple[Images, dict[str, Tensor]]":
        options = self.options
        made, terms = generators(images["fixed"], images["moving"]), {}
        for c in self.contrasts:
            terms[f"image {c}"] = options.image_weight * mean_difference(made[f"own_{c}"], images[c])
            terms[f"cycle {c}"] = options.cycle_weight * mean_difference(made[f"cycled_{c}"], images[c])
            terms[f"code {c}"] = options.code_weight * made[f"code_{c}"].square().mean()
            terms[f"cycle code {c}"] = options.cycle_code_weight * made[f"code_{c}_again"].square().mean()
        return made, {**terms, **self.feature_terms(made, images)}

    def _translate(self, generators: Any, fixed: "Tensor", moving: "Tensor") -> "Tensor":
        return generators.translate(fixed)
