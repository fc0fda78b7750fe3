"""Terms of UNIT and MUNIT that compare images by the features of VGG-19."""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from modalign.cases import CaseStore
from modalign.errors import ConfigError
from modalign.methods._generation import VggLayer
from modalign.methods._translation import Images, Translation, TranslationOptions

if TYPE_CHECKING:
    from torch import Tensor

    from modalign.networks.vgg import Vgg19


class FeatureOptions(TranslationOptions):
    """Settings of the terms that compare features. Without a file, VGG-19 has seeded random weights."""

    contextual_weight: float = Field(
        0.0, ge=0, description="weight of the contextual loss between a translation and an image of its contrast"
    )
    contextual_layers: tuple[VggLayer, ...] = Field(
        ("conv2_2", "conv3_2", "conv4_2"), min_length=1, description="VGG-19 layers of the contextual loss"
    )
    perceptual_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the mean squared difference of normalised features before and after translation",
    )
    perceptual_layer: VggLayer = Field(
        "conv5_3", description="VGG-19 layer of that term; RegistFormer takes RadImageNet's ResNet-50 instead"
    )
    vgg19: str | None = Field(None, description="file of ImageNet weights of VGG-19; null = seeded random weights")
    vgg_width: int = Field(64, ge=4, description="channels of VGG-19's first block; weights from a file need 64")


class FeatureTranslation(Translation):
    """A translation that may compare features, too."""

    _vgg: "Vgg19 | None" = None

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on the packed training split; the record tells which weights VGG-19 has, if it is used."""
        from modalign.networks.vgg import describe

        record, options = super().train(store), self.options
        used = options.contextual_weight > 0 or options.perceptual_weight > 0
        return {**record, "vgg19": describe(options.vgg19)} if used else record

    def feature_terms(self, made: Images, images: Images) -> "dict[str, Tensor]":
        """The weighted terms whose weight isn't zero, between translations `made` and the `images` they came from."""
        from torch.nn import functional

        from modalign.networks.vgg import vgg19
        from modalign.similarity.contextual import contextual_loss

        options, terms = self.options, {}
        contextual = options.contextual_layers if options.contextual_weight > 0 else ()
        perceptual = (options.perceptual_layer,) if options.perceptual_weight > 0 else ()
        if not contextual and not perceptual:
            return {}
        if self._vgg is None:
            layers = list(dict.fromkeys([*contextual, *perceptual]))
            network = vgg19(layers, options.vgg19, self.context.seed, options.vgg_width)
            self._vgg = network.to(images["fixed"].device)
        real = {c: dict(zip(self._vgg.layers, self._vgg(images[c]), strict=True)) for c in self.contrasts}
        for to, origin in (("moving", "fixed"), ("fixed", "moving")):
            fake = dict(zip(self._vgg.layers, self._vgg(made[to]), strict=True))
            if contextual:
                loss = contextual_loss([fake[layer] for layer in contextual], [real[to][layer] for layer in contextual])
                terms[f"contextual {to}"] = options.contextual_weight * loss
            for layer in perceptual:
                if fake[layer][0, 0].numel() == 1:
                    size = " x ".join(map(str, made[to].shape[2:]))
                    raise ConfigError(
                        f"perceptual_layer {layer} sees a single place of {size} voxels: take larger crops"
                    )
                before, after = functional.instance_norm(real[origin][layer]), functional.instance_norm(fake[layer])
                terms[f"perceptual {to}"] = options.perceptual_weight * (after - before).square().mean()
        return terms
