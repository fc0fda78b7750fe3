"""Dual-modality: a network across contrasts, trained by similarities within each contrast of pairs aligned before."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from modalign.cases import Alignment, Case, CaseStore
from modalign.errors import DataError
from modalign.methods._registration import by_field, check_images
from modalign.methods._trained import TrainedMethod
from modalign.methods.base import moving_on_fixed_grid
from modalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.networks.valid_unet import ValidUNet
    from modalign.training.data import Batch
    from modalign.training.loop import Networks, Phases

VALIDATION_PATCHES = 64
"""Patches that a validation looks at, at most."""
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "epochs": 12,
        "batch": 2,
        "optimiser": "sgd",
        "learning_rate": 0.01,
        "schedule": "multistep",
        "milestones": tuple(range(4, 100, 4)),
        "drop": 0.5,
        "patch": 68,
        "patches": 18_800,
        "flips": True,
    },
    "small": {
        "steps": 250,
        "batch": 1,
        "learning_rate": 0.003,
        "schedule": "linear",
        "channels": (8, 16, 32),
        "convolutions": 1,
        "patch": None,
        "region": "centre",
        "deform_voxels": 1.5,
        "laplacian_weight": 0.1,
        "magnitude_weight": 0.001,
    },
}
"""Settings, each overridden by the option of its name. `paper` is section 3 of the publication, which names no number
of epochs, but 40 hours, and an end when the validation gets no better: here the best weights of 12 epochs are kept. Its
9.4 K patches of each pair and as many of its mirror image make an epoch. `small` is for demonstrations and tests."""


class DualModality(TrainedMethod):
    """A network that sees two contrasts and is judged within each, on training pairs that were aligned beforehand.

    The aligned pairs give both scans a counterpart of the other contrast. The field is to bring the moving image onto
    the counterpart of the fixed one, and the counterpart of the moving image onto the fixed one. No counterpart is
    needed to align.
    """

    label = "Dual-modality (Cao et al.)"
    kind = "registration"
    dimensions = frozenset({3})
    source = "Cao et al. 2018"

    class Options(TrainingOptions):
        """Settings of network, losses, training pairs and patches; intensities are scaled to [0, 1]."""

        presets = PRESETS

        preset: Literal["paper", "small"] = Field("paper", description="defaults for network and training")
        channels: tuple[int, int, int] = Field(
            (32, 64, 128), description="channels of the U-Net per level, downwards; not in the paper"
        )
        convolutions: Literal[1, 2] = Field(
            2, description="convolutions per level; with 1, the network sees 10 instead of 20 voxels around its output"
        )
        supervision: Literal["both", "fixed", "moving"] = Field(
            "both",
            description="contrasts that are compared, by half each (equation 2), or the fixed or the moving one alone",
        )
        laplacian_weight: float = Field(
            0.5, ge=0, description="weight of the field's squared Laplacian, mean over voxels, in voxels"
        )
        magnitude_weight: float = Field(
            0.01, ge=0, description="weight of the field's squared length, mean over voxels, in voxels squared"
        )
        region: Literal["patch", "centre"] = Field(
            "patch",
            description="where images are correlated: over the whole patch, with a field of zero around the centre "
            "(figure 2), or at the centre alone, where the network predicts the field",
        )
        patch: int | None = Field(
            68, ge=26, description="side of the patches in voxels, 44, 48 ...; null = whole images with a margin"
        )
        patches: int = Field(1, ge=1, description="patches of each case in an epoch")
        flips: bool = Field(False, description="mirror pairs at random along x in training")
        deform_voxels: float = Field(
            0.0,
            ge=0,
            description="in training, deform the moving image and its counterpart further, alike: standard deviation "
            "in voxels; not in the paper",
        )
        pairs: Literal["labels", "syn", "labels-only"] = Field(
            "labels",
            description="how training pairs are aligned: SyN, and then demons on their label maps where there are any; "
            "SyN alone; or demons alone",
        )

        @model_validator(mode="after")
        def _fitting(self) -> "DualModality.Options":
            from modalign.networks.valid_unet import fits

            if self.patch is not None and not fits([self.patch], self.convolutions):
                least = 8 + 18 * self.convolutions
                raise ValueError(f"patch is {self.patch}: the network takes {least}, {least + 4}, {least + 8} ...")
            return self

    options: Options

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Align the pairs of training and validation, learn from them, and write the best weights to ``weights.pt``."""
        import torch

        from modalign.training.aligned_pairs import PairedPatches, write_pairs
        from modalign.training.data import draw_cases
        from modalign.training.devices import make_deterministic
        from modalign.training.registration import randomly_deformed

        options, context, purpose = self.options, self.context, (store.dataset, self.name)
        ids = {split: store.ids([split]) for split in ("train", "validation")}
        if not ids["train"]:
            raise DataError(
                f"{store.folder} has no training cases: choose a split with some, or a method without training"
            )
        ids["train"] = draw_cases(ids["train"], options.train_fraction, context.seed, store.dataset)
        written = {
            split: write_pairs(store, cases, self._state / f"pairs-{split}.h5", options.pairs, context)
            for split, cases in ids.items()
            if cases
        }
        paths = {split: self._state / f"pairs-{split}.h5" for split in written}
        train = PairedPatches(paths["train"], options, context.seed, purpose)
        limits = {role: train.limits(role) for role in ("fixed", "moving")}
        make_deterministic(context.seed, context.device, context.threads, *purpose, "initial weights")
        network = self._network()

        def losses(networks: "Networks", batch: "Batch", step: int) -> "Phases":
            if options.deform_voxels > 0:
                seen = torch.cat([batch["moving"], batch["fixed_pair"]], dim=1)
                deformed = randomly_deformed(seen, options.deform_voxels, context.seed, *purpose, "deform", str(step))
                batch = {**batch, "moving": deformed[:, :1], "fixed_pair": deformed[:, 1:]}
            yield (self.name,), self._terms(networks[self.name], batch, limits)

        def validate(networks: "Networks") -> float:
            values = [
                torch.stack(list(self._terms(networks[self.name], batch, limits).values())).sum()
                for batch in validation.first(VALIDATION_PATCHES, context.device)
            ]
            return float(torch.stack(values).mean())

        judge = None
        if "validation" in paths:
            still = options.model_copy(update={"flips": False})
            validation = PairedPatches(paths["validation"], still, context.seed, (*purpose, "validation"))
            judge = validate
        digest = " ".join(str(about["made_from"]) for about in written.values())
        record = self._descend({self.name: network}, losses, train, digest, validate=judge)
        self._save(network, limits=limits)
        return {
            **record,
            "pairs": sum(map(len, ids.values())),
            "pairs_with_labels": sum(int(about["with_labels"]) for about in written.values()),
            "pairing_seconds": sum(float(about["seconds"]) for about in written.values()),
        }

    def _terms(
        self, network: "nn.Module", batch: "Batch", limits: Mapping[str, tuple[float, float]]
    ) -> "dict[str, Tensor]":
        """The weighted terms of equations 2 and 4.

        Args:
            network: from both images (B, 2, *S) to the field (B, 3, *(S - 40)) in voxels.
            batch: its images, see :data:`modalign.training.aligned_pairs.IMAGES`, (B, 1, *S).
            limits: for `fixed` and `moving`, the intensities that the network sees as 0 and 1.
        """
        import torch
        from torch.nn import functional

        from modalign.networks.valid_unet import centre, margin_of
        from modalign.similarity.ncc import global_ncc
        from modalign.spatial.warp import warp
        from modalign.training.aligned_pairs import IMAGES
        from modalign.training.registration import scaled

        options, margin = self.options, margin_of(self.options.convolutions)
        images = {part: scaled(batch[part], limits[part.removesuffix("_pair")]) for part in IMAGES}
        field = network(torch.cat([images["fixed"], images["moving"]], dim=1))

        def dissimilarity(still: "Tensor", moved: "Tensor") -> "Tensor":
            if options.region == "patch":
                return global_ncc(still, warp(moved, functional.pad(field, [margin] * 6)))
            # The field's first voxel lies at voxel `margin` of the images.
            return global_ncc(centre(still, field.shape[2:]), warp(moved, field + margin))

        compared = {"fixed": ("fixed", "fixed_pair"), "moving": ("moving_pair", "moving")}
        if options.supervision != "both":
            compared = {options.supervision: compared[options.supervision]}
        terms = {
            f"{contrast} contrast": dissimilarity(images[still], images[moved]) / len(compared)
            for contrast, (still, moved) in compared.items()
        }
        terms["laplacian"] = options.laplacian_weight * _laplacian(field).square().sum(1).mean()
        terms["magnitude"] = options.magnitude_weight * field.square().sum(1).mean()
        return terms

    def align(self, case: Case) -> Alignment:
        """The field tile by tile; the image is the original moving image in one linear interpolation."""
        import torch

        from modalign.networks.valid_unet import margin_of
        from modalign.training.aligned_pairs import cut, inner_shape
        from modalign.training.registration import scaled

        check_images(case)
        torch.set_num_threads(self.context.threads)
        network, about = self._ready
        seen, shape = moving_on_fixed_grid(case), case.fixed.shape
        images = [
            scaled(torch.from_numpy(volume.data.astype(np.float32)), about["limits"][role]).numpy()
            for role, volume in (("fixed", seen.fixed), ("moving", seen.moving))
        ]
        tile = inner_shape([shape], self.options.patch, self.options.convolutions)
        margin = margin_of(self.options.convolutions)
        field = np.zeros((3, *shape), np.float32)
        for start in itertools.product(*[range(0, n, t) for n, t in zip(shape, tile, strict=True)]):
            box = torch.from_numpy(np.stack([cut(image, start, tile, margin) for image in images]))[None]
            with torch.no_grad():
                predicted = network(box.to(self.context.device))[0].cpu().numpy()
            place = tuple(slice(s, min(s + t, n)) for s, t, n in zip(start, tile, shape, strict=True))
            field[(slice(None), *place)] = predicted[(slice(None), *[slice(p.stop - p.start) for p in place])]
        return by_field(case, field)

    def _network(self) -> "ValidUNet":
        from modalign.networks.valid_unet import ValidUNet

        return ValidUNet(self.options.channels, self.options.convolutions)


def _laplacian(field: "Tensor") -> "Tensor":
    """The Laplacian (B, 3, *(S - 2)) of a field (B, 3, *S) by second differences, where there are all neighbours."""
    inside = field[:, :, 1:-1, 1:-1, 1:-1]
    result = -6 * inside
    for axis in range(2, 5):
        for shift in (-1, 1):
            result = result + field.roll(shift, axis)[:, :, 1:-1, 1:-1, 1:-1]
    return result
