"""What the learned translations share: adversarial training on slices or volumes, and aligning with the result."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from modalign.cases import Alignment, Case, CaseStore
from modalign.errors import ConfigError, ModalignError
from modalign.methods._registration import check_images, torch_threads
from modalign.methods.base import Context, Method, moving_on_fixed_grid
from modalign.training.options import TrainingOptions
from modalign.volumes import Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.networks.cyclegan import Discriminators
    from modalign.training.data import Batch
    from modalign.training.loop import Networks, Phases
    from modalign.training.registration import Limits

Images = Mapping[str, "Tensor"]
"""Images (B, 1, *S) by contrast, ``fixed`` and ``moving``, or by what the networks' forward passes call them."""

TOGETHER = 16
"""Slices in one pass when aligning."""
MULTIPLE, SMALLEST = 4, 16
"""Networks halve twice, and need 16 voxels a side for the style code; smaller images are padded."""


class TranslationOptions(TrainingOptions):
    """Settings that all learned translations share. A preset's values are defaults of the options that it names."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    paired: bool = Field(
        False, description="draw fixed and moving images of the same patient and place, or independently of each other"
    )
    crop: tuple[int, ...] | None = Field(
        None, description="random crops in training, voxels per axis; null = whole images"
    )
    flips: bool = Field(False, description="mirror images at random along x and y in training")
    gan_weight: float = Field(1.0, ge=0, description="weight of the adversarial term")
    pool: int = Field(0, ge=0, description="how many earlier fakes are kept for the discriminators; 0 = none")
    discriminator: Literal["patch", "multiscale"] = Field(
        "patch",
        description="70 x 70 patches with instance norm, or three scales without norm (UNIT, MUNIT as released)",
    )
    discriminator_channels: int = Field(64, ge=1, description="channels of the discriminators' first layer")
    discriminator_layers: int = Field(3, ge=1, description="how often the discriminators halve the image (patch)")
    antialias: bool = Field(True, description="blur before the patch discriminators halve")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        preset = dict(cls.presets.get(given.get("preset", "paper"), {}))
        if "steps" in given or "epochs" in given:
            preset = {k: v for k, v in preset.items() if k not in ("steps", "epochs")}
        return {**preset, **given}


class Translation(Method):
    """A network that makes the moving contrast from the fixed image, trained against a discriminator.

    A method says which networks it has (:meth:`_generators`), what they descend besides the adversarial term
    (:meth:`_terms`), and how an image is translated in the end (:meth:`_translate`).
    """

    kind = "translation"
    dimensions = frozenset({2, 3})
    contrasts: ClassVar[tuple[str, ...]] = ("moving", "fixed")
    """The contrasts in which fakes are made and judged."""

    options: Any

    def __init__(self, options: Mapping[str, Any] | None = None, dimension: int = 3, context: Context | None = None):
        super().__init__(options, dimension, context)
        crop = self.options.crop
        if crop is not None and len(crop) != dimension:
            message = f"method {self.name} has crop {list(crop)}, and works in {dimension} dimensions"
            raise ConfigError(f"{message}: give one number per axis, or crop: null for whole images")

    def _generators(self) -> "nn.Module":
        raise NotImplementedError

    def _terms(self, generators: "nn.Module", images: Images, step: int) -> "tuple[Images, dict[str, Tensor]]":
        """The fakes by contrast, and the weighted terms of the loss but the adversarial one."""
        raise NotImplementedError

    def _translate(self, generators: Any, fixed: "Tensor", moving: "Tensor") -> "Tensor":
        """Fixed images in the moving contrast; `moving` is the reference on the same grid. All in [-1, 1]."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The name of the method's file."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on the packed training split; the generators' last weights go to ``weights.pt``."""
        from modalign.digest import code_digest
        from modalign.networks.gan import ImagePool, lsgan_discriminator, lsgan_generator
        from modalign.seeds import generator
        from modalign.training import checkpoint
        from modalign.training.data import Sampling
        from modalign.training.devices import make_deterministic
        from modalign.training.loop import fit
        from modalign.training.registration import registration_data, save_weights

        options, context, name = self.options, self.context, self.name
        if context.model is None:
            raise ModalignError("training needs a folder for the weights: name it as the model")
        state, device = context.state or context.model / "state", context.device
        sampling = Sampling(self.dimension, options.batch, options.crop, paired=options.paired, flips=options.flips)
        data = registration_data(store, sampling, context.seed, name, state, fraction=options.train_fraction)
        make_deterministic(context.seed, device, context.threads, store.dataset, name, "initial weights")
        discriminators = self._discriminators()
        pools = {f"pool of {contrast}": ImagePool(options.pool) for contrast in self.contrasts}
        networks: Networks = {"generators": self._generators(), "discriminators": discriminators, **pools}

        def losses(wrapped: "Networks", batch: "Batch", step: int) -> "Phases":
            images = {contrast: padded(to_network(batch[contrast], data.limits[contrast])) for contrast in data.limits}
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

        settings = {**options.model_dump(), "dimension": self.dimension, "threads": context.threads, "device": device}
        settings.pop("checkpoint_seconds")
        record = fit(
            networks,
            losses,
            data.train,
            options,
            state,
            checkpoint.fingerprint(settings, data.digest, code_digest(type(self).__module__), context.seed),
            seed=context.seed,
            device=device,
            threads=context.threads,
        )
        about = {"options": options.model_dump(mode="json"), "dimension": self.dimension, "limits": dict(data.limits)}
        save_weights(context.model / "weights.pt", networks["generators"].state_dict(), **about)
        return record

    def align(self, case: Case) -> Alignment:
        """Translate the fixed image; there is no field."""
        import numpy as np
        import torch

        check_images(case)
        generators, limits = self._ready
        seen = moving_on_fixed_grid(case)
        images = {}
        for contrast, volume in (("fixed", seen.fixed), ("moving", seen.moving)):
            image = torch.from_numpy(np.ascontiguousarray(volume.data, dtype=np.float32))
            batch = image.permute(2, 0, 1)[:, None] if self.dimension == 2 else image[None, None]
            images[contrast] = to_network(batch, limits[contrast]).contiguous()
        with torch.no_grad(), torch_threads(self.context.threads):
            pieces = [
                self._translate(generators, *(padded(i.to(self.context.device)) for i in (fixed, moving))).cpu()
                for fixed, moving in zip(images["fixed"].split(TOGETHER), images["moving"].split(TOGETHER), strict=True)
            ]
        inside = tuple(slice(0, n) for n in images["fixed"].shape[2:])
        result = from_network(torch.cat(pieces)[(slice(None), slice(None), *inside)], limits["moving"])
        made = result[:, 0].permute(1, 2, 0) if self.dimension == 2 else result[0, 0]
        return Alignment(Volume(np.ascontiguousarray(made.float().numpy()), case.grid.affine.copy()))

    @property
    def _ready(self) -> "tuple[nn.Module, Limits]":
        """The trained generators on their device, read once, and the intensity limits of the training split."""
        from modalign.training.registration import load_weights

        if getattr(self, "_loaded", None) is None:
            if self.context.model is None:
                raise ConfigError(f"method {self.name} has to be trained first: name the folder of its model")
            about = load_weights(self.context.model / "weights.pt")
            if about["dimension"] != self.dimension:
                message = (
                    f"{self.context.model} was trained in {about['dimension']} dimensions, not in {self.dimension}"
                )
                raise ConfigError(f"{message}: train it again")
            generators = self._generators()
            generators.load_state_dict(about["weights"])
            self._loaded = generators.to(self.context.device).eval(), about["limits"]
        return self._loaded

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


def to_network(images: "Tensor", limits: tuple[float, float]) -> "Tensor":
    """Intensities with the limits at -1 and 1, beyond which the networks' outputs can't go either."""
    low, high = limits
    return ((images - low) * (2 / (high - low)) - 1).clamp(-1, 1)


def from_network(images: "Tensor", limits: tuple[float, float]) -> "Tensor":
    """The way back from [-1, 1] to stored intensities."""
    low, high = limits
    return (images + 1) * ((high - low) / 2) + low


def padded(images: "Tensor") -> "Tensor":
    """Images (B, 1, *S) whose far ends are extended, by repeating the border, to a size that every network takes."""
    from torch.nn import functional

    missing = [max(SMALLEST, -(-n // MULTIPLE) * MULTIPLE) - n for n in images.shape[2:]]
    if not any(missing):
        return images
    return functional.pad(images, [side for n in reversed(missing) for side in (0, n)], mode="replicate")


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
