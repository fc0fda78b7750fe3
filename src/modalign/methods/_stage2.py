"""Stage 2 of RbG and RegistFormer: a first output, refined by what the reference holds around where R points."""

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modalign.cases import INPUTS, Alignment, Case, CaseStore
from modalign.errors import ConfigError, DataError, ModalignError
from modalign.methods._registration import check_images, torch_threads
from modalign.methods._stage2_options import AXES
from modalign.methods._translation import from_network, to_network
from modalign.methods.base import Context, Method, moving_on_fixed_grid
from modalign.volumes import Volume

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from modalign.networks.stage2 import Stage2
    from modalign.training.data import PackedCases
    from modalign.training.registration import Limits

log = logging.getLogger(__name__)

TOGETHER = 8
"""Slices in one pass when aligning."""
PRESETS_3D: dict[str, dict[str, Any]] = {
    "paper": {"batch": 1, "crop": (96, 96, 32), "window": 7},
    "small": {"batch": 1, "window": 3},
}
"""What differs for volumes."""


class _AsItIs(Method):
    """Stands where R's translator was: what R is given as fixed is the translation already."""

    kind = "translation"
    dimensions = frozenset({2, 3})

    def align(self, case: Case) -> Alignment:
        return Alignment(case.fixed)


class Stage2Method(Method):
    """Two frozen methods and a network: stage 1 makes a first output, R the field between it and the reference.

    What both make of the training cases is computed once, on whole images, and kept in the state folder; crops are
    taken from that. In 3D (no paper has it) the network works on volumes, and losses look at their axial slices.
    """

    kind = "generation"
    dimensions = frozenset({2, 3})
    needs: ClassVar[Mapping[str, str]] = {"stage1": "translation", "registration": "registration"}
    options: Any

    def __init__(self, options: Any = None, dimension: int = 3, context: Context | None = None):
        if dimension == 3:
            options = {**PRESETS_3D.get((options or {}).get("preset", "paper"), {}), **(options or {})}
        super().__init__(options, dimension, context)
        crop = self.options.crop
        if crop is not None and len(crop) != dimension:
            raise ConfigError(f"method {self.name}: crop has {len(crop)} numbers, and the images have {dimension} axes")
        self._loaded: tuple[Stage2, Limits] | None = None

    @property
    def name(self) -> str:
        """The name of the method's file."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on the outputs of stage 1 and R; the network's last weights go to ``weights.pt``."""
        from modalign.digest import code_digest
        from modalign.methods._stage2_losses import Stage2Losses
        from modalign.networks.vgg import describe
        from modalign.training import checkpoint
        from modalign.training.data import data_digest
        from modalign.training.devices import make_deterministic
        from modalign.training.loop import fit
        from modalign.training.registration import save_weights

        options, context = self.options, self.context
        if context.model is None:
            raise ModalignError("training needs a folder for the weights: name it as the model")
        state, device = context.state or context.model / "state", context.device
        data, made = self._training_data(store, state)
        limits: Limits = {role: data.limits(role) for role in ("fixed", "moving")}
        make_deterministic(context.seed, device, context.threads, store.dataset, self.name, "initial weights")
        networks = self._networks()
        steps = options.total_steps(data.steps_per_epoch)
        losses = Stage2Losses(options, limits, context.seed, (store.dataset, self.name), device, steps)
        settings = {**options.model_dump(), "dimension": self.dimension, "threads": context.threads, "device": device}
        settings.pop("checkpoint_seconds")
        digest = data_digest(store.pack("train"), made)
        record = fit(
            networks,
            losses,
            data,
            options,
            state,
            checkpoint.fingerprint(settings, digest, code_digest(type(self).__module__), context.seed),
            seed=context.seed,
            device=device,
            threads=context.threads,
        )
        about = {"options": options.model_dump(mode="json"), "dimension": self.dimension, "limits": dict(limits)}
        save_weights(context.model / "weights.pt", networks["stage2"].state_dict(), **about)
        return record | {"vgg19": describe(options.vgg19)}

    def align(self, case: Case) -> Alignment:
        """Generate the aligned image; there is no field."""
        import torch

        check_images(case)
        network, limits = self._ready
        seen = moving_on_fixed_grid(case)
        initial, field = self._first(seen)
        inputs = (
            to_network(to_batch(seen.fixed.data, self.dimension), limits["fixed"]),
            to_network(initial, limits["moving"]),
            to_network(to_batch(seen.moving.data, self.dimension), limits["moving"]),
            field,
        )
        with torch_threads(self.context.threads), torch.no_grad():
            pieces = [
                network(*(piece.to(self.context.device) for piece in some)).cpu()
                for some in zip(*(x.split(TOGETHER) for x in inputs), strict=True)
            ]
        image = to_volume(from_network(torch.cat(pieces).float(), limits["moving"]))
        return Alignment(Volume(image, case.grid.affine.copy()))

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
        made_from = json.dumps([origins, cases, options.daca_flow, self.dimension])
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
        from modalign.networks.vgg import layer_channels
        from modalign.similarity.patch_nce import PatchSampler

        options = self.options
        networks: dict[str, nn.Module] = {"stage2": self._network()}
        if options.nce_weight > 0:
            channels = layer_channels(options.nce_layers, options.vgg_width)
            networks["sampler"] = PatchSampler(channels, options.nce_width, shared=len(set(channels)) == 1)
        if options.gan_weight > 0:
            width, layers = options.discriminator_channels, options.discriminator_layers
            networks["discriminator"] = PatchDiscriminator(2, 1, width, layers, options.discriminator_norm)
        return networks

    def _network(self) -> "Stage2":
        from modalign.networks.stage2 import Stage2

        options = self.options
        return Stage2(options.channels, options.window, options.heads, self.dimension, options.initialisation)

    @property
    def _ready(self) -> "tuple[Stage2, Limits]":
        """The trained network on its device, read once, and the intensity limits of the training split."""
        from modalign.training.registration import load_weights

        if self._loaded is None:
            if self.context.model is None:
                raise ConfigError(f"method {self.name} has to be trained first: name the folder of its model")
            about = load_weights(self.context.model / "weights.pt")
            if about["dimension"] != self.dimension:
                message = (
                    f"{self.context.model} was trained in {about['dimension']} dimensions, not in {self.dimension}"
                )
                raise ConfigError(f"{message}: train it again")
            network = self._network()
            network.load_state_dict(about["weights"])
            self._loaded = network.to(self.context.device).eval(), about["limits"]
        return self._loaded


def to_batch(volume: "np.ndarray", dimension: int) -> "Tensor":
    """A volume (X, Y, Z) as a batch of its axial slices (Z, 1, X, Y), or in 3D as (1, 1, X, Y, Z), float32."""
    import numpy as np
    import torch

    images = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
    return images.permute(2, 0, 1)[:, None].contiguous() if dimension == 2 else images[None, None]


def to_volume(batch: "Tensor") -> "np.ndarray":
    """The way back from :func:`to_batch`."""
    import numpy as np

    images = batch[:, 0].permute(1, 2, 0) if batch.ndim == 4 else batch[0, 0]
    return np.ascontiguousarray(images.numpy())


def _made(path: Path, made_from: str) -> bool:
    import h5py

    if not path.is_file():
        return False
    with h5py.File(path, "r") as file:
        return file.attrs.get("made_from") == made_from
