"""Batches for training: the packed file, against reading the compressed scans of every batch."""

import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from racing import Race
from scenes import other_contrast, smooth_image

from modalign.cases import Case
from modalign.preprocess.store import pack_split, write_case
from modalign.training.data import PackedCases, Sampling
from modalign.volumes import Volume, read_volume

SHAPE = (128, 128, 32)
CASES = [f"case{number}" for number in range(6)]
_KEPT: list[tempfile.TemporaryDirectory] = []


def races() -> list[Race]:
    """12 batches of 8 slices, and 6 batches of 1 volume, opening the file included."""
    _KEPT.append(tempfile.TemporaryDirectory())
    store = Path(_KEPT[-1].name)
    for seed, name in enumerate(CASES):
        scan = smooth_image(SHAPE, seed)
        case = Case(name, Volume(other_contrast(scan, seed + 10)), Volume(scan), dataset="speed", split="train")
        write_case(store / name, case)
    pack_split(store, "train", CASES)
    return [_race(store, 2, batch=8, steps=12), _race(store, 3, batch=1, steps=6), _race_on_disk(store)]


def _race_on_disk(store: Path, batch: int = 8, crop: int = 96, steps: int = 12) -> Race:
    """What doesn't fit into memory: slices from the copy in which they are contiguous, and from the packed volumes."""
    sampling = Sampling(2, batch, (crop, crop))
    ours = PackedCases(store / "train.h5", sampling, memory_mib=0)
    theirs = PackedCases(store / "train.h5", sampling, memory_mib=0)
    with h5py.File(store / "train.h5") as file:
        offsets = {(case, part): file[case][part].id.get_offset() for case in CASES for part in ("fixed", "moving")}
    theirs.images = {
        part: [
            np.memmap(store / "train.h5", np.float32, "r", offsets[case, part], SHAPE)[:, :, z]
            for case in CASES
            for z in range(SHAPE[2])
        ]
        for part in ("fixed", "moving")
    }

    def batches(packed: PackedCases) -> list[torch.Tensor]:
        return [packed.batch(step)["moving"] for step in range(steps)]

    what = f"{steps} batches of {batch} crops of {crop}² from disk, {' × '.join(map(str, SHAPE))} scans"
    return Race(what, "the same from volumes", lambda: batches(ours), lambda: batches(theirs))


def _race(store: Path, dimension: int, batch: int, steps: int) -> Race:
    order = _order(store, dimension, batch, steps)

    def ours() -> list[torch.Tensor]:
        packed = PackedCases(store / "train.h5", Sampling(dimension, batch))
        return [packed.batch(step)["fixed"] for step in range(steps)]

    def theirs() -> list[torch.Tensor]:
        batches = []
        for numbers in order:
            images = []
            for number in numbers:
                case, z = (number // SHAPE[2], number % SHAPE[2]) if dimension == 2 else (number, None)
                scans = [read_volume(store / CASES[case] / f"{part}.nii.gz").data for part in ("fixed", "moving")]
                images.append([scan if z is None else scan[:, :, z] for scan in scans])
            batches.append(torch.from_numpy(np.stack([fixed for fixed, _ in images])[:, None]))
        return batches

    unit = "slices" if dimension == 2 else "volume"
    return Race(
        f"{steps} batches of {batch} {unit}, {' × '.join(map(str, SHAPE))} scans",
        "nibabel, `.nii.gz` a batch",
        ours,
        theirs,
    )


def _order(store: Path, dimension: int, batch: int, steps: int) -> list[list[int]]:
    """The images of every batch, found by their content, so that both sides read the same."""
    packed = PackedCases(store / "train.h5", Sampling(dimension, batch))
    known = {image.tobytes(): number for number, image in enumerate(map(np.ascontiguousarray, packed.images["fixed"]))}
    batches = (packed.batch(step)["fixed"].numpy()[:, 0] for step in range(steps))
    return [[known[np.ascontiguousarray(image).tobytes()] for image in images] for images in batches]
