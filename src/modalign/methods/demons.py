"""Diffeomorphic demons between the translated fixed image and the moving image."""

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from modalign.cases import Alignment, Case
from modalign.errors import ConfigError
from modalign.methods._registration import fill_outside, register_by, usable_mask
from modalign.methods.base import Method, MethodOptions, moving_on_fixed_grid
from modalign.spatial.itk import own_frame, vectors_to_field

if TYPE_CHECKING:
    import SimpleITK


class Demons(Method):
    """Diffeomorphic demons by SimpleITK in a pyramid, after a translation has given both images one contrast."""

    label = "Demons"
    kind = "registration"
    dimensions = frozenset({2, 3})
    source = "Vercauteren et al. 2009 in SimpleITK; one contrast first, because demons compare intensities"
    needs = {"translator": "translation"}

    class Options(MethodOptions):
        """Settings of the demons."""

        levels: int = Field(3, ge=1, le=6, description="pyramid levels; an axis is halved while it keeps 16 voxels")
        iterations: int = Field(60, ge=1, description="iterations per level")
        smoothing_voxels: float = Field(
            1.5, ge=0, description="standard deviation of the Gaussian on the field, in voxels of the level"
        )
        step_voxels: float = Field(0.5, gt=0, description="largest update of one iteration, in voxels of the level")
        match_histograms: bool = Field(
            True, description="match the histogram of the moving image to that of the translated fixed image first"
        )
        use_masks: bool = Field(
            False, description="replace what lies outside the masks of the case by the nearest value inside"
        )

    def align(self, case: Case) -> Alignment:
        """Translate the fixed image with the method that plays `translator`, then register."""
        if "translator" not in self.context.needs:
            raise ConfigError("method demons needs a translation: name one as its translator, such as intensity_map")
        from dataclasses import replace

        translated = self.context.needs["translator"].align(case).image
        return register_by(replace(case, fixed=translated), self.dimension, self._register)

    def _register(self, case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        import SimpleITK as sitk

        options = self.options
        case = moving_on_fixed_grid(case)
        fixed, moving = (
            own_frame(fill_outside(volume, usable_mask(mask, options.use_masks)), case.fixed.spacing)
            for volume, mask in ((case.fixed, case.fixed_mask), (case.moving, case.moving_mask))
        )
        if options.match_histograms:
            moving = sitk.HistogramMatching(moving, fixed, numberOfHistogramLevels=256, numberOfMatchPoints=15)
        fixed, moving = _to_one_scale(fixed, moving)
        field: Any = None
        for level in range(options.levels - 1, -1, -1):
            f, m = (_shrink(image, level) for image in (fixed, moving))
            demons = sitk.DiffeomorphicDemonsRegistrationFilter()
            demons.SetNumberOfThreads(self.context.threads)
            demons.SetNumberOfIterations(options.iterations)
            demons.SetSmoothDisplacementField(options.smoothing_voxels > 0)
            demons.SetStandardDeviations(options.smoothing_voxels)
            demons.SetMaximumUpdateStepLength(options.step_voxels)
            field = demons.Execute(f, m) if field is None else demons.Execute(f, m, _on_grid_of(f, field))
        return vectors_to_field(field, case.grid), {}


def _to_one_scale(fixed: "SimpleITK.Image", moving: "SimpleITK.Image") -> "tuple[SimpleITK.Image, SimpleITK.Image]":
    """Both images divided by the range of the fixed one: the filter's intensity threshold (1e-3) is absolute."""
    import SimpleITK as sitk

    statistics = sitk.MinimumMaximumImageFilter()
    statistics.Execute(fixed)
    low, extent = statistics.GetMinimum(), statistics.GetMaximum() - statistics.GetMinimum()
    return (fixed - low) / (extent or 1.0), (moving - low) / (extent or 1.0)


def _shrink(image: "SimpleITK.Image", level: int) -> "SimpleITK.Image":
    """The image at pyramid `level` (0 is full size): smoothed and sub-sampled by up to 2^level along each axis."""
    import SimpleITK as sitk

    factors = [max(1, min(2**level, n // 16)) for n in image.GetSize()]
    sigma_mm = [0.5 * f * s if f > 1 else 0.0 for f, s in zip(factors, image.GetSpacing(), strict=True)]
    size = [n // f for n, f in zip(image.GetSize(), factors, strict=True)]
    smoothed = image if max(sigma_mm) == 0 else sitk.DiscreteGaussian(image, [s**2 for s in sigma_mm])
    spacing = [s * f for s, f in zip(image.GetSpacing(), factors, strict=True)]
    origin = [(f - 1) / 2 * s for f, s in zip(factors, image.GetSpacing(), strict=True)]
    reference = sitk.Image(size, image.GetPixelID())
    reference.SetSpacing(spacing)
    reference.SetOrigin(origin)
    return sitk.Resample(smoothed, reference)


def _on_grid_of(image: "SimpleITK.Image", field: "SimpleITK.Image") -> "SimpleITK.Image":
    import SimpleITK as sitk

    resample = sitk.ResampleImageFilter()
    resample.SetReferenceImage(image)
    resample.SetUseNearestNeighborExtrapolator(True)
    return resample.Execute(field)
