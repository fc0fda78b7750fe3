"""LapIRN: a pyramid of networks, trained in turn from coarse to fine, each refining the velocity of the one below."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from modalign.cases import CaseStore
from modalign.methods._learned_registration import LearnedRegistration, RegistrationOptions

if TYPE_CHECKING:
    from torch import Tensor

    from modalign.networks.lapirn import LapIRN as Network
    from modalign.training.loop import Networks

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"epochs": 100, "batch": 1, "learning_rate": 1e-4},
    "small": {
        "steps": 80,
        "batch": 6,
        "learning_rate": 5e-3,
        "schedule": "linear",
        "start_channel": 3,
        "frozen_steps": 4,
        "radius": 1,
        "deform_voxels": 2.0,
    },
}
"""Settings, each overridden by the option of its name. `paper` is RbG's training (25, 25 and 50 epochs)."""
PRESETS_3D: dict[str, dict[str, Any]] = {"small": {"steps": 48, "batch": 2, "learning_rate": 2e-3}}
"""What differs for volumes: there are few of them, and large steps unlearn what the levels below have learned."""


class LapIRN(LearnedRegistration):
    """Three networks at a quarter, half and full resolution; velocities add up and are integrated at each level.

    A level is trained with those below frozen at first, then with all of them.
    """

    label = "LapIRN"
    dimensions = frozenset({2, 3})
    source = "Mok and Chung 2020 (networks, training, loss); RbG (after a translation: squared difference)"

    class Options(RegistrationOptions):
        """Settings of LapIRN."""

        presets = PRESETS
        presets_by_dimension = {3: PRESETS_3D}
        smoothness = {"mae": 0.5, "mse": 0.01, "ncc": 14.0, "mi": 2.0, "mind": 0.5}

        preset: Literal["paper", "small"] = Field("paper", description="defaults for network and training")
        start_channel: int = Field(7, ge=1, description="a quarter of the channels of every layer")
        range_flow: float = Field(0.4, gt=0, le=2, description="largest velocity of a level, in halves of the image")
        levels: int = Field(3, ge=1, le=5, description="pyramid levels, each at twice the resolution of the last")
        level_shares: tuple[float, ...] = Field(
            (0.25, 0.25, 0.5), description="share of the training budget for each level, coarsest first"
        )
        frozen_steps: int = Field(2000, ge=0, description="steps at the start of a level that leave lower ones alone")
        int_steps: int = Field(7, ge=0, le=12, description="squarings of the integration; 0 = the displacement itself")
        smoothness_weight: float | None = Field(
            None,
            ge=0,
            description="weight of the velocity's mean squared gradient, averaged over axes; null = 0.5 (mae), 0.01 "
            "(mse), 14 (ncc), 2 (mi), 0.5 (mind). The paper's 3.5 counts in half voxels, which is 14 in voxels",
        )
        folding_weight: float = Field(0.0, ge=0, description="weight of the mean negative Jacobian determinant")
        window: int = Field(
            7, ge=3, description="width of the correlation's window at full resolution (ncc), 2 less per level below"
        )

        @model_validator(mode="after")
        def _fitting(self) -> "LapIRN.Options":
            if len(self.level_shares) != self.levels:
                message = f"level_shares has {len(self.level_shares)} numbers for {self.levels} levels: give one each"
                raise ValueError(message)
            if min(self.level_shares) <= 0 or abs(sum(self.level_shares) - 1) > 1e-6:
                raise ValueError(f"level_shares has to be positive and sum to 1, not {self.level_shares}")
            if self.similarity == "ncc" and self.window < 2 * self.levels + 1:
                raise ValueError(f"window has to be {2 * self.levels + 1} or more for {self.levels} levels")
            return self

    options: Options

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train level after level; the best weights of each on the validation split are what the next starts from."""
        import torch

        data, network = self._start(store)
        assert isinstance(network.levels, torch.nn.ModuleList)
        records = []
        for depth, share in enumerate(self.options.level_shares, start=1):
            networks = {f"level-{n}": level for n, level in enumerate(network.levels[:depth], start=1)}
            budget = {"epochs": self.options.epochs and self.options.epochs * share}
            if self.options.steps is not None:
                budget = {"steps": max(1, round(self.options.steps * share))}
            records.append(
                self._fit(
                    store,
                    data,
                    networks,
                    self._level_terms(network, depth),
                    self._learning(depth),
                    self.options.model_copy(update=budget),
                    stage=f"level-{depth}",
                )
            )
        self._save(network, limits=dict(data.limits))
        # A level that was finished before a kill counts one more resume each time that it is passed over.
        return {
            **records[-1],
            "steps": sum(record["steps"] for record in records),
            "seconds": sum(record["seconds"] for record in records),
            "resumes": max(record["resumes"] for record in records),
            "levels": records,
        }

    def _learning(self, depth: int) -> Any:
        names = tuple(f"level-{number}" for number in range(1, depth + 1))
        return lambda step: names[-1:] if step < self.options.frozen_steps else names

    def _level_terms(self, network: Any, depth: int) -> Any:
        """What the training of one level descends: similarity and smoothness at its resolution."""

        def terms(
            networks: "Networks", moving: "Tensor", fixed: "Tensor", mask: "Tensor | None", step: int
        ) -> "dict[str, Tensor]":
            levels = [networks[f"level-{number}"] for number in range(1, depth + 1)]
            frozen = step < self.options.frozen_steps
            field, velocity = network(moving, fixed, levels, frozen_below=frozen)
            if depth < self.options.levels:
                moving, fixed = (network.pyramid(image)[depth - 1] for image in (moving, fixed))
                mask = None if mask is None else network.pyramid(mask)[depth - 1]
            return self._loss(depth, field, velocity, moving, fixed, mask)

        return terms

    def _loss(
        self,
        depth: int,
        field: "Tensor",
        velocity: "Tensor",
        moving: "Tensor",
        fixed: "Tensor",
        mask: "Tensor | None",
    ) -> "dict[str, Tensor]":
        from modalign.similarity.regularisation import folding_penalty, gradient_l2
        from modalign.spatial.warp import warp

        options, warped = self.options, warp(moving, field)
        if options.similarity == "ncc":
            similarity = self._correlation(depth, fixed, warped, mask)
        else:
            similarity = options.similarity_loss()(fixed, warped, mask)
        terms = {
            "similarity": options.similarity_weight * similarity,
            "smoothness": options.weight_of_smoothness * gradient_l2(velocity),
        }
        if options.folding_weight > 0:
            terms["folding"] = options.folding_weight * folding_penalty(field)
        return terms

    def _correlation(self, depth: int, fixed: "Tensor", warped: "Tensor", mask: "Tensor | None") -> "Tensor":
        """The local correlation at this level's resolution and all below, each with half the weight of the last.

        The window shrinks by two voxels from one resolution to the next (Mok and Chung 2020, Eq. 3).
        """
        from modalign.similarity.ncc import local_ncc
        from modalign.spatial.pyramid import halved

        window = self.options.window - 2 * (self.options.levels - depth)
        total = local_ncc(fixed, warped, mask, window)
        for scale in range(1, depth):
            fixed, warped = halved(fixed), halved(warped)
            mask = None if mask is None else halved(mask)
            total = total + local_ncc(fixed, warped, mask, window - 2 * scale) / 2**scale
        return total

    def _field(self, network: Any, moving: "Tensor", fixed: "Tensor") -> "Tensor":
        return network(moving, fixed)[0]

    def _network(self) -> "Network":
        from modalign.networks.lapirn import LapIRN as Network

        options = self.options
        return Network(self.dimension, options.start_channel, options.range_flow, options.levels, options.int_steps)
