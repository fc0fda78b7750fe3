"""What keeps displacement fields smooth and free of folds: penalties to minimise, 0 for a translation."""

import torch
from torch import Tensor


def gradient_l2(field: Tensor) -> Tensor:
    """The mean squared forward difference of a field, averaged over the axes.

    VoxelMorph's smoothness term (Balakrishnan et al. 2019, Eq. 8), in voxels per voxel, squared.

    Args:
        field: (B, nD, *S) in voxels.
    """
    dimension = field.ndim - 2
    return sum((field.diff(dim=2 + axis).square().mean() for axis in range(dimension)), field.new_zeros(())) / dimension


def bending_energy(field: Tensor) -> Tensor:
    """The mean over voxels and components of the sum of all squared second derivatives (mixed ones count twice).

    The thin-plate energy of Rueckert et al. 1999 (Eq. 8) with compact central differences, on the voxels that have
    both neighbours along every axis; affine fields cost nothing.

    Args:
        field: (B, nD, *S) in voxels, at least 3 along each axis.
    """
    axes = range(2, field.ndim)
    if min(field.shape[2:]) < 3:
        raise ValueError(f"bending energy needs 3 voxels or more along each axis, got shape {tuple(field.shape)}")

    def interior(values: Tensor, done: tuple[int, ...]) -> Tensor:
        for axis in axes:
            if axis not in done:
                values = values.narrow(axis, 1, values.shape[axis] - 2)
        return values

    energy = field.new_zeros(())
    for first in axes:
        energy = energy + interior(field.diff(n=2, dim=first), (first,)).square().mean()
        for second in range(first + 1, field.ndim):
            mixed = _central(_central(field, first), second)
            energy = energy + 2 * interior(mixed, (first, second)).square().mean()
    return energy


def folding_penalty(field: Tensor) -> Tensor:
    """The mean of ``max(0, -det J)``: how much of the image is turned inside out (LapIRN; Mok and Chung 2020, Eq. 4).

    Args:
        field: (B, nD, *S) in voxels.
    """
    return torch.relu(-jacobian_determinant(field)).mean()


def jacobian_determinant(field: Tensor) -> Tensor:
    """The determinant of the Jacobian of ``x -> x + field(x)`` by central differences, 1 for a translation.

    Args:
        field: (B, nD, *S) in voxels, at least 3 along each axis.

    Returns:
        (B, *(S - 2)): the voxels that have both neighbours along every axis.
    """
    dimension = field.ndim - 2
    columns = []
    for axis in range(dimension):
        derivative = _central(field, 2 + axis)
        for other in range(dimension):
            if other != axis:
                derivative = derivative.narrow(2 + other, 1, derivative.shape[2 + other] - 2)
        columns.append(derivative)
    jacobian = torch.stack(columns, dim=2)
    jacobian = jacobian + torch.eye(dimension).to(field).reshape(1, dimension, dimension, *[1] * dimension)
    j = jacobian.unbind(1)
    if dimension == 2:
        return j[0][:, 0] * j[1][:, 1] - j[0][:, 1] * j[1][:, 0]
    return (torch.linalg.cross(j[0], j[1], dim=1) * j[2]).sum(1)


def _central(values: Tensor, axis: int) -> Tensor:
    inner = values.shape[axis] - 2
    return (values.narrow(axis, 2, inner) - values.narrow(axis, 0, inner)) / 2
