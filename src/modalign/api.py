"""Aligning images that are in memory: ``modalign.align(fixed, moving)``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from modalign.cases import Alignment, Case
from modalign.errors import ConfigError, DataError
from modalign.needs import check_needs
from modalign.runs import align_case, build_method
from modalign.spatial.fields import itk_field_image
from modalign.volumes import Grid, Volume, apply_affine, from_nibabel, from_sitk, to_nibabel, to_sitk

if TYPE_CHECKING:
    from collections.abc import Callable

    from modalign.methods.base import Method

DEFAULT_METHOD = "locor"
"""Of the function and of the command line."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """What :func:`align` returns; images are of the kind that went in.

    Attributes:
        image: the moving image on the fixed grid, SimpleITK or nibabel.
        field: the displacement field on the fixed grid as ITK takes it, in LPS mm: a SimpleITK image of vectors
            (``SimpleITK.DisplacementFieldTransform(SimpleITK.Image(field))`` maps fixed to moving points), or a nibabel
            image of shape (X, Y, Z, 1, 3), which antsApplyTransforms reads. None for methods that don't deform.
        inverse_field: the same from the moving grid to the fixed image, if it was asked for.
        seconds: how long the alignment took.
        notes: what the method puts on record.
    """

    image: Any
    field: Any
    inverse_field: Any
    seconds: float
    notes: dict[str, Any]


def align(
    fixed: Any,
    moving: Any,
    method: str = DEFAULT_METHOD,
    *,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    inverse: bool = False,
    dimension: int | None = None,
    needs: Mapping[str, Any] | None = None,
    model: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    **options: Any,
) -> Aligned:
    """Align two images with any method.

    Args:
        fixed: the image that stays as it is, SimpleITK or nibabel, three-dimensional.
        moving: the image to bring onto it, of the same kind, on any grid.
        method: one of ``modalign methods``; Locor by default, as on the command line.
        fixed_mask: nonzero where the fixed image counts, on its grid. A mask switches the option `use_masks` on.
        moving_mask: nonzero where the moving image counts, on its grid.
        inverse: compute the field from the moving grid to the fixed image as well.
        dimension: 2 slice by slice, 3 as a volume; by default 3 where the method can do it.
        needs: methods that this one builds on, by role.
        model: folder of trained weights.
        seed: seeds everything random.
        device: ``cpu``, ``cuda`` or ``auto``.
        threads: CPU threads that the method may use; by default OMP_NUM_THREADS where that is set, otherwise one for
            each core. Their number changes last digits.
        options: those of the method, such as ``preset="released"``.

    Raises:
        DataError: an image is of another kind, not 3D or not usable, or a mask lies on another grid.
        ConfigError: there is no such method or option, or the method can't use masks.
    """
    given = {"fixed": fixed, "moving": moving, "the fixed mask": fixed_mask, "the moving mask": moving_mask}
    kinds = {role: _kind(image, role) for role, image in given.items() if image is not None}
    odd = [role for role, kind in kinds.items() if kind is not kinds["fixed"]]
    if odd:
        raise DataError(
            f"{' and '.join(odd)} {'is' if len(odd) == 1 else 'are'} of another kind than fixed: give SimpleITK images "
            "alone, or nibabel images alone"
        )
    read, write, write_field = kinds["fixed"]
    volumes = {role: read(given[role], role) for role in kinds}
    case = Case(id="pair", fixed=_floats32(volumes["fixed"]), moving=_floats32(volumes["moving"]))
    if fixed_mask is not None:
        case.fixed_mask = mask_on(volumes["the fixed mask"], case.fixed.grid, "the fixed mask", "fixed")
    if moving_mask is not None:
        case.moving_mask = mask_on(volumes["the moving mask"], case.moving.grid, "the moving mask", "moving")
    folder = None if model is None else Path(model)
    if fixed_mask is not None or moving_mask is not None:
        options, needs = with_masks(method, options, needs)
    worker = method_for(method, dimension, options, needs, seed, device, threads, folder)
    alignment, seconds = align_case(worker, case)
    back, notes = None, alignment.notes
    if inverse:
        back, of_inverse = way_back(alignment, case, method)
        notes = {**notes, **of_inverse}
    return Aligned(
        write(alignment.image),
        None if alignment.field is None else write_field(alignment.field, case.grid),
        None if back is None else write_field(back, case.moving.grid),
        seconds,
        notes,
    )


def _floats32(volume: Volume) -> Volume:
    return volume.like(volume.data.astype(np.float32)) if volume.data.dtype.kind == "f" else volume


def method_for(
    name: str,
    dimension: int | None,
    options: Mapping[str, Any] | None,
    needs: Mapping[str, Any] | None,
    seed: int,
    device: str,
    threads: int | None,
    model: Path | None,
) -> "Method":
    """The method of that name, ready to align: by default in as many dimensions as it can, on all cores."""
    from modalign.methods import method_class

    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}: give 1 or more, or leave it out")
    if dimension is None:
        dimension = max(method_class(name).dimensions)
    spec = {"method": name, "dimension": dimension, "options": dict(options or {}), "needs": dict(needs or {})}
    return build_method(spec, seed=seed, device=device, threads=threads or _threads(), model=model)


def _threads() -> int:
    """OMP_NUM_THREADS where it is set, as OpenMP has it, otherwise the number of cores that this process may run on."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if given.isdigit() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def with_masks(
    name: str, options: Mapping[str, Any] | None, needs: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options and needs of a method that is given a mask: `use_masks` is on, unless the options say otherwise.

    Raises:
        ConfigError: the method can't use masks, or lacks a method that it builds on.
    """
    from modalign.methods import method_class, method_names

    if not _uses_masks(name):
        able = ", ".join(other for other in method_names() if _uses_masks(other))
        raise ConfigError(f"method {name} can't use masks: leave them out, or take one that can: {able}")
    check_needs({"method": name, "needs": needs or {}}, method_class(name))
    masked_needs = {}
    for role, spec in (needs or {}).items():
        if _uses_masks(spec["method"]):
            inner, deeper = with_masks(spec["method"], spec.get("options"), spec.get("needs"))
            spec = {**spec, "options": inner, "needs": deeper}
        masked_needs[role] = spec
    return {"use_masks": True, **(options or {})}, masked_needs


def _uses_masks(name: str) -> bool:
    from modalign.methods import method_class

    return "use_masks" in method_class(name).Options.model_fields


def mask_on(mask: Volume, grid: Grid, what: str, role: str) -> Volume:
    """The mask as zeros and ones, if it lies on `grid`.

    Raises:
        DataError: it doesn't, or it is empty.
    """
    if not mask.grid.same_as(grid, tolerance_mm=0.1):
        raise DataError(f"{what} (shape {mask.shape}) does not lie on the grid of {role} (shape {grid.shape})")
    if not (mask.data > 0).any():
        raise DataError(f"{what} is empty, so that nothing would be looked at: leave it out, or check its values")
    return mask.like((mask.data > 0).astype(np.uint8))


def way_back(alignment: Alignment, case: Case, method: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The inverse field (3, X', Y', Z') in voxels of the moving grid, and how well it inverts.

    Where a moving voxel lies in the fixed scan, the field itself is inverted. What lies beyond, the field doesn't say:
    there, the way back that the method found goes on, with its affine part, where it has one.

    Raises:
        DataError: the method doesn't deform.
    """
    from modalign.spatial.inverse import inverse_field

    if alignment.field is None:
        raise DataError(f"{method} gives no displacement field, so there is no inverse: ask for none")
    field, off_mm = inverse_field(alignment.field, case.grid, case.moving.grid)
    if alignment.inverse_field is not None:
        to_fixed = np.linalg.inv(case.grid.affine) @ case.moving.affine
        positions = apply_affine(to_fixed, case.moving.grid.indices() + field)
        last = np.array(case.grid.shape).reshape(3, 1, 1, 1) - 1
        inside = ((positions >= 0) & (positions <= last)).all(0)
        field = np.where(inside, field, alignment.inverse_field).astype(np.float32)
    seen = off_mm[np.isfinite(off_mm)]
    if seen.size == 0:
        return field, {"inverse_error_mm": None}
    return field, {"inverse_error_mm": {"mean": float(seen.mean()), "largest": float(seen.max())}}


def _kind(image: Any, role: str) -> "tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]":
    """How to read an image, and how to write a volume and a field of its kind."""
    if isinstance(image, nib.spatialimages.SpatialImage):
        return _NIBABEL
    # SimpleITK takes a while to import; an image of its kind shows that it has been.
    if type(image).__module__.startswith("SimpleITK"):
        return _SITK
    raise DataError(
        f"{role} is a {type(image).__name__}: give a SimpleITK or a nibabel image (modalign align takes files)"
    )


def _sitk_field(field: np.ndarray, grid: Grid) -> Any:
    from modalign.spatial.itk import to_sitk_field

    return to_sitk_field(field, grid)


_NIBABEL = (from_nibabel, to_nibabel, itk_field_image)
_SITK = (from_sitk, to_sitk, _sitk_field)
