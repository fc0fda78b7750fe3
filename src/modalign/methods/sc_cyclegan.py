"""SC-CycleGAN: CycleGAN whose translations keep the structure, as MIND descriptors see it."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from modalign.methods import cyclegan
from modalign.methods._translation import Images, mean_difference

if TYPE_CHECKING:
    from torch import Tensor, nn

CYCLEGAN = cyclegan.CycleGan.Options.presets


class ScCycleGan(cyclegan.CycleGan):
    """CycleGAN with the mean absolute difference of MIND before and after a translation."""

    label = "SC-CycleGAN"
    source = "Yang et al. 2018; settings of RbG and RegistFormer, who call it SCGAN"

    class Options(cyclegan.CycleGan.Options):
        """Settings of SC-CycleGAN."""

        presets: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": {**CYCLEGAN["paper"], "structure_weight": 0.01},
            "original": {
                **CYCLEGAN["original"],
                "identity_weight": 0.0,
                "pool": 0,
                "structure_weight": 5.0,
            },
            "small": {**CYCLEGAN["small"], "structure_weight": 5.0, "neighbourhood": 3},
        }

        preset: Literal["paper", "original", "small"] = Field(
            "paper",
            description="paper = RbG's and RegistFormer's baseline; original = Yang et al.; small = for demonstrations",
        )
        structure_weight: float = Field(5.0, ge=0, description="weight of the difference of descriptors")
        neighbourhood: int = Field(9, ge=3, description="width in voxels of the region that MIND compares with, odd")
        sigma: float = Field(2.0, gt=0, description="standard deviation of MIND's patch weights in voxels")
        patch: int = Field(7, ge=1, description="width of MIND's patches in voxels, odd")

    def _terms(self, generators: "nn.Module", images: Images, step: int) -> "tuple[Images, dict[str, Tensor]]":
        made, terms = super()._terms(generators, images, step)
        pairs = (("fixed", "moving"), ("moving", "fixed"))
        changes = [mean_difference(self._structure(images[a]), self._structure(made[b])) for a, b in pairs]
        terms["structure"] = self.options.structure_weight * sum(changes)
        return made, terms

    def _structure(self, images: "Tensor") -> "Tensor":
        """MIND without the rim where patches reach beyond the image."""
        from itertools import product

        from modalign.similarity.mind import mind

        options, axes = self.options, images.ndim - 2
        reach, radius = options.neighbourhood // 2, options.patch // 2
        offsets = [o for o in product(range(-reach, reach + 1), repeat=axes) if any(o)]
        descriptors = mind(images, offsets, options.sigma, radius, floor=1e-5)
        rim = min(reach + radius, (min(images.shape[2:]) - 1) // 2)
        return descriptors[(slice(None), slice(None), *[slice(rim, n - rim) for n in images.shape[2:]])]
