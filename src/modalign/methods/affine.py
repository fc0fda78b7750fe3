"""Affine registration by mutual information, as FLIRT is used before deformable methods."""

import logging
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from modalign.cases import Alignment, Case
from modalign.errors import DataError
from modalign.methods._registration import register_by, usable_mask
from modalign.methods._start import START, Start, start_of
from modalign.methods.base import Method, MethodOptions
from modalign.seeds import derive_seed
from modalign.spatial.itk import to_sitk_2d_or_3d, transform_to_field
from modalign.volumes import LPS_TO_RAS

if TYPE_CHECKING:
    import SimpleITK

log = logging.getLogger(__name__)


class Affine(Method):
    """Rigid, then affine registration that maximises Mattes mutual information, by SimpleITK."""

    label = "Affine (MI)"
    kind = "registration"
    dimensions = frozenset({2, 3})
    source = (
        "Mattes et al. 2003 in SimpleITK; stands in for FLIRT with mutual information (Jenkinson et al. 2002), which "
        "Cao et al. 2018 use and whose licence forbids to ship it"
    )

    class Options(MethodOptions):
        """Settings of the affine registration."""

        transform: Literal["rigid", "affine"] = Field("affine", description="3D: 6 or 12 parameters, 2D: 3 or 6")
        bins: int = Field(32, ge=8, description="histogram bins of the mutual information")
        sampling: float = Field(0.5, gt=0, le=1, description="share of the voxels that is sampled, on a regular grid")
        iterations: int = Field(200, ge=1, description="at most, per pyramid level")
        starts_per_axis: int = Field(
            1, ge=1, description="angles tried per rotation axis at the coarsest level; 1 starts from no rotation only"
        )
        search_deg: float = Field(
            30.0, ge=0, le=180, description="the tried angles spread evenly over plus and minus this many degrees"
        )
        start: Start = Field("auto", description=START)
        use_masks: bool = Field(False, description="measure inside the masks of the case, where it has them")

    def align(self, case: Case) -> Alignment:
        """Find the affine transform and warp by it; the notes hold the mutual information before and after."""
        return register_by(case, self.dimension, self._register)

    def _register(self, case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        import SimpleITK as sitk

        options = self.options
        fixed, moving = (to_sitk_2d_or_3d(v, self.dimension) for v in (case.fixed, case.moving))
        registration = sitk.ImageRegistrationMethod()
        registration.SetNumberOfThreads(self.context.threads)
        registration.SetMetricAsMattesMutualInformation(options.bins)
        registration.SetMetricSamplingStrategy(registration.REGULAR)
        # The regular samples are jittered within their cells, by default with a seed from the clock.
        seed = derive_seed(self.context.seed, case.dataset, case.id, "affine")
        registration.SetMetricSamplingPercentage(options.sampling, seed=seed % 2**31 or 1)
        registration.SetInterpolator(sitk.sitkLinear)
        fixed_mask = usable_mask(case.fixed_mask, options.use_masks)
        moving_mask = usable_mask(case.moving_mask, options.use_masks)
        if fixed_mask is not None:
            registration.SetMetricFixedMask(sitk.Cast(to_sitk_2d_or_3d(fixed_mask, self.dimension), sitk.sitkUInt8))
        if moving_mask is not None:
            registration.SetMetricMovingMask(sitk.Cast(to_sitk_2d_or_3d(moving_mask, self.dimension), sitk.sitkUInt8))

        world, of_start = start_of(case, options.start)
        start = self._start(fixed, moving, registration, (LPS_TO_RAS @ world @ LPS_TO_RAS)[: self.dimension, 3])
        rigid = sitk.Euler3DTransform(start) if self.dimension == 3 else sitk.Euler2DTransform(start)
        _optimise(registration, rigid, fixed, moving, options.iterations)
        stages: list[Any] = [start, rigid]
        if options.transform == "affine":
            affine = sitk.AffineTransform(self.dimension)
            affine.SetMatrix(rigid.GetMatrix())
            affine.SetTranslation(rigid.GetTranslation())
            affine.SetCenter(rigid.GetCenter())
            _optimise(registration, affine, fixed, moving, options.iterations)
            stages.append(affine)
        # A descent by samples can end worse than it began.
        information = [_mutual_information(registration, stage, fixed, moving) for stage in stages]
        best = int(np.argmax(information))
        if information[best] <= 0:
            raise DataError(
                f"case {case.id}: no voxel of the fixed image falls into the moving image, or into its mask, from the "
                f"start {of_start!r}: write start: centre, give masks that overlap, or correct the header of one image"
            )
        before = _mutual_information(registration, sitk.Transform(self.dimension, sitk.sitkIdentity), fixed, moving)
        notes = {
            "start": of_start,
            "mutual_information_before": before,
            "mutual_information_after": information[best],
            "better_than_identity": information[best] > before,
            "kept": ("start", "rigid", "affine")[best],
            "parameters": list(stages[best].GetParameters()),
        }
        return transform_to_field(stages[best], fixed, case.grid), notes

    def _start(
        self, fixed: "SimpleITK.Image", moving: "SimpleITK.Image", registration: Any, shift: np.ndarray
    ) -> "SimpleITK.Transform":
        """The best of the tried rotations about the centre of the fixed image, by mutual information at 1/4 scale.

        `shift`, in LPS mm, leads from there to where the moving image is looked for.
        """
        import SimpleITK as sitk

        options = self.options
        transform = sitk.Euler3DTransform() if self.dimension == 3 else sitk.Euler2DTransform()
        transform.SetCenter(_centre(fixed))
        transform.SetTranslation(shift.tolist())
        if options.starts_per_axis == 1:
            return transform
        angles = np.radians(np.linspace(-options.search_deg, options.search_deg, options.starts_per_axis))
        coarse = [sitk.SmoothingRecursiveGaussian(i, [2 * s for s in i.GetSpacing()]) for i in (fixed, moving)]
        candidates = []
        for rotation in product(angles, repeat=3 if self.dimension == 3 else 1):
            candidate = type(transform)(transform)
            candidate.SetParameters([*rotation, *transform.GetTranslation()])
            candidates.append((_mutual_information(registration, candidate, *coarse), candidate))
        return max(candidates, key=lambda pair: pair[0])[1]


def _centre(image: "SimpleITK.Image") -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])


def _optimise(registration: Any, transform: Any, fixed: Any, moving: Any, iterations: int) -> None:
    # A pyramid on short axes would leave a slice or two, on which the metric has no gradient.
    levels = [(s, sigma) for s, sigma in ((4, 2), (2, 1), (1, 0)) if s == 1 or min(fixed.GetSize()) >= 8 * s]
    registration.SetShrinkFactorsPerLevel([s for s, _ in levels])
    registration.SetSmoothingSigmasPerLevel([sigma for _, sigma in levels])
    registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    registration.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, iterations, 0.5)
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetInitialTransform(transform, inPlace=True)
    try:
        registration.Execute(fixed, moving)
    except RuntimeError as error:
        # ITK gives up when the images lose their overlap; where the transform was then is worth nothing.
        log.debug("a stage of the affine registration failed: %s", error)


def _mutual_information(registration: Any, transform: Any, fixed: Any, moving: Any) -> float:
    """Mattes mutual information in nats; larger is better. 0 where the images don't overlap."""
    registration.SetInitialTransform(transform)
    try:
        return -registration.MetricEvaluate(fixed, moving)
    except RuntimeError:
        return 0.0
