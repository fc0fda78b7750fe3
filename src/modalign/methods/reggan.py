"""RegGAN: translation learned from misaligned pairs, with a registration network that corrects them in training."""

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from modalign.cases import CaseStore
from modalign.methods._generation import VggLayer
from modalign.methods._translation import Images, Translation, TranslationOptions, mean_difference

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.networks.cyclegan import Discriminators
    from modalign.networks.vgg import Vgg19

ADAM: dict[str, Any] = {"learning_rate": 1e-4, "betas": (0.5, 0.999)}
REGGAN = {"batch": 1, **ADAM, "correction_weight": 20.0, "smoothness_weight": 10.0, "antialias": False}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**REGGAN, "epochs": 80, "logits": "image"},
    "cycle": {**REGGAN, "epochs": 80, "logits": "image", "directions": "both", "cycle_weight": 10.0},
    "registformer": {
        **REGGAN,
        "epochs": 100,
        "weight_decay": 1e-4,
        "clip": 0.5,
        "directions": "both",
        "perceptual_weight": 20.0,
        "smoothness_weight": 25.0,
        "antialias": True,
    },
    "released": {
        **REGGAN,
        "epochs": 100,
        "weight_decay": 1e-4,
        "clip": 0.5,
        "directions": "both",
        "gan_weight": 0.5,
        "correction_weight": 10.0,
        "smoothness_weight": 25.0,
        "reversed_order": "none",
        "antialias": True,
    },
    "small": {
        **REGGAN,
        "steps": 300,
        "batch": 4,
        "learning_rate": 1e-3,
        "schedule": "linear",
        "channels": 12,
        "blocks": 3,
        "discriminator_channels": 12,
        "registration_channels": (16, 32, 32, 32),
    },
}
"""Settings, each overridden by the option of its name. `paper` is RegGAN with the reversed order that RbG adds, `cycle`
RegGAN's variant with CycleGAN. `registformer` is the baseline of RbG and RegistFormer: the weights in the configuration
of RegistFormer's code, and RbG's reversed order. `released` is what that code computes with means over both directions,
without perceptual term and reversed order."""


class RegGan(Translation):
    """The fake is judged after a learned registration with the misaligned target, so that it may stay where it is.

    The aligned image is the translation of the fixed image; the registration network serves in training alone.
    """

    label = "RegGAN"
    kind = "integrated"  # type: ignore[assignment]
    dimensions = frozenset({2})
    source = "Kong et al. 2021; reversed order of Arar et al. 2020 (NeMAR), as RbG adds it"

    class Options(TranslationOptions):
        """Settings of RegGAN."""

        presets: ClassVar[dict[str, dict[str, Any]]] = PRESETS

        preset: Literal["paper", "cycle", "registformer", "released", "small"] = Field(
            "paper", description="defaults to start from"
        )
        paired: bool = Field(True, description="draw fixed and moving images of the same place; it takes pairs")
        channels: int = Field(64, ge=1, description="channels of the generators at full resolution")
        blocks: int = Field(9, ge=1, description="residual blocks of each generator")
        registration_channels: tuple[int, ...] = Field(
            (32, 64, 64, 64, 64, 64, 64),
            min_length=1,
            description="channels of the registration network downwards, one number per halving; seven need 128 voxels "
            "and pad to 256",
        )
        directions: Literal["one", "both"] = Field(
            "one", description="make the moving contrast from the fixed image, or each from the other (C+R)"
        )
        cycle_weight: float = Field(0.0, ge=0, description="weight of the difference after the way there and back")
        correction_weight: float = Field(20.0, ge=0, description="weight of |registered fake - real|, in [-1, 1]")
        smoothness_weight: float = Field(
            10.0, ge=0, description="weight of the field's mean squared gradient in voxels, summed over axes"
        )
        reversed_order: Literal["reference", "each-other", "none"] = Field(
            "reference",
            description="what the image that is first deformed and then translated has to match: the reference, as in "
            "NeMAR; the image that is first translated and then deformed; or it isn't made (RegGAN alone)",
        )
        reversed_weight: float | None = Field(
            None, ge=0, description="weight of that difference; null = correction_weight, as NeMAR weighs both alike"
        )
        perceptual_weight: float = Field(
            0.0, ge=0, description="weight of the mean absolute difference of features of registered fake and real"
        )
        perceptual_layers: tuple[VggLayer, ...] = Field(
            ("conv1_2", "conv2_2", "conv3_3", "conv4_3"),
            min_length=1,
            description="VGG-19 layers of that term; RegistFormer's code takes VGG-16",
        )
        vgg19: str | None = Field(None, description="file of ImageNet weights of VGG-19; null = seeded random weights")
        vgg_width: int = Field(64, ge=4, description="channels of VGG-19's first block; weights from a file need 64")
        logits: Literal["patch", "image"] = Field(
            "patch", description="judge patches, or the mean over an image (RegGAN's code)"
        )

        @model_validator(mode="after")
        def _fitting(self) -> "RegGan.Options":
            if not self.paired:
                raise ValueError("RegGAN learns from pairs: leave paired at true, or use cyclegan")
            if self.cycle_weight > 0 and self.directions == "one":
                raise ValueError("cycle_weight needs both directions: add directions: both")
            if self.discriminator != "patch":
                raise ValueError("RegGAN has patch discriminators: leave discriminator at patch")
            return self

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on pairs of slices; the record tells which weights VGG-19 has, if it is used."""
        from modalign.networks.vgg import describe

        record, options = super().train(store), self.options
        return {**record, "vgg19": describe(options.vgg19)} if options.perceptual_weight > 0 else record

    @property
    def contrasts(self) -> tuple[str, ...]:  # type: ignore[override]
        """The contrasts in which fakes are made and judged."""
        return ("moving", "fixed") if self.options.directions == "both" else ("moving",)

    def _network(self) -> "nn.Module":
        from modalign.networks.gan import ResnetGenerator
        from modalign.networks.reggan import TranslateAndRegister
        from modalign.networks.resunet import ResUnet

        options = self.options
        return TranslateAndRegister(
            self.contrasts,
            lambda: ResnetGenerator(self.dimension, channels=options.channels, blocks=options.blocks),
            lambda: ResUnet(self.dimension, options.registration_channels),
        )

    def _discriminators(self) -> "Discriminators":
        from modalign.networks.reggan import ImageDiscriminator

        discriminators = super()._discriminators()
        if self.options.logits == "image":
            for contrast in self.contrasts:
                discriminators[contrast] = ImageDiscriminator(discriminators[contrast])
        return discriminators

    def _terms(self, generators: "nn.Module", images: Images, step: int) -> "tuple[Images, dict[str, Tensor]]":
        from modalign.similarity.regularisation import gradient_l2

        options, terms = self.options, {}
        made = generators(images, reverse=options.reversed_order != "none", cycle=options.cycle_weight > 0)
        weight = options.correction_weight if options.reversed_weight is None else options.reversed_weight
        for contrast in self.contrasts:
            real, registered, field = images[contrast], made[f"registered {contrast}"], made[f"field {contrast}"]
            terms[f"correction {contrast}"] = options.correction_weight * mean_difference(registered, real)
            terms[f"smoothness {contrast}"] = options.smoothness_weight * self.dimension * gradient_l2(field)
            if options.perceptual_weight > 0:
                terms[f"perceptual {contrast}"] = options.perceptual_weight * self._perceptual(registered, real)
            if options.reversed_order != "none":
                target = real if options.reversed_order == "reference" else registered
                terms[f"reversed {contrast}"] = weight * mean_difference(made[f"reversed {contrast}"], target)
            if options.cycle_weight > 0:
                terms[f"cycle {contrast}"] = options.cycle_weight * mean_difference(made[f"cycled {contrast}"], real)
        return {contrast: made[f"fake {contrast}"] for contrast in self.contrasts}, terms

    def _perceptual(self, made: "Tensor", real: "Tensor") -> "Tensor":
        vgg = self._vgg.to(real.device)
        pairs = zip(vgg(made), vgg(real), strict=True)
        return sum((mean_difference(a, b) for a, b in pairs), real.new_zeros(())) / len(vgg.layers)

    @cached_property
    def _vgg(self) -> "Vgg19":
        from modalign.networks.vgg import vgg19

        options = self.options
        return vgg19(options.perceptual_layers, options.vgg19, self.context.seed, options.vgg_width)

    def _translate(self, generators: Any, fixed: "Tensor", moving: "Tensor") -> "Tensor":
        return generators.generators["moving"](fixed)
