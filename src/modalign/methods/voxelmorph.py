"""VoxelMorph: a U-Net that learns to predict the deformation of a pair in one pass."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from modalign.methods._learned_registration import LearnedRegistration, RegistrationOptions

if TYPE_CHECKING:
    from torch import Tensor

    from modalign.networks.voxelmorph import VoxelMorph as Network

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"epochs": 100, "batch": 10, "learning_rate": 1e-4, "schedule": "multistep"},
    "small": {"steps": 250, "batch": 6, "learning_rate": 2e-3, "schedule": "linear", "deform_voxels": 2.0},
    "imse2d": {"epochs": 100, "batch": 8, "learning_rate": 1e-4, "int_steps": 0, "misalign": {}},
    "imse3d": {"epochs": 600, "batch": 1, "learning_rate": 1e-4, "int_steps": 0, "misalign": {}},
    "imse3d-pure": {"epochs": 200, "batch": 2, "learning_rate": 1e-4, "int_steps": 0, "misalign": {}},
}
"""Settings that come with a network's size, each overridden by the option of its name. `paper` is the training of RbG;
`imse*` that of IMSE; `small` is for demonstrations and tests."""
PRESETS_3D: dict[str, dict[str, Any]] = {"paper": {"batch": 1}, "small": {"batch": 2, "radius": 1}}
"""What differs for volumes. On a single CPU thread, PyTorch takes longer for one volume than for two."""


class VoxelMorph(LearnedRegistration):
    """Trained on the similarity of the warped moving image to the fixed one, and the smoothness of the deformation."""

    label = "VoxelMorph"
    dimensions = frozenset({2, 3})
    source = "Balakrishnan et al. 2019 (network, loss); RbG and IMSE (training for images of two modalities)"

    class Options(RegistrationOptions):
        """Settings of VoxelMorph."""

        presets = PRESETS
        presets_by_dimension = {3: PRESETS_3D}
        smoothness = {"mae": 0.5, "mse": 0.01, "ncc": 1.0, "mi": 2.0, "mind": 0.5}

        preset: Literal["paper", "small", "imse2d", "imse3d", "imse3d-pure"] = Field(
            "paper", description="channels of the U-Net, and defaults for training and integration that go with them"
        )
        encoder: tuple[int, ...] | None = Field(None, description="channels downwards, instead of the preset's")
        decoder: tuple[int, ...] | None = Field(None, description="channels upwards, instead of the preset's")
        int_steps: int = Field(7, ge=0, le=12, description="squarings of the integration; 0 = the displacement itself")
        int_downsize: int = Field(2, ge=1, le=4, description="how much coarser the velocity is than the image")
        smoothness_weight: float | None = Field(
            None,
            ge=0,
            description="weight of the mean squared gradient, averaged over axes; null = 0.5 (mae), 0.01 (mse), 1 "
            "(ncc), 2 (mi), 0.5 (mind). RbG sums over axes, so its 0.5 is 1.0 here in 2D",
        )
        regularise: Literal["velocity", "displacement", "image"] = Field(
            "velocity",
            description="smooth the velocity before integration (VoxelMorph), the displacement (RbG as released), or "
            "the warped image (RbG as printed)",
        )

        @model_validator(mode="after")
        def _fitting(self) -> "VoxelMorph.Options":
            if self.preset == "small" and (self.int_steps == 0 or self.int_downsize != 2):
                raise ValueError("preset small needs integration at half resolution: int_steps above 0, int_downsize 2")
            return self

    options: Options

    def _terms(
        self, network: Any, moving: "Tensor", fixed: "Tensor", mask: "Tensor | None", step: int
    ) -> "dict[str, Tensor]":
        from modalign.spatial.warp import warp

        field, velocity = network(moving, fixed)
        warped = warp(moving, field)
        similarity = self.options.similarity_loss()(fixed, warped, mask)
        return {
            "similarity": self.options.similarity_weight * similarity,
            "smoothness": self.options.weight_of_smoothness * self._roughness(field, velocity, warped),
        }

    def _roughness(self, field: "Tensor", velocity: "Tensor", warped: "Tensor") -> "Tensor":
        """What the option `regularise` says has to be smooth."""
        from modalign.similarity.regularisation import gradient_l2

        options = self.options
        if options.regularise == "image":
            return gradient_l2(warped)
        if options.regularise == "velocity" and options.int_steps > 0:
            # A gradient is the same number on the coarse grid; VoxelMorph multiplies its penalty there by the factor.
            return gradient_l2(velocity) * options.int_downsize
        return gradient_l2(field)

    def _field(self, network: Any, moving: "Tensor", fixed: "Tensor") -> "Tensor":
        return network(moving, fixed)[0]

    def _network(self) -> "Network":
        from dataclasses import replace

        from modalign.networks.voxelmorph import ARCHITECTURES
        from modalign.networks.voxelmorph import VoxelMorph as Network

        options, architecture = self.options, ARCHITECTURES[self.options.preset]
        if options.encoder is not None:
            architecture = replace(architecture, encoder=options.encoder)
        if options.decoder is not None:
            architecture = replace(architecture, decoder=options.decoder)
        return Network(self.dimension, architecture, options.int_steps, options.int_downsize)
