"""Pairs that don't lie on each other, on one scale of intensities, and images made patch by patch."""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from modalign.cases import INPUTS, Case, CaseStore
from modalign.digest import code_digest
from modalign.files import replacing
from modalign.methods.base import Context
from modalign.spatial.fields import warp_volume
from modalign.training.data import Batch, PackedCases, Sampling, data_digest

log = logging.getLogger(__name__)

HU = 1000.0
"""Hounsfield units that the networks see as 1."""


def normalised_fixed(case: Case) -> np.ndarray:
    """The fixed image with the median of its foreground at 1 and its darkest value at 0, (X, Y, Z), float32.

    Foreground is the fixed mask or, without one, what is brighter than the mean. MR has no unit, and the stored range
    of a case depends on its brightest voxel, so neither would be comparable between patients.
    """
    data = case.fixed.data.astype(np.float32)
    data = data - data.min()
    inside = (
        case.fixed_mask.data > 0 if case.fixed_mask is not None and case.fixed_mask.data.any() else data > data.mean()
    )
    return data / max(float(np.median(data[inside])), 1e-6 * float(data.max()))


def to_network(stored: np.ndarray, case: Case) -> np.ndarray:
    """Stored intensities of the moving scan as the networks see them: thousands of HU; other units stay as they are."""
    intensity = case.moving_intensity
    return (intensity.to_physical(stored) / HU if intensity.unit == "HU" else stored).astype(np.float32)


def from_network(values: np.ndarray, case: Case) -> np.ndarray:
    """What the networks made in stored intensities of the moving scan of this case, float32."""
    intensity = case.moving_intensity
    if intensity.unit == "HU":
        values = (values * HU - intensity.offset) / intensity.scale
    return values.astype(np.float32)


def write_pairs(
    store: CaseStore, ids: Sequence[str], path: Path, *, rigid: bool, context: Context
) -> tuple[Path, list[float]]:
    """Write the pairs of cases as a packed file, unless it is there already, and return it with its voxel size in mm.

    Args:
        store: the case store.
        ids: its cases to take.
        path: the packed file: ``fixed``, ``moving`` on the fixed grid, and ``moving_mask``, where that was scanned.
        rigid: register each moving image rigidly first.
        context: of the method, whose seed and threads the registration takes.
    """
    content = [[_signature(store, case) for case in ids], list(ids), rigid, context.seed, code_digest(__name__)]
    made_from = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    if path.is_file():
        with h5py.File(path, "r") as file:
            if file.attrs.get("made_from") == made_from:
                return path, list(map(float, file.attrs["spacing_mm"]))
    spacing = []
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        for name in ids:
            case = store.load(name, INPUTS)
            field = _rigid_field(case, context) if rigid else None
            moving = warp_volume(case.moving, field, case.grid, outside=float(case.moving.data.min()))
            scanned = case.moving.like(np.ones(case.moving.shape, np.uint8))
            group = file.create_group(name)
            group["fixed"] = normalised_fixed(case)
            group["moving"] = to_network(moving.data, case)
            group["moving_mask"] = warp_volume(scanned, field, case.grid, order=0, outside=0).data
            spacing.append(case.fixed.spacing)
        spacing_mm = list(map(float, np.median(spacing, axis=0)))
        file.attrs["made_from"], file.attrs["spacing_mm"] = made_from, spacing_mm
    return path, spacing_mm


def _signature(store: CaseStore, case: str) -> list[Any]:
    return [
        [part, file.stat().st_size, data_digest(file)]
        for part in INPUTS
        if (file := store.folder / case / f"{part}.nii.gz").is_file()
    ]


def _rigid_field(case: Case, context: Context) -> np.ndarray | None:
    from modalign.methods.affine import Affine

    rigid = Affine({"transform": "rigid"}, 3, Context(seed=context.seed, threads=context.threads))
    return rigid.align(case).field


class MisalignedPairs:
    """Batches of patches from a packed file of pairs, for :func:`modalign.training.loop.fit`.

    An epoch holds a patch for every `patch_stride` voxels along each axis, so that its length doesn't depend on how
    many images there are alone.
    """

    def __init__(self, path: Path, dimension: int, options: Any, seed: int, purpose: tuple[str, ...]) -> None:
        sampling = Sampling(dimension, options.batch, options.crop, masks=True)
        self._cases = PackedCases(path, sampling, seed, purpose)
        self.digest = data_digest(path)
        patches = 0
        for image in self._cases.images["fixed"]:
            crop = options.crop or image.shape
            patches += math.prod(
                (max(n - c, 0) // options.patch_stride) + 1 for n, c in zip(image.shape, crop, strict=True)
            )
        self.steps_per_epoch = -(-patches // options.batch)

    def batch(self, step: int) -> Batch:
        """The batch of a step: ``fixed``, ``moving`` and ``moving_mask``."""
        return self._cases.batch(step)


def blended(
    network: Callable[[Tensor], Tensor], images: Tensor, patch: Sequence[int] | None, together: int = 8
) -> Tensor:
    """What a network makes of images (B, 1, *S), patch by patch with half overlaps, faded into each other.

    The network normalises over its input, so that it has to see images of the size that it was trained on. None for
    `patch` takes whole images, `together` at a time; images smaller than a patch are padded by their minimum.
    """
    if patch is None:
        return torch.cat([network(part) for part in images.split(together)])
    shape = images.shape[2:]
    room = [max(p - n, 0) for p, n in zip(patch, shape, strict=True)]
    padding = [amount for extra in reversed(room) for amount in (0, extra)]
    padded = torch.nn.functional.pad(images, padding, value=float(images.min()))
    total, weight = torch.zeros_like(padded), torch.zeros_like(padded)
    fade = torch.ones((), device=images.device)
    for size in patch:
        ramp = 1 - (torch.arange(size, device=images.device) - (size - 1) / 2).abs() / (size / 2 + 1)
        fade = fade[..., None] * ramp
    starts = [sorted({*range(0, n - p, max(p // 2, 1)), n - p}) for n, p in zip(padded.shape[2:], patch, strict=True)]
    corners = torch.cartesian_prod(*[torch.tensor(s) for s in starts]).reshape(-1, len(patch)).tolist()
    for row in range(len(padded)):
        for first in range(0, len(corners), together):
            boxes = [
                tuple(slice(s, s + p) for s, p in zip(c, patch, strict=True)) for c in corners[first : first + together]
            ]
            made = network(torch.stack([padded[row][(slice(None), *box)] for box in boxes]))
            for box, piece in zip(boxes, made, strict=True):
                total[row][(slice(None), *box)] += fade * piece
                weight[row][(slice(None), *box)] += fade
    return (total / weight)[(slice(None), slice(None), *[slice(n) for n in shape])]
