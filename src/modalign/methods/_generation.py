"""What both stages of RbG and RegistFormer share: losses against a reference that isn't aligned, and seeded noise."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints

from modalign.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VggLayer = Annotated[str, StringConstraints(pattern=r"^conv([12]_[12]|[345]_[1-4])$")]


class GenerationOptions(TrainingOptions):
    """Settings of the losses of both stages."""

    keep: Literal["best", "last"] = Field(
        "last",
        description="weights to use in the end: the last, or (stage 1) those of the best validation",
    )
    contextual_weight: float = Field(5.0, ge=0, description="weight of the contextual loss")
    contextual_layers: tuple[VggLayer, ...] = Field(
        ("conv1_2", "conv2_2", "conv3_2"), min_length=1, description="VGG-19 layers of the contextual loss"
    )
    contextual_of: Literal["output", "reference"] = Field(
        "reference",
        description="whose every feature has to be found in the other image: the output's (Eq. 9) or the reference's "
        "(Mechrez et al.)",
    )
    parts: int = Field(
        2, ge=1, description="the contextual loss compares parts of the image alone, so many along each axis"
    )
    contextual_form: Literal["relative", "nearest"] = Field(
        "relative",
        description="distances relative to the smallest (Mechrez et al., as released), or the mean of the smallest "
        "cosine distances (Eq. 9 as printed)",
    )
    contextual_bandwidth: float = Field(
        0.5, gt=0, description="h of the contextual loss: how much farther than the nearest features still count"
    )
    nce_weight: float = Field(5.0, ge=0, description="weight of PatchNCE")
    nce_width: int = Field(256, ge=1, description="width of PatchNCE's perceptron")
    places: int = Field(256, ge=2, description="places per image and layer at which PatchNCE looks")
    temperature: float = Field(0.07, gt=0, description="of PatchNCE")
    vgg19: str | None = Field(None, description="file of ImageNet weights of VGG-19; null = seeded random weights")
    vgg_width: int = Field(64, ge=4, description="channels of VGG-19's first block; weights from a file need 64")


def contextual_term(
    output: "Sequence[Tensor]",
    reference: "Sequence[Tensor]",
    options: GenerationOptions,
    offset: Sequence[float] = (),
) -> "Tensor":
    """The weighted contextual loss between features of the output and of the reference; `offset` moves the parts."""
    from modalign.similarity.contextual import contextual_loss

    # The loss asks for a like feature of its first image at every feature of its second.
    pair = (reference, output) if options.contextual_of == "output" else (output, reference)
    return options.contextual_weight * contextual_loss(
        *pair, options.contextual_bandwidth, options.parts, offset, options.contextual_form
    )


def torch_random(device: "torch.device | str", seed: int, *purpose: str) -> "torch.Generator":
    """A PyTorch generator on a device, seeded for one purpose."""
    import torch

    from modalign.seeds import derive_seed

    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))
