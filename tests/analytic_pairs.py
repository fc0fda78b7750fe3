"""Pairs of scans whose true field is a formula, and grids to put them on, for the tests of preprocessing."""

import numpy as np
from scipy.spatial.transform import Rotation

from modalign.cases import Case
from modalign.preprocess import elastic, maps
from modalign.spatial.fields import field_from_mm
from modalign.volumes import Grid, Volume

SHAPE, SPACING = (44, 40, 24), (2.0, 2.0, 3.0)
RECORD = {"transforms": {"fixed": [], "moving": []}, "steps": []}


def texture(points: np.ndarray) -> np.ndarray:
    """A smooth image of the world, on a dark surround, that differs everywhere."""
    x, y, z = points
    body = np.exp(-((np.linalg.norm(points / [[[[30.0]]], [[[28.0]]], [[[25.0]]]], axis=0)) ** 4))
    return body * (2 + np.sin(x / 7) + np.cos(y / 6 + x / 20) * np.sin(z / 8 + 0.5))


def partner(points: np.ndarray) -> np.ndarray:
    """From the moving world to the fixed world: what makes moving(q) = texture(partner(q))."""
    x, y, z = points
    return points + np.stack([3.5 * np.sin(y / 12), 3 * np.cos(x / 14), 2.5 * np.sin((x + z) / 15)])


def partner_inverse(points: np.ndarray) -> np.ndarray:
    result = points.copy()
    for _ in range(60):
        result = points - (partner(result) - result)
    return result


def pair(fixed_grid: Grid, moving_grid: Grid) -> Case:
    """A pair of one contrast with an exactly known field; labels are where the texture is bright."""
    p, q = maps.world_points(fixed_grid), maps.world_points(moving_grid)
    field = field_from_mm(partner_inverse(p) - p, fixed_grid).astype(np.float32)
    fixed, moving = texture(p).astype(np.float32), texture(partner(q)).astype(np.float32)
    return Case(
        id="a",
        dataset="analytic",
        split="test",
        fixed=Volume(fixed, fixed_grid.affine),
        moving=Volume(moving, moving_grid.affine),
        fixed_mask=Volume((fixed > 0.5).astype(np.uint8), fixed_grid.affine),
        moving_mask=Volume((moving > 0.5).astype(np.uint8), moving_grid.affine),
        fixed_labels=Volume((fixed > 1.6).astype(np.int16), fixed_grid.affine),
        moving_labels=Volume((moving > 1.6).astype(np.int16), moving_grid.affine),
        true_field=field,
        true_image=Volume(fixed.copy(), fixed_grid.affine),
        record={
            **RECORD,
            "original": {s: elastic.grid_record(g) for s, g in (("fixed", fixed_grid), ("moving", moving_grid))},
        },
    )


def permuted(grid: Grid) -> Grid:
    """The same voxels stored with other axes: (A, S, L) instead of (R, A, S)."""
    order = np.array([[0, 0, -1, grid.shape[0] - 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    return Grid((grid.shape[1], grid.shape[2], grid.shape[0]), grid.affine @ order)


def tilted(grid: Grid, degrees: float = 12) -> Grid:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("zx", [degrees, degrees / 2], degrees=True).as_matrix()
    return Grid(grid.shape, matrix @ grid.affine)
