"""Where to look for correspondences: corners of the fixed image, spread over all of it."""

from itertools import combinations_with_replacement

import numpy as np
import scipy.ndimage as ndi

_DERIVATIVE = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12
_LEAST_DISTINCT = 1e-8


def distinctiveness(image: np.ndarray, sigma: float = 1.4) -> np.ndarray:
    """Förstner's measure ``1 / trace(S^-1)`` of the structure tensor S: high at corners, 0 where nothing changes.

    Args:
        image: (X, Y) or (X, Y, Z).
        sigma: standard deviation of the smoothing of S, in voxels.

    Returns:
        The shape of `image`, in squared intensity per voxel squared.
    """
    axes = range(image.ndim)
    slopes = [ndi.correlate1d(image.astype(np.float64), _DERIVATIVE, axis, mode="nearest") for axis in axes]
    tensor = {
        (i, j): ndi.gaussian_filter(slopes[i] * slopes[j], sigma, mode="nearest", truncate=3.0)
        for i, j in combinations_with_replacement(axes, 2)
    }
    # trace(S^-1) is the sum of the principal minors one size below the determinant, divided by the determinant.
    if image.ndim == 2:
        determinant, minors = _minor(tensor, 0, 1), tensor[0, 0] + tensor[1, 1]
    else:
        determinant = (
            tensor[0, 0] * _minor(tensor, 1, 2)
            - tensor[0, 1] * (tensor[0, 1] * tensor[2, 2] - tensor[1, 2] * tensor[0, 2])
            + tensor[0, 2] * (tensor[0, 1] * tensor[1, 2] - tensor[1, 1] * tensor[0, 2])
        )
        minors = _minor(tensor, 0, 1) + _minor(tensor, 0, 2) + _minor(tensor, 1, 2)
    measure = np.zeros_like(determinant)
    # Rounding leaves tiny values of either sign where the image is flat or changes in one direction only.
    np.divide(determinant, minors, out=measure, where=(minors > 0) & (determinant > 0))
    return measure


def _minor(tensor: dict[tuple[int, int], np.ndarray], i: int, j: int) -> np.ndarray:
    return tensor[i, i] * tensor[j, j] - tensor[i, j] ** 2


def keypoints(
    image: np.ndarray, mask: np.ndarray | None = None, width: int = 6, sigma: float = 1.4, limit: int | None = None
) -> np.ndarray:
    """The voxels that are the most distinctive of the cube around them (Heinrich et al. 2015).

    Args:
        image: (X, Y) or (X, Y, Z).
        mask: where to look, eroded by one voxel; None is everywhere.
        width: of the cube in voxels.
        sigma: smoothing of the structure tensor in voxels.
        limit: at most that many: the cube grows until they are few enough, so that they stay evenly spread.

    Returns:
        (n, nD) voxel indices in array order; n may be 0.
    """
    measure = distinctiveness(image, sigma)
    if mask is not None:
        inside = ndi.binary_erosion(mask > 0, border_value=1)
        measure = np.where(inside, measure, 0.0)
    while True:
        found = np.argwhere((measure >= _LEAST_DISTINCT) & (measure == ndi.maximum_filter(measure, width)))
        if limit is None or len(found) <= limit:
            return found
        width += 1
        if width > max(image.shape):
            # Equal values all over, as in a checkerboard.
            return found[:: -(-len(found) // limit)]
