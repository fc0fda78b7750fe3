"""Other similarity measures under Locor's optimiser."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from modalign.instance.presets import SMALL
from modalign.methods._instance import InstanceMethod, InstanceOptions

if TYPE_CHECKING:
    import torch

    from modalign.instance.contract import PairSimilarity

PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "small": SMALL}

SMOOTHNESS = {
    "srwcr": 250.0,
    "mind-ssc": 75.0,
    "mind": 75.0,
    "mi": 250.0,
    "nmi": 250.0,
    "lncc": 250.0,
    "cr": 250.0,
    "mae": 100.0,
}
"""Weight of the bending energy with which each measure did best among 25, 75 or 100, 250 and 2500, on one T1-T2 pair of
heads at 2 mm with a known field; the differences of descriptors are small and want less."""


class Instance(InstanceMethod):
    """A similarity measure, optimised for each pair by itself; everything else is as in Locor."""

    label = "Instance optimisation"
    source = "Honkamaa and Marttinen 2025 (optimiser); Gong et al. 2019, Heinrich et al. 2012 and 2013 (measures)"

    class Options(InstanceOptions):
        """Settings of the optimiser, and those of the measures; each measure reads its own alone."""

        presets = PRESETS

        preset: Literal["paper", "small"] = Field("paper", description="the published schedule, or a short one (small)")
        similarity: Literal["srwcr", "mind-ssc", "mind", "mi", "nmi", "lncc", "cr", "mae"] = Field(
            "mind-ssc",
            description="srwcr: regional correlation ratio; cr: that of the whole image; lncc: local correlation; "
            "mae: absolute difference, for one contrast",
        )
        smoothness_weight: float = Field(
            500.0, ge=0, description="weight of the bending energy, as for Locor; by default that of the similarity"
        )
        bins: int | None = Field(None, ge=2, description="histogram bins; null = 32 (srwcr, cr), 23 (mi, nmi)")
        parzen: Literal["polynomial", "bspline"] = Field(
            "polynomial", description="windows of srwcr and cr: second-order polynomials, or quadratic B-splines"
        )
        stride: int = Field(4, ge=2, description="distance of the regions, a fourth of their width, in samples (srwcr)")
        quantile: float = Field(
            0.0, ge=0, lt=0.5, description="share clipped at both ends of the intensities (mi, nmi)"
        )
        sigma_ratio: float = Field(0.5, gt=0, description="standard deviation of the windows, in bins (mi, nmi)")
        radius: int = Field(2, ge=0, description="half width of the patches, in samples (mind-ssc)")
        dilation: int = Field(2, ge=1, description="distance of the compared patches, in samples (mind-ssc)")
        sigma: float = Field(0.5, gt=0, description="standard deviation of the patches, in samples (mind)")
        inside: bool = Field(
            False,
            description="leave out descriptors that look over the masks (mind, mind-ssc); false: keep them, as in the "
            "code of the Locor paper's comparison. Without them little of a small scan is left, and scans drift apart",
        )
        width: int = Field(5, ge=3, description="width of the windows, in samples, odd (lncc)")

        @classmethod
        def completed(cls, given: Mapping[str, Any], *presets: Mapping[str, Any]) -> dict[str, Any]:
            """The presets, with the weight of the smoothness that goes with the measure."""
            weight = SMOOTHNESS.get(given.get("similarity", "mind-ssc"), 500.0)
            return super().completed(given, {"smoothness_weight": weight}, *presets)

        @model_validator(mode="after")
        def _odd(self) -> "Instance.Options":
            if self.width % 2 == 0:
                raise ValueError(f"width has to be odd, not {self.width}")
            return self

        def of_similarity(self) -> dict[str, Any]:
            """The settings that the chosen measure reads."""
            ratio = {"bins": self.bins or 32, "window": self.parzen}
            information = {"bins": self.bins or 23, "sigma_ratio": self.sigma_ratio, "quantile": self.quantile}
            settings: dict[str, dict[str, Any]] = {
                "srwcr": {**ratio, "stride": self.stride},
                "cr": ratio,
                "mi": information,
                "nmi": information,
                "mind-ssc": {"radius": self.radius, "dilation": self.dilation, "inside": self.inside},
                "mind": {"sigma": self.sigma, "inside": self.inside},
                "lncc": {"width": self.width},
            }
            return settings.get(self.similarity, {})

    options: Options

    def _similarity(self, rng: "torch.Generator") -> "PairSimilarity":
        from modalign.instance.similarities import pair_similarity

        return pair_similarity(self.options.similarity, **self.options.of_similarity())
