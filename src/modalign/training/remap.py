"""Images whose intensities are changed at random, so that a network learns not to rely on them (IMSE, section 3.3)."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from modalign.seeds import generator

Remap = Literal["shuffle", "bezier"]

CURVE_POINTS = 256
"""Points of a Bezier curve, between which it is taken as straight."""


def remapped(
    images: Tensor, remap: Remap, control_points: tuple[int, int], extras: bool, seed: int, *purpose: str
) -> Tensor:
    """Images (B, 1, *S) in [-1, 1] with their intensities remapped, each by a mapping of its own; still in [-1, 1].

    Args:
        images: (B, 1, *S); values beyond [-1, 1] are cut off.
        remap: ``shuffle``, see :func:`shuffle_remap`; ``bezier``, see :func:`bezier_remap`.
        control_points: least and largest number of random control points (shuffle).
        extras: what IMSE's released code does besides, see :func:`extra_changes`.
        seed: seeds the mappings, together with `purpose`.
        purpose: what they are for, and for which step.
    """
    rng = generator(seed, *purpose)
    changed = []
    for image in images.clamp(-1, 1):
        if remap == "shuffle":
            count = int(rng.integers(control_points[0], control_points[1] + 1))
            points = np.sort(rng.uniform(-1, 1, count))
            image = shuffle_remap(image, points, rng.permutation(count + 1))
        else:
            image = bezier_remap(image, np.sort(rng.uniform(-1, 1, (2, 2)), axis=1))
        changed.append(extra_changes(image, rng) if extras else image)
    return torch.stack(changed)


def shuffle_remap(image: Tensor, points: np.ndarray, order: np.ndarray) -> Tensor:
    """Cut [-1, 1] at `points` and put the segments elsewhere: segment i goes, stretched, to where ``order[i]`` was.

    Source: IMSE (Kong et al. 2023), equation 8 and algorithm 1, which leaves values of exactly 1 at 0; here the last
    segment holds its upper end.

    Args:
        image: any shape, in [-1, 1].
        points: N control points between -1 and 1, ascending.
        order: a permutation of 0 to N.
    """
    edges = torch.from_numpy(np.concatenate([[-1.0], points, [1.0]])).to(image)
    segment = torch.bucketize(image, edges[1:-1], right=True)
    widths = edges.diff()
    target = torch.from_numpy(order).to(image.device)
    # Two control points can coincide in single precision; no value lies between them.
    factors = widths[target] / widths.clamp(min=torch.finfo(image.dtype).tiny)
    return ((image - edges[segment]) * factors[segment] + edges[target[segment]]).clamp(-1, 1)


def bezier_remap(image: Tensor, controls: np.ndarray) -> Tensor:
    """Intensities mapped by a cubic Bezier curve from (-1, -1) to (1, 1): brighter stays brighter.

    Source: the baseline IMSE (BC) of Kong et al. 2023, who call it a histogram shift.

    Args:
        image: any shape, in [-1, 1].
        controls: the x (first row) and y of the two inner control points, (2, 2), each row ascending within [-1, 1],
            without which the curve would turn back.
    """
    t = np.linspace(0, 1, CURVE_POINTS)
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    x, y = np.concatenate([[[-1.0], [-1.0]], controls, [[1.0], [1.0]]], axis=1) @ weights
    return _piecewise(image, x, y)


def extra_changes(image: Tensor, rng: np.random.Generator) -> Tensor:
    """What IMSE's released code does besides remapping, each with probability 0.2: negate, shift the histogram, MONAI.

    Args:
        image: (1, *S) in [-1, 1]. So is the result, in 3D as well, where the released code cuts off negative values.
        rng: decides.
    """
    from monai import transforms

    if rng.random() < 0.2:
        image = -image
    if rng.random() < 0.2:
        count = int(rng.integers(2, 9))
        x, y = (np.concatenate([[-1.0], np.sort(rng.uniform(-1, 1, count)), [1.0]]) for _ in range(2))
        image = _piecewise(image, x, y)
    if rng.random() < 0.2:
        each = 0.2 if image.ndim == 3 else 0.3
        chain: list[Any] = [
            transforms.RandGaussianSharpen(prob=each),
            transforms.RandGaussianNoise(prob=each),
            transforms.RandBiasField(prob=each),
            transforms.RandAdjustContrast(prob=each),
            transforms.RandKSpaceSpikeNoise(prob=each),
        ]
        for transform in chain:
            transform.set_random_state(int(rng.integers(2**31)))
            image = torch.as_tensor(np.asarray(transform(image))).to(image)
    return image.clamp(-1, 1)


def _piecewise(image: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
    """The values of the polyline through (x, y), both ascending, at the intensities of `image`."""
    knots, heights = (torch.from_numpy(np.ascontiguousarray(v)).to(image) for v in (x, y))
    right = torch.bucketize(image, knots[1:-1], right=True) + 1
    width = (knots[right] - knots[right - 1]).clamp(min=torch.finfo(image.dtype).tiny)
    share = ((image - knots[right - 1]) / width).clamp(0, 1)
    return heights[right - 1] + share * (heights[right] - heights[right - 1])
