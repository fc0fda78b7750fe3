"""The settings of a training that every learned method shares."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modalign.methods.base import MethodOptions

BUDGETS = frozenset({"steps", "epochs"})
"""Of these options, one says how long to learn."""


class Misalignment(BaseModel):
    """How training pairs are deformed, anew in every step; the defaults are those of IMSE, section 4.2.

    Attributes:
        of: both images, each by itself, or the moving one alone.
        rotation_deg: angles within this range, in degrees: about the axial direction in 2D, about all axes in 3D.
        translation_half_fov: shifts within this share of half the field of view, along x, y and z.
        scale: factors within 1 +- this.
        sigma_voxels: standard deviation of the Gaussian that smooths the elastic part, in voxels.
        alpha_voxels: what uniform noise in [-1, 1] is multiplied by for it, in voxels; 0 leaves it out.
        nominal_size: the size in voxels that these refer to, per axis; images of another size are deformed alike, in
            shares of their width. None for the size that images have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: Literal["both", "moving"] = "both"
    rotation_deg: float = Field(3.0, ge=0, le=180)
    translation_half_fov: tuple[float, float, float] = (0.08, 0.08, 0.04)
    scale: float = Field(0.08, ge=0, lt=1)
    sigma_voxels: float = Field(12.0, gt=0)
    alpha_voxels: float = Field(80.0, ge=0)
    nominal_size: tuple[int, ...] | None = Field(None, min_length=2, max_length=3)


class TrainingOptions(MethodOptions):
    """How long and how fast to learn. Methods add their own options to these."""

    steps: int | None = Field(None, ge=1, description="budget in optimiser steps; give this or epochs")
    epochs: float | None = Field(None, gt=0, description="budget in passes over the training split; give this or steps")
    batch: int = Field(1, ge=1, description="slices (2D) or volumes (3D) per step and device")
    train_fraction: float = Field(
        1.0, gt=0, le=1, description="share of the training cases to learn from, drawn by the seed; one at least"
    )
    learning_rate: float = Field(1e-4, gt=0, description="step size at the start")
    optimiser: Literal["adam", "adamw", "amsgrad", "sgd"] = Field(
        "adam",
        description="Adam, AdamW (decoupled weight decay), Adam with AMSGrad's step sizes, or plain gradient descent "
        "(sgd, without momentum)",
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's decay rates of the two moments")
    weight_decay: float = Field(0.0, ge=0, description="pull towards zero weights")
    schedule: Literal["constant", "multistep", "linear", "polynomial", "halving"] = Field(
        "constant",
        description="learning rate: constant; multistep = times `drop` at each milestone; linear = constant, and from "
        "linear_from on straight to 0; polynomial = (1 - t)^0.9; halving = halved after each tenth of the budget",
    )
    linear_from: float = Field(0.5, ge=0, lt=1, description="share of the budget after which `linear` falls")
    milestones: tuple[float, ...] = Field((20, 30), description="epochs at which `multistep` drops the learning rate")
    drop: float = Field(0.1, gt=0, lt=1, description="what `multistep` multiplies the learning rate by")
    clip: float | None = Field(None, gt=0, description="largest gradient norm of each network; null = no clipping")
    keep: Literal["best", "last"] = Field(
        "best", description="weights to use in the end: those of the best validation, if there is one, or the last"
    )
    validate_every: int = Field(
        0, ge=0, description="steps between validations; 0 = twenty times in all with keep: best, never with keep: last"
    )
    checkpoint_seconds: float = Field(60.0, ge=0, description="seconds between checkpoints; 0 = after every step")
    precision: Literal["32", "bf16-mixed", "16-mixed"] = Field("32", description="number format, mixed on cuda only")
    devices: int = Field(
        1, ge=1, description="GPUs of this machine to train on, each with a whole batch of its own; on a CPU, 1"
    )

    @classmethod
    def completed(cls, given: Mapping[str, Any], *presets: Mapping[str, Any]) -> dict[str, Any]:
        """As ever, but a budget overrides any earlier one, be it in steps or in epochs."""
        found: dict[str, Any] = {}
        for options in (*presets, given):
            if not options.keys().isdisjoint(BUDGETS):
                found = {option: value for option, value in found.items() if option not in BUDGETS}
            found |= options
        return found

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainingOptions":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give the training budget either in steps or in epochs")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """The budget in optimiser steps."""
        return self.steps if self.steps is not None else max(1, round((self.epochs or 0) * steps_per_epoch))

    @property
    def validates(self) -> bool:
        """Whether validations are made, where there are cases for them."""
        return self.keep == "best" or self.validate_every > 0

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0."""
        done = step / self.total_steps(steps_per_epoch)
        if self.schedule == "multistep":
            passed = sum(step >= milestone * steps_per_epoch for milestone in self.milestones)
            return self.learning_rate * self.drop**passed
        if self.schedule == "linear":
            return self.learning_rate * min(1.0, (1 - done) / (1 - self.linear_from))
        if self.schedule == "polynomial":
            return self.learning_rate * (1 - done) ** 0.9
        if self.schedule == "halving":
            return self.learning_rate * 0.5 ** int(10 * done)
        return self.learning_rate
