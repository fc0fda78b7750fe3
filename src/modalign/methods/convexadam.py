"""ConvexAdam: coupled convex optimisation and Adam on MIND-SSC descriptors."""

import warnings
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from pydantic import Field

from modalign.cases import Alignment, Case
from modalign.errors import ConfigError
from modalign.methods._registration import fill_outside, register_by, torch_threads, usable_mask
from modalign.methods._start import START, Start, started
from modalign.methods.base import Method, MethodOptions, moving_on_fixed_grid

# grid spacing (voxels), search radius (cells), Adam grid spacing (voxels)
PRESETS = {
    "default": (6, 4, 2),
    # Learn2Reg 2021, task 1, abdominal MR-CT.
    "learn2reg-abdomen": (4, 8, 3),
}


class ConvexAdam(Method):
    """ConvexAdam by the package convexAdam for volumes, and by this project's port of it for slices."""

    label = "ConvexAdam"
    kind = "registration"
    dimensions = frozenset({2, 3})
    accelerated = True
    source = "Siebert et al. 2021, convexAdam 0.2.0; Learn2Reg 2021"

    class Options(MethodOptions):
        """Settings of ConvexAdam. What is None is taken from the preset."""

        preset: Literal["default", "learn2reg-abdomen"] = Field(
            "default", description="default: the package's; learn2reg-abdomen: those of Learn2Reg 2021, MR-CT"
        )
        implementation: Literal["auto", "package", "own"] = Field(
            "auto",
            description="package: convexAdam, 3D only; own: the port, in voxel units throughout and with free borders; "
            "auto: the package for volumes of at least four cells along each axis, otherwise the port",
        )
        mind_radius: int = Field(1, ge=1, description="half width of the descriptor's patches, in voxels")
        mind_dilation: int = Field(2, ge=1, description="distance of the compared patches, in voxels")
        grid_spacing: int | None = Field(None, ge=1, description="cells of the discrete search, in voxels")
        search_radius: int | None = Field(None, ge=1, description="largest displacement of the search, in cells")
        adam_grid_spacing: int | None = Field(None, ge=1, description="cells of the refinement, in voxels")
        smoothness: float = Field(1.25, gt=0, description="weight of squared differences between neighbouring cells")
        iterations: int = Field(80, ge=1, description="iterations of Adam")
        start: Start = Field("auto", description=START)
        use_masks: bool = Field(
            False, description="replace what lies outside the masks of the case by the nearest value inside"
        )

    def align(self, case: Case) -> Alignment:
        """Register on the fixed grid and warp."""
        if self.options.implementation == "package" and self.dimension == 2:
            raise ConfigError("the package convexAdam has no 2D version: write implementation: auto or own")
        return register_by(case, self.dimension, self._register)

    def _register(self, case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        options, lacking, of_start = self.options, np.zeros(3), "world"
        if self.dimension == 3:
            case, lacking, of_start = started(case, options.start)
        case = moving_on_fixed_grid(case)
        fixed, moving = (
            fill_outside(volume, usable_mask(mask, options.use_masks))
            for volume, mask in ((case.fixed, case.fixed_mask), (case.moving, case.moving_mask))
        )
        given = (options.grid_spacing, options.search_radius, options.adam_grid_spacing)
        preset = PRESETS[options.preset]
        spacing, radius, adam_spacing = (p if g is None else g for g, p in zip(given, preset, strict=True))
        roomy = min(case.fixed.shape) >= 4 * max(spacing, adam_spacing)
        package = self.dimension == 3 and (
            options.implementation == "package" or (options.implementation == "auto" and roomy)
        )
        settings: dict[str, Any] = {
            "mind_radius": options.mind_radius,
            "mind_dilation": options.mind_dilation,
            "smoothness": options.smoothness,
            "grid_spacing": spacing,
            "search_radius": radius,
            "iterations": options.iterations,
            "adam_grid_spacing": adam_spacing,
            "device": self.context.device,
        }
        with torch_threads(self.context.threads):
            if package:
                field = by_package(fixed, moving, **settings)
            else:
                from modalign.methods._convexadam import convex_adam

                plane = (slice(None), slice(None), 0) if self.dimension == 2 else ...
                field = convex_adam(fixed[plane], moving[plane], **settings)
        notes = {"implementation": f"convexAdam {version('convexadam')}" if package else "own"}
        if self.dimension == 2:
            return np.concatenate([field, np.zeros_like(field[:1])])[..., None], notes
        return field + lacking[:, None, None, None], notes | {"start": of_start}


def by_package(
    fixed: np.ndarray,
    moving: np.ndarray,
    mind_radius: int = 1,
    mind_dilation: int = 2,
    smoothness: float = 1.25,
    grid_spacing: int = 6,
    search_radius: int = 4,
    iterations: int = 80,
    adam_grid_spacing: int = 2,
    device: str = "cpu",
) -> np.ndarray:
    """The package's field for two volumes (X, Y, Z): (3, X, Y, Z), float32, in voxels.

    The arguments are those of :func:`modalign.methods._convexadam.convex_adam`.
    """
    import torch

    # The package switches off every warning of the process on import, and then warns about its own lookups.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from convexAdam.convex_adam_MIND import convex_adam_pt

        field = convex_adam_pt(
            fixed,
            moving,
            mind_r=mind_radius,
            mind_d=mind_dilation,
            lambda_weight=smoothness,
            grid_sp=grid_spacing,
            disp_hw=search_radius,
            selected_niter=iterations,
            grid_sp_adam=adam_grid_spacing,
            dtype=torch.float32,
            device=torch.device(device),
        )
    return np.moveaxis(field, -1, 0).astype(np.float32)
