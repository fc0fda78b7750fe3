"""Pairs of one's own: a CSV file names the scans of every case.

Columns: ``case``, ``fixed``, ``moving``, and, where they exist, ``split`` (train, validation, test), ``patient``,
``fixed_mask``, ``moving_mask``, ``fixed_labels``, ``moving_labels``, ``true_field``, ``true_image``,
``evaluation_mask``. Paths are relative to the CSV. Methods look inside the masks of the two scans, and measures inside
that of the fixed one, or inside the evaluation mask where there is one. Label files hold one integer map, or a 4D stack
of masks (X, Y, Z, L), of which later ones lie on top. With ``patient``, several scans of one person are kept in one
split, may share a scan, and count once in the statistics.
"""

import csv
from pathlib import Path

from pydantic import Field, field_validator

from modalign.cases import PARTS
from modalign.datasets.base import CaseFiles, Modality, Reader, ReaderOptions
from modalign.errors import DataError

_NEEDED = ("case", "fixed", "moving")
_COLUMNS = ("case", "split", "patient", *PARTS)


class Options(ReaderOptions):
    """What the scans are."""

    fixed: Modality = Field(description="modality of the scans in column `fixed`, such as mr")
    moving: Modality = Field(description="modality of the scans in column `moving`, such as ct")
    csv: str = Field("pairs.csv", description="name of the CSV file in the data set's folder")
    labels: dict[int, str] = Field(
        default_factory=dict, description="structure name of every label value; default: label_1, label_2, ..."
    )
    licence: str = Field("not stated", description="what may be done with the scans, for the record")
    citation: str = Field("", description="what to cite for the scans, for the record")

    @field_validator("labels")
    @classmethod
    def _structures(cls, labels: dict[int, str]) -> dict[int, str]:
        if wrong := [value for value in labels if value < 1]:
            raise ValueError(f"{wrong[0]} can't be a structure: 0 is the background, which needs no name")
        if len(set(labels.values())) < len(labels):
            raise ValueError("give each label value a name of its own")
        return labels


def list_cases(folder: Path, options: Options) -> list[CaseFiles]:
    """One case per line of the CSV, ordered by id.

    Raises:
        DataError: the CSV is missing, is not UTF-8, or has a wrong column, an empty cell, or a case twice.
    """
    path = folder / options.csv
    if not path.is_file():
        raise DataError(
            f"{path} does not exist: write a CSV file with the columns {', '.join(_NEEDED)} and a line a case"
        )
    try:
        # utf-8-sig, as spreadsheets put a byte order mark in front of the first column's name.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: save it as `CSV UTF-8`") from error
    delimiter = _delimiter(text)
    lines = text.splitlines()
    header = [name.strip().lower() for name in next(csv.reader(lines, delimiter=delimiter), [])]
    rows = list(csv.DictReader(lines[1:], header, delimiter=delimiter))
    _check(path, rows, header)
    return sorted((_case(path.parent, row) for row in rows), key=lambda c: c.case)


def _delimiter(text: str) -> str:
    header = text.splitlines()[0] if text.strip() else ""
    return max(",;\t", key=header.count)


def _check(path: Path, rows: list[dict[str, str]], header: list[str]) -> None:
    from modalign.cases import SPLITS

    problems = [f"there is no column {name!r}" for name in _NEEDED if name not in header]
    unknown = [name for name in header if name not in _COLUMNS]
    if unknown:
        problems.append(f"unknown columns {', '.join(map(repr, unknown))}; the columns are: {', '.join(_COLUMNS)}")
    if not rows:
        problems.append("it has no line below the header")
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            problems.append(f"line {number} has {'more' if None in row else 'fewer'} cells than the header")
            continue
        problems += [f"line {number} has an empty cell `{name}`" for name in _NEEDED if not row.get(name, "-").strip()]
        case, split = row.get("case", "").strip(), (row.get("split") or "").strip()
        if case in seen:
            problems.append(f"case {case!r} is on lines {seen[case]} and {number}: give each pair an id of its own")
        seen[case] = number
        if "/" in case or case.startswith("."):
            problems.append(
                f"line {number}: case {case!r} becomes a folder's name, so leave out slashes and leading dots"
            )
        if split and split not in SPLITS:
            problems.append(f"line {number}: split is {split!r}, but has to be one of {', '.join(SPLITS)}")
    if problems:
        more = f" ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(f"{path}: " + "; ".join(problems[:10]) + more)


def _case(folder: Path, row: dict[str, str]) -> CaseFiles:
    def cell(name: str) -> str | None:
        return (row.get(name) or "").strip() or None

    files = {name: folder / value for name in PARTS if (value := cell(name))}
    return CaseFiles(case=row["case"].strip(), split=cell("split"), patient=cell("patient"), **files)


READER = Reader(
    name="pairs",
    options=Options,
    archive=lambda options: None,
    modalities=lambda options: (options.fixed, options.moving),
    labels=lambda options: options.labels,
    list_cases=list_cases,
)
