"""Four small patients as scans and an index, for the tests of preparation."""

import csv
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi

from modalign.datasets.index import COLUMNS
from modalign.files import sha256, write_json
from modalign.spatial.fields import write_itk_field
from modalign.volumes import Volume, axis_aligned, write_volume

SHAPE, SPACING = (40, 36, 12), (2.0, 2.0, 5.0)
SPLITS = {"p1": "train", "p2": "train", "p3": "validation", "p4": "test"}
SMALL = {"size": [40, 36, 12]}


def body(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A CT in HU and an MR of one patient: an ellipse of soft tissue, bones and an organ, with some noise."""
    rng = np.random.default_rng(seed)
    grid = axis_aligned(SHAPE, SPACING)
    x, y, z = grid.indices()
    r = np.hypot((x - 20) / 16, (y - 18) / 14)
    organ = np.hypot((x - 20) / 6, (y - 20) / 5) + np.abs(z - 6) / 8 < 1
    bone = (np.abs(np.hypot((x - 20) / 10, (y - 18) / 9) - 1) < 0.15) & (r < 1)
    ct = np.select([organ, bone, r < 1], [60.0, 900.0, 20.0], -1000.0) + rng.normal(0, 5, SHAPE)
    mr = np.select([organ, bone, r < 1], [700.0, 120.0, 400.0], 5.0) * (1 + 0.1 * seed) + np.abs(
        rng.normal(0, 8, SHAPE)
    )
    return ct, mr


def make_index(folder: Path, modalities: tuple[str, str] = ("mr", "ct"), field: bool = True) -> Path:
    """Four patients as scans and an index; the moving scan is shifted by a known field."""
    index, scans = folder / "index", folder / "scans"
    grid = axis_aligned(SHAPE, SPACING)
    rows = []
    for number, (case, split) in enumerate(SPLITS.items()):
        ct, mr = body(number)
        images = {"ct": ct, "mr": mr, "t1": mr, "t2": 900 - mr, "pd": mr}
        row = dict.fromkeys(COLUMNS, "") | {"case": case, "split": split}
        shift = np.zeros((3, *SHAPE), dtype=np.float32)
        if field:
            shift[0] += 1.5 + 0.5 * number
        aligned = images[modalities[1]]
        moved = np.stack(
            [
                ndi.shift(aligned[:, :, z], (1.5 + 0.5 * number if field else 0, 0), order=1, mode="nearest")
                for z in range(12)
            ],
            2,
        )
        labels = (ndi.uniform_filter(mr, 3) > 500 * (1 + 0.1 * number)).astype(np.uint8)
        files = {
            "fixed": images[modalities[0]],
            "moving": moved,
            "fixed_labels": labels,
            "fixed_mask": (mr > 100).astype(np.uint8),
        }
        if field:
            files["true_image"] = aligned
            write_itk_field(scans / case / "true_field.nii.gz", shift, grid)
            row["true_field"] = f"{case}/true_field.nii.gz"
        for part, data in files.items():
            data = data if data.dtype == np.uint8 else np.rint(data).astype(np.int16)
            write_volume(scans / case / f"{part}.nii.gz", Volume(data, grid.affine))
            row[part] = f"{case}/{part}.nii.gz"
        row["fixed_sha256"] = sha256(scans / case / "fixed.nii.gz")
        row["moving_sha256"] = sha256(scans / case / "moving.nii.gz")
        rows.append(row)
    index.mkdir(parents=True, exist_ok=True)
    with (index / "cases.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    info = {
        "dataset": "tiny",
        "folder": str(scans),
        "source": "phantom",
        "fixed_modality": modalities[0],
        "moving_modality": modalities[1],
        "frames": "related",
        "labels": {"1": "organ"},
        "licence": "none",
        "citation": "none",
    }
    write_json(index / "dataset.json", info)
    return index
