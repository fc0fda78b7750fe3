"""Learn2Reg AbdomenMRCT: MR (fixed) and CT (moving) of the abdomen, 192 x 160 x 192 voxels of 2 mm.

Hering et al., IEEE TMI 2023, doi 10.1109/TMI.2022.3213983. Two layouts are in use: the current archive with
``AbdomenMRCT_<id>_0000`` (MR) and ``_0001`` (CT) in imagesTr and imagesTs, and the one of 2021 with
``img<id>_tcia_{MR,CT}``. Both hold unpaired scans besides, which are left out.
"""

import re
from pathlib import Path

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

LABELS = {1: "liver", 2: "spleen", 3: "kidney_right", 4: "kidney_left"}
_CURRENT = re.compile(r"AbdomenMRCT_(\d{4})_(0000|0001)\.nii(?:\.gz)?")
_OF_2021 = re.compile(r"img(\d{4})_tcia_(MR|CT)\.nii(?:\.gz)?")
_FIXED = ("0000", "MR")


def list_cases(folder: Path, options: ReaderOptions) -> list[CaseFiles]:
    """The cases of which both scans are there; in the current archive with the challenge's split."""
    current = _pairs(folder, "AbdomenMRCT_*_000[01].nii*", _CURRENT)
    of_2021 = _pairs(folder, "img*_tcia_*.nii*", _OF_2021)
    if not current and not of_2021:
        layout = "imagesTr/AbdomenMRCT_0001_{0000,0001}.nii.gz, or img0002_tcia_{MR,CT}.nii.gz"
        raise nothing_found("Learn2Reg AbdomenMRCT", folder, layout)
    if current:
        return [_current_case(case, *scans) for case, scans in current.items()]
    return [_case_of_2021(folder, case, *scans) for case, scans in of_2021.items()]


def _pairs(folder: Path, pattern: str, name: re.Pattern[str]) -> dict[str, tuple[Path, Path]]:
    fixed: list[tuple[str, Path]] = []
    moving: list[tuple[str, Path]] = []
    for path in published_files(folder, pattern):
        match = name.fullmatch(path.name)
        # Label maps and masks of the current archive have the names of their images.
        if match and not path.parent.name.startswith(("labels", "masks", "TSlabels")):
            (fixed if match[2] in _FIXED else moving).append((match[1], path))
    by_id = one_per_case(fixed), one_per_case(moving)
    return {case: (by_id[0][case], by_id[1][case]) for case in sorted(set(by_id[0]) & set(by_id[1]))}


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


READER = Reader(
    name="learn2reg",
    options=ReaderOptions,
    archive=lambda options: "learn2reg-abdomen-mr-ct",
    modalities=lambda options: ("mr", "ct"),
    labels=lambda options: LABELS,
    list_cases=list_cases,
    layout=lambda options: Layout(
        {"fixed": (2.0, 2.0, 2.0), "moving": (2.0, 2.0, 2.0)}, tolerance=0.05, shape=(192, 160, 192)
    ),
    notes=lambda options: ["Labels of the test cases may not be part of the archive: Dice then covers the others."],
)
