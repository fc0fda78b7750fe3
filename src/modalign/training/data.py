"""Batches of slices or volumes from a split's packed file, in an order that depends on the seed and the step alone."""

import hashlib
import json
import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from modalign.errors import DataError
from modalign.files import replacing, sha256
from modalign.seeds import generator

log = logging.getLogger(__name__)

Arrays = dict[str, dict[str, np.ndarray]]
"""By case and part."""

Batch = dict[str, Tensor]
"""What a step learns from: `fixed` and `moving`, and masks if asked for, (B, 1, *S), float32."""


@dataclass(frozen=True)
class Sampling:
    """How batches are drawn from the packed cases.

    Attributes:
        dimension: 2 takes axial slices (the last axis), 3 takes volumes.
        batch: how many of them make a batch.
        crop: size in voxels of random crops, one number per axis; images that are smaller are padded. None takes whole
            images; images of different sizes are padded to the largest in the batch.
        masks: also read `fixed_mask` and `moving_mask`; ones where a case has none.
        paired: False draws the moving images independently of the fixed ones, for unpaired translation.
        flips: mirror pairs at random along each in-plane axis.
    """

    dimension: int
    batch: int = 1
    crop: tuple[int, ...] | None = None
    masks: bool = False
    paired: bool = True
    flips: bool = False


class PackedCases:
    """Batches from ``<split>.h5``; every batch is a function of (seed, step), so nothing has to be remembered.

    In 2D, slices in which the fixed or the moving image is constant are left out, unless all are.

    The uncompressed arrays are memory-mapped. They are copied into memory once if they fit into `memory_mib`; else, in
    2D, to a file beside the packed one in which slices are contiguous, because in the packed one a single axial slice
    lies scattered over all of its volume.

    Args:
        path: the packed split, see :meth:`modalign.cases.CaseStore.pack`.
        sampling: what to draw.
        seed: seeds order, crops and flips.
        purpose: words that tell this stream of random numbers from others, such as the data set and the method.
        fixed_path: another packed file whose `fixed` images take the place of this one's, such as their translations.
        memory_mib: how much may be copied into memory.
        cases: draw from these cases alone; None draws from all.
        beside: a packed file of further images, on the same grids, and the parts of it that join the batches.

    Raises:
        DataError: the file is missing, compressed or empty, or a case's images differ in shape.
    """

    def __init__(
        self,
        path: Path,
        sampling: Sampling,
        seed: int = 0,
        purpose: tuple[str, ...] = (),
        fixed_path: Path | None = None,
        memory_mib: float = 4096,
        cases: Collection[str] | None = None,
        beside: tuple[Path, tuple[str, ...]] | None = None,
    ):
        self.sampling, self.seed, self.purpose = sampling, seed, purpose
        parts = ["fixed", "moving", *(["fixed_mask", "moving_mask"] if sampling.masks else [])]
        files = [(path, parts), (fixed_path, ["fixed"])] + (
            [(beside[0], list(beside[1]))] if beside is not None else []
        )
        sources = [(file, wanted) for file, wanted in files if file is not None]
        parts = list(dict.fromkeys(part for _, wanted in sources for part in wanted))
        arrays = _joined(sources, cases)
        _check(path, arrays)
        megabytes = sum(a.nbytes for found in arrays.values() for a in found.values()) / 2**20
        in_memory, slices = megabytes <= memory_mib, sampling.dimension == 2
        if slices and not in_memory:
            arrays = _joined([(slice_first(file), wanted) for file, wanted in sources], cases)
        self.images: dict[str, list[np.ndarray]] = {part: [] for part in parts}
        for found in arrays.values():
            for part in parts:
                array = found.get(part)
                if array is None:
                    array = np.broadcast_to(np.uint8(1), found["fixed"].shape)
                if slices and in_memory:
                    array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
                elif in_memory:
                    array = np.array(array)
                self.images[part].extend(array if slices else [array])
        if sampling.dimension == 2:
            self._leave_out_empty_slices()

    def _leave_out_empty_slices(self) -> None:
        """Slices without any contrast teach nothing, and normalisation turns their gradients into enormous ones."""
        pairs = zip(self.images["fixed"], self.images["moving"], strict=True)
        # A look at some voxels tells most slices from an empty one without reading all of the file.
        telling = [
            number
            for number, pair in enumerate(pairs)
            if all(np.ptp(image[::8, ::8]) > 0 or np.ptp(image) > 0 for image in pair)
        ]
        if telling:
            self.images = {part: [images[number] for number in telling] for part, images in self.images.items()}

    def __len__(self) -> int:
        return len(self.images["fixed"])

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every image comes up once; the last one is filled up from the next epoch."""
        return -(-len(self) // self.sampling.batch)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        numbers = range(step * self.sampling.batch, (step + 1) * self.sampling.batch)
        fixed = [self._order("order", n // len(self))[n % len(self)] for n in numbers]
        moving = fixed
        if not self.sampling.paired:
            moving = [self._order("moving order", n // len(self))[n % len(self)] for n in numbers]
        random = generator(self.seed, *self.purpose, "crops and flips", str(step))
        return self._collate(fixed, moving, random)

    def pick(self, numbers: list[int]) -> Batch:
        """The images of these numbers as they are, whole and unflipped."""
        return self._collate(numbers, numbers, None)

    def limits(self, part: str, low: float = 0.1, high: float = 99.9) -> tuple[float, float]:
        """Two percentiles of the intensities of `part`, over about a million voxels."""
        stride = max(1, sum(image.size for image in self.images[part]) // 1_000_000)
        rows = {image.shape[-1] for image in self.images[part]}
        # With a factor in common, it would see a part of every row alone: at worst its first voxel, which is air.
        while any(math.gcd(stride, row) > 1 for row in rows):
            stride += 1
        # Unlike a flattened image, a slice of its flat iterator is no copy of the whole image.
        sample = np.concatenate([image.flat[::stride] for image in self.images[part]])
        lowest, highest = np.percentile(sample, [low, high])
        return float(lowest), float(max(highest, lowest + 1e-6))

    def _order(self, name: str, epoch: int) -> np.ndarray:
        return _permutation(len(self), self.seed, *self.purpose, name, str(epoch))

    def _collate(self, fixed: list[int], moving: list[int], random: np.random.Generator | None) -> Batch:
        picked = {
            part: [images[i] for i in (moving if part.startswith("moving") else fixed)]
            for part, images in self.images.items()
        }
        shape = np.max([image.shape for images in picked.values() for image in images], axis=0)
        crop = self.sampling.crop if random is not None else None
        if crop is not None:
            shape = np.array(crop)
        result = {part: np.empty((len(fixed), 1, *shape), np.float32) for part in picked}
        for row in range(len(fixed)):
            place = np.zeros(len(shape)) if crop is None or random is None else random.random(len(shape))
            mirror = random.random(2) < 0.5 if random is not None and self.sampling.flips else np.zeros(2, bool)
            axes = tuple(np.flatnonzero(mirror))
            for part, images in picked.items():
                cut = _cut(
                    images[row], shape, place, 0.0 if part.startswith("field") or part.endswith("mask") else None
                )
                result[part][row, 0] = np.flip(cut, axes) if axes else cut
        return {part: torch.from_numpy(array) for part, array in result.items()}


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, *purpose: str) -> np.ndarray:
    return generator(seed, *purpose).permutation(count)


def draw_cases(ids: Sequence[str], fraction: float, seed: int, *purpose: str) -> list[str]:
    """A share of the cases, at least one, in their order; a smaller share is part of a larger one of the same seed."""
    count = max(1, round(fraction * len(ids)))
    drawn = set(generator(seed, *purpose, "training cases").permutation(len(ids))[:count].tolist())
    return [case for number, case in enumerate(ids) if number in drawn]


def data_digest(*paths: Path) -> str:
    """A digest of everything in some files.

    Of packed splits, whose cases carry digests of their own, names, shapes and these are read; other files as a whole.
    """
    contents = [_packed_content(path) or sha256(path) for path in paths]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def _packed_content(path: Path) -> list[Any]:
    """Name, digest and shapes of every case of a packed split; nothing if there is a case without a digest."""
    if not h5py.is_hdf5(path):
        return []
    with h5py.File(path, "r") as file:
        if not all("sha256" in group.attrs for group in file.values()):
            return []
        return [
            [case, group.attrs["sha256"], [[part, dataset.shape] for part, dataset in group.items()]]
            for case, group in file.items()
        ]


def slice_first(path: Path) -> Path:
    """A copy of a packed file with its arrays as (Z, X, Y), beside it as ``<name>.slices.h5``, unless it is there.

    Two trainings that make it at once do the work twice, and the later copy takes the place of an equal one.
    """
    copy, identity = path.with_suffix(".slices.h5"), data_digest(path)
    if copy.is_file():
        with h5py.File(copy, "r") as file:
            if file.attrs.get("made_from") == identity:
                return copy
    log.info("copying %s to %s, in which slices are contiguous", path, copy)
    with replacing(copy) as temporary, h5py.File(path, "r") as packed, h5py.File(temporary, "w") as file:
        file.attrs["made_from"] = identity
        for case, group in packed.items():
            for part, dataset in group.items():
                file[f"{case}/{part}"] = np.ascontiguousarray(np.moveaxis(dataset[()], -1, 0))
    return copy


def _joined(sources: Sequence[tuple[Path, Sequence[str]]], cases: Collection[str] | None) -> Arrays:
    """The arrays of the first file's cases, with the parts of the others added or in place of the first one's."""
    arrays: Arrays = {}
    for file, wanted in sources:
        mapped = _map_arrays(file, wanted)
        names = [name for name in mapped if cases is None or name in cases] if not arrays else list(arrays)
        arrays = {name: {**arrays.get(name, {}), **mapped[name]} for name in names}
    return arrays


def _map_arrays(path: Path, parts: Sequence[str]) -> Arrays:
    if not path.is_file():
        raise DataError(f"{path} does not exist: prepare the data set again, or give it cases in this split")
    arrays: Arrays = {}
    with h5py.File(path, "r") as file:
        for case, group in file.items():
            arrays[case] = {}
            for part in parts:
                if part not in group:
                    continue
                dataset = group[part]
                offset = dataset.id.get_offset()
                if dataset.chunks is not None or offset is None:
                    raise DataError(f"{path}: {case}/{part} is stored in chunks; pack it contiguous and uncompressed")
                arrays[case][part] = np.memmap(path, dataset.dtype, "r", offset, dataset.shape)
    if not arrays:
        raise DataError(f"{path} holds no cases: the split is empty")
    return arrays


def _check(path: Path, arrays: Arrays) -> None:
    for case, found in arrays.items():
        missing = {"fixed", "moving"} - set(found)
        if missing:
            raise DataError(f"{path}: case {case} has no {' and no '.join(sorted(missing))} image")
        shapes = {part: array.shape for part, array in found.items()}
        if len(set(shapes.values())) > 1:
            raise DataError(f"{path}: the images of case {case} differ in shape: {shapes}; resample them to one grid")


def _cut(image: np.ndarray, shape: np.ndarray, place: np.ndarray, fill: float | None) -> np.ndarray:
    """Crop to `shape`, at `place` (0 to 1) of the room there is; what is too small is padded by `fill`, or by its
    minimum if that is None."""
    room = np.array(image.shape) - shape
    starts = np.floor(np.clip(room + 1, 0, None) * place).astype(int).clip(0, np.clip(room, 0, None))
    cut = image[tuple(slice(s, s + n) for s, n in zip(starts, shape, strict=True))]
    if cut.shape == tuple(shape):
        return cut
    padding = [(0, n - c) for n, c in zip(shape, cut.shape, strict=True)]
    return np.pad(cut, padding, constant_values=image.min() if fill is None else fill)
