"""corrField from beginning to end, in 2D and 3D."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.ndimage as ndi
import torch
from torch import Tensor

from modalign.corrfield.graph import min_marginals, spanning_tree
from modalign.corrfield.keypoints import keypoints
from modalign.corrfield.matching import expected_displacement, patch_costs, search_radii
from modalign.corrfield.spline import rigid_field, thin_plate_field
from modalign.errors import ModalignError
from modalign.similarity.mind import mind_ssc
from modalign.spatial.warp import warp

log = logging.getLogger(__name__)
_INTENSITY_WINDOW = 5


@dataclass(frozen=True)
class Stage:
    """One round of keypoints, search and field, from the coarsest to the finest.

    Attributes:
        search_radius: largest displacement in steps (L of the original program).
        nms_width: cubes of which the most distinctive voxel becomes a keypoint, in voxels (N).
        step: between neighbouring displacements, in voxels (Q).
        patch_radius: half width of the compared patches in voxels (R).
        transform: how displacements become a field: ``rigid`` or ``tps``, a thin-plate spline (T).
    """

    search_radius: int
    nms_width: int
    step: int
    patch_radius: int
    transform: Literal["rigid", "tps"]


@dataclass(frozen=True)
class Weights:
    """What all stages share; names as in the paper.

    Attributes:
        alpha: weight of the descriptors' squared differences.
        beta: how much intensity (0 to 1000) counts as one voxel between keypoints.
        gamma: how sharply the best displacement wins.
        delta: distance of the compared patches inside MIND-SSC, in voxels.
        sigma: smoothing of the structure tensor, in voxels.
        sigma1: patches of MIND-SSC, in voxels.
        lambda_tps: smoothing of the thin-plate spline.
    """

    alpha: float = 2.5
    beta: float = 150.0
    gamma: float = 5.0
    delta: int = 1
    sigma: float = 1.4
    sigma1: float = 1.0
    lambda_tps: float = 0.0


def corrfield(
    fixed: np.ndarray,
    moving: np.ndarray,
    stages: Sequence[Stage],
    weights: Weights | None = None,
    mask: np.ndarray | None = None,
    max_keypoints: int = 2000,
    device: str = "cpu",
    moving_mask: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, list[int]]:
    """Register two images of any contrast by a sparse discrete search (Heinrich et al. 2015).

    Per stage: the most distinctive voxels of the fixed image; for each, the cost of every displacement; exact
    inference on the tree that joins them; the same from the moving image back, and the mean of both; a field through
    the displacements, which is composed with those of the stages before. Everything is in voxels, whatever their
    size; along short axes the search reaches half the image.

    Args:
        fixed: (X, Y) or (X, Y, Z), any unit: the middle 99.8 % of the intensities (inside the mask) become 0 to 1000.
        moving: the same shape.
        stages: from coarse to fine.
        weights: see :class:`Weights`.
        mask: where keypoints may lie; None is everywhere.
        max_keypoints: of a stage; memory grows with them, and time with their cube.
        device: of the descriptors and the search, cpu or cuda.
        moving_mask: where the moving image is valid; outside, the nearest valid values take its place, so that nothing
            there has edges to match. None is everywhere. The original program has none.
        progress: told of every stage that is done: how many.

    Returns:
        The field (nD, *S), float32, in voxels with ``moving(x + field(x))`` like ``fixed(x)``, and the number of
        keypoints of each stage.

    Raises:
        ModalignError: a stage finds too few keypoints.
    """
    weights = weights or Weights()
    fixed_image = rescaled(fixed, mask)
    moving_image = torch.as_tensor(rescaled(_inside(moving, moving_mask), moving_mask), device=device)[None, None]
    descriptor = _descriptor(torch.as_tensor(fixed_image, device=device)[None, None], weights)
    means = ndi.uniform_filter(fixed_image, _INTENSITY_WINDOW, mode="nearest")
    total = torch.zeros(1, fixed.ndim, *fixed.shape, device=device)
    counts = []
    for number, stage in enumerate(stages, 1):
        points = keypoints(fixed_image, mask, stage.nms_width, weights.sigma, max_keypoints)
        if len(points) < 2 * (fixed.ndim + 1):
            raise ModalignError(
                f"stage {number} of corrField finds {len(points)} keypoints in an image of "
                f"{' x '.join(map(str, fixed.shape))} voxels: choose a smaller nms_width, or a larger mask"
            )
        warped = _descriptor(warp(moving_image, total), weights)
        found = _displacements(descriptor, warped, points, means[tuple(points.T)], stage, weights)
        log.info("corrField, stage %d: %d keypoints", number, len(points))
        if stage.transform == "rigid":
            update = rigid_field(points, found, fixed.shape)
        else:
            update = thin_plate_field(points, found, fixed.shape, weights.lambda_tps)
        step = torch.as_tensor(update, device=device)[None]
        total = step + warp(total, step)
        counts.append(len(points))
        if progress is not None:
            progress(number)
    return total[0].cpu().numpy(), counts


def _inside(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The image with every voxel outside the mask replaced by the nearest one inside."""
    if mask is None or not mask.any():
        return image
    nearest = ndi.distance_transform_edt(mask == 0, return_distances=False, return_indices=True)
    return image[tuple(nearest)]


def rescaled(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The image as float32 with its 0.1 % and 99.9 % quantiles at 0 and 1000, and nothing beyond."""
    inside = image if mask is None or not mask.any() else image[mask > 0]
    low, high = np.quantile(inside, [0.001, 0.999])
    if high <= low:
        # An image of a few bright voxels.
        low, high = float(image.min()), max(float(image.max()), float(image.min()) + 1e-6)
    return (np.clip((image - low) / (high - low), 0, 1) * 1000).astype(np.float32)


def _descriptor(image: Tensor, weights: Weights) -> Tensor:
    return mind_ssc(image, dilation=weights.delta, sigma=weights.sigma1)[0]


def _displacements(
    fixed: Tensor, moving: Tensor, points: np.ndarray, intensities: np.ndarray, stage: Stage, weights: Weights
) -> np.ndarray:
    """The displacement of every keypoint in voxels, (n, nD), from both directions of the search."""
    shape = fixed.shape[1:]
    radii = search_radii(shape, stage.search_radius, stage.step)
    tree = spanning_tree(points, intensities, weights.beta)

    def search(target: Tensor, source: Tensor, start: np.ndarray) -> Tensor:
        costs = patch_costs(target, source, start, radii, stage.step, stage.patch_radius)
        return min_marginals(costs.mul_(weights.alpha), tree)

    forward = search(fixed, moving, points)
    expected = expected_displacement(forward, stage.step, weights.gamma).cpu().numpy()
    # Backward labels are displacements as well, from whichever whole voxel the search starts: nothing to add for the
    # rounding, which only moves the place of which they tell, by half a voxel at most.
    arrived = np.clip(np.rint(points + expected).astype(int), 0, np.array(shape) - 1)
    backward = search(moving, fixed, arrived)
    both = forward.add_(backward.flip(list(range(1, backward.ndim)))).div_(2)
    return expected_displacement(both, stage.step, weights.gamma).cpu().numpy().astype(np.float64)
