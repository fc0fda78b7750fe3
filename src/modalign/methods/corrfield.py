"""corrField: a discrete search for sparse correspondences, and a thin-plate spline through them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from modalign.cases import Alignment, Case
from modalign.methods._registration import register_by, torch_threads, usable_mask
from modalign.methods._start import START, Start, started
from modalign.methods.base import Method, MethodOptions, moving_on_fixed_grid

if TYPE_CHECKING:
    from modalign.corrfield.register import Stage

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "search_radius": (16, 16, 8),
        "nms_width": (6, 6, 3),
        "step": (2, 2, 1),
        "patch_radius": (3, 3, 2),
        "transform": ("rigid", "tps", "tps"),
    },
    "original": {
        "search_radius": (16, 8),
        "nms_width": (6, 3),
        "step": (2, 1),
        "patch_radius": (3, 2),
        "transform": ("tps", "tps"),
    },
    "small": {
        "search_radius": (4, 5),
        "nms_width": (4, 3),
        "step": (2, 1),
        "patch_radius": (2, 2),
        "transform": ("tps", "tps"),
        "sigma": 1.0,
    },
}
"""Stages, from the coarsest to the finest: `paper` as tuned for the Locor paper (last search radius 8), `original` the
defaults of the authors' program, `small` for images of 32 to 96 voxels, which need finer corners."""


class CorrField(Method):
    """Correspondence fields, an own implementation for volumes and slices that needs no GPU."""

    label = "corrField"
    kind = "registration"
    dimensions = frozenset({2, 3})
    source = "Heinrich et al. 2015 (MICCAI); Hansen and Heinrich 2021; settings of the Locor paper"

    class Options(MethodOptions):
        """Settings of corrField; lists hold a value for every stage. The letters are those of the original program."""

        presets = PRESETS

        preset: Literal["paper", "original", "small"] = Field(
            "paper", description="stages: paper = three as for Locor; original = the program's two; small = for tests"
        )
        search_radius: tuple[int, ...] = Field((), description="largest displacement, in steps (L)")
        nms_width: tuple[int, ...] = Field((), description="cubes that get one keypoint each, in voxels (N)")
        step: tuple[int, ...] = Field((), description="between neighbouring displacements, in voxels (Q)")
        patch_radius: tuple[int, ...] = Field((), description="half width of the compared patches, in voxels (R)")
        transform: tuple[Literal["rigid", "tps"], ...] = Field(
            (), description="the field through the displacements: rigid, or a thin-plate spline (T: r, n)"
        )
        alpha: float = Field(2.5, gt=0, description="weight of the descriptors' squared differences")
        beta: float = Field(
            150.0, gt=0, description="intensity difference that counts as one voxel between keypoints; range 0 to 1000"
        )
        gamma: float = Field(5.0, gt=0, description="how sharply the best displacement of a keypoint wins")
        delta: int = Field(1, ge=1, description="distance of the patches inside MIND-SSC, in voxels")
        lambda_tps: float = Field(
            0.0, ge=0, description="smoothing of the spline, in squared half diagonals of the image; 0 interpolates"
        )
        sigma: float = Field(1.4, gt=0, description="smoothing of the structure tensor that finds keypoints, in voxels")
        sigma1: float = Field(1.0, gt=0, description="patches inside MIND-SSC: standard deviation in voxels")
        max_keypoints: int = Field(
            2000, ge=8, description="at most in a stage: the cubes grow until there are no more; the original has none"
        )
        start: Start = Field("auto", description=START)
        use_masks: bool = Field(
            True,
            description="put keypoints inside the fixed mask alone, and look for them inside the moving one, where the "
            "case has them",
        )

        @model_validator(mode="after")
        def _as_many(self) -> "CorrField.Options":
            counts = {name: len(getattr(self, name)) for name in PRESETS["paper"]}
            if len(set(counts.values())) > 1 or not self.step:
                listed = ", ".join(f"{name} {count}" for name, count in counts.items())
                raise ValueError(f"every stage needs a value of each: {listed}")
            if min(*self.search_radius, *self.nms_width, *self.step, *self.patch_radius, 1) < 1:
                raise ValueError("search_radius, nms_width, step and patch_radius are 1 or more")
            return self

        def stages(self) -> "list[Stage]":
            """One :class:`~modalign.corrfield.register.Stage` for each value of the lists."""
            from modalign.corrfield.register import Stage

            columns = (self.search_radius, self.nms_width, self.step, self.patch_radius, self.transform)
            return [Stage(*values) for values in zip(*columns, strict=True)]

    options: Options

    def align(self, case: Case) -> Alignment:
        """Register on the fixed grid and warp."""
        from modalign.training.progress import progress_bar

        slices = case.fixed.shape[2] if self.dimension == 2 else 1
        count, done = slices * len(self.options.step), 0
        with progress_bar(count, 0, label="stages") as show:

            def one(part: Case) -> tuple[np.ndarray, dict[str, Any]]:
                nonlocal done
                found = self._register(part, lambda stages: show(done + stages, {}))
                done += len(self.options.step)
                return found

            return register_by(case, self.dimension, one)

    def _register(self, case: Case, progress: Callable[[int], None]) -> tuple[np.ndarray, dict[str, Any]]:
        from modalign.corrfield.register import Weights, corrfield

        options, lacking, of_start = self.options, np.zeros(3), "world"
        if self.dimension == 3:
            case, lacking, of_start = started(case, options.start)
        case = moving_on_fixed_grid(case)
        masks = [usable_mask(mask, options.use_masks) for mask in (case.fixed_mask, case.moving_mask)]
        plane: Any = (slice(None), slice(None), 0) if self.dimension == 2 else ...
        names = ("alpha", "beta", "gamma", "delta", "sigma", "sigma1", "lambda_tps")
        fixed_mask, moving_mask = (None if mask is None else mask.data[plane] for mask in masks)
        with torch_threads(self.context.threads):
            field, counts = corrfield(
                case.fixed.data[plane],
                case.moving.data[plane],
                options.stages(),
                Weights(**{name: getattr(options, name) for name in names}),
                fixed_mask,
                options.max_keypoints,
                self.context.device,
                moving_mask,
                progress,
            )
        notes = {"keypoints_last_stage": counts[-1]}
        if self.dimension == 2:
            return np.concatenate([field, np.zeros_like(field[:1])])[..., None], notes
        return field + lacking[:, None, None, None], notes | {"start": of_start}
