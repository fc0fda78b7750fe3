"""What a reader is: it knows how a data set is published on disk, and lists its cases without opening a scan."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modalign.errors import ConfigError, DataError
from modalign.files import walk

Modality = Literal["mr", "ct", "cbct", "t1", "t2", "pd", "flair", "us"]
LabelFiles = Path | tuple[tuple[str, Path], ...]
"""A single integer label map (or a 4D stack of masks), or (structure, mask file) pairs."""

TRUTH_FOLDER = "modalign-truth"
PHANTOM_FILE = "modalign-phantom.json"


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, as a reader finds them. Files that the layout promises are named even if missing.

    Attributes:
        case: the case's id, as the data set publishes it.
        fixed: the image that stays (the papers' input x).
        moving: the image to be aligned with it (their reference y).
        fixed_mask: where fixed is to be looked at, on its grid.
        moving_mask: the same for moving.
        fixed_labels: contours on the grid of fixed.
        moving_labels: contours on the grid of moving.
        true_field: ITK displacement field on the grid of fixed, LPS mm.
        true_image: the moving modality as it would look in the geometry of fixed.
        evaluation_mask: where measures look, on the grid of fixed; the fixed mask if there is none.
        split: the split that the data set publishes, if it does.
        patient: whom the scans are of; None if every case is another patient.
    """

    case: str
    fixed: Path
    moving: Path
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_labels: LabelFiles | None = None
    moving_labels: LabelFiles | None = None
    true_field: Path | None = None
    true_image: Path | None = None
    evaluation_mask: Path | None = None
    split: str | None = None
    patient: str | None = None


class ReaderOptions(BaseModel):
    """Options that every reader has; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: Literal["related", "centred"] = Field(
        "related",
        description="related: both scans lie in one world frame; centred: their frames have nothing to do with each "
        "other, so the centres of the grids are put together",
    )
    incomplete: Literal["refuse", "skip"] = Field(
        "refuse", description="what to do with a case that lacks one of its two scans"
    )
    expected_cases: int | None = Field(
        None, ge=1, description="how many cases the folder holds; default: the number published, where that is known"
    )


class BetweenPatients(ReaderOptions):
    """Options of readers that also pair different patients, where `fixed` and `moving` are one contrast."""

    pairs: int | None = Field(
        None,
        ge=1,
        description="if fixed and moving are one contrast, different patients are paired: how many pairs to keep of "
        "the validation and of the test split, those whose contours overlap most; default: all",
    )

    @model_validator(mode="after")
    def _of_one_contrast(self) -> "BetweenPatients":
        fixed, moving = getattr(self, "fixed", None), getattr(self, "moving", None)
        if self.pairs and fixed != moving:
            raise ValueError(
                f"`pairs` counts pairs of different patients, but fixed is {fixed} and moving {moving}: leave it out, "
                "or set both to one contrast"
            )
        return self


@dataclass(frozen=True)
class Layout:
    """What the published scans of a data set have in common; None where nothing is known or nothing is in common.

    Attributes:
        spacing_mm: voxel size of fixed and moving along the axes of the stored array.
        tolerance: allowed relative deviation of the spacing.
        shape: voxels along each axis of both scans.
        cases: how many cases the archive holds.
    """

    spacing_mm: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    tolerance: float = 0.02
    shape: tuple[int, int, int] | None = None
    cases: int | None = None


@dataclass(frozen=True)
class Reader:
    """A data set's published layout, as functions of the reader's options.

    Attributes:
        name: what a configuration calls it.
        options: the model of its options.
        archive: registry key of the archive that holds the data; None for the user's own.
        modalities: tokens of (fixed, moving).
        labels: structure name of every label value; empty if there are no contours, or if they are read from the scans.
        list_cases: (folder, options) -> the cases, in the order of their ids.
        layout: what to expect of the scans.
        notes: what a user of the data has to know, such as contours that only one of the scans has.
        pairs_patients: whether it lists single scans, of which pairs of different patients are to be made
            (:mod:`modalign.datasets.pairing`).
    """

    name: str
    options: type[ReaderOptions]
    archive: Callable[[Any], str | None]
    modalities: Callable[[Any], tuple[str, str]]
    labels: Callable[[Any], dict[int, str]]
    list_cases: Callable[[Path, Any], list[CaseFiles]]
    layout: Callable[[Any], Layout] = lambda options: Layout()
    notes: Callable[[Any], list[str]] = lambda options: []
    pairs_patients: Callable[[Any], bool] = lambda options: False

    def parse(self, options: Mapping[str, Any] | None) -> Any:
        """The options, checked.

        Raises:
            ConfigError: an option is unknown, missing or has a value that it can't have.
        """
        try:
            return self.options(**(options or {}))
        except ValidationError as error:
            lines = []
            for problem in error.errors():
                key = ".".join(map(str, problem["loc"]))
                known = ", ".join(self.options.model_fields)
                if problem["type"] == "extra_forbidden":
                    lines.append(f"reader {self.name} has no option {key!r}; its options are: {known}")
                elif problem["type"] == "missing":
                    lines.append(f"reader {self.name} needs the option {key!r}: {self._help(key)}")
                else:
                    message = problem["msg"].removeprefix("Value error, ")
                    subject = f"option {key!r} of reader {self.name} is {problem['input']!r}: " if key else ""
                    lines.append(f"{subject}{message}")
            raise ConfigError("; ".join(lines)) from error

    def _help(self, key: str) -> str:
        return self.options.model_fields[key].description or ""


def image_file(stem: Path) -> Path:
    """The scan `stem` with whichever suffix it has; with .nii.gz if it doesn't exist."""
    from modalign.volumes import ITK_SUFFIXES, NIFTI_SUFFIXES

    for suffix in (*NIFTI_SUFFIXES, *ITK_SUFFIXES):
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            return path
    return stem.with_name(stem.name + ".nii.gz")


def existing(path: Path) -> Path | None:
    """`path` if it is a file, otherwise None."""
    return path if path.is_file() else None


def published_files(folder: Path, pattern: str) -> list[Path]:
    """Files and folders below `folder` whose name matches the glob `pattern`, sorted.

    Links to folders are followed; hidden folders and the truth of phantoms are left out.
    """
    found: list[Path] = []
    for place, folders, files in walk(folder):
        folders[:] = [name for name in folders if name != TRUTH_FOLDER]
        found += [place / name for name in fnmatch.filter([*folders, *files], pattern)]
    return sorted(found)


def one_per_case(found: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """(case, path) pairs as a dictionary.

    Raises:
        DataError: a case lies in two places.
    """
    paths: dict[str, Path] = {}
    for case, path in found:
        if case in paths:
            raise DataError(f"case {case} is there twice: {paths[case]} and {path}. Remove or move away one of them")
        paths[case] = path
    return paths


def nothing_found(reader: str, folder: Path, layout: str) -> DataError:
    """The error for a folder that holds no case in the expected layout."""
    inside = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else []
    seen = f"it holds {', '.join(inside)}" if inside else "it is empty"
    return DataError(f"{folder} holds no case of {reader}: expected {layout}; {seen}. Set the folder that holds these")
