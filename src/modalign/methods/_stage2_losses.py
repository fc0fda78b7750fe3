"""The losses of stage 2: structure from the input, everything else from a reference that isn't aligned with it."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from modalign.methods._batches import to_network
from modalign.methods._generation import contextual_term, torch_random
from modalign.methods._stage2_options import AXES, Stage2Options
from modalign.methods._stage2_practice import practice
from modalign.methods._translation import frozen
from modalign.networks.gan import lsgan_discriminator, lsgan_generator
from modalign.networks.vgg import vgg19
from modalign.seeds import generator
from modalign.similarity.mind import mind_loss
from modalign.similarity.patch_nce import patch_nce_of_maps
from modalign.training.data import Batch
from modalign.training.loop import Networks, Phases
from modalign.training.registration import Limits


class Stage2Losses:
    """What a step descends, as :func:`modalign.training.loop.fit` wants it.

    Args:
        options: weights and settings; what has weight 0 isn't computed.
        limits: intensities that become -1 and 1.
        seed: seeds places, shifts and random features.
        purpose: words that tell this training's random numbers from others.
        steps: of the whole training.
    """

    def __init__(self, options: Stage2Options, limits: Limits, seed: int, purpose: tuple[str, ...], steps: int):
        self.options, self.limits, self.seed, self.purpose = options, limits, seed, purpose
        self.warm_up_steps = int(options.warm_up * steps)
        self.cool_down_from = steps - int(options.cool_down * steps)
        self.contextual_layers = options.contextual_layers if options.contextual_weight > 0 else ()
        through_vgg = options.nce_weight > 0 and options.nce_features == "vgg19"
        self.nce_layers = options.nce_layers if through_vgg else ()
        self.layers = tuple(dict.fromkeys((*self.contextual_layers, *self.nce_layers)))
        self.vgg = vgg19(self.layers, options.vgg19, seed, options.vgg_width) if self.layers else None

    def __call__(self, networks: Networks, batch: Batch, step: int) -> Phases:
        """First the network with PatchNCE's perceptron, then the discriminator; in practice the network alone."""
        images = {
            role: to_network(batch[role], self.limits["fixed" if role == "fixed" else "moving"])
            for role in ("fixed", "moving", "initial")
        }
        if self._practises(step):
            yield ("stage2",), self._practice(networks, images, step)
            return
        field = torch.cat([batch[f"field_{axis}"] for axis in AXES[: images["fixed"].ndim - 2]], 1)
        options = self.options
        inputs = (images["fixed"], images["initial"], images["moving"], field)
        if options.nce_weight > 0 and options.nce_features == "extractors":
            made, query, key = networks["stage2"](*inputs, compare=True)
            own = {"patch_nce": self._patch_nce(networks, query, key, step)}
        else:
            made, own = networks["stage2"](*inputs), {}
        made, images = as_slices(made), {role: as_slices(x) for role, x in images.items()}
        terms = self._terms(networks, made, images, step) | own
        if options.gan_weight > 0:
            with frozen(networks["discriminator"]):
                terms["gan"] = options.gan_weight * lsgan_generator(networks["discriminator"](made))
        yield ("stage2", *(["sampler"] if options.nce_weight > 0 else [])), terms
        if options.gan_weight > 0:
            real, fake = (networks["discriminator"](x) for x in (images["moving"], made.detach()))
            yield ("discriminator",), {"discriminator": lsgan_discriminator(real, fake)}

    def _practises(self, step: int) -> bool:
        every = self.options.practice_every
        in_between = every > 0 and step % every == 0
        return in_between or not self.warm_up_steps <= step < self.cool_down_from

    def _practice(self, networks: Networks, images: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """The network has to put together a deformed reference from the reference, given poor hints."""
        moving = images["moving"]
        task = practice(moving, self.options.warm_up_voxels, self.seed, *self.purpose, str(step))
        made = networks["stage2"](images["fixed"], task.initial, moving, task.field)
        return {"practice": (made - task.target).abs().mean()}

    def _terms(self, networks: Networks, made: Tensor, images: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        fixed, moving = images["fixed"], images["moving"]
        options = self.options
        terms: dict[str, Tensor] = {}
        of_made = self._features(made, self.layers)
        if self.contextual_layers:
            with torch.no_grad():
                reference = self._features(self._shifted(moving, step), self.contextual_layers)
            offset = self._random("parts", step).random(2).tolist() if options.parts_move else ()
            output = [of_made[layer] for layer in self.contextual_layers]
            terms["contextual"] = contextual_term(output, list(reference.values()), options, offset)
        if self.nce_layers:
            with torch.no_grad():
                key = self._features(fixed if options.nce_key == "input" else images["initial"], self.nce_layers)
            query = [of_made[layer] for layer in self.nce_layers]
            terms["patch_nce"] = self._patch_nce(networks, query, list(key.values()), step)
        if options.l1_weight > 0:
            terms["l1"] = options.l1_weight * (made - moving).abs().mean()
        if options.mind_weight > 0:
            terms["mind"] = options.mind_weight * mind_loss(fixed, made)
        return terms

    def _patch_nce(self, networks: Networks, query: list[Tensor], key: list[Tensor], step: int) -> Tensor:
        options = self.options
        random = torch_random("cpu", self.seed, *self.purpose, "places", str(step))
        found = patch_nce_of_maps(networks["sampler"], query, key, random, options.places, options.temperature)
        return options.nce_weight * found

    def _features(self, images: Tensor, layers: tuple[str, ...]) -> Mapping[str, Tensor]:
        if self.vgg is None or not layers:
            return {}
        # Made before the training knows which of several GPUs is its own.
        vgg = self.vgg.to(images.device)
        return dict(zip(layers, vgg(images, layers), strict=True))

    def _shifted(self, images: Tensor, step: int) -> Tensor:
        """The slices moved by the same whole number of voxels along each axis; what leaves on one side comes back on
        the other."""
        most = self.options.shift_voxels
        if most == 0:
            return images
        shift = self._random("shift", step).integers(-most, most + 1, 2)
        return torch.roll(images, tuple(shift.tolist()), (2, 3))

    def _random(self, what: str, step: int) -> np.random.Generator:
        return generator(self.seed, *self.purpose, what, str(step))


def as_slices(images: Tensor) -> Tensor:
    """(B, 1, X, Y) as it is; the axial slices of volumes (B, 1, X, Y, Z) as (B Z, 1, X, Y)."""
    return images if images.ndim == 4 else images.movedim(4, 1).flatten(0, 1)
