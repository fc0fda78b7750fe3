"""Linear interpolation of tables at many points: what drawing a phantom spends most of its time on."""

import numpy as np
import torch
from torch.nn import functional


def look_up(tables: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Values between the nodes of tables on a common lattice; border values continue outwards.

    Agrees with :func:`scipy.ndimage.map_coordinates` of order 1 with ``mode="nearest"`` to the rounding of float32, and
    takes a fraction of its time.

    Args:
        tables: (C, X, Y, Z), float32.
        positions: (3, *P), in nodes, any float type.

    Returns:
        (C, *P), float32.
    """
    shape = positions.shape[1:]
    last = np.maximum(np.array(tables.shape[1:], dtype=np.float32) - 1, 1)
    # From -1 to 1 between the outermost nodes, last axis first, as grid_sample wants it.
    normalised = np.empty((*shape, 3), dtype=np.float32)
    for axis in range(3):
        normalised[..., 2 - axis] = positions[axis] * (2 / last[axis]) - 1
    found = functional.grid_sample(
        torch.from_numpy(np.ascontiguousarray(tables, dtype=np.float32))[None],
        torch.from_numpy(normalised.reshape(1, 1, 1, -1, 3)),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return found.numpy().reshape(len(tables), *shape)
