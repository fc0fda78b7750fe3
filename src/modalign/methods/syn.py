"""SyN, symmetric normalisation, with mutual information, by ANTs."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from pydantic import Field

from modalign.cases import Alignment, Case
from modalign.methods._registration import register_by, usable_mask
from modalign.methods.base import Method, MethodOptions
from modalign.seeds import derive_seed


@dataclass(frozen=True)
class _Settings:
    """What the presets differ in, beside the linear stages."""

    step: float
    update_variance: float
    total_variance: float
    iterations: tuple[int, ...]
    linear_iterations: tuple[int, int, int, int]
    convergence: str
    winsorize_quantile: float
    normalise_percent: float | None
    use_masks: bool


# antspyx 0.6.3, ants.registration(type_of_transform="SyN").
_LIBRARY = _Settings(0.2, 3.0, 0.0, (40, 20, 0), (2100, 1200, 1200, 0), "1e-7,8", 0.0, None, False)
PRESETS = {
    # The code of Register by Generation: the library's SyN on images scaled by their 1st and 99th percentiles.
    "rbg": _Settings(**{**vars(_LIBRARY), "normalise_percent": 1.0}),
    # Honkamaa's experiments for Locor: (10, 5, 2.5, 1) x 100 linear and (5, 3.5, 2.5, 1) x 40 SyN iterations.
    "locor": _Settings(0.1, 3.0, 0.0, (200, 140, 100, 40), (1000, 500, 250, 100), "1e-6,10", 0.005, None, True),
    # Cao et al. 2018 say "SyN ... by using MI in the ANTs toolbox" after an affine with MI, and nothing else.
    "cao": _LIBRARY,
}


class SyN(Method):
    """Affine and symmetric diffeomorphic registration with Mattes mutual information, by antsRegistration."""

    label = "SyN"
    kind = "registration"
    dimensions = frozenset({2, 3})
    source = "Avants et al. 2008, in antspyx"

    class Options(MethodOptions):
        """Settings of SyN. What is None is taken from the preset."""

        preset: Literal["rbg", "locor", "cao"] = Field(
            "rbg",
            description="rbg: antspyx's SyN after scaling to percentiles 1-99; locor: the arguments used for the "
            "comparison in the Locor paper; cao: antspyx's SyN as it is, because that paper names MI and no setting",
        )
        step: float | None = Field(None, gt=0, description="gradient step of SyN, in voxels")
        update_variance: float | None = Field(
            None, ge=0, description="Gaussian smoothing of the update, voxels squared"
        )
        total_variance: float | None = Field(None, ge=0, description="Gaussian smoothing of the field, voxels squared")
        iterations: tuple[int, ...] | None = Field(None, description="SyN iterations per level, coarse to fine")
        linear_iterations: tuple[int, int, int, int] | None = Field(
            None, description="iterations of each linear transform on its four levels, coarse to fine"
        )
        bins: int = Field(32, ge=8, description="histogram bins of the mutual information")
        winsorize_quantile: float | None = Field(
            None, ge=0, lt=0.5, description="intensities beyond this quantile, at each end, are clipped"
        )
        use_masks: bool | None = Field(None, description="measure inside the masks of the case, where it has them")
        deterministic: bool = Field(
            True, description="run ANTs with one thread, so that the same seed gives the same bytes"
        )

    def align(self, case: Case) -> Alignment:
        """Run antsRegistration and warp by its affine and deformation together."""
        return register_by(case, self.dimension, self._register)

    def _register(self, case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        from modalign.spatial.ants import ants_registration, to_ants

        threads = 1 if self.options.deterministic else self.context.threads
        settings = self._settings()
        fixed, moving = case.fixed, case.moving
        if settings.normalise_percent is not None:
            fixed, moving = (v.like(_by_percentiles(v.data, settings.normalise_percent)) for v in (fixed, moving))
        volumes = {
            "FIXED": fixed,
            "MOVING": moving,
            "FIXED_MASK": usable_mask(case.fixed_mask, settings.use_masks),
            "MOVING_MASK": usable_mask(case.moving_mask, settings.use_masks),
        }
        images = {
            name: to_ants(volume, self.dimension, threads, is_mask=name.endswith("MASK"))
            for name, volume in volumes.items()
            if volume is not None
        }
        stages = self._stages(settings, set(images), shortest=min(case.fixed.shape[: self.dimension]))
        seed = derive_seed(self.context.seed, case.dataset, case.id, "syn")
        field, _ = ants_registration(images, stages, case.grid, seed, threads)
        notes = {"tool": f"antspyx {version('antspyx')}", "arguments": " ".join(stages), "threads": threads}
        return field, notes

    def _settings(self) -> _Settings:
        chosen = {k: getattr(self.options, k) for k in vars(_LIBRARY) if hasattr(self.options, k)}
        given = {k: v for k, v in chosen.items() if v is not None}
        return _Settings(**{**vars(PRESETS[self.options.preset]), **given})

    def _stages(self, settings: _Settings, images: set[str], shortest: int) -> list[str]:
        """The arguments of antsRegistration, with shrink factors that leave 8 (2D: 32) voxels on the shortest axis."""
        masks = "[" + ",".join(m if m in images else "NA" for m in ("FIXED_MASK", "MOVING_MASK")) + "]"
        metric = f"Mattes[FIXED,MOVING,1,{self.options.bins}"
        # A quarter of fewer samples than that, inside a mask, can leave the linear transforms undetermined.
        limit = max(1, shortest // (8 if self.dimension == 3 else 32))

        def levels(shrink: tuple[int, ...], sigmas: tuple[int, ...]) -> list[str]:
            factors = "x".join(str(min(s, limit)) for s in shrink)
            return ["--shrink-factors", factors, "--smoothing-sigmas", "x".join(map(str, sigmas)) + "vox"]

        linear_iterations = "x".join(map(str, settings.linear_iterations))
        count = len(settings.iterations)
        sigmas = tuple(range(count - 1, -1, -1))
        syn = [
            *("--transform", f"SyN[{settings.step},{settings.update_variance},{settings.total_variance}]"),
            *("--metric", f"{metric}]"),
            *("--convergence", f"[{'x'.join(map(str, settings.iterations))},{settings.convergence}]"),
            *levels(tuple(2**s for s in sigmas), sigmas),
            *("--masks", masks),
        ]
        if self.options.preset == "locor":
            # From coinciding image centres.
            linear = [
                argument
                for transform in ("Rigid[0.1]", "Affine[0.1]")
                for argument in (
                    *("--transform", transform, "--metric", f"{metric},Regular,0.25]"),
                    *("--convergence", f"[{linear_iterations},1e-6,10]", *levels((8, 4, 2, 1), (3, 2, 1, 0))),
                    *("--masks", masks),
                )
            ]
            initial = "[FIXED,MOVING,0]"
        else:
            # As the library has it: from coinciding centres of mass, and masks only for the deformation.
            linear = [
                *("--transform", "Affine[0.25]", "--metric", f"{metric},Regular,0.2]"),
                *("--convergence", f"[{linear_iterations},1e-6,10]", *levels((4, 2, 2, 1), (3, 2, 1, 0))),
                *("--masks", "[NA,NA]"),
            ]
            initial = "[FIXED,MOVING,1]"
        q = settings.winsorize_quantile
        winsorize = ["--winsorize-image-intensities", f"[{q},{1 - q}]"] if q else []
        return ["--initial-moving-transform", initial, "--use-histogram-matching", "0", *winsorize, *linear, *syn]


def _by_percentiles(data: np.ndarray, percent: float) -> np.ndarray:
    low, high = np.percentile(data, [percent, 100 - percent])
    if high <= low:
        low, high = data.min(), data.max()
    return np.clip((data.astype(np.float32) - low) / (high - low), 0, 1)
