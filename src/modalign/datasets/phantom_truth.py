"""What is known about the cases of a phantom, beside the files that its published layout has."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modalign.datasets.base import PHANTOM_FILE, TRUTH_FOLDER, CaseFiles, LabelFiles
from modalign.errors import DataError
from modalign.files import read_json
from modalign.volumes import Volume, read_volume


def phantom_record(folder: Path, key: str | None) -> dict[str, Any] | None:
    """What the folder's phantom is; None if the folder holds no phantom.

    Raises:
        DataError: the phantom was not finished, or imitates another archive than `key`.
    """
    if not (folder / PHANTOM_FILE).is_file():
        if (folder / TRUTH_FOLDER).is_dir():
            raise DataError(
                f"{folder} holds a phantom that was not finished ({PHANTOM_FILE} is missing): make it again"
            )
        return None
    content: dict[str, Any] = read_json(folder / PHANTOM_FILE)
    if key is not None and content.get("archive") != key:
        raise DataError(f"{folder} holds the phantom {content.get('archive')}, and the reader's options ask for {key}")
    return content


def with_truth(case: CaseFiles, folder: Path, modalities: tuple[str, str]) -> CaseFiles:
    """The case with the true field, image and labels that lie beside a phantom, as far as they exist."""
    truth = folder / TRUTH_FOLDER / case.case
    pair = truth / f"{modalities[0]}-{modalities[1]}"
    files = {
        "true_field": pair / "true_field.nii.gz",
        "true_image": pair / "true_image.nii.gz",
        "fixed_labels": truth / f"{modalities[0]}_labels.nii.gz",
        "moving_labels": truth / f"{modalities[1]}_labels.nii.gz",
    }
    there: dict[str, Any] = {name: path for name, path in files.items() if path.is_file()}
    return dataclasses.replace(case, **there)


def is_truth(files: LabelFiles | None) -> bool:
    """Whether contours are those that lie beside a phantom."""
    return isinstance(files, Path) and TRUTH_FOLDER in files.parts


def true_labels(folder: Path, cases: Sequence[CaseFiles]) -> dict[int, str]:
    """The structure name of every value of a phantom's true labels; empty if the cases have none."""
    if not any(is_truth(case.fixed_labels) or is_truth(case.moving_labels) for case in cases):
        return {}
    return {int(value): name for value, name in read_json(folder / TRUTH_FOLDER / "labels.json").items()}


def asked_for(truth: Mapping[int, str], named: Mapping[int, str]) -> dict[int, str]:
    """Of the true labels those whose structures the reader names; all of them if it names none.

    Phantoms know more structures than the data set has contours of, and a measure is to be taken over the same ones.
    """
    names = set(named.values())
    return {value: name for value, name in truth.items() if not names or name in names}


def only(path: Path, values: Mapping[int, str]) -> Volume:
    """A label map with the given values; all others become background."""
    labels = read_volume(path)
    return labels.like(np.where(np.isin(labels.data, list(values)), labels.data, 0).astype(labels.data.dtype))
