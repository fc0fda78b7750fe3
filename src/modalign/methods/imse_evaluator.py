"""IMSE's spatial evaluator: a network that sees how far one image lies from another, whatever their contrasts."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from modalign.cases import INPUTS, Alignment, Case, CaseStore
from modalign.errors import ConfigError
from modalign.methods._batches import from_network, in_pieces, to_batch, to_network, to_volume
from modalign.methods._registration import check_images, torch_threads
from modalign.methods._trained import TrainedMethod
from modalign.methods.base import Method, moving_on_fixed_grid
from modalign.training.options import Misalignment, TrainingOptions
from modalign.volumes import Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.training.data import Batch
    from modalign.training.loop import Networks, Phases
    from modalign.training.registration import Limits

TOGETHER = 16
"""Slices in one pass when translating."""
PAPER: dict[str, Any] = {"epochs": 200, "batch": 8, "learning_rate": 1e-4, "betas": (0.5, 0.999)}
SMALL: dict[str, Any] = {
    "steps": 500,
    "batch": 6,
    "learning_rate": 1e-3,
    "betas": (0.9, 0.999),
    "output": "image",
    "schedule": "linear",
    "channels": 8,
    "blocks": 3,
}


class ImseEvaluator(TrainedMethod):
    """Trained on one contrast alone: from an image and a remapped, deformed copy of it, to their difference.

    One image x is deformed twice, to x1 and x2; the intensities of x1 are remapped at random; the network predicts
    ``(x2 - x1) / 2`` from both. Given an image y of any contrast in the place of x1, it predicts how x2 differs from y
    as it would look in the contrast of x2: an error that registration can descend, or, taken off x2, a translation
    of y, which is what `align` gives.
    """

    label = "IMSE evaluator"
    kind = "translation"
    dimensions = frozenset({2, 3})
    source = "Kong et al. 2023 (IMSE), sections 3.2, 3.3 and 4.4"

    class Options(TrainingOptions):
        """Settings of the evaluator. A preset's values are defaults of the options that it names."""

        presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": PAPER, "pure": PAPER, "small": SMALL}
        presets_by_dimension: ClassVar[dict[int, dict[str, dict[str, Any]]]] = {
            3: {
                "paper": {"epochs": 2000, "batch": 2, "padding": "replicate", "interpolate": True},
                "pure": {"epochs": 200, "batch": 1, "padding": "replicate", "interpolate": True},
                "small": {"batch": 1, "padding": "replicate", "interpolate": True},
            }
        }

        preset: Literal["paper", "pure", "small"] = Field(
            "paper", description="paper = as released (3D: IMSE-3D-Full); pure = IMSE-3D-Pure; small = demonstrations"
        )
        learn_from: tuple[str, ...] = Field(
            ("moving",),
            min_length=1,
            description="the scans that it learns from, whose contrast is its reference: moving, fixed, or modalities "
            "such as t1 and ct, of which the first counts that one of the scans has; after fixed, it can't translate",
        )
        remap: Literal["shuffle", "bezier"] = Field(
            "shuffle", description="how intensities are changed: Shuffle Remap (SR), or a monotone Bezier curve (BC)"
        )
        control_points: tuple[int, int] = Field(
            (2, 50), description="least and largest number of Shuffle Remap's control points, which the paper calls N"
        )
        extras: bool = Field(
            False,
            description="also negate, shift the histogram, sharpen, blur, bias: in the released code, not in the paper",
        )
        misalign: Misalignment = Field(
            Misalignment.model_validate({}),
            description="how x1 and x2 are deformed: rotation_deg, translation_half_fov, scale, sigma_voxels, "
            "alpha_voxels (paper 80, released 120, in 3D 160) and nominal_size",
        )
        crop: tuple[int, ...] | None = Field(
            None, description="random crops in training, voxels per axis; null = whole"
        )
        channels: int = Field(64, ge=1, description="channels of the network at full resolution")
        blocks: int = Field(9, ge=1, description="residual blocks")
        output: Literal["difference", "image"] = Field(
            "difference",
            description="what the network puts out: half the difference, as in the paper, or the source in the "
            "reference's contrast, from which the difference follows; that takes far fewer steps to learn",
        )
        padding: Literal["reflect", "replicate"] = Field("reflect", description="what lies beyond the border")
        interpolate: bool = Field(
            False, description="double by linear interpolation and a convolution, or by transposed convolutions"
        )

        @model_validator(mode="after")
        def _ordered(self) -> "ImseEvaluator.Options":
            if not 1 <= self.control_points[0] <= self.control_points[1]:
                raise ValueError(f"control_points are {list(self.control_points)}: write the least, 1 or more, first")
            return self

    options: Options

    def _network(self) -> "nn.Module":
        from modalign.networks.gan import ResnetGenerator

        options = self.options
        return ResnetGenerator(
            self.dimension,
            in_channels=2,
            channels=options.channels,
            blocks=options.blocks,
            padding=options.padding,
            interpolate=options.interpolate,
        )

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on the scans of one contrast of the training split; the best weights on the validation split stay."""
        from modalign.training.data import Sampling
        from modalign.training.devices import make_deterministic
        from modalign.training.registration import registration_data, validation_loss

        options, context, name = self.options, self.context, self.name
        sampling = Sampling(self.dimension, options.batch, options.crop)
        data = registration_data(
            store, sampling, context.seed, name, self._state, fraction=options.train_fraction, validation_crops=True
        )
        make_deterministic(context.seed, context.device, context.threads, store.dataset, name, "initial weights")
        networks: Networks = {"evaluator": self._network()}
        role = self._role(store)
        # The images of a data set that networks learn from have one voxel size, or nearly so.
        spacing = list(map(float, store.load(store.ids(["train"])[0], INPUTS).fixed.spacing))

        def loss(networks: "Networks", batch: "Batch", *purpose: str) -> "Tensor":
            images = to_network(batch[role], data.limits[role])
            changed, reference, difference = self._lesson(images, spacing, store.dataset, *purpose)
            return (self._judged(networks["evaluator"], changed, reference) - difference).abs().mean()

        def losses(networks: "Networks", batch: "Batch", step: int) -> "Phases":
            yield ("evaluator",), {"error": loss(networks, batch, "training", str(step))}

        def validate(networks: "Networks") -> float:
            assert data.validation is not None
            return validation_loss(lambda batch: loss(networks, batch, "validation"), data.validation, context.device)

        judge = validate if data.validation is not None else None
        record = self._descend(networks, losses, data.train, data.digest, validate=judge)
        self._save(networks["evaluator"], limits=dict(data.limits), role=role)
        return record | {"learned_from": role}

    def _lesson(self, images: "Tensor", spacing: list[float], *purpose: str) -> "tuple[Tensor, Tensor, Tensor]":
        """A remapped and a clean image, each deformed by itself, and half the difference that there was before."""
        from modalign.spatial.warp import warp
        from modalign.training.misalignment import misalignment
        from modalign.training.remap import remapped

        options, seed = self.options, self.context.seed
        first, second = (
            warp(images, misalignment(images, options.misalign, spacing, seed, *purpose, which))
            for which in ("first", "second")
        )
        changed = remapped(first, options.remap, options.control_points, options.extras, seed, *purpose, "remap")
        return changed, second, (second - first) / 2

    def _role(self, store: CaseStore) -> str:
        """``moving`` or ``fixed``: the scans to learn from."""
        modalities = {store.manifest.get(f"{role}_modality", role): role for role in ("fixed", "moving")}
        for name in self.options.learn_from:
            if name in ("moving", "fixed") or name in modalities:
                return modalities.get(name, name)
        raise ConfigError(
            f"method {self.name} is to learn from {' or '.join(self.options.learn_from)}, and {store.dataset} has "
            f"{' and '.join(modalities)}: write moving, fixed, or one of these"
        )

    @property
    def role(self) -> str:
        """Which of a pair is in the contrast that the network learned from: ``moving`` or ``fixed``."""
        role: str = self._ready[1]["role"]
        return role

    @property
    def limits(self) -> "Limits":
        """For fixed and moving, the intensities that the network sees as -1 and 1."""
        limits: Limits = self._ready[1]["limits"]
        return limits

    def error(self, source: "Tensor", reference: "Tensor") -> "Tensor":
        """How `reference` differs from `source` as it would look in the reference's contrast, halved.

        Args:
            source: (B, 1, *S) in any contrast, in [-1, 1].
            reference: (B, 1, *S) in the contrast that the network learned from, in [-1, 1].

        Returns:
            (B, 1, *S) in [-1, 1], with gradients for both images and none for the network.
        """
        # Read before a training knows which of several GPUs is its own.
        network = self._ready[0].to(reference.device)
        network.requires_grad_(False)
        return self._judged(network, source, reference)

    def _judged(self, network: Any, source: "Tensor", reference: "Tensor") -> "Tensor":
        import torch

        made = network(torch.cat([source, reference], dim=1))
        # Most of a difference is 0, where a network that learns by absolute errors likes to stay for a long time.
        return made if self.options.output == "difference" else (reference - made) / 2

    def align(self, case: Case) -> Alignment:
        """The fixed image in the moving contrast: moving minus twice the error between them; there is no field."""
        if self.role != "moving":
            raise ConfigError("this evaluator learned from fixed scans: it can't make the moving contrast")
        check_images(case)
        seen = moving_on_fixed_grid(case)
        fixed, moving = (
            to_network(to_batch(volume.data, self.dimension), self.limits[role])
            for role, volume in (("fixed", seen.fixed), ("moving", seen.moving))
        )

        def translate(fixed: "Tensor", moving: "Tensor") -> "Tensor":
            return (moving - 2 * self.error(fixed, moving)).clamp(-1, 1)

        with torch_threads(self.context.threads):
            made = in_pieces(translate, fixed, moving, together=TOGETHER, device=self.context.device)
        image = to_volume(from_network(made, self.limits["moving"]))
        return Alignment(Volume(np.ascontiguousarray(image), case.grid.affine.copy()))


def evaluator_of(method: Method) -> ImseEvaluator | None:
    """The evaluator that a method builds on; None if it has none.

    Raises:
        ConfigError: what it builds on is no evaluator, or works in other dimensions.
    """
    evaluator = method.context.needs.get("evaluator")
    if evaluator is None:
        return None
    if not isinstance(evaluator, ImseEvaluator) or evaluator.dimension != method.dimension:
        raise ConfigError(
            f"method {method.name} needs an evaluator in {method.dimension} dimensions, not {evaluator.name} in "
            f"{evaluator.dimension}: name a variant of imse_evaluator"
        )
    return evaluator
