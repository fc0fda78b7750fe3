"""Locor: registration by local functional dependence, with basis functions learned for each pair."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from modalign.instance.presets import SMALL
from modalign.methods._instance import InstanceMethod, InstanceOptions

if TYPE_CHECKING:
    import torch

    from modalign.similarity.locor import Locor as Similarity

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"functions": 4, "window_sigma": 1.0, "smoothness_weight": 500.0},
    "released": {
        "functions": 5,
        "window_sigma": 0.8,
        "smoothness_weight": 400.0,
        "symmetric_smoothness": False,
        "average": 0.0,
        "finest_lattice": 0.0,
        "derivative_scale": 1.0,
    },
    "small": {"functions": 4, "window_sigma": 1.0, "smoothness_weight": 500.0, **SMALL},
}
"""`paper`: the numbers that the tool had when the paper was written, which itself has none, with the symmetry that the
paper describes; `released`: all as in the tool's later release; `small`: for demonstrations and tests. Each is
overridden by the option of its name."""


class Locor(InstanceMethod):
    """Where the images are aligned, one explains the other within each small window, by few functions of its intensity.

    Learns the functions together with the deformation, for this pair alone; solves for their local weights in closed
    form; both directions.
    """

    label = "Locor"
    source = "Honkamaa and Marttinen 2025, own implementation"
    network_rate = "network_learning_rate"

    class Options(InstanceOptions):
        """Settings of Locor."""

        presets = PRESETS

        preset: Literal["paper", "released", "small"] = Field(
            "paper", description="basis functions, windows and smoothness as published, as released later, or small"
        )
        basis: Literal["learned", "polynomial"] = Field(
            "learned", description="learn the basis functions, or take polynomials of the intensities"
        )
        functions: int = Field(4, ge=1, le=16, description="number of learned basis functions")
        degree: int = Field(3, ge=1, le=5, description="degree of the polynomials (basis: polynomial)")
        residual: Literal["log", "normalised"] = Field(
            "log", description="the log of the local residual, or the residual by the local variance"
        )
        derivative: bool = Field(True, description="use the gradient magnitude as a second channel of both images")
        derivative_scale: float = Field(
            0.25,
            gt=0,
            description="factor of the gradient magnitude, whose unit is the image's range of intensities per voxel of "
            "the level; the paper gives none, the released tool has 1",
        )
        window_sigma: float = Field(
            1.0,
            ge=0.3,
            le=8,
            description="standard deviation of the windows, in voxels of the level; below a sixth of the stride, an "
            "iteration sees a part of the voxels, and another one at the next",
        )
        stride: int = Field(3, ge=1, le=8, description="distance of the windows in voxels of the level")
        network_learning_rate: float = Field(1e-2, gt=0, description="of Adam for the learned basis functions")

    options: Options

    def _similarity(self, rng: "torch.Generator") -> "Similarity":
        from modalign.similarity.locor import Locor as Similarity

        options = self.options
        return Similarity(
            options.basis,
            options.functions,
            options.degree,
            options.residual,
            options.derivative,
            options.derivative_scale,
            options.window_sigma,
            options.stride,
            rng=rng,
        )
