"""What trained registration methods share: their data, their translator, and alignment by slices or volumes."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from modalign.cases import INPUTS, Alignment, Case, CaseStore
from modalign.digest import code_digest
from modalign.errors import DataError
from modalign.files import replacing, sha256
from modalign.methods._registration import by_field, check_images
from modalign.methods.base import Method, moving_on_fixed_grid
from modalign.seeds import generator
from modalign.spatial.integrate import resize_field
from modalign.spatial.warp import warp
from modalign.training.data import Batch, PackedCases, Sampling, data_digest, draw_cases

log = logging.getLogger(__name__)

Limits = Mapping[str, tuple[float, float]]
"""For `fixed` and `moving`, the intensities that networks see as 0 and 1."""

VALIDATION_IMAGES = 64
"""Slices or volumes that a validation looks at, evenly spread; more cost time without changing the choice."""


@dataclass(frozen=True)
class RegistrationData:
    """Batches to train on, images to validate on (None without such a split), intensity limits, and their digest."""

    train: PackedCases
    validation: PackedCases | None
    limits: Limits
    digest: str


def registration_data(
    store: CaseStore,
    sampling: Sampling,
    seed: int,
    purpose: str,
    state: Path,
    translator: Method | None = None,
    fraction: float = 1.0,
    validation_crops: bool = False,
) -> RegistrationData:
    """Open the packed training and validation splits.

    With a `translator`, the fixed images are replaced by their translations to the moving contrast, which are made once
    and kept in `state`; both images then share the moving image's intensity limits. A `fraction` below 1 learns from
    that share of the training cases. Validation sees whole images, or with `validation_crops` what training sees.

    Raises:
        DataError: there are no training cases.
    """
    if not store.ids(["train"]):
        raise DataError(f"{store.folder} has no training cases: choose a split with some, or a method without training")
    opened: dict[str, PackedCases | None] = {"validation": None}
    files = []
    for split in ("train", "validation"):
        if not store.ids([split]):
            continue
        translated = None if translator is None else translate_split(store, split, translator, state)
        crop = sampling.crop if validation_crops else None
        draw = sampling if split == "train" else replace(sampling, crop=crop, flips=False)
        drawn = draw_cases(store.ids([split]), fraction if split == "train" else 1.0, seed, store.dataset)
        purposes = (store.dataset, purpose)
        opened[split] = PackedCases(store.pack(split), draw, seed, purposes, translated, cases=drawn)
        files += [store.pack(split), *([translated] if translated else [])]
    train = opened["train"]
    assert train is not None
    moving = train.limits("moving")
    limits = {"fixed": moving if translator is not None else train.limits("fixed"), "moving": moving}
    return RegistrationData(train, opened["validation"], limits, data_digest(*files))


def translate_split(store: CaseStore, split: str, translator: Method, state: Path) -> Path:
    """Translate the fixed images of a split and write them to a packed file in `state`, unless it is there already."""
    path, identity = state / f"translated-{split}.h5", origin(store, split, translator)
    if path.is_file():
        with h5py.File(path, "r") as file:
            if file.attrs.get("made_from") == identity:
                return path
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["made_from"] = identity
        for case in store.cases([split], INPUTS):
            file[f"{case.id}/fixed"] = translator.align(case).image.data.astype(np.float32)
            log.info("translated %s", case.id)
    return path


def origin(store: CaseStore, split: str, method: Method) -> str:
    """A digest of all that decides what `method` makes of a split: data, code, options, seed and weights."""
    model = method.context.model
    weights = [sha256(file) for file in sorted(model.glob("*.pt"))] if model is not None else []
    name, options = type(method).__module__, method.options.model_dump()
    code = code_digest(name) if name.startswith("modalign.") else ""
    content = [data_digest(store.pack(split)), name, code, options, method.context.seed, weights]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def scaled(images: Tensor, limits: tuple[float, float]) -> Tensor:
    """Intensities with the limits at 0 and 1; values beyond stay beyond."""
    return (images - limits[0]) / (limits[1] - limits[0])


def prepared(batch: Batch, limits: Limits) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scaled moving and fixed images of a batch, and the fixed mask if there is one."""
    return scaled(batch["moving"], limits["moving"]), scaled(batch["fixed"], limits["fixed"]), batch.get("fixed_mask")


def random_field(images: Tensor, amplitude_voxels: float, seed: int, *purpose: str) -> Tensor:
    """Smooth random fields for images: normal displacements on a grid of 4 nodes per axis, linear in between.

    Args:
        images: (B, C, *S).
        amplitude_voxels: standard deviation of the displacement of a node along each axis.
        seed: seeds the fields, together with `purpose`.
        purpose: what they are for, and for which step.

    Returns:
        (B, nD, *S) in voxels, array axis order.
    """
    dimension = images.ndim - 2
    nodes = generator(seed, *purpose).standard_normal((len(images), dimension, *[4] * dimension)) * amplitude_voxels
    size = torch.tensor([(n - 1) / 3 for n in images.shape[2:]]).reshape(1, -1, *[1] * dimension)
    return resize_field((torch.from_numpy(nodes).float() / size).to(images.device), images.shape[2:])


def randomly_deformed(images: Tensor, amplitude_voxels: float, seed: int, *purpose: str) -> Tensor:
    """Images (B, C, *S) warped by :func:`random_field`."""
    return warp(images, random_field(images, amplitude_voxels, seed, *purpose))


def validation_loss(loss: Callable[[Batch], Tensor], data: PackedCases, device: str, together: int = 8) -> float:
    """The mean of ``loss(batch)`` over the same images every time, at most :data:`VALIDATION_IMAGES`.

    They are whole and evenly spread, `together` slices at a time, or, if `data` has crops, its first batches.
    """
    values, counts = [], []
    for batch in validation_batches(data, device, together):
        values.append(float(loss(batch)))
        counts.append(len(batch["fixed"]))
    return float(np.average(values, weights=counts))


def validation_batches(data: PackedCases, device: str, together: int = 8) -> Iterator[Batch]:
    """The same images every time, on `device`; see :func:`validation_loss`."""
    count = min(len(data), VALIDATION_IMAGES)
    together = together if data.sampling.dimension == 2 else 1
    chosen = np.unique(np.linspace(0, len(data) - 1, count).round().astype(int))
    if data.sampling.crop is not None:
        batches = (data.batch(step) for step in range(-(-count // data.sampling.batch)))
    else:
        batches = (data.pick(chosen[i : i + together].tolist()) for i in range(0, len(chosen), together))
    for batch in batches:
        yield {part: images.to(device) for part, images in batch.items()}


def align_by_network(
    case: Case,
    dimension: int,
    predict: Callable[[Tensor, Tensor], Tensor],
    limits: Limits,
    *,
    device: str = "cpu",
    translator: Method | None = None,
    together: int = 8,
) -> Alignment:
    """Align a case of any size by a network, in 2D `together` axial slices at a time.

    Args:
        case: the case; its moving image is resampled to the fixed grid for the network, and warped from the original.
        dimension: 2 for slices (their fields have no through-plane component), 3 for the volume.
        predict: ``predict(moving, fixed)`` on (B, 1, *S) gives the field (B, nD, *S) in voxels.
        limits: intensities that the network saw as 0 and 1 in training.
        device: where `predict` computes.
        translator: replaces the fixed image by its translation first.
        together: slices per forward pass.
    """
    check_images(case)
    seen = moving_on_fixed_grid(case)
    fixed = seen.fixed.data if translator is None else translator.align(case).image.data
    images = [
        scaled(torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32)), limits[role]).to(device)[None, None]
        for role, data in (("moving", seen.moving.data), ("fixed", fixed))
    ]
    with torch.no_grad():
        if dimension == 3:
            field = predict(*images)[0].cpu().numpy()
        else:
            moving, still = (image[0].permute(3, 0, 1, 2).contiguous() for image in images)
            pieces = [
                predict(moving[z : z + together], still[z : z + together]).cpu()
                for z in range(0, len(moving), together)
            ]
            field = np.zeros((3, *case.fixed.shape), np.float32)
            field[:2] = torch.cat(pieces).permute(1, 2, 3, 0).numpy()
    return by_field(case, field)


def save_weights(path: Path, weights: Mapping[str, Tensor], **about: Any) -> None:
    """Write weights and what is needed to use them, loadable with ``torch.load(path, weights_only=True)``."""
    # Given a path, torch.save would put the temporary file's random name into the bytes.
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save({"weights": dict(weights), **about}, file)


def load_weights(path: Path) -> dict[str, Any]:
    """Read what :func:`save_weights` wrote, onto the CPU.

    Raises:
        DataError: the file is missing.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: train this method on the data set first")
    return torch.load(path, map_location="cpu", weights_only=True)
