"""Random smooth displacements, each a pure function of a record that fits in case.json.

A record names the kind, the seed, the grid and the parameters; :func:`displacement` turns it into displacements in
RAS mm at the grid's voxels, always the same for the same record.
"""

import json
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.ndimage as ndi

from modalign.spatial.fields import compose, field_from_mm, field_to_mm
from modalign.volumes import Grid

Record = dict[str, Any]


def grid_of(record: Record) -> Grid:
    """The grid that a record's displacements are given on."""
    return Grid(tuple(record["shape"]), np.array(record["affine"], dtype=float))


def grid_record(grid: Grid) -> Record:
    """A grid as plain numbers."""
    return {"shape": list(grid.shape), "affine": grid.affine.tolist()}


def displacement(record: Record) -> np.ndarray:
    """Displacements in RAS mm, (3, X, Y, Z) float32, at the voxels of :func:`grid_of` the record. Read-only."""
    return _displacement(json.dumps(record, sort_keys=True))


@lru_cache(maxsize=4)
def _displacement(key: str) -> np.ndarray:
    record = json.loads(key)
    rng = np.random.default_rng(record["seed"])
    field = KINDS[record["kind"]](record, grid_of(record), rng).astype(np.float32)
    field.flags.writeable = False
    return field


def _simard(record: Record, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Uniform noise in [-1, 1], Gaussian-smoothed, times alpha; voxels. `in_plane`: x and y only, one field for all
    slices, or a new one for `each_slice`."""
    shape, sigma = list(grid.shape), list(record["sigma_voxels"])
    if record["in_plane"] and not record["each_slice"]:
        shape, sigma = shape[:2], sigma[:2]
    elif record["in_plane"]:
        sigma[2] = 0.0
    components = 2 if record["in_plane"] else 3
    field = np.zeros((3, *grid.shape))
    for axis in range(components):
        noise = ndi.gaussian_filter(rng.uniform(-1, 1, shape), sigma, mode="constant") * record["alpha_voxels"][axis]
        field[axis] = noise if noise.ndim == 3 else noise[:, :, None]
    return field_to_mm(field, grid)


def _velocity(record: Record, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """White noise, Gaussian-smoothed, as a stationary velocity field in mm, integrated by scaling and squaring.

    The noise is white in space, not per voxel: its sd is scaled by the square root of the voxel volume, so that the
    same parameters give deformations of the same size on any grid.
    """
    sigma = record["sigma_mm"] / grid.spacing
    density = np.sqrt(np.prod(record["noise_voxel_mm"]) / np.prod(grid.spacing))
    noise = rng.normal(size=(3, *grid.shape)) * (record["noise_sd_mm"] * density)
    velocity = np.stack([ndi.gaussian_filter(component, sigma, mode="constant", truncate=4) for component in noise])
    field = field_from_mm(velocity, grid) / 2 ** record["squarings"]
    for _ in range(record["squarings"]):
        field = compose(field, field)
    return field_to_mm(field, grid)


def _bspline(record: Record, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Cubic B-spline with uniform random coefficients in [-max, max] mm, the outermost ones held at zero.

    Along each axis the image spans lattice positions 1 to n - 2, so that every voxel sees all its coefficients.
    """
    n, locked = record["control_points"], record["locked_borders"]
    coefficients = rng.uniform(-1, 1, (3, n, n, n)) * np.reshape(record["max_mm"], (3, 1, 1, 1))
    free = np.zeros((n, n, n), dtype=bool)
    free[(slice(locked, n - locked),) * 3] = True
    coefficients[:, ~free] = 0
    scale = np.diag([(n - 3) / max(size - 1, 1) for size in grid.shape])
    return np.stack(
        [
            ndi.affine_transform(c, scale, 1.0, output_shape=grid.shape, order=3, prefilter=False, mode="nearest")
            for c in coefficients
        ]
    )


def _smooth(record: Record, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Gaussian-smoothed normal noise, scaled so that the largest displacement is `max_mm`."""
    sigma = record["sigma_mm"] / grid.spacing
    # Only where the noise goes on beyond the border is the result as strong there as inside: repeating the last voxel
    # would make the corners many times stronger, and everything else next to nothing after the scaling.
    field = np.stack([ndi.gaussian_filter(rng.normal(size=grid.shape), sigma, mode="wrap") for _ in range(3)])
    return field * (record["max_mm"] / max(float(np.linalg.norm(field, axis=0).max()), 1e-12))


KINDS = {"simard": _simard, "velocity": _velocity, "bspline": _bspline, "smooth": _smooth}
