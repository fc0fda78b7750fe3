"""Registration of one pair: stage after stage, both directions at once, by Adam."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modalign.errors import ModalignError
from modalign.instance.affine import AffineStage, apply_affine
from modalign.instance.contract import PairSimilarity
from modalign.instance.presets import Stage
from modalign.instance.pyramid import Level, level_spacing, make_level, normalised_intensity
from modalign.instance.splines import Lattice, centred_lattice, interpolation_matrices, separable
from modalign.instance.transform import Deformation, VelocityStage, sampled

log = logging.getLogger(__name__)

Progress = Callable[[int, Mapping[str, float]], None]
LEAST_OVERLAP = 0.05
"""Share of the smaller image (in mm^3, inside its mask) that has to stay in view of the other image."""


@dataclass(frozen=True)
class Pair:
    """Two images as arrays, and how they lie to each other.

    Attributes:
        fixed: (*S), two or three axes, any intensity unit.
        moving: (*S').
        to_moving: homogeneous matrix from fixed to moving voxels, where the registration starts.
        spacing_mm: voxel size of the fixed and of the moving image.
        fixed_mask: (*S), what is valid; None for everything.
        moving_mask: (*S').
    """

    fixed: np.ndarray
    moving: np.ndarray
    to_moving: np.ndarray
    spacing_mm: tuple[tuple[float, ...], tuple[float, ...]]
    fixed_mask: np.ndarray | None = None
    moving_mask: np.ndarray | None = None


@dataclass(frozen=True)
class Registration:
    """What was found.

    Attributes:
        positions: (nD, *S), float32: where each voxel of the fixed image lies in the moving one, in moving voxels.
        inverse_positions: (nD, *S'): where each voxel of the moving image lies in the fixed one, in fixed voxels.
        affine: the affine part, homogeneous, fixed to moving voxels.
        losses: the mean similarity loss over the last quarter of each stage.
    """

    positions: np.ndarray
    inverse_positions: np.ndarray
    affine: np.ndarray
    losses: tuple[float, ...]


def register(
    pair: Pair,
    similarity: PairSimilarity,
    stages: Sequence[Stage],
    smoothness: float,
    rng: torch.Generator,
    symmetric_smoothness: bool = True,
    network_rate: float = 1e-2,
    average: float = 0.0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    workers: Executor | None = None,
    progress: Progress | None = None,
) -> Registration:
    """Register a pair.

    Minimises the mean of the two directions' similarities plus ``smoothness * (level * least voxel size in mm)^2``
    times the mean of the two directions' bending energies.

    Args:
        pair: the images.
        similarity: compares them.
        stages: affine stages first.
        smoothness: weight of the bending energy, see above.
        symmetric_smoothness: False leaves out the bending energy of the inverse, so that half of the weight counts, as
            in the released tool.
        rng: the only source of randomness, on the CPU.
        network_rate: Adam's learning rate for what the similarity learns; its moments start anew with every stage.
        average: share of a stage's iterations, the last ones, whose mean is its result: less of the noise of the random
            lattices and of Adam's steps. 0 takes the last iterate, as published.
        device: where to compute.
        dtype: float32 or float64.
        workers: two threads, to run both directions at the same time; with the same result.
        progress: told of every iteration: iterations done so far, and the losses.

    Raises:
        DataError: an image or mask can't be used.
        ModalignError: the images no longer overlap, or the optimisation diverged.
    """
    like = torch.empty(0, dtype=dtype, device=device)
    images = {
        role: _with_mask(image, mask, role, like)
        for role, image, mask in (
            ("fixed", pair.fixed, pair.fixed_mask),
            ("moving", pair.moving, pair.moving_mask),
        )
    }
    networks = similarity.networks()
    learned = [] if networks is None else list(networks.to(like).parameters())
    affine: np.ndarray = np.asarray(pair.to_moving, dtype=float)
    deformation: Deformation | None = None
    levels: dict[str, Level] = {}
    spacing, done, losses = 0.0, 0, []
    for stage in stages:
        if stage.iterations == 0:
            continue
        if stage.image_spacing != spacing:
            spacing = stage.image_spacing
            levels = {r: make_level(*images[r], spacing, similarity, r) for r in images}
        model = _model(stage, pair, affine, deformation, like, symmetric_smoothness)
        weight = smoothness * (spacing * min(pair.spacing_mm[0])) ** 2
        groups = [{"params": [model.parameters], "lr": stage.learning_rate}]
        if learned:
            groups.append({"params": learned, "lr": network_rate})
        optimiser = torch.optim.Adam(groups)
        comparison = _Comparison(levels, model, similarity, learned, spacing, pair.spacing_mm, rng)
        history = []
        first = stage.iterations - max(1, round(average * stage.iterations))
        mean = torch.zeros_like(model.parameters)
        for iteration in range(stage.iterations):
            optimiser.zero_grad()
            likeness, bending = comparison.backward(weight, workers)
            optimiser.step()
            if iteration >= first:
                mean += model.parameters.detach() / (stage.iterations - first)
            done += 1
            history.append(likeness)
            if progress is not None:
                progress(done, {"similarity": likeness, "bending": bending})
        with torch.no_grad():
            model.parameters.copy_(mean)
        losses.append(float(np.mean(history[-max(1, len(history) // 4) :])))
        _check(model.parameters, comparison.overlap, stage)
        log.debug("%s: similarity %.4f", stage, losses[-1])
        if isinstance(model, AffineStage):
            affine = model.matrix()
        else:
            deformation = model.deformation()
    there, back = _dense(pair, affine, deformation, like)
    return Registration(there, back, affine, tuple(losses))


class _Comparison:
    """The loss of a stage and its gradient: both directions' similarity, and the bending energy."""

    def __init__(
        self,
        levels: Mapping[str, Level],
        model: AffineStage | VelocityStage,
        similarity: PairSimilarity,
        learned: Sequence[Tensor],
        spacing: float,
        voxels_mm: tuple[Sequence[float], Sequence[float]],
        rng: torch.Generator,
    ) -> None:
        self._levels, self._model, self._similarity = levels, model, similarity
        self._learned, self._spacing = list(learned), spacing
        # A generator for each direction, so that both may run at the same time.
        self._rngs = [torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=rng))) for _ in range(2)]
        like = model.parameters.detach()
        self._up = {
            "fixed": interpolation_matrices(model.fixed_lattice, levels["fixed"].lattice, like),
            "moving": interpolation_matrices(model.moving_lattice, levels["moving"].lattice, like),
        }
        self._sample_mm3 = {
            role: math.prod(step * mm for step, mm in zip(levels[role].lattice.step, sizes, strict=True))
            for role, sizes in zip(("fixed", "moving"), voxels_mm, strict=True)
        }
        self._seen = {"fixed": 0.0, "moving": 0.0}

    @property
    def overlap(self) -> float:
        """The share of the smaller image that the other one showed at the last evaluation.

        Counted on the finer grid, and in mm^3: the two grids may have voxels of very different sizes.
        """
        finer = min(self._sample_mm3, key=lambda role: self._sample_mm3[role])
        smaller = min(float(self._levels[r].validity.sum()) * mm3 for r, mm3 in self._sample_mm3.items())
        return self._seen[finer] * self._sample_mm3[finer] / smaller

    def backward(self, weight: float, workers: Executor | None) -> tuple[float, float]:
        """Add the gradients to the parameters' `grad`; the similarity, and `weight` times the bending energy."""
        forward, inverse, energy = self._model.points()
        jobs = [("fixed", "moving", forward.detach()), ("moving", "fixed", inverse.detach())]
        # The directions meet only in the points, which have few voxels: beyond them, each has a graph of its own.
        results = list((map if workers is None else workers.map)(self._direction, *zip(*jobs, strict=True)))
        likeness = (results[0][0] + results[1][0]) / 2
        penalty = weight * energy
        for parameter, *gradients in zip(self._learned, *(r[2] for r in results), strict=True):
            parameter.grad = sum(g / 2 for g in gradients if g is not None)
        # Linear in the points, with the directions' gradients as slopes.
        ((forward * results[0][1]).sum() / 2 + (inverse * results[1][1]).sum() / 2 + penalty).backward()
        return likeness, float(penalty.detach())

    def _direction(self, stays: str, moves: str, points: Tensor) -> tuple[float, Tensor, Sequence[Tensor | None]]:
        """The similarity, and its gradients by the points and by what is learned."""
        still, other = self._levels[stays], self._levels[moves]
        points.requires_grad_()
        where = separable(other.lattice.normalised(points), self._up[stays]).movedim(1, -1)
        source, inside = other.warp(where)
        mask = inside * still.validity
        self._seen[stays] = float(mask.sum())
        forward = stays == "fixed"
        loss = self._similarity.loss(
            still.target, source, mask, forward=forward, spacing=self._spacing, rng=self._rngs[0 if forward else 1]
        )
        by_points, *by_learned = torch.autograd.grad(loss, [points, *self._learned], allow_unused=True)
        return float(loss.detach()), torch.zeros_like(points) if by_points is None else by_points, by_learned


def _with_mask(image: np.ndarray, mask: np.ndarray | None, role: str, like: Tensor) -> tuple[Tensor, Tensor]:
    values = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float64)).to(like)[None, None]
    if mask is None:
        valid = torch.ones_like(values)
    else:
        valid = torch.from_numpy(np.ascontiguousarray(mask > 0)).to(like)[None, None]
    return normalised_intensity(values, valid, role), valid


def _model(
    stage: Stage, pair: Pair, affine: np.ndarray, deformation: Deformation | None, like: Tensor, symmetric: bool
) -> AffineStage | VelocityStage:
    if stage.spline_spacing is None:
        ones = (1.0,) * pair.fixed.ndim
        fixed, moving = (centred_lattice(image.shape, ones) for image in (pair.fixed, pair.moving))
        return AffineStage(affine, fixed, moving, like)
    size = pair.fixed.shape
    return VelocityStage(
        affine,
        deformation,
        size,
        pair.moving.shape,
        # With control points farther apart than half the image, a field would be little more than another affine map.
        tuple(min(stage.spline_spacing, (n - 1) / 2) for n in size),
        level_spacing(size, stage.deformation_spacing),
        pair.spacing_mm,
        like,
        symmetric,
    )


def _check(parameters: Tensor, overlap: float, stage: Stage) -> None:
    if not torch.isfinite(parameters).all():
        raise ModalignError(
            f"the optimisation diverged at {stage.image_spacing:g} voxels per sample: use a smaller learning rate"
        )
    if overlap < LEAST_OVERLAP:
        raise ModalignError(
            f"the images have drifted apart: {100 * overlap:.1f} % of the smaller one lies in the other. Check that "
            "they lie on top of each other in world coordinates (or start from their centres), or use a smaller "
            "learning rate"
        )


def _dense(
    pair: Pair, affine: np.ndarray, deformation: Deformation | None, like: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all voxels of both images in the respective other one."""
    ones = (1.0,) * pair.fixed.ndim
    fixed, moving = (centred_lattice(image.shape, ones) for image in (pair.fixed, pair.moving))
    there = torch.from_numpy(affine).to(like)
    back = torch.from_numpy(np.linalg.inv(affine)).to(like)
    points, origin = fixed.points(like), apply_affine(back, moving.points(like))
    if deformation is not None:
        points = points + _on_voxels(deformation.forward, deformation.lattice, fixed)
        origin = origin + sampled(_on_voxels(deformation.inverse, deformation.lattice, fixed), fixed, origin)
    results = (apply_affine(there, points), origin)
    first, second = (r[0].float().cpu().numpy() for r in results)
    return first, second


def _on_voxels(displacement: Tensor, lattice: Lattice, voxels: Lattice) -> Tensor:
    return separable(displacement, interpolation_matrices(lattice, voxels, displacement))
