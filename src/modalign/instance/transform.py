"""Diffeomorphic stages: a stationary velocity field on a spline grid, composed with what earlier stages found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from modalign.instance.affine import apply_affine
from modalign.instance.splines import (
    Lattice,
    bspline_matrices,
    centred_lattice,
    control_lattice,
    interpolation_matrices,
    separable,
)

TOLERANCE = 2e-3
"""Voxels by which the exponential of a velocity may be off. Six plain squarings, as published, are off by more."""
MOST_SQUARINGS = 6
MARGIN = 2
"""Lattice points beyond the image, so that what flows over its border is not cut off."""


@dataclass(frozen=True)
class Deformation:
    """Displacements there and back, (1, nD, *lattice) each, in voxels of the fixed image; border values go on."""

    lattice: Lattice
    forward: Tensor
    inverse: Tensor


class VelocityStage:
    """``x -> affine(earlier(exp(v)(x)))``, with `v` given by cubic B-splines, and its inverse.

    Args:
        affine: homogeneous matrix, fixed to moving voxels; stays.
        earlier: the deformation of the stages before; stays. None for none.
        fixed_size: voxels of the fixed image.
        moving_size: voxels of the moving image.
        spline_spacing: distance of the control points in voxels, per axis.
        lattice_spacing: distance in voxels, per axis, of the points on which the deformation is computed.
        spacing_mm: voxel size of the fixed and of the moving image, for the bending energy.
        like: gives the type and the device.
        symmetric: whether the bending energy is the mean of both directions', or half of the forward one.
    """

    def __init__(
        self,
        affine: np.ndarray,
        earlier: Deformation | None,
        fixed_size: Sequence[int],
        moving_size: Sequence[int],
        spline_spacing: Sequence[float],
        lattice_spacing: Sequence[float],
        spacing_mm: tuple[Sequence[float], Sequence[float]],
        like: Tensor,
        symmetric: bool = True,
    ) -> None:
        self.fixed_lattice = centred_lattice(fixed_size, lattice_spacing, outside=True, margin=MARGIN)
        self.moving_lattice = centred_lattice(moving_size, lattice_spacing, outside=True, margin=MARGIN)
        control = control_lattice(self.fixed_lattice, spline_spacing)
        self.parameters = torch.zeros(1, control.dimension, *control.shape).to(like).requires_grad_()
        self._scale = _column(spline_spacing, like)
        self._values = bspline_matrices(control, self.fixed_lattice, like)
        self._slopes = [bspline_matrices(control, self.fixed_lattice, like, axis) for axis in range(control.dimension)]
        self._symmetric = symmetric
        self._in_mm = _column(spacing_mm[0], like)
        self._fixed_mm, self._moving_mm = (
            [s * mm for s, mm in zip(lattice.step, of_image, strict=True)]
            for lattice, of_image in zip((self.fixed_lattice, self.moving_lattice), spacing_mm, strict=True)
        )
        self._affine = torch.from_numpy(affine).to(like)
        self._points = self.fixed_lattice.points(like)
        nothing = torch.zeros_like(self._points)
        self._forward = nothing if earlier is None else _resampled(earlier.forward, earlier.lattice, self.fixed_lattice)
        self._inverse = nothing if earlier is None else _resampled(earlier.inverse, earlier.lattice, self.fixed_lattice)
        back = apply_affine(torch.from_numpy(np.linalg.inv(affine)).to(like), self.moving_lattice.points(like))
        self._straight_back = back
        self._back = back if earlier is None else back + sampled(earlier.inverse, earlier.lattice, back)
        self._first = earlier is None

    def points(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the points of `fixed_lattice` lie in the moving image, those of `moving_lattice` in the fixed one, and
        the bending energy of the deformation, in 1/mm^2."""
        there, back = self._exponentials()
        forward = self._composed(there)
        inverse = self._back + sampled(back, self.fixed_lattice, self._back)
        energy = bending_energy(forward * self._in_mm, self._fixed_mm, MARGIN) / 2
        if self._symmetric:
            bent = (inverse - self._straight_back) * self._in_mm
            energy = energy + bending_energy(bent, self._moving_mm, MARGIN) / 2
        return apply_affine(self._affine, self._points + forward), inverse, energy

    def deformation(self) -> Deformation:
        """What later stages build on."""
        with torch.no_grad():
            there, back = self._exponentials()
            inverse = self._inverse + sampled(back, self.fixed_lattice, self._points + self._inverse)
            return Deformation(self.fixed_lattice, self._composed(there), inverse)

    def _exponentials(self) -> tuple[Tensor, Tensor]:
        control = self.parameters * self._scale
        velocity = separable(control, self._values)
        slopes = [separable(control, matrices) for matrices in self._slopes]
        return exponentials(velocity, slopes, self.fixed_lattice)

    def _composed(self, new: Tensor) -> Tensor:
        return new if self._first else new + sampled(self._forward, self.fixed_lattice, self._points + new)


def exponentials(
    velocity: Tensor, slopes: Sequence[Tensor], lattice: Lattice, tolerance: float = TOLERANCE
) -> tuple[Tensor, Tensor]:
    """The displacements after unit time along a velocity field and against it.

    Scaling and squaring (Arsigny et al. 2006) that starts from ``u = v/2^k + (Dv v)/(2 4^k)``, right to second order,
    so that few squarings do: as many as keep the first neglected term, summed over the steps, within `tolerance`.

    Args:
        velocity: (1, nD, *lattice) in voxels per unit time.
        slopes: its derivative along each axis, (1, nD, *lattice) per voxel.
        lattice: where the values lie.
        tolerance: in voxels.
    """
    acceleration = sum((velocity[:, [a]] * slope for a, slope in enumerate(slopes)), torch.zeros_like(velocity))
    squarings = _squarings(acceleration.detach(), slopes, tolerance)
    step, bend = velocity / 2**squarings, acceleration / (2 * 4**squarings)
    displacement = torch.cat([bend + step, bend - step])
    points = lattice.points(velocity)
    for _ in range(squarings):
        displacement = displacement + sampled(displacement, lattice, points + displacement)
    there, back = displacement.split(1)
    return there, back


def _squarings(acceleration: Tensor, slopes: Sequence[Tensor], tolerance: float) -> int:
    """The least k with ``|Dv Dv v| / (6 4^k)`` within `tolerance`, by the largest values anywhere."""
    gradient = torch.stack([slope.detach().abs().amax() for slope in slopes]).sum()
    neglected = float(acceleration.abs().amax() * gradient) / 6
    if not neglected > tolerance:
        return 0
    return min(MOST_SQUARINGS, math.ceil(math.log(neglected / tolerance, 4)))


def sampled(values: Tensor, lattice: Lattice, points: Tensor) -> Tensor:
    """Values on a lattice, (B, C, *lattice), at points (B, nD, *T) in voxels: (B, C, *T), linear, borders repeated."""
    where = lattice.normalised(points).movedim(1, -1)
    return functional.grid_sample(values, where, "bilinear", "border", align_corners=True)


def bending_energy(displacement_mm: Tensor, distance_mm: Sequence[float], margin: int = 0) -> Tensor:
    """Squared second derivatives of a displacement in mm, by mm: all nD^2 of them averaged, mixed ones being two each.

    Averaged over components and points as well; in 1/mm^2. An axis with fewer than three points has none. Differences
    are of fourth order where there are enough points: on a lattice of half the control points' distance, plain ones
    find up to a quarter less energy than the differences from voxel to voxel that the penalty is published with.

    Args:
        displacement_mm: (1, nD, *lattice).
        distance_mm: of the lattice points, along each axis.
        margin: points at each end of an axis that lie outside the image; what is there doesn't count.
    """
    dimension = len(distance_mm)
    energy = displacement_mm.new_zeros(())
    for first in range(dimension):
        slope, lost = _slope(displacement_mm, 2 + first, distance_mm[first])
        for second in range(first, dimension):
            if slope.shape[2 + second] > 1:
                curvature, lost_too = _slope(slope, 2 + second, distance_mm[second])
                for axis in range(dimension):
                    beyond = margin - lost * (axis == first) - lost_too * (axis == second)
                    outside = min(max(0, math.ceil(beyond)), (curvature.shape[2 + axis] - 1) // 2)
                    curvature = curvature.narrow(2 + axis, outside, curvature.shape[2 + axis] - 2 * outside)
                energy = energy + (1 if first == second else 2) * curvature.square().mean()
    return energy / dimension**2


def _slope(values: Tensor, axis: int, distance: float) -> tuple[Tensor, float]:
    """Derivatives half-way between points, and how many points' distance the result begins behind the first one."""
    steps = values.diff(dim=axis)
    if steps.shape[axis] < 3:
        return steps / distance, 0.5
    # (27 (u[i+1] - u[i]) - (u[i+2] - u[i-1])) / 24, the latter difference being the sum of three steps.
    count = steps.shape[axis] - 2
    before, middle, after = (steps.narrow(axis, start, count) for start in range(3))
    return (26 * middle - before - after) / (24 * distance), 1.5


def _resampled(values: Tensor, lattice: Lattice, onto: Lattice) -> Tensor:
    return separable(values, interpolation_matrices(lattice, onto, values))


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(list(values)).reshape(1, -1, *[1] * len(values))
