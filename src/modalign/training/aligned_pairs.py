"""Pairs of two contrasts that are aligned before a training, and patches of them, as Cao et al. 2018 train from."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import scipy.ndimage as ndi
import torch

from modalign.cases import INPUTS, LABELS, CaseStore
from modalign.digest import code_digest
from modalign.files import replacing, sha256
from modalign.methods._registration import by_field
from modalign.methods.base import Context, moving_on_fixed_grid
from modalign.methods.syn import SyN
from modalign.networks.valid_unet import margin_of
from modalign.seeds import generator
from modalign.spatial.fields import compose, warp_volume
from modalign.spatial.inverse import inverse_field
from modalign.spatial.itk import own_frame, vectors_to_field
from modalign.training.data import Batch, PackedCases, Sampling
from modalign.volumes import Grid

log = logging.getLogger(__name__)

How = Literal["labels", "syn", "labels-only"]
IMAGES = ("fixed", "moving", "fixed_pair", "moving_pair")
"""What a step learns from: a pair as it is, the fixed contrast as it would look in the moving scan's geometry, and the
moving contrast in the fixed scan's."""
DEMONS_ITERATIONS, DEMONS_SMOOTHING_VOXELS = 50, 1.5
"""Of the demons on label maps: iterations, and the standard deviation of the Gaussian on the field."""


class PairedPatches:
    """Batches of patches of aligned pairs, for :func:`modalign.training.loop.fit`.

    Patches are drawn so that their centres, where the network predicts the field, lie anywhere in the image.

    Args:
        path: what :func:`write_pairs` wrote.
        options: of the method: `batch`, `patch`, `patches`, `flips`, `convolutions`.
        seed: seeds order, places and flips.
        purpose: words that tell this stream of random numbers from others.
    """

    def __init__(self, path: Path, options: Any, seed: int, purpose: tuple[str, ...]):
        self._cases = PackedCases(path, Sampling(3, options.batch), seed, purpose, beside=(path, IMAGES[2:]))
        self._options, self._seed, self._purpose = options, seed, purpose
        self.limits = self._cases.limits
        self.steps_per_epoch = -(-len(self._cases) * options.patches // options.batch)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0: :data:`IMAGES`, (B, 1, *S), float32."""
        options, images = self._options, self._cases.images
        random = generator(self._seed, *self._purpose, "patches", str(step))
        chosen = []
        for number in range(step * options.batch, (step + 1) * options.batch):
            epoch, place = divmod(number, len(self._cases))
            order = generator(self._seed, *self._purpose, "order", str(epoch)).permutation(len(self._cases))
            chosen.append(int(order[place]))
        margin = margin_of(options.convolutions)
        inner = inner_shape([images["fixed"][case].shape for case in chosen], options.patch, options.convolutions)
        batch: dict[str, list[np.ndarray]] = {part: [] for part in IMAGES}
        for case in chosen:
            room = [max(n - size, 0) for n, size in zip(images["fixed"][case].shape, inner, strict=True)]
            start = [int(random.integers(r + 1)) for r in room]
            mirrored = options.flips and random.random() < 0.5
            for part in IMAGES:
                patch = cut(images[part][case], start, inner, margin)
                batch[part].append(np.flip(patch, 0) if mirrored else patch)
        return {part: torch.from_numpy(np.stack(patches)[:, None]) for part, patches in batch.items()}

    def first(self, patches: int, device: str) -> list[Batch]:
        """The first batches of an epoch, at most so many patches, on a device."""
        steps = range(min(self.steps_per_epoch, -(-patches // self._options.batch)))
        return [{part: images.to(device) for part, images in self.batch(step).items()} for step in steps]


def write_pairs(store: CaseStore, ids: Sequence[str], path: Path, how: How, context: Context) -> dict[str, Any]:
    """Align the pairs of cases and write :data:`IMAGES` on the fixed grid, unless they are there already.

    Args:
        store: the case store.
        ids: its cases to take, from the splits train and validation.
        path: the packed file.
        how: by SyN and then demons on the label maps, where a case has both, or by one of these alone.
        context: of the method, whose seed and threads the registrations take.

    Returns:
        made_from, a digest of all that decides; with_labels, how many pairs had label maps; seconds it took.
    """
    parts = INPUTS if how == "syn" else (*INPUTS, *LABELS)
    files = [store.folder / case / f"{part}.nii.gz" for case in ids for part in parts]
    content = [[f"{file.parent.name}/{file.name}", sha256(file)] for file in files if file.is_file()]
    settings = [how, context.seed, code_digest(__name__, SyN.__module__)]
    made_from = hashlib.sha256(json.dumps([content, settings]).encode()).hexdigest()
    if path.is_file():
        with h5py.File(path, "r") as file:
            if file.attrs.get("made_from") == made_from:
                return dict(file.attrs)
    syn = SyN({"preset": "cao"}, 3, Context(seed=context.seed, threads=context.threads))
    started, with_labels = time.monotonic(), 0
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        for name in ids:
            case = store.load(name, parts)
            field = None if how == "labels-only" else syn.align(case).field
            if field is None:
                field = np.zeros((3, *case.fixed.shape), np.float32)
            if case.fixed_labels is not None and case.moving_labels is not None:
                labels = warp_volume(case.moving_labels, field, case.grid, order=0, outside=0)
                rest = label_demons(case.fixed_labels.data, labels.data, case.fixed.spacing, context.threads)
                field, with_labels = compose(rest, field), with_labels + 1
            back, _ = inverse_field(field, case.grid, case.grid)
            group = file.create_group(name)
            group["fixed"] = case.fixed.data.astype(np.float32)
            group["moving"] = moving_on_fixed_grid(case).moving.data.astype(np.float32)
            group["fixed_pair"] = warp_volume(case.fixed, back, case.grid).data
            group["moving_pair"] = by_field(case, field).image.data
            log.info("aligned the training pair %s", name)
        about = {"made_from": made_from, "with_labels": with_labels, "seconds": time.monotonic() - started}
        file.attrs.update(about)
    return about


def label_demons(fixed: np.ndarray, moving: np.ndarray, spacing: np.ndarray, threads: int = 1) -> np.ndarray:
    """The field that brings one label map onto another, by diffeomorphic demons on each structure's smoothed mask.

    The structures come one after the other, each from where the ones before have left it: demons follow values, and in
    a smoothed map of labels the edge of one structure has the values of another. The publication says "Demons", and
    nothing else.

    Args:
        fixed: (X, Y, Z), integers; 0 is background.
        moving: the same on the same grid.
        spacing: of the grid, in mm.
        threads: of the filter.

    Returns:
        (3, X, Y, Z) in voxels, float32.
    """
    import SimpleITK as sitk

    def mask(labels: np.ndarray, value: int) -> np.ndarray:
        return ndi.gaussian_filter((labels == value).astype(np.float32), 1.0)

    grid = Grid(fixed.shape, np.diag([*spacing, 1.0]))
    field = np.zeros((3, *fixed.shape), np.float32)
    values = np.intersect1d(fixed[fixed > 0], moving[moving > 0])
    for value in values:
        moved = ndi.map_coordinates(mask(moving, value), grid.indices() + field, order=1, mode="nearest")
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfThreads(threads)
        demons.SetNumberOfIterations(DEMONS_ITERATIONS)
        demons.SetStandardDeviations(DEMONS_SMOOTHING_VOXELS)
        found = demons.Execute(own_frame(mask(fixed, value), spacing), own_frame(moved, spacing))
        field = compose(vectors_to_field(found, grid), field)
    return field


def cut(image: np.ndarray, start: Sequence[int], inner: Sequence[int], margin: int) -> np.ndarray:
    """The box of `inner` voxels from `start` with the margin around it; beyond the image, its border goes on."""
    ranges = [
        np.clip(np.arange(s - margin, s + size + margin), 0, n - 1)
        for s, size, n in zip(start, inner, image.shape, strict=True)
    ]
    return np.asarray(image[np.ix_(*ranges)], dtype=np.float32)


def inner_shape(shapes: Sequence[Sequence[int]], patch: int | None, convolutions: int) -> list[int]:
    """The voxels per axis for which a patch gives the field; None covers the largest image."""
    margin = margin_of(convolutions)
    if patch is not None:
        return [patch - 2 * margin] * 3
    # The network takes sizes in steps of 4.
    offset = 2 * (2 - convolutions)
    return [-(-(max(sizes) - offset) // 4) * 4 + offset for sizes in zip(*shapes, strict=True)]
