"""TransMorph: a transformer that sees the whole pair, and a convolutional decoder that predicts the displacement."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from modalign.methods._learned_registration import LearnedRegistration, RegistrationOptions

if TYPE_CHECKING:
    from torch import Tensor

    from modalign.networks.transmorph import TransMorph as Network

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"epochs": 100, "batch": 1, "learning_rate": 1e-4, "similarity_weight": 4.0},
    "original": {"epochs": 500, "batch": 1, "learning_rate": 1e-4, "optimiser": "amsgrad", "schedule": "polynomial"},
    "small": {
        "steps": 90,
        "batch": 2,
        "learning_rate": 2e-3,
        "schedule": "linear",
        "embed_dim": 16,
        "depths": (2, 2, 2, 2),
        "num_heads": (2, 2, 4, 4),
        "attention_window": (4, 4, 4),
        "head_channels": 8,
        "drop_path": 0.0,
        "radius": 1,
        "deform_voxels": 2.0,
    },
}
"""Settings, each overridden by the option of its name. `paper` is RbG's training, whose images lie in
[-1, 1]: four times the squared difference of images in [0, 1]. `original` is that of TransMorph."""


class TransMorph(LearnedRegistration):
    """Trained on the similarity of the warped moving image to the fixed one, and the smoothness of the displacement."""

    label = "TransMorph"
    dimensions = frozenset({2, 3})
    source = "Chen et al. 2022 (network, loss; blocks from MONAI); RbG (training after a translation)"

    class Options(RegistrationOptions):
        """Settings of TransMorph."""

        presets = PRESETS
        smoothness = {"mae": 0.5, "mse": 0.02, "ncc": 1.0, "mi": 2.0, "mind": 0.5}

        preset: Literal["paper", "original", "small"] = Field("paper", description="defaults for network and training")
        embed_dim: int = Field(96, ge=2, description="channels of the first of four stages, doubled from each to next")
        depths: tuple[int, int, int, int] = Field((2, 2, 4, 2), description="transformer blocks of each stage")
        num_heads: tuple[int, int, int, int] = Field((4, 4, 8, 8), description="attention heads of each stage")
        attention_window: tuple[int, int, int] = Field(
            (5, 6, 7), description="patches along each axis that attend to each other; in 2D, the first two count"
        )
        head_channels: int = Field(16, ge=1, description="channels at full resolution")
        drop_path: float = Field(0.3, ge=0, lt=1, description="share of blocks skipped at random in the last stage")
        smoothness_weight: float | None = Field(
            None,
            ge=0,
            description="weight of the displacement's mean squared gradient, averaged over axes; null = 0.5 (mae), "
            "0.02 (mse), 1 (ncc), 2 (mi), 0.5 (mind)",
        )

        @model_validator(mode="after")
        def _fitting(self) -> "TransMorph.Options":
            for stage, heads in enumerate(self.num_heads):
                channels = self.embed_dim * 2**stage
                if channels % heads:
                    raise ValueError(f"stage {stage + 1} has {channels} channels, which {heads} heads can't share")
            return self

    options: Options

    def _terms(
        self, network: Any, moving: "Tensor", fixed: "Tensor", mask: "Tensor | None", step: int
    ) -> "dict[str, Tensor]":
        from modalign.similarity.regularisation import gradient_l2
        from modalign.spatial.warp import warp

        options, field = self.options, network(moving, fixed)
        similarity = options.similarity_loss()(fixed, warp(moving, field), mask)
        return {
            "similarity": options.similarity_weight * similarity,
            "smoothness": options.weight_of_smoothness * gradient_l2(field),
        }

    def _network(self) -> "Network":
        from modalign.networks.transmorph import TransMorph as Network

        options = self.options
        return Network(
            self.dimension,
            options.embed_dim,
            options.depths,
            options.num_heads,
            options.attention_window,
            options.head_channels,
            options.drop_path,
        )
