"""Cubic splines on regular lattices as one small matrix per axis: evaluation is then a few matrix products.

For the lattices of a registration (20 to 200 points along an axis), dense products with these banded matrices take a
fraction of the time of transposed convolutions or scattered lookups on CPU and GPU, and their gradient comes for free.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Lattice:
    """Points at ``start + index * step`` along each axis, in voxels of the image that it belongs to."""

    start: tuple[float, ...]
    step: tuple[float, ...]
    shape: tuple[int, ...]

    @property
    def dimension(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def axis(self, axis: int) -> np.ndarray:
        """The coordinates along one axis, float64."""
        return self.start[axis] + self.step[axis] * np.arange(self.shape[axis])

    def points(self, like: Tensor) -> Tensor:
        """Every point, (1, nD, *shape), in the type and on the device of `like`."""
        axes = [torch.from_numpy(self.axis(a)).to(like) for a in range(self.dimension)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

    def normalised(self, points: Tensor) -> Tensor:
        """Points (1, nD, *T) in voxels as `grid_sample` of values on this lattice wants them: (1, nD, *T), last axis
        first, -1 and 1 at the outermost points."""
        column = [1, -1] + [1] * (points.ndim - 2)
        scale = [2 / (step * max(n - 1, 1)) for step, n in zip(self.step, self.shape, strict=True)]
        offset = [-1 - start * factor for start, factor in zip(self.start, scale, strict=True)]
        result = points * points.new_tensor(scale).reshape(column) + points.new_tensor(offset).reshape(column)
        return result.flip(1)


def centred_lattice(size: Sequence[int], step: Sequence[float], outside: bool = False, margin: int = 0) -> Lattice:
    """A lattice with the centre of an image of `size` voxels as its own.

    Args:
        size: voxels along each axis.
        step: distance of the points in voxels.
        outside: whether the outermost points lie on or beyond the image's outermost voxels, or on or within them.
        margin: further points on every side.
    """
    rounded = math.ceil if outside else math.floor
    # The tolerance keeps a lattice with a step of (n - 1) / k from losing its last point to rounding.
    shape = tuple(
        rounded((n - 1) / s + (-1e-9 if outside else 1e-9)) + 1 + 2 * margin for n, s in zip(size, step, strict=True)
    )
    start = tuple((n - 1) / 2 - s * (count - 1) / 2 for n, s, count in zip(size, step, shape, strict=True))
    return Lattice(start, tuple(float(s) for s in step), shape)


def control_lattice(covered: Lattice, spacing: Sequence[float]) -> Lattice:
    """Control points of cubic B-splines, `spacing` voxels apart, that support every point of `covered`."""
    extent = [step * (n - 1) for step, n in zip(covered.step, covered.shape, strict=True)]
    shape = tuple(math.ceil(e / s) + 4 for e, s in zip(extent, spacing, strict=True))
    start = tuple(
        first + (e - s * (count - 1)) / 2
        for first, e, s, count in zip(covered.start, extent, spacing, shape, strict=True)
    )
    return Lattice(start, tuple(float(s) for s in spacing), shape)


def bspline(x: np.ndarray) -> np.ndarray:
    """The cubic B-spline of distance `x` in knots."""
    x = np.abs(x)
    return np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.clip(2 - x, 0, None) ** 3 / 6)


def bspline_slope(x: np.ndarray) -> np.ndarray:
    """The derivative of :func:`bspline`."""
    distance = np.abs(x)
    slope = np.where(distance < 1, 1.5 * distance**2 - 2 * distance, -(np.clip(2 - distance, 0, None) ** 2) / 2)
    return np.sign(x) * slope


def keys(x: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel of Keys (1981, a = -1/2): interpolates, and is exact for quadratic functions."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def hat(x: np.ndarray) -> np.ndarray:
    """The kernel of linear interpolation."""
    return np.clip(1 - np.abs(x), 0, None)


def bspline_matrices(control: Lattice, points: Lattice, like: Tensor, derivative: int | None = None) -> list[Tensor]:
    """Per axis the matrix that takes control values to spline values at `points`.

    Control values are used as they are, without a prefilter. With `derivative`, the spline's derivative along that
    axis, per voxel.
    """
    matrices = []
    for axis in range(points.dimension):
        knots = (points.axis(axis)[:, None] - control.axis(axis)) / control.step[axis]
        matrix = bspline_slope(knots) / control.step[axis] if axis == derivative else bspline(knots)
        matrices.append(torch.from_numpy(matrix).to(like))
    return matrices


def interpolation_matrices(source: Lattice, points: Lattice, like: Tensor) -> list[Tensor]:
    """Per axis the matrix that interpolates values on `source` at `points`, cubic (linear for axes of 2 or 3 points).

    Beyond the lattice the outermost values are repeated.
    """
    matrices = []
    for axis in range(points.dimension):
        count = source.shape[axis]
        position = np.clip((points.axis(axis) - source.start[axis]) / source.step[axis], 0, count - 1)
        if count < 4:
            matrix = hat(position[:, None] - np.arange(count))
        else:
            full = keys(position[:, None] - np.arange(-1, count + 1))
            matrix = full[:, 1:-1]
            # What lies one step outside is extrapolated linearly, so that linear functions stay what they are.
            matrix[:, 0] += 2 * full[:, 0]
            matrix[:, 1] -= full[:, 0]
            matrix[:, -1] += 2 * full[:, -1]
            matrix[:, -2] -= full[:, -1]
        matrices.append(torch.from_numpy(matrix).to(like))
    return matrices


def separable(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply the last axes of `values`, one matrix (new size x old size) per axis."""
    first = values.ndim - len(matrices)
    for axis, matrix in enumerate(matrices[:-1], start=first):
        shape = values.shape
        product = matrix @ values.reshape(*shape[: axis + 1], -1)
        values = product.reshape(*shape[:axis], matrix.shape[0], *shape[axis + 1 :])
    return values @ matrices[-1].T
