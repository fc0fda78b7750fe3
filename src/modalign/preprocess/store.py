"""Writing the case store: one folder per case, one packed file per split, the manifest last."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from modalign.cases import PARTS, Case, load_case
from modalign.files import replacing, write_json
from modalign.spatial.fields import write_itk_field
from modalign.volumes import write_volume

INTERNAL_PREFIXES = (".part-", ".modalign-")


def write_case(folder: Path, case: Case) -> None:
    """Write a prepared case; parts that it doesn't have but an earlier run left are removed. case.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        if stale.is_file():
            stale.unlink()
    for part in PARTS:
        value = getattr(case, part)
        if value is None:
            continue
        if part == "true_field":
            write_itk_field(folder / "true_field.nii.gz", value, case.grid)
        else:
            write_volume(folder / f"{part}.nii.gz", value)
    record = {
        "case": case.id,
        "dataset": case.dataset,
        "split": case.split,
        "shape": list(case.grid.shape),
        "spacing_mm": case.grid.spacing.round(6).tolist(),
        "fixed_intensity": asdict(case.fixed_intensity),
        "moving_intensity": asdict(case.moving_intensity),
        **case.record,
    }
    write_json(folder / "case.json", record)


def pack_split(store: Path, split: str, cases: Sequence[str]) -> None:
    """Write ``<split>.h5`` from the case folders: float32 images and uint8 masks, uncompressed and contiguous.

    Moving scans that lie on their own grid are resampled to the fixed grid here, so that slices correspond. Each group
    has the SHA-256 of its arrays' bytes as attribute ``sha256``, by which trainings tell whether the data are the same.
    """
    import h5py

    from modalign.methods.base import moving_on_fixed_grid

    with replacing(store / f"{split}.h5") as temporary, h5py.File(temporary, "w", libver="latest") as file:
        for name in cases:
            case = moving_on_fixed_grid(load_case(store / name, ("fixed", "moving", "fixed_mask", "moving_mask")))
            group, content = file.create_group(name), hashlib.sha256()
            for part in ("fixed", "moving", "fixed_mask", "moving_mask"):
                volume = getattr(case, part)
                if volume is not None:
                    dtype = np.uint8 if part.endswith("mask") else np.float32
                    array = np.ascontiguousarray(volume.data, dtype=dtype)
                    group.create_dataset(part, data=array)
                    content.update(part.encode())
                    content.update(array.data)
            group.attrs["sha256"] = content.hexdigest()


def remove_stale(store: Path, keep: Sequence[str]) -> None:
    """Remove what an earlier or killed run left: case folders not in `keep`, half-written and scratch files.

    Only folders that hold a case.json, or nothing but parts of a case, are taken for cases.
    """
    known = {"case.json", *(f"{part}.nii.gz" for part in PARTS)}
    for entry in store.iterdir():
        if entry.name.startswith(INTERNAL_PREFIXES):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        elif entry.is_dir() and entry.name not in keep:
            names = {file.name for file in entry.iterdir() if not file.name.startswith(INTERNAL_PREFIXES)}
            if names <= known:
                shutil.rmtree(entry)


def manifest(info: dict[str, Any], recipe: str, seed: int, **more: Any) -> dict[str, Any]:
    """The head of cases.json: where the data come from and what was done to them."""
    modalities = ("fixed_modality", "moving_modality", "between_patients")
    keys = ("dataset", "source", *modalities, "labels", "licence", "citation")
    return {key: info.get(key, "") for key in keys} | {"recipe": recipe, "seed": seed} | more
