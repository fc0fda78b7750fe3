"""What the methods that optimise each pair by itself share: their options, and the way from a case to the optimiser."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from modalign.cases import Alignment, Case
from modalign.instance.presets import STAGES
from modalign.methods._registration import register_by, usable_mask
from modalign.methods._start import START, Start, start_of
from modalign.methods.base import Method, MethodOptions
from modalign.seeds import derive_seed
from modalign.volumes import Volume, apply_affine

if TYPE_CHECKING:
    import torch

    from modalign.instance.contract import PairSimilarity
    from modalign.instance.optimise import Pair


class InstanceOptions(MethodOptions):
    """Settings of the optimiser, the same for every similarity."""

    schedule: tuple[int, ...] | None = Field(
        None,
        description="iterations of the affine stage and of the five deformable ones; 0 leaves a stage out; null = the "
        "preset's: 80, 80, 80, 40, 40, 40 as published, or 30, 0, 15, 15, 12, 0 (small)",
    )
    coarsest: float | None = Field(
        None, ge=1, description="largest spacing of the images, in voxels; null = 4 as published, or 1 (small)"
    )
    smoothness_weight: float = Field(
        500.0,
        ge=0,
        description="weight of the bending energy (1/mm^2), times the squared voxel size of the level (mm^2)",
    )
    symmetric_smoothness: bool = Field(
        True,
        description="average the bending energy of both directions; false: half of the forward one's, as the released "
        "tool of Locor does",
    )
    average: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of every stage's iterations, the last ones, whose mean is its result; 0: the last iterate, "
        "as the released tool of Locor does",
    )
    finest_lattice: float = Field(
        0.5,
        ge=0,
        le=1,
        description="the deformation is computed on points at least this share of the control points' distance apart, "
        "and interpolated to the voxels; 0: on those of the published schedule, in its last stage all voxels, which "
        "takes up to twice as long",
    )
    affine_learning_rate: float = Field(
        5e-3, gt=0, description="of Adam, in halves of the moving image's extent (affine stage)"
    )
    learning_rate: float = Field(
        0.04,
        gt=0,
        description="of Adam in the last stage, in control point distances; the stages before have 4, 4, 2, 2 times it",
    )
    start: Start = Field("auto", description=START)
    use_masks: bool = Field(True, description="look only inside the masks of the case, where it has any")

    @model_validator(mode="after")
    def _six_stages(self) -> "InstanceOptions":
        if self.schedule is not None and (len(self.schedule) != len(STAGES) or min(self.schedule) < 0):
            raise ValueError(
                f"schedule needs {len(STAGES)} numbers, 0 or more: the affine stage, then five deformable ones"
            )
        if self.schedule is not None and not any(self.schedule):
            raise ValueError("schedule is all zeros: leave at least one stage with iterations")
        return self


class InstanceMethod(Method):
    """A similarity measure under Locor's optimiser, for each pair by itself. A method says which measure."""

    kind = "registration"
    dimensions = frozenset({2, 3})
    accelerated = True
    options: Any
    network_rate: ClassVar[str | None] = None
    """The option with Adam's learning rate for what the measure itself learns, if it does."""

    def _similarity(self, rng: "torch.Generator") -> "PairSimilarity":
        """The measure for one pair; it may draw from `rng`."""
        raise NotImplementedError

    def align(self, case: Case) -> Alignment:
        """Register the volume, or each axial slice by itself, and warp."""
        from modalign.training.progress import progress_bar

        slices = case.fixed.shape[2]
        back: list[np.ndarray] = []
        with progress_bar(slices, 0, self.dimension == 2, label="slices") as show:

            def one(part: Case) -> tuple[np.ndarray, dict[str, Any]]:
                field, inverse, notes = self._register(part)
                back.append(inverse)
                show(len(back), {})
                return field, notes

            alignment = register_by(case, self.dimension, one)
        if self.dimension == 3:
            alignment.inverse_field = back[0]
        return alignment

    def _register(self, case: Case) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """The field (3, X, Y, Z) in voxels of the fixed grid, of a volume or a single slice, the one from the moving
        grid back (3, X', Y', Z'), in its voxels, and what to record."""
        import torch

        from modalign.instance.optimise import register
        from modalign.instance.presets import stages
        from modalign.training.progress import progress_bar

        options, context = self.options, self.context
        rng = torch.Generator().manual_seed(derive_seed(context.seed, case.dataset, case.id, self.name))
        similarity = self._similarity(rng)
        planned = stages(
            options.schedule,
            options.affine_learning_rate,
            options.learning_rate,
            options.coarsest,
            options.finest_lattice,
        )
        rate = {} if self.network_rate is None else {"network_rate": getattr(options, self.network_rate)}
        total = sum(stage.iterations for stage in planned)
        start, of_start = start_of(case, options.start)
        with (
            _workers(context.threads, context.device) as workers,
            progress_bar(total, 0, self.dimension == 3, label="registration") as show,
        ):
            found = register(
                _pair(case, self.dimension, options.use_masks, start),
                similarity,
                planned,
                options.smoothness_weight,
                rng,
                options.symmetric_smoothness,
                average=options.average,
                device=context.device,
                workers=workers,
                progress=show,
                **rate,
            )
        notes: dict[str, Any] = {"similarity": found.losses[-1]}
        if self.dimension == 3:
            notes["start"] = of_start
        field = _field(found.positions, case.fixed, case.moving, self.dimension)
        return field, _field(found.inverse_positions, case.moving, case.fixed, self.dimension), notes


@contextmanager
def _workers(threads: int, device: str) -> "Iterator[Executor | None]":
    """On a CPU with two threads or more, one worker per direction, each with its half of the threads."""
    import torch

    before = torch.get_num_threads()
    if device != "cpu" or threads < 2:
        torch.set_num_threads(threads)
        executor = None
    else:
        share = threads // 2
        torch.set_num_threads(share)
        executor = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(share,))
    try:
        yield executor
    finally:
        if executor is not None:
            executor.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _pair(case: Case, dimension: int, use_masks: bool, start: np.ndarray) -> "Pair":
    """The arrays and matrices of a case, `start` in world coordinates; slices (dimension 2) share one grid."""
    from modalign.instance.optimise import Pair

    masks = (usable_mask(mask, use_masks) for mask in (case.fixed_mask, case.moving_mask))
    fixed_mask, moving_mask = (None if mask is None else mask.data for mask in masks)
    arrays = [case.fixed.data, case.moving.data, fixed_mask, moving_mask]
    if dimension == 2:
        arrays = [None if a is None else a[:, :, 0] for a in arrays]
        to_moving: np.ndarray = np.eye(3)
    else:
        to_moving = np.linalg.inv(case.moving.affine) @ start @ case.fixed.affine
    fixed_mm, moving_mm = (tuple(map(float, v.spacing[:dimension])) for v in (case.fixed, case.moving))
    fixed, moving, fixed_mask, moving_mask = arrays
    assert fixed is not None
    assert moving is not None
    return Pair(fixed, moving, to_moving, (fixed_mm, moving_mm), fixed_mask, moving_mask)


def _field(positions: np.ndarray, own: Volume, other: Volume, dimension: int) -> np.ndarray:
    """Positions in voxels of the other scan as displacements (3, X, Y, Z) in voxels of a scan's own grid."""
    if dimension == 2:
        field = positions - np.stack(np.meshgrid(*map(np.arange, positions.shape[1:]), indexing="ij"))
        return np.concatenate([field, np.zeros_like(field[:1])])[..., None].astype(np.float32)
    moved = apply_affine(np.linalg.inv(own.affine) @ other.affine, positions.astype(float))
    return (moved - own.grid.indices()).astype(np.float32)
