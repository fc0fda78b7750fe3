"""What the methods that optimise each pair by itself share: their options, and the way from a case to the optimiser."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from modalign.cases import Alignment, Case
from modalign.instance.presets import STAGES
from modalign.methods._registration import register_by, usable_mask
from modalign.methods.base import Context, MethodOptions
from modalign.seeds import derive_seed
from modalign.volumes import Volume

if TYPE_CHECKING:
    import torch

    from modalign.instance.contract import PairSimilarity
    from modalign.instance.optimise import Pair, Registration


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
    affine_learning_rate: float = Field(
        5e-3, gt=0, description="of Adam, in halves of the moving image's extent (affine stage)"
    )
    learning_rate: float = Field(
        0.04,
        gt=0,
        description="of Adam in the last stage, in control point distances; the stages before have 4, 4, 2, 2 times it",
    )
    start: Literal["auto", "world", "centre"] = Field(
        "auto",
        description="where to start: as the scans lie in world coordinates, or with their centres on top of each "
        "other; auto: world, unless the centre of one scan lies outside the other",
    )
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


MakeSimilarity = Callable[["torch.Generator"], "PairSimilarity"]


def align_pair(
    case: Case,
    dimension: int,
    context: Context,
    options: InstanceOptions,
    schedule: tuple[int, ...] | None,
    make_similarity: MakeSimilarity,
    purpose: str,
    **settings: Any,
) -> Alignment:
    """Register a case, or each of its slices, by the instance optimiser.

    Args:
        case: the scans.
        dimension: 3 for the volume, 2 for every axial slice by itself.
        context: seed, device and threads.
        options: settings of the optimiser.
        schedule: iterations per stage; None for the published ones.
        make_similarity: makes the similarity for one pair, and draws from the generator that it gets.
        purpose: names the method, for the seed.
        settings: further arguments of :func:`modalign.instance.optimise.register`.
    """

    def one(pair_case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        found, notes = register_case(
            pair_case, dimension, context, options, schedule, make_similarity, purpose, **settings
        )
        return forward_field(found, pair_case, dimension), notes

    return register_by(case, dimension, one)


def register_case(
    case: Case,
    dimension: int,
    context: Context,
    options: InstanceOptions,
    schedule: tuple[int, ...] | None,
    make_similarity: MakeSimilarity,
    purpose: str,
    **settings: Any,
) -> "tuple[Registration, dict[str, Any]]":
    """Register a volume (or a case of one slice) as :func:`align_pair` does; both directions, and what to record."""
    import torch

    from modalign.instance.optimise import register
    from modalign.instance.presets import stages
    from modalign.training.progress import progress_bar

    rng = torch.Generator().manual_seed(derive_seed(context.seed, case.dataset, case.id, purpose))
    similarity = make_similarity(rng)
    planned = stages(schedule, options.affine_learning_rate, options.learning_rate, options.coarsest)
    total = sum(stage.iterations for stage in planned)
    with (
        _workers(context.threads, context.device) as workers,
        progress_bar(total, 0, dimension == 3, label="registration") as show,
    ):
        found = register(
            pair_of(case, dimension, options),
            similarity,
            planned,
            options.smoothness_weight,
            rng,
            options.symmetric_smoothness,
            average=options.average,
            device=context.device,
            workers=workers,
            progress=show,
            **settings,
        )
    return found, {"similarity": found.losses[-1]}


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


def pair_of(case: Case, dimension: int, options: InstanceOptions) -> "Pair":
    """The arrays and matrices of a case; slices (dimension 2) share one grid."""
    from modalign.instance.optimise import Pair

    masks = (usable_mask(mask, options.use_masks) for mask in (case.fixed_mask, case.moving_mask))
    fixed_mask, moving_mask = (None if mask is None else mask.data for mask in masks)
    arrays = [case.fixed.data, case.moving.data, fixed_mask, moving_mask]
    if dimension == 2:
        arrays = [None if a is None else a[:, :, 0] for a in arrays]
        to_moving: np.ndarray = np.eye(3)
    else:
        to_moving = np.linalg.inv(case.moving.affine) @ _start(case, options.start) @ case.fixed.affine
    fixed_mm, moving_mm = (tuple(map(float, v.spacing[:dimension])) for v in (case.fixed, case.moving))
    fixed, moving, fixed_mask, moving_mask = arrays
    assert fixed is not None
    assert moving is not None
    return Pair(fixed, moving, to_moving, (fixed_mm, moving_mm), fixed_mask, moving_mask)


def forward_field(found: "Registration", case: Case, dimension: int) -> np.ndarray:
    """The displacement field (3, X, Y, Z) in voxels of the fixed grid, by which the moving image is warped."""
    return _as_field(found.positions, case.moving, case.fixed, dimension)


def inverse_field(found: "Registration", case: Case, dimension: int) -> np.ndarray:
    """The displacement field (3, X, Y, Z) in voxels of the moving grid, by which the fixed image is warped."""
    return _as_field(found.inverse_positions, case.fixed, case.moving, dimension)


def _as_field(positions: np.ndarray, looked_up: Volume, grid: Volume, dimension: int) -> np.ndarray:
    """Positions in voxels of `looked_up` as displacements in voxels of `grid`."""
    if dimension == 2:
        field = positions - np.stack(np.meshgrid(*map(np.arange, positions.shape[1:]), indexing="ij"))
        return np.concatenate([field, np.zeros_like(field[:1])])[..., None].astype(np.float32)
    matrix = np.linalg.inv(grid.affine) @ looked_up.affine
    own = np.tensordot(matrix[:3, :3], positions.astype(float), axes=1) + matrix[:3, 3].reshape(3, 1, 1, 1)
    return (own - grid.grid.indices()).astype(np.float32)


def _start(case: Case, start: str) -> np.ndarray:
    """The affine in world coordinates, fixed to moving, from which to start."""
    centres = [(v.affine @ np.append((np.array(v.shape) - 1) / 2, 1))[:3] for v in (case.fixed, case.moving)]
    matrix = np.eye(4)
    apart = not (_contains(case.fixed, centres[1]) and _contains(case.moving, centres[0]))
    if start == "centre" or (start == "auto" and apart):
        matrix[:3, 3] = centres[1] - centres[0]
    return matrix


def _contains(volume: Volume, point: np.ndarray) -> bool:
    voxel = (np.linalg.inv(volume.affine) @ np.append(point, 1))[:3]
    return bool(((voxel >= -0.5) & (voxel <= np.array(volume.shape) - 0.5)).all())
