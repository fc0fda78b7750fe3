"""Pseudo-CT: what the moving contrast would look like in the fixed scan's geometry, learned from misaligned pairs."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from modalign.cases import Alignment, Case, CaseStore
from modalign.errors import DataError
from modalign.methods._batches import to_batch, to_volume
from modalign.methods._registration import check_images
from modalign.methods._trained import TrainedMethod
from modalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from modalign.networks.pseudo_ct import UNet
    from modalign.training.data import Batch

_ADAM = {"learning_rate": 1e-4, "betas": (0.5, 0.999)}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**_ADAM, "epochs": 15, "batch": 4, "crop": (64, 64, 64)},
    "small": {
        **_ADAM,
        "learning_rate": 3e-3,
        "registration_rate": 0.01,
        "adversarial_weight": 0.0,
        "steps": 250,
        "batch": 2,
        "schedule": "linear",
        "int_steps": 4,
    },
}
"""`paper`: how Locor's experiments made their pseudo-CT; `small`: for demonstrations and tests. Each setting is
overridden by the option of its name."""
PRESETS_2D: dict[str, dict[str, Any]] = {"paper": {"crop": (64, 64), "batch": 32}, "small": {"batch": 8}}


class PseudoCT(TrainedMethod):
    """A U-Net trained by registration of its own images to the moving ones, and kept in place by equivariance.

    It is judged against what it doesn't see: where scans are misaligned, a network that is trained on pairs as they are
    learns the mean misalignment and blurs the rest. Differs from the publication in one point: what is left of a rigid
    misalignment is removed by mutual information before training, and not by a third network.
    """

    label = "Pseudo-CT (equivariant)"
    kind = "translation"
    dimensions = frozenset({2, 3})
    source = "Honkamaa et al. 2023; settings of the experiments of Locor (Honkamaa and Marttinen 2025)"

    class Options(TrainingOptions):
        """Settings of the synthesis and its training."""

        presets = PRESETS
        presets_by_dimension = {2: PRESETS_2D}

        preset: Literal["paper", "small"] = Field(
            "paper", description="channels of the networks, and defaults for training that go with them"
        )
        keep: Literal["best", "last"] = Field("last", description="weights to use in the end: the last ones")
        train_on: tuple[Literal["train", "validation", "test"], ...] = Field(
            ("train",),
            description="splits to learn from. Locor's experiments take all: the images are a yardstick, and not "
            "judged themselves; for a method in a table, leave out test",
        )
        rigid: bool = Field(True, description="register each training pair rigidly first, by mutual information")
        crop: tuple[int, ...] | None = Field(None, description="size of the patches in voxels; null = whole images")
        patch_stride: int = Field(
            12, ge=1, description="voxels per patch and axis of an epoch: the smaller, the longer an epoch"
        )
        equivariance_weight: float = Field(1.0, ge=0, description="weight of F(moved x) = moved F(x)")
        rigidity_weight: float = Field(0.25, ge=0, description="weight of the rigidity penalty on the deformations")
        adversarial_weight: float = Field(0.01, ge=0, description="weight of the discriminator; 0 = none")
        discriminator_rate: float = Field(
            4.0, gt=0, description="the discriminator's learning rate, in those of the rest"
        )
        registration_rate: float = Field(
            1.0,
            gt=0,
            description="the registrations' learning rate, in those of the rest. In short trainings they otherwise "
            "learn to squeeze out of the scans what the synthesis doesn't show yet, such as bone",
        )
        rotation_deg: float = Field(25.0, ge=0, le=180, description="largest random rotation about each axis")
        shift_voxels: float = Field(8.0, ge=0, description="largest random shift along each axis")
        noise: float = Field(
            0.02,
            ge=0,
            description="largest standard deviation of noise on the fixed image, in medians of its foreground",
        )
        int_steps: int = Field(7, ge=1, le=12, description="squarings of the velocity fields' integration")

        @model_validator(mode="after")
        def _possible(self) -> "PseudoCT.Options":
            if not self.train_on:
                raise ValueError("train_on names no split: write [train], or [train, validation, test]")
            if self.keep == "best" or self.validate_every > 0:
                raise ValueError(
                    "the pseudo-CT makes no validations, and its last weights are used: leave out keep and "
                    "validate_every"
                )
            return self

    options: Options

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on the pairs of the splits that `train_on` names; the last weights go to ``weights.pt``."""
        from modalign.seeds import generator
        from modalign.training import equivariance
        from modalign.training.data import draw_cases
        from modalign.training.devices import make_deterministic
        from modalign.training.loop import Networks, Phases
        from modalign.training.misaligned_pairs import MisalignedPairs, write_pairs

        options, context, state = self.options, self.context, self._state
        ids = store.ids(options.train_on)
        if not ids:
            splits = " and ".join(options.train_on)
            raise DataError(f"{store.folder} has no cases in {splits}: give the data set's split some, or set train_on")
        ids = draw_cases(ids, options.train_fraction, context.seed, store.dataset)
        packed, spacing_mm = write_pairs(store, ids, state / "pairs.h5", rigid=options.rigid, context=context)
        spacing_mm = spacing_mm[: self.dimension]
        purpose = (store.dataset, self.name)
        pairs = MisalignedPairs(packed, self.dimension, options, context.seed, purpose)
        make_deterministic(context.seed, context.device, context.threads, *purpose, "initial weights")
        networks = self._networks()
        weights = equivariance.Weights(options.equivariance_weight, options.rigidity_weight, options.adversarial_weight)

        def seen(networks: Networks, batch: "Batch", step: int, part: slice, name: str) -> equivariance.Views:
            rng = generator(context.seed, *purpose, name, str(step))
            x, y, valid = (batch[key][part] for key in ("fixed", "moving", "moving_mask"))
            motion = equivariance.random_motion(len(x), spacing_mm, options.rotation_deg, options.shift_voxels, rng, x)
            if options.noise > 0:
                sd = rng.uniform(0, options.noise, (len(x), *[1] * (x.ndim - 1)))
                x = x + x.new_tensor(rng.standard_normal(x.shape, dtype=np.float32) * sd)
            return equivariance.look(networks, x, y, valid, motion, options.int_steps)

        def losses(networks: Networks, batch: "Batch", step: int) -> Phases:
            import torch

            discriminator, half = networks.get("discriminator"), 0
            if discriminator is not None:
                # The discriminator learns from one half of the batch, the others from the other half.
                half = len(batch["fixed"]) // 2
                with torch.no_grad():
                    judged = seen(networks, batch, step, slice(max(half, 1)), "discriminator")
                yield ("discriminator",), equivariance.discriminator_terms(discriminator, judged)
            views = seen(networks, batch, step, slice(half, None), "synthesis")
            terms = equivariance.synthesis_terms(discriminator, views, spacing_mm, weights)
            yield ("generator", "cross", "intra"), terms

        rates = {"discriminator": options.discriminator_rate}
        rates |= dict.fromkeys(("cross", "intra"), options.registration_rate)
        record = self._descend(networks, losses, pairs, pairs.digest, rate_factors=rates)
        self._save(networks["generator"])
        return {**record, "trained_on": ids}

    def align(self, case: Case) -> Alignment:
        """Synthesise the moving contrast from the fixed image; there is no field."""
        import torch

        from modalign.training.misaligned_pairs import blended, from_network, normalised_fixed

        check_images(case)
        torch.set_num_threads(self.context.threads)
        network, about = self._ready
        images = to_batch(normalised_fixed(case), self.dimension).to(self.context.device)
        with torch.no_grad():
            made = blended(network, images, about["options"]["crop"])
        return Alignment(case.fixed.like(from_network(to_volume(made), case)))

    def _networks(self) -> "dict[str, Any]":
        from modalign.networks.pseudo_ct import WIDTHS, Discriminator, RegistrationNet

        widths, dimension = WIDTHS[self.options.preset], self.dimension
        networks = {
            "generator": self._network(),
            "cross": RegistrationNet(dimension, 4, widths.registration),
            "intra": RegistrationNet(dimension, dimension + 4, widths.registration),
        }
        if self.options.adversarial_weight > 0:
            networks["discriminator"] = Discriminator(dimension, widths.discriminator)
        return networks

    def _network(self) -> "UNet":
        from modalign.networks.pseudo_ct import WIDTHS, UNet

        widths = WIDTHS[self.options.preset]
        return UNet(self.dimension, 1, 1, widths.generator, widths.groups, slope=0.01)
