"""A full affine map of which any parameters give an invertible one: the exponential of a matrix."""

import numpy as np
import torch
from torch import Tensor

from modalign.instance.splines import Lattice


class AffineStage:
    """The affine map from fixed to moving voxels, refined from `start`.

    The refinement is ``exp(M)`` (Kaji and Ochiai 2016) in coordinates in which the moving image fills [-1, 1] along
    each axis. `M` has 12 free entries in 3D, 6 in 2D, and starts at zero; its negative gives the inverse.

    Args:
        start: homogeneous matrix (nD + 1, nD + 1), fixed to moving voxels.
        fixed: the voxels of the fixed image.
        moving: the voxels of the moving image.
        like: gives the type and the device.
    """

    smoothness = None

    def __init__(self, start: np.ndarray, fixed: Lattice, moving: Lattice, like: Tensor) -> None:
        dimension = fixed.dimension
        half = (np.array(moving.shape) - 1) / 2
        box = np.eye(dimension + 1)
        box[:dimension, :dimension] = np.diag(1 / half)
        box[:dimension, dimension] = -1
        # The smallest lattices that hold an affine map: their corners.
        self.fixed_lattice, self.moving_lattice = _corners(fixed), _corners(moving)
        self._before = torch.from_numpy(box @ start).to(like)
        self._after = torch.from_numpy(np.linalg.inv(box)).to(like)
        self._undo = torch.from_numpy(np.linalg.inv(box @ start)).to(like)
        self._into = torch.from_numpy(box).to(like)
        self._fixed, self._moving = self.fixed_lattice.points(like), self.moving_lattice.points(like)
        self.parameters = torch.zeros(dimension, dimension + 1).to(like).requires_grad_()

    def points(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the corners of the fixed image lie in the moving one, the reverse, and no smoothness penalty."""
        forward, inverse = self._matrices()
        return apply_affine(forward, self._fixed), apply_affine(inverse, self._moving), self.parameters.new_zeros(())

    def matrix(self) -> np.ndarray:
        """Fixed to moving voxels, homogeneous, float64."""
        with torch.no_grad():
            return self._matrices()[0].double().cpu().numpy()

    def _matrices(self) -> tuple[Tensor, Tensor]:
        square = torch.nn.functional.pad(self.parameters, (0, 0, 0, 1))
        forward, inverse = torch.linalg.matrix_exp(torch.stack([square, -square]))
        return self._after @ forward @ self._before, self._undo @ inverse @ self._into


def apply_affine(matrix: Tensor, points: Tensor) -> Tensor:
    """Map points (1, nD, *T) by a homogeneous matrix."""
    n = points.shape[1]
    flat = points.reshape(n, -1)
    return torch.addmm(matrix[:n, n:], matrix[:n, :n], flat).reshape(points.shape)


def _corners(lattice: Lattice) -> Lattice:
    step = tuple(s * max(n - 1, 1) for s, n in zip(lattice.step, lattice.shape, strict=True))
    return Lattice(lattice.start, step, (2,) * lattice.dimension)
