"""The published schedules of Locor's optimiser, for every similarity that runs under it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage: an affine map (`spline_spacing` None), or a velocity field.

    Attributes:
        iterations: of Adam; 0 leaves the stage out.
        learning_rate: affine: in the coordinates of :class:`~modalign.instance.affine.AffineStage`, otherwise in
            control point distances.
        image_spacing: voxels per sample of the images.
        spline_spacing: voxels between control points.
        deformation_spacing: voxels between the points on which the deformation is computed.
    """

    iterations: int
    learning_rate: float
    image_spacing: float
    spline_spacing: float | None = None
    deformation_spacing: float = 1.0


STAGES = (
    Stage(80, 5e-3, 2.0),
    Stage(80, 0.16, 4.0, 32.0, 4.0),
    Stage(80, 0.16, 4.0, 16.0, 4.0),
    Stage(40, 0.08, 2.0, 8.0, 2.0),
    Stage(40, 0.08, 2.0, 4.0, 2.0),
    Stage(40, 0.04, 1.0, 4.0, 1.0),
)
SMALL = {"schedule": (30, 0, 15, 15, 12, 0), "coarsest": 1.0}
"""Settings of the preset `small`, for images of about 50 voxels along each axis: on still fewer samples, a measure of
local dependence finds alignments that aren't there."""


def stages(
    iterations: Sequence[int] | None = None,
    affine_rate: float | None = None,
    rate: float | None = None,
    coarsest: float | None = None,
    finest_lattice: float = 0.0,
) -> tuple[Stage, ...]:
    """The published stages, with other iterations or learning rates.

    Args:
        iterations: of every stage, the affine one first.
        affine_rate: learning rate of the affine stage.
        rate: that of the last stage; those before keep their ratios to it.
        coarsest: the largest spacing of the images in voxels, where the published stages have a larger one.
        finest_lattice: the least distance of the points on which the deformation is computed, as a share of that of the
            control points, where the published stages have a smaller one.

    Raises:
        ValueError: not one number for every stage.
    """
    counts = tuple(stage.iterations for stage in STAGES) if iterations is None else tuple(iterations)
    if len(counts) != len(STAGES):
        raise ValueError(f"the schedule has {len(STAGES)} stages, the affine one first; got {len(counts)} numbers")
    factor = 1.0 if rate is None else rate / STAGES[-1].learning_rate
    changed = []
    for stage, count in zip(STAGES, counts, strict=True):
        spacing = stage.image_spacing if coarsest is None else min(stage.image_spacing, coarsest)
        if stage.spline_spacing is None:
            learning_rate = stage.learning_rate if affine_rate is None else affine_rate
            deformation_spacing = stage.deformation_spacing
        else:
            learning_rate = stage.learning_rate * factor
            deformation_spacing = max(stage.deformation_spacing, finest_lattice * stage.spline_spacing)
        changed.append(Stage(count, learning_rate, spacing, stage.spline_spacing, deformation_spacing))
    return tuple(changed)
