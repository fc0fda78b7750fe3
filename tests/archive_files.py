"""Small scans and trees of files in published layouts, for the tests of readers and indices."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np

from modalign.datasets import reader
from modalign.datasets.base import CaseFiles
from modalign.datasets.index import index_dataset, read_index
from modalign.volumes import Volume, axis_aligned, to_sitk

SHAPE = (8, 7, 6)
_counter = iter(range(10**6))


def scan(path: Path, spacing=(1.0, 1.0, 1.0), shape=SHAPE, origin=None, data=None) -> Path:
    """Noise that differs from file to file, as NIfTI or NRRD."""
    grid = axis_aligned(shape, spacing)
    if origin is not None:
        grid.affine[:3, 3] = origin
    if data is None:
        data = np.random.default_rng(next(_counter)).integers(0, 1000, shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".nrrd":
        import SimpleITK as sitk

        sitk.WriteImage(to_sitk(Volume(data, grid.affine)), str(path), useCompression=True)
    else:
        nib.save(nib.Nifti1Image(data, grid.affine), path)
    return path


def labels(path: Path, *values: int, spacing=(1.0, 1.0, 1.0), shape=SHAPE) -> Path:
    data = np.zeros(shape, np.uint8)
    for i, value in enumerate(values):
        data[1 + i, 2:5, 2:5] = value
    return scan(path, spacing, shape, data=data)


def ids(cases: list[CaseFiles]) -> list[str]:
    return [case.case for case in cases]


def listed(name: str, folder: Path, **options) -> list[CaseFiles]:
    chosen = reader(name)
    return chosen.list_cases(folder, chosen.parse(options))


def synthrad(folder: Path, *cases: str, parts=("mr", "ct", "mask")) -> Path:
    for case in cases:
        for part in parts:
            scan(folder / "Task1/pelvis" / case / f"{part}.nii.gz", (1, 1, 2.5))
    (folder / "Task1/pelvis/overview").mkdir(parents=True, exist_ok=True)
    (folder / "Task1/pelvis/overview/1PA001_train.png").touch()
    return folder


def index(folder: Path, name: str, split=None, out: Path | None = None, **more):
    out = out or folder.parent / "index"
    options = more.pop("options", {})
    index_dataset("set", name, folder, out, options=options, split=split, seed=more.pop("seed", 0), **more)
    return read_index(out)


def pairs(folder: Path, rows: list[dict[str, str]], **options) -> dict:
    """Write pairs.csv and return the reader's options."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return {"fixed": "mr", "moving": "ct", **options}
