"""Synthetic misalignment: sample, put on record, apply; the truth follows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modalign.cases import SPLITS, Case
from modalign.errors import ConfigError
from modalign.preprocess import maps, truth
from modalign.preprocess.context import StepContext
from modalign.preprocess.elastic import grid_record
from modalign.seeds import derive_seed, generator
from modalign.volumes import Grid

ELASTIC = ("none", "simard", "bspline", "velocity", "smooth")


def misalign(
    case: Case,
    context: StepContext,
    *,
    of: str = "all",
    splits: Sequence[str] = SPLITS,
    rotation_deg: Sequence[float] = (0.0, 0.0, 0.0),
    translation_mm: Sequence[float] = (0.0, 0.0, 0.0),
    translation_half_fov: Sequence[float] = (0.0, 0.0, 0.0),
    scale: float = 0.0,
    elastic: str = "none",
    max_mm: float | Sequence[float] = 5.0,
    sigma_mm: Sequence[float] = (15.0, 15.0),
    control_points: int = 9,
    locked_borders: int = 2,
    noise_sd_mm: Sequence[float] = (700.0, 900.0),
    noise_voxel_mm: Sequence[float] = (0.9375, 0.9375, 1.25),
    squarings: int = 7,
    sigma_voxels: float = 12.0,
    alpha_voxels: float = 80.0,
    nominal_size: Sequence[int | None] = (None, None, None),
    in_plane: bool = False,
    each_slice: bool = False,
) -> tuple[Case, dict[str, Any]]:
    """Deform the scans named by `of`, each independently, in cases of the given `splits`.

    ``new(p) = old(e(A p))``. A turns by uniform angles within +-`rotation_deg` about R, A, S through the grid's
    centre, scales by 1 +- `scale`, and shifts by uniform amounts within +-`translation_mm` plus
    +-`translation_half_fov` (fractions of half the field of view, the normalised coordinates of sampling networks).
    e is one of:

    - ``simard``: uniform noise, Gaussian sigma `sigma_voxels`, times `alpha_voxels`, on a grid of `nominal_size`
      (IMSE). On other sizes sigma follows the voxel size, and alpha is such that displacements keep their size in mm.
      `in_plane` leaves z out, with one field for all slices or a new one for `each_slice`.
    - ``bspline``: `control_points` per axis, each moved by up to +-`max_mm` per axis (TorchIO's scheme, RbG).
    - ``velocity``: white noise of sd U(`noise_sd_mm`) on voxels of `noise_voxel_mm`, smoothed by U(`sigma_mm`), as a
      stationary velocity field, scaling and squaring with `squarings` steps (Locor).
    - ``smooth``: Gaussian-smoothed normal noise (U(`sigma_mm`)) with its largest displacement at `max_mm`.
    """
    if elastic not in ELASTIC:
        raise ConfigError(f"step {context.step}: elastic is {elastic!r}; write one of: {', '.join(ELASTIC)}")
    if case.split not in splits:
        return case, {"applied": False}
    parameters = {
        "max_mm": max_mm,
        "sigma_mm": sigma_mm,
        "control_points": control_points,
        "locked_borders": locked_borders,
        "noise_sd_mm": noise_sd_mm,
        "noise_voxel_mm": noise_voxel_mm,
        "squarings": squarings,
        "sigma_voxels": sigma_voxels,
        "alpha_voxels": alpha_voxels,
        "nominal_size": nominal_size,
        "in_plane": in_plane,
        "each_slice": each_slice,
    }
    record: dict[str, Any] = {"applied": True}
    fill = context.fill(case)
    for side in context.sides(of):
        grid: Grid = getattr(case, side).grid
        words = (context.dataset, case.id, context.step, side)
        rng = generator(context.seed, *words)
        affine = _sample_affine(rng, grid, rotation_deg, translation_mm, translation_half_fov, scale)
        chain = [maps.affine_record(affine.pop("matrix"))] if affine else []
        if elastic != "none":
            seed = derive_seed(context.seed, *words, "elastic")
            chain.append(_elastic_record(elastic, seed, grid, rng, parameters))
        record[side] = {**affine, "maps": chain}
        if chain:
            case = truth.deform(case, side, chain, fill)
    return case, record


def _sample_affine(
    rng: np.random.Generator,
    grid: Grid,
    rotation_deg: Sequence[float],
    translation_mm: Sequence[float],
    translation_half_fov: Sequence[float],
    scale: float,
) -> dict[str, Any]:
    angles = rng.uniform(-1, 1, 3) * rotation_deg
    half_fov_mm = np.array(grid.shape) * grid.spacing / 2
    shift = rng.uniform(-1, 1, 3) * (np.array(translation_mm) + np.array(translation_half_fov) * half_fov_mm)
    factor = 1 + float(rng.uniform(-1, 1)) * scale
    if not angles.any() and not shift.any() and factor == 1:
        return {}
    matrix = maps.similarity_about_centre(grid, angles, shift, factor)
    return {"rotation_deg": angles.tolist(), "translation_mm": shift.tolist(), "scale": factor, "matrix": matrix}


def _elastic_record(
    kind: str, seed: int, grid: Grid, rng: np.random.Generator, parameters: dict[str, Any]
) -> dict[str, Any]:
    record = {"kind": kind, "seed": seed, **grid_record(grid)}
    if kind == "bspline":
        limits = np.broadcast_to(np.asarray(parameters["max_mm"], dtype=float), 3).tolist()
        keys = ("control_points", "locked_borders")
        return record | {"max_mm": limits} | {key: parameters[key] for key in keys}
    if kind == "simard":
        sigma, alpha = _simard_numbers(grid, parameters)
        keys = ("in_plane", "each_slice")
        return record | {"sigma_voxels": sigma, "alpha_voxels": alpha} | {key: parameters[key] for key in keys}
    sigma_mm = float(rng.uniform(*parameters["sigma_mm"]))
    if kind == "smooth":
        return record | {"sigma_mm": sigma_mm, "max_mm": float(np.max(parameters["max_mm"]))}
    noise_sd_mm = float(rng.uniform(*parameters["noise_sd_mm"]))
    noise = {"noise_sd_mm": noise_sd_mm, "noise_voxel_mm": list(parameters["noise_voxel_mm"])}
    return record | {"sigma_mm": sigma_mm, "squarings": parameters["squarings"]} | noise


def _simard_numbers(grid: Grid, parameters: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Sigma and alpha per axis in voxels of `grid`.

    Smoothing white noise leaves an sd proportional to the product of sigma^-1/2 over the smoothed axes, so alpha makes
    up for that on top of the ratio of the voxel sizes.
    """
    nominal = parameters["nominal_size"]
    ratio = np.array([1.0 if n is None else size / n for n, size in zip(nominal, grid.shape, strict=True)])
    smoothed = ratio[:2] if parameters["in_plane"] else ratio
    sigma = parameters["sigma_voxels"] * ratio
    alpha = parameters["alpha_voxels"] * ratio * np.sqrt(np.prod(smoothed))
    return sigma.tolist(), alpha.tolist()
