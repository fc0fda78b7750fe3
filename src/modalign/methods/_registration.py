"""What the registration methods share: checks before a tool runs, slices or volume, and the image from the field."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from modalign.cases import Alignment, Case
from modalign.errors import DataError, ModalignError
from modalign.methods.base import align_slices
from modalign.spatial.fields import warp_volume
from modalign.volumes import Volume

Register = Callable[[Case], tuple[np.ndarray, dict[str, Any]]]
"""Registers one case and returns the field, (3, X, Y, Z) in voxels of the fixed grid, and what to put on record."""

SMALLEST_AXIS = 6
"""Voxels along an axis below which no tool's pyramid and smoothing kernels make sense."""


def register_by(case: Case, dimension: int, register: Register) -> Alignment:
    """Run `register` on the volume (`dimension` 3) or on each axial slice (2), and warp the moving image by its field.

    The image is sampled from the original moving image in one linear interpolation, whatever the tool did inside, so
    image and field always agree. Slices without contrast in either image have nothing to register: their field is
    zero, and their number is put on record as `flat_slices`.

    Raises:
        DataError: an image has values that aren't finite, no contrast at all, or is too small.
        ModalignError: the tool returned a field that isn't finite.
    """
    check_images(case)
    _check_size(case, dimension)
    notes: dict[str, Any] = {}
    if dimension == 3:
        field, notes = register(case)
    else:
        slice_notes: list[dict[str, Any]] = []

        def one_slice(cut: Case) -> Alignment:
            if _is_flat(cut.fixed.data) or _is_flat(cut.moving.data):
                return Alignment(cut.moving, np.zeros((3, *cut.fixed.shape), np.float32))
            slice_field, of_slice = register(cut)
            slice_notes.append(of_slice)
            return Alignment(cut.moving, slice_field)

        stacked = align_slices(case, one_slice).field
        assert stacked is not None  # every slice has a field
        field, notes = stacked, {**_summary(slice_notes), "flat_slices": case.fixed.shape[2] - len(slice_notes)}
    if not np.isfinite(field).all():
        raise ModalignError(f"case {case.id}: the tool returned a displacement field with values that aren't finite")
    return by_field(case, field, notes)


def _summary(notes: list[dict[str, Any]]) -> dict[str, Any]:
    """What is the same for all slices, and means of the numbers that aren't (a truth value counts as 0 or 1)."""
    summary: dict[str, Any] = {}
    for key in notes[0] if notes else ():
        values = [n[key] for n in notes]
        if all(v == values[0] for v in values):
            summary[key] = values[0]
        elif all(isinstance(v, int | float) for v in values):
            summary[key] = float(np.mean(values))
    return summary


def by_field(case: Case, field: np.ndarray, notes: dict[str, Any] | None = None) -> Alignment:
    """The moving image warped by `field` (linear, its border repeated outside) with the field itself."""
    field = np.ascontiguousarray(field, dtype=np.float32)
    return Alignment(warp_volume(case.moving, field, case.grid), field, notes or {})


def check_images(case: Case) -> None:
    """Refuse images that no method can work on.

    Raises:
        DataError: values that aren't finite, or an image without contrast.
    """
    for role, volume in (("fixed", case.fixed), ("moving", case.moving)):
        bad = int((~np.isfinite(volume.data)).sum()) if volume.data.dtype.kind == "f" else 0
        if bad:
            share = f"{bad} of {volume.data.size} voxels"
            raise DataError(f"case {case.id}: the {role} image has {share} that aren't finite; replace them, e.g. by 0")
        if _is_flat(volume.data):
            message = f"case {case.id}: every voxel of the {role} image is {volume.data.flat[0]}: nothing to register"
            raise DataError(message)


def _check_size(case: Case, dimension: int) -> None:
    for role, volume in (("fixed", case.fixed), ("moving", case.moving)):
        if min(volume.shape[:dimension]) < SMALLEST_AXIS:
            advice = "; register slice by slice (dimension 2)" if dimension == 3 else ""
            message = (
                f"case {case.id}: the {role} image has {' x '.join(map(str, volume.shape))} voxels, and "
                f"{dimension}D registration needs {SMALLEST_AXIS} or more along each axis{advice}"
            )
            raise DataError(message)


def _is_flat(data: np.ndarray) -> bool:
    return bool(data.min() == data.max())


def usable_mask(mask: Volume | None, use_masks: bool) -> Volume | None:
    """The mask as uint8, or None if it isn't wanted, doesn't exist, or selects nothing (an empty slice)."""
    if not use_masks or mask is None or not mask.data.any():
        return None
    return mask.like((mask.data > 0).astype(np.uint8))


def fill_outside(volume: Volume, mask: Volume | None) -> np.ndarray:
    """The image as float32 with voxels outside `mask` replaced by the nearest value inside it.

    For tools that take no mask: what lies outside no longer makes edges that would pull the field.
    """
    from scipy.ndimage import distance_transform_edt

    data = volume.data.astype(np.float32)
    if mask is None:
        return data
    nearest = distance_transform_edt(
        mask.data == 0, sampling=volume.spacing, return_distances=False, return_indices=True
    )
    return data[tuple(nearest)]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch on `count` CPU threads inside the block, on as many as before after it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
