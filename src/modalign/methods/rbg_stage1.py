"""Stage 1 of RbG: translation with the local style of a reference that needn't be aligned."""

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from modalign.cases import Alignment, Case, CaseStore
from modalign.methods._generation import GenerationOptions, VggLayer, contextual_term, torch_random
from modalign.methods._translation import Images, Translation, TranslationOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from modalign.metrics.features import FeatureSource
    from modalign.networks.vgg import Vgg19


FEATURES = 2**26
"""Most values of a feature map at full resolution in one pass when aligning, 256 MiB; in all, a pass takes ten times
that."""


class RbgStage1(Translation):
    """A generator whose normalisations take scale and shift from a coarse version of the reference (PAdaIN).

    It learns from misaligned pairs: PatchNCE ties the output to the input, the contextual loss and a discriminator tie
    it to the reference. The reference is needed for aligning as well. Noise inside the generator, also when aligning,
    is seeded by the case.
    """

    label = "RbG, stage 1"
    dimensions = frozenset({2})
    source = "RbG, sections III-C (PAdaIN), III-E (losses), IV-B 1 (training); released code where the paper is silent"
    contrasts = ("moving",)

    class Options(GenerationOptions, TranslationOptions):
        """Settings of stage 1."""

        presets: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": {
                "epochs": 100,
                "batch": 8,
                "crop": (96, 96),
                "learning_rate": 1e-4,
                "betas": (0.5, 0.999),
                "weight_decay": 1e-4,
                "schedule": "multistep",
                "clip": 0.5,
            },
            # Crops and quadrants are the share of the body that they are in the paper's.
            "small": {
                "steps": 250,
                "batch": 8,
                "crop": (24, 24),
                "learning_rate": 2e-3,
                "betas": (0.5, 0.999),
                "schedule": "linear",
                "clip": 0.5,
                "channels": 16,
                "hidden": 32,
                # Pixels of some 7 mm: as many mm as the paper's 32
                "padain_factor": 4,
                "vgg_width": 16,
                "contextual_layers": ("conv1_1", "conv1_2", "conv2_2"),
                "nce_weight": 2.0,
                "nce_layers": (0, 2),
                "nce_width": 64,
                "gan_weight": 0.5,
                "discriminator_channels": 12,
                "discriminator_layers": 2,
            },
        }

        preset: Literal["paper", "small"] = Field(
            "paper", description="paper = 33.8 million weights; small = for demonstrations and tests"
        )
        paired: bool = Field(True, description="the reference is of the same patient and place, or any other one")
        channels: int = Field(256, ge=1, description="channels of all features of the generator")
        hidden: int = Field(512, ge=1, description="channels inside the networks that turn style into scale and shift")
        padain_factor: Annotated[int, Field(ge=1)] | Literal["global"] = Field(
            32, description="downsampling of the reference; global = its mean. The released code has 16"
        )
        padain_interpolation: Literal["nearest", "bilinear"] = Field(
            "nearest", description="upsampling of the style map: nearest (as released) or bilinear (as printed)"
        )
        padain_reduce: Literal["bilinear", "mean"] = Field(
            "bilinear", description="downsampling of the reference: points (as released) or means of blocks"
        )
        gan_detach: bool = Field(
            False, description="keep the adversarial gradient from the generator, a defect of the released code"
        )
        contextual_layers: tuple[VggLayer, ...] = Field(
            ("conv2_2", "conv3_2", "conv4_2", "conv4_4"),
            min_length=1,
            description="VGG-19 layers of the contextual loss, as released; printed: conv1_2, conv2_2, conv3_2",
        )
        contextual_of: Literal["output", "reference"] = Field(
            "output",
            description="whose every feature has to be found in the other image: the output's (Eq. 9, as released) or "
            "the reference's (Mechrez et al.)",
        )
        nce_layers: tuple[Annotated[int, Field(ge=0, le=6)], ...] = Field(
            (0, 2, 4, 6), min_length=1, description="features of the generator (0 to 6) that PatchNCE compares"
        )

    options: Options

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on pairs of slices; the generator's last weights go to ``weights.pt``."""
        from modalign.networks.vgg import describe

        return super().train(store) | {"vgg19": describe(self.options.vgg19)}

    def align(self, case: Case) -> Alignment:
        """Translate the fixed image in the style of the moving one; there is no field."""
        self._noise = torch_random(self.context.device, self.context.seed, case.dataset, case.id, "rbg_stage1", "noise")
        return super().align(case)

    def _together(self, images: "Tensor") -> int:
        """Fewer slices in one pass, down to one, where they are so large that their features would fill the memory."""
        return max(1, min(super()._together(images), FEATURES // (self.options.channels * images[0].numel())))

    def _network(self) -> "nn.Module":
        from modalign.networks.padain import Stage1, Synthesis

        options = self.options
        synthesis = Synthesis(
            options.channels,
            options.hidden,
            options.padain_factor,
            options.padain_interpolation,
            options.padain_reduce,
        )
        return Stage1(synthesis, options.nce_layers, options.nce_width)

    def _terms(self, generators: "nn.Module", images: Images, step: int) -> "tuple[Images, dict[str, Tensor]]":
        import torch

        options, fixed, moving = self.options, images["fixed"], images["moving"]
        noise, places = (
            torch_random(device, self.context.seed, "rbg_stage1", purpose, str(step))
            for device, purpose in ((fixed.device, "noise"), ("cpu", "places"))
        )
        made, nce = generators(fixed, moving, noise, places, options.places, options.temperature)
        vgg = self._vgg.to(fixed.device)
        with torch.no_grad():
            reference = vgg(moving)
        terms = {
            "contextual": contextual_term(vgg(made), reference, options),
            "patch_nce": options.nce_weight * nce,
        }
        return {"moving": made.detach() if options.gan_detach else made}, terms

    def _translate(self, generators: Any, fixed: "Tensor", moving: "Tensor") -> "Tensor":
        return generators.synthesis(fixed, moving, self._noise)

    def _translations_fid(self, generators: "nn.Module", shown: "Iterable[Images]", features: "FeatureSource") -> float:
        self._noise = torch_random(self.context.device, self.context.seed, "rbg_stage1", "noise of validation")
        return super()._translations_fid(generators, shown, features)

    @cached_property
    def _vgg(self) -> "Vgg19":
        from modalign.networks.vgg import vgg19

        options = self.options
        return vgg19(options.contextual_layers, options.vgg19, self.context.seed, options.vgg_width)
