"""Stage 2 of RbG and RegistFormer: a first output, refined by what the reference holds around where R points."""

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modalign.cases import INPUTS, Alignment, Case, CaseStore
from modalign.errors import DataError
from modalign.methods._batches import from_network, in_pieces, to_batch, to_network, to_volume
from modalign.methods._registration import check_images, torch_threads
from modalign.methods._stage2_options import AXES
from modalign.methods._trained import TrainedMethod
from modalign.methods.base import Method, moving_on_fixed_grid
from modalign.volumes import Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.networks.stage2 import Stage2
    from modalign.training.data import PackedCases
    from modalign.training.registration import Limits

log = logging.getLogger(__name__)

TOGETHER = 8
"""Slices in one pass when aligning."""


class _AsItIs(Method):
    """Stands where R's translator was: what R is given as fixed is the translation already."""

    kind = "translation"
    dimensions = frozenset({2, 3})

    def align(self, case: Case) -> Alignment:
        return Alignment(case.fixed)


class Stage2Method(TrainedMethod):
    """Two frozen methods and a network: stage 1 makes a first output, R the field between it and the reference.

    What both make of the training cases is computed once, on whole images, and kept in the state folder; crops are
    taken from that. In 3D (no paper has it) the network works on volumes, and losses look at their axial slices.
    """

    kind = "generation"
    dimensions = frozenset({2, 3})
    needs: ClassVar[Mapping[str, str]] = {"stage1": "translation", "registration": "registration"}

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on the outputs of stage 1 and R; the network's last weights go to ``weights.pt``."""
        from modalign.methods._stage2_losses import Stage2Losses
        from modalign.networks.vgg import describe
        from modalign.training.data import data_digest
        from modalign.training.devices import make_deterministic

        options, context = self.options, self.context
        data, made = self._training_data(store, self._state)
        limits: Limits = {role: data.limits(role) for role in ("fixed", "moving")}
        make_deterministic(context.seed, context.device, context.threads, store.dataset, self.name, "initial weights")
        networks = self._networks()
        steps = options.total_steps(max(1, data.steps_per_epoch // options.devices))
        losses = Stage2Losses(options, limits, context.seed, (store.dataset, self.name), steps)
        record = self._descend(networks, losses, data, data_digest(store.pack("train"), made))
        self._save(networks["stage2"], limits=dict(limits))
        return record | {"vgg19": describe(options.vgg19)}

    def align(self, case: Case) -> Alignment:
        """Generate the aligned image; there is no field."""
        check_images(case)
        network, about = self._ready
        limits: Limits = about["limits"]
        seen = moving_on_fixed_grid(case)
        initial, field = self._first(seen)
        inputs = (
            to_network(to_batch(seen.fixed.data, self.dimension), limits["fixed"]),
            to_network(initial, limits["moving"]),
            to_network(to_batch(seen.moving.data, self.dimension), limits["moving"]),
            field,
        )
        with torch_threads(self.context.threads):
            made = in_pieces(network, *inputs, together=TOGETHER, device=self.context.device)
        return Alignment(Volume(to_volume(from_network(made, limits["moving"])), case.grid.affine.copy()))

    def _first(self, case: Case) -> "tuple[Tensor, Tensor]":
        """Stage 1's output and the field for the attention, as batches, of a case on one grid."""
        import torch

        from modalign.networks.stage2 import daca_field

        initial = to_batch(self.context.needs["stage1"].align(case).image.data, self.dimension)
        registration = copy.copy(self.context.needs["registration"])
        given = {role: _AsItIs(dimension=registration.dimension) for role in registration.context.needs}
        registration.context = replace(registration.context, needs=given)

        def register(moving: "Tensor", fixed: "Tensor") -> "Tensor":
            volumes = [Volume(to_volume(images), case.grid.affine) for images in (moving, fixed)]
            found = registration.align(replace(case, moving=volumes[0], fixed=volumes[1], moving_mask=None))
            assert found.field is not None  # registration methods deform
            return torch.cat([to_batch(u, self.dimension) for u in found.field[: self.dimension]], 1)

        moving = to_batch(case.moving.data, self.dimension)
        return initial, daca_field(register, initial, moving, self.options.daca_flow)

    def _training_data(self, store: CaseStore, state: Path) -> "tuple[PackedCases, Path]":
        """Pairs to learn from, with what stage 1 and R make of them, and the file that keeps this."""
        import h5py

        from modalign.digest import code_digest
        from modalign.files import replacing
        from modalign.training.data import PackedCases, Sampling, draw_cases
        from modalign.training.registration import origin

        options, context = self.options, self.context
        if not store.ids(["train"]):
            message = f"{store.folder} has no training cases: choose a split with some, or a method without training"
            raise DataError(message)
        cases = draw_cases(store.ids(["train"]), options.train_fraction, context.seed, store.dataset)
        path, parts = state / "first-train.h5", ("initial", *(f"field_{axis}" for axis in AXES[: self.dimension]))
        origins = [origin(store, "train", method) for method in context.needs.values()]
        made_from = json.dumps(
            [origins, cases, options.daca_flow, self.dimension, code_digest(Stage2Method.__module__)]
        )
        if not _made(path, made_from):
            with replacing(path) as temporary, h5py.File(temporary, "w") as file:
                file.attrs["made_from"] = made_from
                for number, name in enumerate(cases, 1):
                    initial, field = self._first(moving_on_fixed_grid(store.load(name, INPUTS)))
                    for part, images in zip(parts, (initial, *field.split(1, 1)), strict=True):
                        file[f"{name}/{part}"] = to_volume(images)
                    log.info("first output of %s, %d of %d", name, number, len(cases))
        sampling = Sampling(self.dimension, options.batch, options.crop)
        purpose = (store.dataset, self.name)
        data = PackedCases(store.pack("train"), sampling, context.seed, purpose, cases=cases, beside=(path, parts))
        return data, path

    def _networks(self) -> "dict[str, nn.Module]":
        from modalign.networks.gan import PatchDiscriminator
        from modalign.networks.stage2 import SCALES
        from modalign.networks.vgg import layer_channels
        from modalign.similarity.patch_nce import PatchSampler

        options = self.options
        networks: dict[str, nn.Module] = {"stage2": self._network()}
        if options.nce_weight > 0:
            channels = layer_channels(options.nce_layers, options.vgg_width)
            if options.nce_features == "extractors":
                channels = [options.channels] * SCALES
            networks["sampler"] = PatchSampler(channels, options.nce_width, shared=len(set(channels)) == 1)
        if options.gan_weight > 0:
            width, layers = options.discriminator_channels, options.discriminator_layers
            networks["discriminator"] = PatchDiscriminator(2, 1, width, layers, options.discriminator_norm)
        return networks

    def _network(self) -> "Stage2":
        from modalign.networks.stage2 import Stage2

        options = self.options
        return Stage2(
            options.channels,
            options.window,
            options.heads,
            self.dimension,
            options.initialisation,
            options.attention,
            options.output_gain,
        )


def _made(path: Path, made_from: str) -> bool:
    import h5py

    if not path.is_file():
        return False
    with h5py.File(path, "r") as file:
        return file.attrs.get("made_from") == made_from
