"""Reading one indexed case: the files that a row of cases.tsv names, as a case with raw intensities."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modalign.cases import PARTS, Case, Intensity
from modalign.datasets.index import label_files
from modalign.datasets.labels import read_labels
from modalign.errors import DataError
from modalign.preprocess.elastic import grid_record
from modalign.preprocess.sampling import HOUNSFIELD
from modalign.spatial.fields import read_itk_field
from modalign.volumes import Volume, read_volume


def load_raw(info: Mapping[str, Any], row: Mapping[str, str]) -> Case:
    """The case of one row, with the record that preparation goes on writing.

    Raises:
        DataError: a file is missing, unreadable, or doesn't have the grid of its scan.
    """
    folder = Path(info["folder"])
    names = {int(value): name for value, name in info["labels"].items()}
    fixed, moving = (_image(folder / row[side]) for side in ("fixed", "moving"))
    scans = {"fixed": fixed, "moving": moving}
    parts: dict[str, Any] = {}
    for part, scan in (("fixed_mask", fixed), ("moving_mask", moving), ("evaluation_mask", fixed)):
        if path := row.get(part):
            mask = read_volume(folder / path)
            parts[part] = _on(scan, (mask.data > 0).astype(np.uint8), folder / path)
    for side, scan in scans.items():
        if files := label_files(row.get(f"{side}_labels", ""), folder):
            parts[f"{side}_labels"] = _on(scan, read_labels(files, scan.grid, names).data, folder)
    if path := row.get("true_field"):
        parts["true_field"] = read_itk_field(folder / path, fixed.grid)
    if path := row.get("true_image"):
        parts["true_image"] = _on(fixed, _image(folder / path).data, folder / path)
    intensities: dict[str, Any] = {
        f"{side}_intensity": Intensity(unit="HU" if info[f"{side}_modality"] in HOUNSFIELD else "a.u.")
        for side in scans
    }
    record = {
        "patient": row.get("patient", ""),
        "source_files": {part: row[part] for part in PARTS if row.get(part)},
        "sha256": {part: row[f"{part}_sha256"] for part in PARTS if row.get(f"{part}_sha256")},
        "original": {side: grid_record(scan.grid) for side, scan in scans.items()},
        "transforms": {side: [] for side in scans},
        "steps": [],
    }
    split: Any = row["split"]
    return Case(
        id=row["case"],
        dataset=info["dataset"],
        split=split,
        fixed=fixed,
        moving=moving,
        record=record,
        **parts,
        **intensities,
    )


def _on(scan: Volume, data: np.ndarray, path: Path) -> Volume:
    """Data that belongs to a scan, with exactly that scan's grid; headers may differ by rounding."""
    if data.shape != scan.shape:
        raise DataError(f"{path} has shape {data.shape}, its scan {scan.shape}: resample it to the scan")
    return scan.like(data)


def _image(path: Path) -> Volume:
    volume = read_volume(path)
    return volume.like(volume.data.astype(np.float32))
