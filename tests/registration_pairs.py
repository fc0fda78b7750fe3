"""Pairs of images in two contrasts with a known deformation between them, for the tests of registrations."""

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import scipy.ndimage as ndi
from nibabel.processing import resample_to_output

from modalign.cases import Case
from modalign.spatial.fields import apply_affine, invert
from modalign.volumes import Grid, Volume


def contrast_pair(
    grid: Grid,
    moving_grid: Grid | None = None,
    seed: int = 0,
    largest_voxels: float = 4.0,
    smooth_voxels: float = 9.0,
    in_plane: bool = False,
) -> tuple[Case, np.ndarray]:
    """A case with `true_field`, and the mask of the body, in which the truth can be seen.

    Ellipsoids and a fine texture in an elliptic body; the moving contrast is not monotonic in the fixed one. The
    moving image is sampled on `moving_grid` (the same as `grid` by default) without going through the fixed samples.
    """
    rng = np.random.default_rng(seed)
    n = np.array(grid.shape).reshape(3, 1, 1, 1)
    centre = (n - 1) / 2
    x = grid.indices()
    body = (((x - centre) / (0.42 * n))[:2] ** 2).sum(0) < 1
    tissue = np.where(body, 0.4, 0.0)
    for _ in range(16):
        middle = (rng.uniform(0.2, 0.8, 3) * n.ravel()).reshape(3, 1, 1, 1)
        radii = np.maximum(rng.uniform(0.06, 0.16, 3) * n.ravel(), 2).reshape(3, 1, 1, 1)
        tissue[((((x - middle) / radii) ** 2).sum(0) < 1) & body] = rng.choice([0.15, 0.55, 0.7, 0.85, 1.0])
    texture = ndi.gaussian_filter(rng.normal(size=grid.shape), 1.2)
    tissue = ndi.gaussian_filter(tissue + 0.06 * texture / texture.std() * body, 0.6)

    inverse = np.stack([ndi.gaussian_filter(rng.normal(size=grid.shape), smooth_voxels) for _ in range(3)])
    if in_plane:
        # One field for all slices, so that every slice has a truth of its own.
        inverse = np.stack([ndi.gaussian_filter(rng.normal(size=grid.shape[:2]), smooth_voxels) for _ in range(3)])
        inverse = np.repeat(inverse[..., None], grid.shape[2], axis=3)
        inverse[2] = 0
    inverse *= largest_voxels / np.abs(inverse).max()
    truth = invert(inverse)

    other = np.sin(np.pi * tissue) + 0.4 * tissue
    moving_grid = moving_grid or grid
    inside = apply_affine(np.linalg.inv(grid.affine) @ moving_grid.affine, moving_grid.indices())
    bent = inside + np.stack([ndi.map_coordinates(c, inside, order=1, mode="nearest") for c in inverse])
    moving = ndi.map_coordinates(other, bent, order=3, mode="nearest")
    fixed = 1000 * (tissue + rng.normal(0, 0.004, grid.shape))
    moving = 400 * (moving + rng.normal(0, 0.004, moving_grid.shape)) - 100
    case = Case(
        id="toy",
        fixed=Volume(fixed.astype(np.float32), grid.affine),
        moving=Volume(moving.astype(np.float32), moving_grid.affine),
        true_field=truth,
    )
    return case, np.stack([ndi.binary_erosion(s, iterations=2) for s in np.moveaxis(body, 2, 0)], axis=2)


@cache
def known_deformation(folder: Path, patient: str, spacing_mm: float, seed: int = 7):
    """A case with a smooth random truth, the head mask, and the mean size of the truth inside it in voxels.

    The deformation is smoothed by 18 mm, and 20 mm at most.
    """
    t1, t2 = (
        resample_to_output(
            nib.as_closest_canonical(nib.load(folder / f"ms_mni/{patient}_{contrast}.nii.gz")),
            [spacing_mm] * 3,
            order=1,
        )
        for contrast in ("T1", "T2")
    )
    fixed, contrast = (np.clip(i.get_fdata(), 0, None).astype(np.float32) for i in (t1, t2))
    rng = np.random.default_rng(seed)
    bend = np.stack([ndi.gaussian_filter(rng.normal(size=fixed.shape), 18 / spacing_mm) for _ in range(3)])
    bend *= 20 / spacing_mm / np.abs(bend).max()
    positions = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij")) + bend
    moving = ndi.map_coordinates(contrast, positions, order=1)
    truth = invert(bend, tolerance=1e-4)
    mask = fixed > 0.1 * np.quantile(fixed, 0.99)
    case = Case(id=patient, fixed=Volume(fixed, t1.affine), moving=Volume(moving, t1.affine), true_field=truth)
    return case, Volume(contrast, t2.affine), mask


def mean_error(field: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Mean distance from the truth in voxels, inside `mask`."""
    return float(np.linalg.norm(field - truth, axis=0)[mask].mean())


def blind(case: Case) -> Case:
    """The case without its truth."""
    return Case(id=case.id, fixed=case.fixed, moving=case.moving)
