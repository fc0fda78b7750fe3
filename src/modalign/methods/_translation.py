"""What the learned translations share: adversarial training on slices or volumes, and aligning with the result."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from modalign.cases import Alignment, Case, CaseStore
from modalign.methods._batches import from_network, in_pieces, padded, to_batch, to_network, to_volume
from modalign.methods._registration import check_images, torch_threads
from modalign.methods._trained import TrainedMethod
from modalign.methods.base import moving_on_fixed_grid
from modalign.training.options import TrainingOptions
from modalign.volumes import Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.metrics.features import FeatureSource
    from modalign.networks.cyclegan import Discriminators
    from modalign.training.data import Batch
    from modalign.training.loop import Networks, Phases
    from modalign.training.registration import Limits

Images = Mapping[str, "Tensor"]
"""Images (B, 1, *S) by contrast, ``fixed`` and ``moving``, or by what the networks' forward passes call them."""

TOGETHER = 16
"""Slices in one pass when aligning."""


class TranslationOptions(TrainingOptions):
    """Settings that all learned translations share. A preset's values are defaults of the options that it names."""

    paired: bool = Field(
        False, description="draw fixed and moving images of the same patient and place, or independently of each other"
    )
    crop: tuple[int, ...] | None = Field(
        None, description="random crops in training, voxels per axis; null = whole images"
    )
    flips: bool = Field(False, description="mirror images at random along x and y in training")
    keep: Literal["best", "last"] = Field(
        "last",
        description="weights to use in the end: the last, or those of the best validation",
    )
    best_by: Literal["loss", "fid"] = Field(
        "loss",
        description="the best validation has the least loss, by the method's own terms without the adversarial one, or "
        "the least FID of its translations against images of the contrast that they should have. RbG and RegistFormer "
        "picked by hand among the ten lowest FID",
    )
    inception: str | None = Field(
        None, description="file of weights of Inception-v3 (fid); null = seeded random weights, which is not FID proper"
    )
    gan_weight: float = Field(1.0, ge=0, description="weight of the adversarial term")
    pool: int = Field(0, ge=0, description="how many earlier fakes are kept for the discriminators; 0 = none")
    discriminator: Literal["patch", "multiscale"] = Field(
        "patch",
        description="70 x 70 patches with instance norm, or three scales without norm (UNIT, MUNIT as released)",
    )
    discriminator_channels: int = Field(64, ge=1, description="channels of the discriminators' first layer")
    discriminator_layers: int = Field(3, ge=1, description="how often the discriminators halve the image (patch)")
    antialias: bool = Field(True, description="blur before the patch discriminators halve")


class Translation(TrainedMethod):
    """A network that makes the moving contrast from the fixed image, trained against a discriminator.

    A method says which networks it has (:meth:`_network`), what they descend besides the adversarial term
    (:meth:`_terms`), and how an image is translated in the end (:meth:`_translate`).
    """

    kind = "translation"
    dimensions = frozenset({2, 3})
    contrasts: ClassVar[tuple[str, ...]] = ("moving", "fixed")
    """The contrasts in which fakes are made and judged."""

    def _terms(self, generators: "nn.Module", images: Images, step: int) -> "tuple[Images, dict[str, Tensor]]":
        """The fakes by contrast, and the weighted terms of the loss but the adversarial one."""
        raise NotImplementedError

    def _translate(self, generators: Any, fixed: "Tensor", moving: "Tensor") -> "Tensor":
        """Fixed images in the moving contrast; `moving` is the reference on the same grid. All in [-1, 1]."""
        raise NotImplementedError

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on the packed training split; the generators' weights go to ``weights.pt``, the last or the best."""
        import torch

        from modalign.networks.gan import ImagePool, lsgan_discriminator, lsgan_generator
        from modalign.seeds import generator
        from modalign.training.data import Sampling
        from modalign.training.devices import make_deterministic
        from modalign.training.registration import registration_data, validation_batches, validation_loss

        options, context, name = self.options, self.context, self.name
        sampling = Sampling(self.dimension, options.batch, options.crop, paired=options.paired, flips=options.flips)
        data = registration_data(
            store,
            sampling,
            context.seed,
            name,
            self._state,
            fraction=options.train_fraction,
            validation_crops=True,
        )
        make_deterministic(context.seed, context.device, context.threads, store.dataset, name, "initial weights")
        discriminators = self._discriminators()
        pools = {f"pool of {contrast}": ImagePool(options.pool) for contrast in self.contrasts}
        networks: Networks = {"generators": self._network(), "discriminators": discriminators, **pools}

        def seen(batch: "Batch") -> Images:
            return {contrast: padded(to_network(batch[contrast], data.limits[contrast])) for contrast in data.limits}

        def losses(wrapped: "Networks", batch: "Batch", step: int) -> "Phases":
            images = seen(batch)
            fakes, terms = self._terms(wrapped["generators"], images, step)
            with frozen(discriminators):
                for contrast in self.contrasts:
                    terms[f"gan {contrast}"] = options.gan_weight * lsgan_generator(
                        discriminators[contrast](fakes[contrast])
                    )
            yield ("generators",), terms

            random = generator(context.seed, store.dataset, name, "pool", str(step))
            shown = {
                contrast: pools[f"pool of {contrast}"].exchange(fakes[contrast], random) for contrast in self.contrasts
            }
            judged = wrapped["discriminators"](images, shown)
            yield (
                ("discriminators",),
                {f"discriminator {contrast}": lsgan_discriminator(*judged[contrast]) for contrast in self.contrasts},
            )

        features = _features(options.inception, context.seed, context.device)

        def validate(networks: "Networks") -> float:
            assert data.validation is not None
            if options.best_by == "fid":
                shown = (seen(batch) for batch in validation_batches(data.validation, context.device))
                return self._translations_fid(networks["generators"], shown, features)

            def loss(batch: "Batch") -> "Tensor":
                return torch.stack(list(self._terms(networks["generators"], seen(batch), 0)[1].values())).sum()

            return validation_loss(loss, data.validation, context.device)

        judge = validate if data.validation is not None else None
        record = self._descend(networks, losses, data.train, data.digest, validate=judge)
        self._save(networks["generators"], limits=dict(data.limits))
        by = f"fid{features.suffix}" if options.best_by == "fid" else "loss"
        return record | ({} if judge is None else {"best_by": by})

    def _translations_fid(self, generators: "nn.Module", shown: Iterable[Images], features: "FeatureSource") -> float:
        """The Fréchet distance between the features of translated slices and of slices of the moving contrast."""
        from modalign.metrics.distribution import frechet_distance
        from modalign.metrics.pair import to_uint8

        slices: dict[str, list[np.ndarray]] = {"real": [], "fake": []}
        for images in shown:
            made = self._translate(generators, images["fixed"], images["moving"])
            for kind, image in (("real", images["moving"]), ("fake", made)):
                flat = image if image.ndim == 4 else image.movedim(4, 1).flatten(0, 1)
                slices[kind].append(to_uint8(flat.flatten(0, 1).float().cpu().numpy(), (-1, 1)))
        real, fake = (features.inception(np.concatenate(slices[kind])) for kind in ("real", "fake"))
        return frechet_distance(real, fake)

    def align(self, case: Case) -> Alignment:
        """Translate the fixed image; there is no field."""
        check_images(case)
        generators, about = self._ready
        limits: Limits = about["limits"]
        seen = moving_on_fixed_grid(case)
        fixed, moving = (
            padded(to_network(to_batch(volume.data, self.dimension), limits[contrast]))
            for contrast, volume in (("fixed", seen.fixed), ("moving", seen.moving))
        )

        def translate(fixed: "Tensor", moving: "Tensor") -> "Tensor":
            return self._translate(generators, fixed, moving)

        with torch_threads(self.context.threads):
            made = in_pieces(translate, fixed, moving, together=self._together(fixed), device=self.context.device)
        image = to_volume(from_network(made, limits["moving"]))[tuple(map(slice, case.grid.shape))]
        return Alignment(Volume(np.ascontiguousarray(image), case.grid.affine.copy()))

    def _together(self, images: "Tensor") -> int:
        """How many of the images (B, 1, *S) are translated in one pass."""
        return TOGETHER

    def _discriminators(self) -> "Discriminators":
        from modalign.networks.cyclegan import Discriminators
        from modalign.networks.gan import PatchDiscriminator
        from modalign.networks.munit import MultiscaleDiscriminator

        options = self.options

        def one() -> "nn.Module":
            if options.discriminator == "multiscale":
                return MultiscaleDiscriminator(self.dimension, options.discriminator_channels)
            channels, layers = options.discriminator_channels, options.discriminator_layers
            return PatchDiscriminator(self.dimension, 1, channels, layers, "instance", options.antialias)

        return Discriminators({contrast: one() for contrast in self.contrasts})


def mean_difference(a: "Tensor", b: "Tensor") -> "Tensor":
    """The mean absolute difference."""
    return (a - b).abs().mean()


@contextmanager
def frozen(network: "nn.Module") -> Iterator[None]:
    """Whatever `network` computes in the block gives gradients to its input alone."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _features(inception: str | None, seed: int, device: str) -> "FeatureSource":
    from modalign.metrics.features import FeatureSource

    if inception is None:
        return FeatureSource("random", seed=seed, device=device)
    return FeatureSource("pretrained", files={"inception": inception}, device=device)
