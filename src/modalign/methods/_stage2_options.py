"""The settings of stage 2 of RbG and RegistFormer."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from modalign.methods._generation import GenerationOptions, VggLayer

AXES = ("x", "y", "z")
"""Components of a field, in array axis order."""


class Stage2Options(GenerationOptions):
    """Settings of stage 2."""

    presets_by_dimension: ClassVar[Mapping[int, Mapping[str, Mapping[str, Any]]]] = {
        3: {"paper": {"batch": 1, "crop": (96, 96, 32), "window": 7}, "small": {"batch": 1, "window": 3}}
    }

    preset: Literal["paper", "small"] = Field(
        "paper", description="paper = 71,233 weights and the published training; small = for demonstrations and tests"
    )
    crop: tuple[int, ...] | None = Field(None, description="random crops in training, voxels per axis; null = whole")
    channels: int = Field(14, ge=1, description="channels of all features")
    heads: int = Field(2, ge=1, description="heads of the attention; divides channels")
    window: int = Field(28, ge=1, description="samples of the attention along each axis, in voxels of each scale")
    daca_flow: Literal["corrected", "as_released", "zero"] = Field(
        "corrected",
        description="field of the attention: from the fixed grid into the reference, or as released (the other "
        "direction, axes swapped), or none",
    )
    attention: Literal["dot", "distance"] = Field(
        "dot",
        description="how queries and keys are compared: by their products (both papers) or by their squared distance, "
        "which is what short trainings need",
    )
    output_gain: float = Field(
        1.0, ge=1, description="of the final tanh; more than 1 lets the output reach the ends of the intensities"
    )
    initialisation: Literal["normal", "kaiming", "identity"] = Field(
        "normal",
        description="of convolutions: normal (0.02; RbG's text, both codes), kaiming (RegistFormer's text), identity "
        "(features pass through, the attention matches them from the start; for short trainings)",
    )
    warm_up: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the steps that first practise: put together a deformed reference from the reference, "
        "with a blurred and noisy first output and a wrong field, by the mean absolute difference; no paper has it, it "
        "makes short trainings possible",
    )
    cool_down: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the steps at the end that practise again, which brings intensities back that the other "
        "losses don't look at, such as that of air",
    )
    practice_every: int = Field(
        0, ge=0, description="between warm-up and cool-down, practise at every so manieth step; 0 = never"
    )
    warm_up_voxels: float = Field(
        1.5, ge=0, description="standard deviation of the deformation of the reference in practice, in voxels"
    )
    shift_voxels: int = Field(
        0, ge=0, description="in the contextual loss, shift the reference at random by up to this along each axis"
    )
    parts_move: bool = Field(
        False, description="move the cuts between the parts at random, so that they leave no traces in the output"
    )
    contextual_weight: float = Field(1.0, ge=0, description="weight of the contextual loss")
    nce_weight: float = Field(0.1, ge=0, description="weight of PatchNCE")
    nce_features: Literal["vgg19", "extractors"] = Field(
        "vgg19",
        description="what PatchNCE looks through: VGG-19 (text and code), or the network's own extractors, FE2 for the "
        "output and FE1 for input and first output (which RbG's text names, and says that it didn't converge)",
    )
    nce_layers: tuple[VggLayer, ...] = Field(
        ("conv4_2", "conv5_4"), min_length=1, description="VGG-19 layers that PatchNCE compares"
    )
    nce_key: Literal["input", "initial"] = Field(
        "input",
        description="what PatchNCE compares the output with: the input, or stage 1's output, which has its structures; "
        "random features of two contrasts have little in common",
    )
    gan_weight: float = Field(0.1, ge=0, description="weight of the adversarial term")
    l1_weight: float = Field(0.0, ge=0, description="weight of the mean absolute difference from the reference")
    mind_weight: float = Field(0.0, ge=0, description="weight of the squared difference of MIND-SSC from the input's")
    discriminator_channels: int = Field(64, ge=1, description="channels of the discriminator's first layer")
    discriminator_layers: int = Field(3, ge=1, description="how often the discriminator halves the image")
    discriminator_norm: Literal["instance", "batch", "none"] = Field(
        "batch", description="batch in the released stage 2, instance in its stage 1"
    )

    @model_validator(mode="after")
    def _possible(self) -> "Stage2Options":
        if self.channels % self.heads:
            raise ValueError(f"{self.channels} channels can't be divided among {self.heads} heads")
        if self.keep == "best" or self.validate_every > 0:
            raise ValueError(
                "stage 2 makes no validations, and its last weights are used: leave out keep and validate_every"
            )
        if self.warm_up + self.cool_down >= 1:
            raise ValueError("warm_up and cool_down leave no steps in between: their sum has to be less than 1")
        if not any((self.contextual_weight, self.nce_weight, self.gan_weight, self.l1_weight, self.mind_weight)):
            raise ValueError("all weights of the loss are 0: there is nothing to learn from")
        return self
