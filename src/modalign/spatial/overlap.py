"""How much of what two scans show is the same part of the world."""

import numpy as np

from modalign.volumes import Grid, apply_affine


def overlap(first: Grid, second: Grid, matrix: np.ndarray | None = None, points: int = 16) -> float:
    """The share of the smaller grid's box that lies in the other's, by `points` along each axis of both.

    Args:
        first: one grid.
        second: the other.
        matrix: 4 x 4, from the world of the first to that of the second in mm; by default they are the same.
        points: along each axis.
    """
    matrix = np.eye(4) if matrix is None else matrix
    shares = []
    for one, other, way in ((first, second, matrix), (second, first, np.linalg.inv(matrix))):
        axes = [(np.arange(points) + 0.5) / points * n - 0.5 for n in one.shape]
        to_other = np.linalg.inv(other.affine) @ way @ one.affine
        voxels = apply_affine(to_other, np.stack(np.meshgrid(*axes, indexing="ij")))
        size = np.array(other.shape).reshape(3, 1, 1, 1)
        shares.append(((voxels >= -0.5) & (voxels <= size - 0.5)).all(0).mean())
    # What both show is one volume, and the larger share is that of the smaller scan.
    return float(max(shares))
