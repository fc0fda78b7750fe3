"""IMSE: a registration network that descends what a spatial evaluator says about the pair."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from modalign.cases import CaseStore
from modalign.errors import ConfigError
from modalign.methods.base import Context
from modalign.methods.imse_evaluator import ImseEvaluator, evaluator_of
from modalign.methods.voxelmorph import PRESETS, PRESETS_3D, VoxelMorph

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.training.registration import RegistrationData


class Imse(VoxelMorph):
    """VoxelMorph trained by an evaluator that learned from one contrast, in both directions."""

    label = "IMSE"
    source = "Kong et al. 2023 (IMSE), section 3.2; network of Balakrishnan et al. 2019"
    needs = {"evaluator": "translation"}

    class Options(VoxelMorph.Options):
        """Settings of IMSE's registration."""

        presets = {name: {**PRESETS[name], "regularise": "displacement"} for name in PRESETS}
        smoothness = {"imse": 1.0}
        # The released penalty divides the sum over the axes by three, in 2D as well; ours is their mean.
        presets_by_dimension = {
            2: {name: {"smoothness_weight": 2 / 3} for name in PRESETS},
            3: {name: {**PRESETS_3D.get(name, {}), "smoothness_weight": 1.0} for name in PRESETS},
        }

        preset: Literal["paper", "small", "imse2d", "imse3d", "imse3d-pure"] = Field(
            "imse3d", description="channels of the U-Net, and defaults for training and integration that go with them"
        )
        similarity: Literal["imse"] = Field(  # type: ignore[assignment]
            "imse", description="the mean absolute error that the evaluator sees"
        )
        both_ways: bool = Field(
            True, description="register fixed to moving as well, by the same network; the losses are added, as released"
        )

    options: Options

    def __init__(self, options: Mapping[str, Any] | None = None, dimension: int = 3, context: Context | None = None):
        super().__init__(options, dimension, context)
        evaluator_of(self)

    @property
    def _evaluator(self) -> ImseEvaluator:
        evaluator = evaluator_of(self)
        if evaluator is None:
            raise ConfigError("method imse needs an evaluator: name a variant of imse_evaluator")
        return evaluator

    def _start(self, store: CaseStore) -> "tuple[RegistrationData, nn.Module]":
        from modalign.training.registration import origin

        data, network = super()._start(store)
        if dict(self._evaluator.limits) != dict(data.limits):
            raise ConfigError(
                "method imse: its evaluator was trained on other images, or on another share of them: "
                f"intensities {self._evaluator.limits}, not {dict(data.limits)}"
            )
        # What the network descends are the evaluator's weights as well: another evaluator is another training.
        return replace(data, digest=f"{data.digest} {origin(store, 'train', self._evaluator)}"), network

    def _terms(
        self, network: Any, moving: "Tensor", fixed: "Tensor", mask: "Tensor | None", step: int
    ) -> "dict[str, Tensor]":
        from modalign.similarity.filters import weighted_mean
        from modalign.spatial.warp import warp

        def error(a: "Tensor", b: "Tensor", weights: "Tensor | None") -> "Tensor":
            """Of a moving and a fixed image: the one that the evaluator knows is its reference."""
            source, reference = (b, a) if self._evaluator.role == "moving" else (a, b)
            return weighted_mean(self._evaluator.error(2 * source - 1, 2 * reference - 1).abs(), weights)

        field, velocity = network(moving, fixed)
        warped = warp(moving, field)
        similarity, smoothness = error(warped, fixed, mask), self._roughness(field, velocity, warped)
        if self.options.both_ways:
            field, velocity = network(fixed, moving)
            warped = warp(fixed, field)
            # The mask lies on the fixed image, and says nothing here.
            similarity = similarity + error(moving, warped, None)
            smoothness = smoothness + self._roughness(field, velocity, warped)
        return {
            "similarity": self.options.similarity_weight * similarity,
            "smoothness": self.options.weight_of_smoothness * smoothness,
        }
