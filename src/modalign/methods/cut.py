"""CUT: one-way translation; what is at a place has to be recognisable there."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from modalign.methods._translation import Images, Translation, TranslationOptions
from modalign.methods.cyclegan import SMALL

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.networks.cyclegan import Discriminators


class ContrastiveTranslation(Translation):
    """A generator whose own features have to tell which place of the input a place of the output belongs to."""

    label = "CUT"
    source = "Park et al. 2020"
    contrasts = ("moving",)

    class Options(TranslationOptions):
        """Settings of CUT."""

        presets: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": {
                "epochs": 400,
                "batch": 1,
                "learning_rate": 2e-4,
                "betas": (0.5, 0.999),
                "schedule": "linear",
                "crop": (256, 256),
            },
            "fast": {
                "epochs": 200,
                "batch": 1,
                "learning_rate": 2e-4,
                "betas": (0.5, 0.999),
                "schedule": "linear",
                "linear_from": 0.75,
                "crop": (256, 256),
                "nce_weight": 10.0,
                "identity": False,
                "flip_equivariance": True,
            },
            "small": {
                **SMALL,
                "initialisation": "normal",
                "learning_rate": 1e-3,
                "nce_weight": 2.0,
                "blocks": 3,
                "width": 32,
                "places": 128,
            },
        }

        preset: Literal["paper", "fast", "small"] = Field(
            "paper", description="paper = CUT; fast = FastCUT; small = for demonstrations"
        )
        channels: int = Field(64, ge=1, description="channels of the generator at full resolution")
        blocks: int = Field(9, ge=1, description="residual blocks of the generator")
        nce_weight: float = Field(1.0, ge=0, description="weight of PatchNCE")
        identity: bool = Field(
            True, description="also let the generator reproduce moving images; PatchNCE is then the mean of both"
        )
        flip_equivariance: bool = Field(False, description="mirror every other input and compare mirrored features")
        places: int = Field(256, ge=2, description="places per layer that PatchNCE compares")
        width: int = Field(256, ge=1, description="channels in which features are compared")
        initialisation: Literal["normal", "xavier"] = Field(
            "xavier", description="of convolutions: Glorot's times 0.02, as in CUT, or normal with 0.02, as in CycleGAN"
        )

    def _network(self) -> "nn.Module":
        from modalign.networks.cut import Cut
        from modalign.networks.gan import ResnetGenerator, initialise

        options = self.options
        generator = ResnetGenerator(self.dimension, channels=options.channels, blocks=options.blocks, antialias=True)
        if options.initialisation == "xavier":
            initialise(generator, xavier=True)
        return Cut(generator, options.width)

    def _discriminators(self) -> "Discriminators":
        from modalign.networks.gan import initialise

        discriminators = super()._discriminators()
        if self.options.initialisation == "xavier":
            initialise(discriminators, xavier=True)
        return discriminators

    def _terms(self, generators: "nn.Module", images: Images, step: int) -> "tuple[Images, dict[str, Tensor]]":
        import torch

        from modalign.seeds import derive_seed

        options = self.options
        random = torch.Generator().manual_seed(derive_seed(self.context.seed, self.name, "places", str(step)))
        flip = options.flip_equivariance and bool(torch.rand((), generator=random) < 0.5)
        made = generators(images["fixed"], images["moving"], random, options.places, options.identity, flip)
        share = 0.5 if options.identity else 1.0
        terms = {name: share * options.nce_weight * made[name] for name in ("nce", "own_nce") if name in made}
        return made, terms

    def _translate(self, generators: Any, fixed: "Tensor", moving: "Tensor") -> "Tensor":
        return generators.to_moving(fixed)
