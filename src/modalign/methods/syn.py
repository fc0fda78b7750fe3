"""SyN, symmetric normalisation, with mutual information, by ANTs."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from modalign.cases import Alignment, Case
from modalign.methods._registration import register_by, usable_mask
from modalign.methods.base import Method, MethodOptions
from modalign.seeds import derive_seed

# antspyx 0.6.3, ants.registration(type_of_transform="SyN").
_LIBRARY = {
    "affine_step": 0.25,
    "step": 0.2,
    "update_variance": 3.0,
    "total_variance": 0.0,
    "iterations": (40, 20, 0),
    "linear_iterations": (2100, 1200, 1200, 0),
    "winsorize_quantile": 0.0,
    # Neither source has masks. The library would give them to the deformation alone, which starts from the affine.
    "use_masks": False,
    "mask_affine": True,
}
PRESETS: dict[str, dict[str, Any]] = {
    # The code of Register by Generation: the library's SyN on images scaled by their 1st and 99th percentiles.
    "rbg": _LIBRARY,
    # Honkamaa's experiments for Locor: (10, 5, 2.5, 1) x 100 linear and (5, 3.5, 2.5, 1) x 40 SyN iterations.
    "locor": {
        "rigid_step": 0.1,
        "affine_step": 0.1,
        "step": 0.1,
        "update_variance": 3.0,
        "total_variance": 0.0,
        "iterations": (200, 140, 100, 40),
        "linear_iterations": (1000, 500, 250, 100),
        "winsorize_quantile": 0.005,
        "use_masks": True,
        "mask_affine": True,
    },
    # Cao et al. 2018 say "SyN ... by using MI in the ANTs toolbox" after an affine with MI, and nothing else.
    "cao": _LIBRARY,
}
_NORMALISED_PERCENT = {"rbg": 1.0}
"""Images are scaled to the range between this percentile and its opposite."""
_CONVERGENCE = {"rbg": "1e-7,8", "locor": "1e-6,10", "cao": "1e-7,8"}


class SyN(Method):
    """Affine and symmetric diffeomorphic registration with Mattes mutual information, by antsRegistration."""

    label = "SyN"
    kind = "registration"
    dimensions = frozenset({2, 3})
    source = "Avants et al. 2008, in antspyx"

    class Options(MethodOptions):
        """Settings of SyN. What is None is taken from the preset."""

        presets = PRESETS

        preset: Literal["rbg", "locor", "cao"] = Field(
            "rbg",
            description="rbg: antspyx's SyN after scaling to percentiles 1-99; locor: the arguments used for the "
            "comparison in the Locor paper; cao: antspyx's SyN, because that paper names MI and no setting, "
            "with intensities from 0",
        )
        step: float | None = Field(None, gt=0, description="gradient step of SyN, in voxels")
        rigid_step: float | None = Field(
            None, gt=0, description="gradient step of the rigid transform, in voxels; the preset locor alone has one"
        )
        affine_step: float | None = Field(None, gt=0, description="gradient step of the affine transform, in voxels")
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
        mask_affine: bool | None = Field(
            None, description="where masks are used, in the linear transforms as well; null = yes, in every preset"
        )
        deterministic: bool = Field(
            True, description="run ANTs with one thread, so that the same seed gives the same bytes"
        )

        @classmethod
        def completed(cls, given: Mapping[str, Any], *presets: Mapping[str, Any]) -> dict[str, Any]:
            """The given options, as far as they are given, over those of the preset."""
            return super().completed({name: v for name, v in given.items() if v is not None}, *presets)

        @model_validator(mode="after")
        def _rigid_where_there_is_one(self) -> "SyN.Options":
            if self.rigid_step is not None and self.preset != "locor":
                raise ValueError(f"preset {self.preset} has no rigid transform: leave rigid_step out, or take locor")
            return self

    options: Options

    def align(self, case: Case) -> Alignment:
        """Run antsRegistration and warp by its affine and deformation together."""
        return register_by(case, self.dimension, self._register)

    def _register(self, case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        from modalign.spatial.ants import ants_registration

        options = self.options
        threads = 1 if options.deterministic else self.context.threads
        fixed, moving = case.fixed, case.moving
        if (percent := _NORMALISED_PERCENT.get(options.preset)) is not None:
            fixed, moving = (v.like(_by_percentiles(v.data, percent)) for v in (fixed, moving))
        else:
            fixed, moving = (v.like(_from_zero(v.data)) for v in (fixed, moving))
        given = {
            "FIXED": fixed,
            "MOVING": moving,
            "FIXED_MASK": usable_mask(case.fixed_mask, bool(options.use_masks)),
            "MOVING_MASK": usable_mask(case.moving_mask, bool(options.use_masks)),
        }
        volumes = {name: volume for name, volume in given.items() if volume is not None}
        stages = self._stages(set(volumes), shortest=min(case.fixed.shape[: self.dimension]))
        seed = derive_seed(self.context.seed, case.dataset, case.id, "syn")
        field, _ = ants_registration(volumes, stages, self.dimension, seed, threads)
        notes = {"tool": f"antspyx {version('antspyx')}", "arguments": " ".join(stages), "threads": threads}
        return field, notes

    def _stages(self, images: set[str], shortest: int) -> list[str]:
        """The arguments of antsRegistration, with shrink factors that leave 8 (2D: 32) voxels on the shortest axis."""
        options = self.options
        # The preset has filled in what isn't given.
        assert options.iterations is not None
        assert options.linear_iterations is not None
        masks = "[" + ",".join(m if m in images else "NA" for m in ("FIXED_MASK", "MOVING_MASK")) + "]"
        linear_masks = masks if options.mask_affine else "[NA,NA]"
        metric = f"Mattes[FIXED,MOVING,1,{options.bins}"
        # A quarter of fewer samples than that, inside a mask, can leave the linear transforms undetermined.
        limit = max(1, shortest // (8 if self.dimension == 3 else 32))

        def levels(shrink: tuple[int, ...], sigmas: tuple[int, ...]) -> list[str]:
            factors = "x".join(str(min(s, limit)) for s in shrink)
            return ["--shrink-factors", factors, "--smoothing-sigmas", "x".join(map(str, sigmas)) + "vox"]

        linear_iterations = "x".join(map(str, options.linear_iterations))
        count = len(options.iterations)
        sigmas = tuple(range(count - 1, -1, -1))
        syn = [
            *("--transform", f"SyN[{options.step},{options.update_variance},{options.total_variance}]"),
            *("--metric", f"{metric}]"),
            *("--convergence", f"[{'x'.join(map(str, options.iterations))},{_CONVERGENCE[options.preset]}]"),
            *levels(tuple(2**s for s in sigmas), sigmas),
            *("--masks", masks),
        ]
        if options.preset == "locor":
            # From coinciding image centres.
            linear = [
                argument
                for transform in (f"Rigid[{options.rigid_step}]", f"Affine[{options.affine_step}]")
                for argument in (
                    *("--transform", transform, "--metric", f"{metric},Regular,0.25]"),
                    *("--convergence", f"[{linear_iterations},1e-6,10]", *levels((8, 4, 2, 1), (3, 2, 1, 0))),
                    *("--masks", linear_masks),
                )
            ]
            initial = "[FIXED,MOVING,0]"
        else:
            # As the library has it: from coinciding centres of mass.
            linear = [
                *("--transform", f"Affine[{options.affine_step}]", "--metric", f"{metric},Regular,0.2]"),
                *("--convergence", f"[{linear_iterations},1e-6,10]", *levels((4, 2, 2, 1), (3, 2, 1, 0))),
                *("--masks", linear_masks),
            ]
            initial = "[FIXED,MOVING,1]"
        q = options.winsorize_quantile
        winsorize = ["--winsorize-image-intensities", f"[{q},{1 - q}]"] if q else []
        return ["--initial-moving-transform", initial, "--use-histogram-matching", "0", *winsorize, *linear, *syn]


def _by_percentiles(data: np.ndarray, percent: float) -> np.ndarray:
    low, high = np.percentile(data, [percent, 100 - percent])
    if high <= low:
        low, high = data.min(), data.max()
    return np.clip((data.astype(np.float32) - low) / (high - low), 0, 1)


def _from_zero(data: np.ndarray) -> np.ndarray:
    """Without negative intensities, which would be negative masses where ANTs starts from the centres of mass."""
    return data - min(float(data.min()), 0.0)
