"""Learn2Reg AbdomenMRCT: MR (fixed) and CT (moving) of the abdomen, 192 x 160 x 192 voxels of 2 mm.

Hering et al., IEEE TMI 2023, doi 10.1109/TMI.2022.3213983. Two archives are in use: the current one with
``AbdomenMRCT_<id>_0000`` (MR) and ``_0001`` (CT) in imagesTr and imagesTs, and the one of 2021 with
``img<id>_tcia_{MR,CT}``, the even ids from 0002 to 0016. The same id is another patient in each. Both hold unpaired
scans besides, which are left out: in the current one these are the ids above 0016, in the one of 2021 those of other
collections.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from modalign.datasets.base import (
    CaseFiles,
    Layout,
    Reader,
    ReaderOptions,
    existing,
    image_file,
    nothing_found,
    one_per_case,
    published_files,
)
from modalign.errors import DataError

LABELS = {1: "liver", 2: "spleen", 3: "kidney_right", 4: "kidney_left"}
_LAST_PAIR = "0016"
_FILES = {
    "current": ("AbdomenMRCT_*_000[01].nii*", re.compile(r"AbdomenMRCT_(\d{4})_(0000|0001)\.nii(?:\.gz)?")),
    "2021": ("img*_tcia_*.nii*", re.compile(r"img(\d{4})_tcia_(MR|CT)\.nii(?:\.gz)?")),
}
_SUFFIXES = {"current": ("0000", "0001"), "2021": ("MR", "CT")}
"""How the names of the fixed and of the moving scan end."""


class Options(ReaderOptions):
    """Which archive."""

    version: Literal["current", "2021"] = Field(
        "current", description="current: AbdomenMRCT.zip; 2021: L2R_Task1_MRCT_Train.zip, whose cases Locor names"
    )


def list_cases(folder: Path, options: Options) -> list[CaseFiles]:
    """The cases that are published as pairs; in the current archive with the challenge's split."""
    pairs = _pairs(folder, options.version)
    if not pairs:
        other = "2021" if options.version == "current" else "current"
        if _pairs(folder, other):
            raise DataError(
                f"{folder} holds the {other} archive of Learn2Reg AbdomenMRCT, not the one that the reader's option "
                f"`version` asks for ({options.version}): set `version: '{other}'`"
            )
        layout = {
            "current": "imagesTr/AbdomenMRCT_0001_{0000,0001}.nii.gz",
            "2021": "Train/img0002_tcia_{MR,CT}.nii.gz",
        }[options.version]
        raise nothing_found("Learn2Reg AbdomenMRCT", folder, layout)
    if options.version == "current":
        return [_current_case(case, *scans) for case, scans in pairs.items()]
    return [_case_of_2021(folder, case, *scans) for case, scans in pairs.items()]


def _pairs(folder: Path, version: str) -> dict[str, tuple[Path, Path]]:
    """Fixed and moving scan of every pair; of a pair that lacks one of them, the path where it should be."""
    pattern, name = _FILES[version]
    scans: dict[str, list[tuple[str, Path]]] = {suffix: [] for suffix in _SUFFIXES[version]}
    for path in published_files(folder, pattern):
        match = name.fullmatch(path.name)
        # Label maps and masks of the current archive have the names of their images.
        if match and not path.parent.name.startswith(("labels", "masks", "TSlabels")):
            scans[match[2]].append((match[1], path))
    fixed, moving = (one_per_case(scans[suffix]) for suffix in _SUFFIXES[version])
    both = set(fixed) & set(moving)
    if version == "current":
        wanted = both | {case for case in set(fixed) | set(moving) if case <= _LAST_PAIR}
    else:
        wanted = set(fixed) | set(moving)
    first, second = _SUFFIXES[version]
    return {
        case: (
            fixed.get(case) or _partner(moving[case], second, first),
            moving.get(case) or _partner(fixed[case], first, second),
        )
        for case in sorted(wanted)
    }


def _partner(path: Path, own: str, other: str) -> Path:
    return path.with_name(path.name.replace(f"_{own}.nii", f"_{other}.nii"))


def _current_case(case: str, fixed: Path, moving: Path) -> CaseFiles:
    def beside(image: Path, kind: str) -> Path | None:
        folder = image.parent.with_name(image.parent.name.replace("images", kind))
        return existing(folder / image.name)

    return CaseFiles(
        case,
        fixed,
        moving,
        fixed_mask=beside(fixed, "masks"),
        moving_mask=beside(moving, "masks"),
        fixed_labels=beside(fixed, "labels"),
        moving_labels=beside(moving, "labels"),
        # The challenge evaluates on 0006-0008 (validation) and 0009-0016 (test).
        split="train" if case <= "0005" else "validation" if case <= "0008" else "test",
    )


def _case_of_2021(folder: Path, case: str, fixed: Path, moving: Path) -> CaseFiles:
    def beside(image: Path, prefix: str) -> Path | None:
        name = image.name.removesuffix(".gz").removesuffix(".nii").replace("img", prefix, 1)
        path = existing(image_file(image.with_name(name)))
        # The masks come as an archive of their own, which unpacks elsewhere.
        return path or next(iter(published_files(folder, f"{name}.nii*")), None)

    return CaseFiles(
        case,
        fixed,
        moving,
        fixed_mask=beside(fixed, "mask"),
        moving_mask=beside(moving, "mask"),
        fixed_labels=beside(fixed, "seg"),
        moving_labels=beside(moving, "seg"),
    )


def _layout(options: Options) -> Layout:
    return Layout(
        {"fixed": (2.0, 2.0, 2.0), "moving": (2.0, 2.0, 2.0)},
        tolerance=0.05,
        shape=(192, 160, 192),
        cases=16 if options.version == "current" else 8,
    )


def _notes(options: Options) -> list[str]:
    if options.version == "current":
        return ["Labels of the test cases may not be part of the archive: Dice then covers the others."]
    return ["The masks of 2021 are an archive of their own (L2R_Task1_MRCT/Train/mask0002_tcia_MR.nii.gz)."]


def _archive(options: Options) -> str:
    return "learn2reg-abdomen-mr-ct" + ("" if options.version == "current" else f"-{options.version}")


READER = Reader(
    name="learn2reg",
    options=Options,
    archive=_archive,
    modalities=lambda options: ("mr", "ct"),
    labels=lambda options: LABELS,
    list_cases=list_cases,
    layout=_layout,
    notes=_notes,
)
