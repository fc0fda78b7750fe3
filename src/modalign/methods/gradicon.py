"""GradICON: U-Nets composed over several steps, whose maps there and back are asked to have constant composition."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from modalign.methods._learned_registration import LearnedRegistration, RegistrationOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from modalign.networks.gradicon import GradICON as Network

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "epochs": 100,
        "batch": 1,
        "learning_rate": 2e-4,
        "betas": (0.9, 0.99),
        "clip": 0.5,
        "similarity_weight": 4.0,
    },
    "small": {
        "steps": 150,
        "batch": 4,
        "learning_rate": 2e-3,
        "schedule": "linear",
        "halvings": (1, 0),
        "down": (16, 32, 64),
        "up": (16, 32, 32),
        "similarity_weight": 4.0,
        "radius": 1,
        "deform_voxels": 2.0,
    },
}
"""Settings, each overridden by the option of its name. `paper` is RbG's training, whose images lie in [-1, 1]: four
times the squared difference of images in [0, 1]."""
PRESETS_3D: dict[str, dict[str, Any]] = {"small": {"batch": 2, "steps": 45, "down": (8, 16, 32), "up": (8, 16, 16)}}


class GradICON(LearnedRegistration):
    """Trained on the similarity both ways and the gradient of the inverse consistency error; no other smoothness."""

    label = "GradICON"
    dimensions = frozenset({2, 3})
    source = "Tian et al. 2023 (network, loss); RbG (lambda 0.2 with squared differences after a translation)"

    class Options(RegistrationOptions):
        """Settings of GradICON."""

        presets = PRESETS
        presets_by_dimension = {3: PRESETS_3D}
        smoothness = {"mae": 0.0, "mse": 0.0, "ncc": 0.0, "mi": 0.0, "mind": 0.0, "gaussian-ncc": 0.0}

        preset: Literal["paper", "small"] = Field("paper", description="defaults for network and training")
        halvings: tuple[int, ...] = Field(
            (2, 1, 0),
            min_length=1,
            description="for each step, how often the images are halved; the paper's second stage adds one more 0",
        )
        down: tuple[int, ...] = Field((16, 32, 64, 256, 512), description="channels of each U-Net downwards")
        up: tuple[int, ...] = Field((16, 32, 64, 128, 256), description="channels upwards, the last one first")
        similarity: Literal["mae", "mse", "ncc", "mi", "mind", "gaussian-ncc"] = Field(  # type: ignore[assignment]
            "mind", description="mse only after a translation; gaussian-ncc is the paper's local correlation"
        )
        sigma: float = Field(5.0, gt=0, description="standard deviation of the window in voxels (gaussian-ncc)")
        consistency: Literal["gradient", "value"] = Field(
            "gradient", description="penalise the gradient of the inverse consistency error, or the error (ICON)"
        )
        consistency_weight: float = Field(
            0.2, ge=0, description="lambda: 0.2 with squared differences (RbG), 1.5 with gaussian-ncc (the paper)"
        )

        @model_validator(mode="after")
        def _fitting(self) -> "GradICON.Options":
            if len(self.down) != len(self.up):
                raise ValueError(f"down and up need as many channels each, not {len(self.down)} and {len(self.up)}")
            if min(self.halvings) < 0:
                raise ValueError(f"halvings can't be negative: {self.halvings}")
            return self

        def similarity_loss(self) -> "Callable[..., Tensor]":
            """The chosen similarity with its settings: ``loss(fixed, warped, mask)``."""
            if self.similarity == "gaussian-ncc":
                from functools import partial

                from modalign.similarity.ncc import gaussian_ncc

                return partial(gaussian_ncc, sigma=self.sigma)
            return super().similarity_loss()

    options: Options

    def _terms(
        self, network: Any, moving: "Tensor", fixed: "Tensor", mask: "Tensor | None", step: int
    ) -> "dict[str, Tensor]":
        from modalign.seeds import generator
        from modalign.similarity.inverse_consistency import gradient_of_inconsistency, inconsistency
        from modalign.similarity.regularisation import gradient_l2
        from modalign.spatial.warp import warp

        options, loss = self.options, self.options.similarity_loss()
        forward, backward = network(moving, fixed), network(fixed, moving)
        # The mask lies on the fixed grid: outside it, only the way back is compared.
        similarity = loss(fixed, warp(moving, forward), mask) + loss(moving, warp(fixed, backward), None)
        if options.consistency == "gradient":
            penalty = gradient_of_inconsistency(forward, backward, generator(self.context.seed, self.name, str(step)))
        else:
            penalty = inconsistency(forward, backward)
        terms = {
            "similarity": options.similarity_weight * similarity,
            "consistency": options.consistency_weight * penalty,
        }
        if options.weight_of_smoothness > 0:
            terms["smoothness"] = options.weight_of_smoothness * gradient_l2(forward)
        return terms

    def _network(self) -> "Network":
        from modalign.networks.gradicon import GradICON as Network

        return Network(self.dimension, self.options.halvings, self.options.down, self.options.up)
