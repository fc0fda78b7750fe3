"""BraTS: T1, T1ce, T2 and FLAIR of gliomas, skull-stripped and aligned on the 1 mm SRI24 grid of 240 x 240 x 155.

Menze et al., IEEE TMI 2015, doi 10.1109/TMI.2014.2377694. A case is a folder with ``<case>_{t1,t1ce,t2,flair,seg}``
(2019 to 2021; .nii in 2020) or ``<case>-{t1n,t1c,t2w,t2f,seg}`` (2023). As everything is aligned, a registration task
needs a misalignment that is put in on purpose, and one segmentation holds for both scans: by default as one mask of the
whole tumour, which is what IMSE measures Dice on (its code sets every label above 0 to 1). With one contrast on both
sides, different patients are paired.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from modalign.datasets.base import (
    BetweenPatients,
    CaseFiles,
    Layout,
    Reader,
    image_file,
    nothing_found,
    one_per_case,
    published_files,
)
from modalign.errors import DataError

_FOLDERS = {
    "2019": re.compile(r"BraTS19_\w+"),
    "2020": re.compile(r"BraTS20_(?:Training|Validation)_\d{3}"),
    "2021": re.compile(r"BraTS2021_\d{5}"),
    "2023": re.compile(r"(BraTS-GLI-\d{5})-\d{3}"),
}
_SUFFIX_2023 = {"t1": "t1n", "t2": "t2w", "flair": "t2f"}
_WHOLE = "whole_tumour"
_CASES = {"2019": 335}
"""Training cases (259 HGG, 76 LGG); later releases come together with their validation cases, or without."""
Contrast = Literal["t1", "t2", "flair"]


class Options(BetweenPatients):
    """Which release, and which two contrasts."""

    release: Literal["2019", "2020", "2021", "2023"] = Field("2019", description="the year, which sets the file names")
    fixed: Contrast = Field("t2", description="contrast that stays; IMSE registers both ways, and T1 with T1")
    moving: Contrast = Field("t1", description="contrast to be aligned")
    labels: Literal["whole", "regions"] = Field(
        "whole", description="the whole tumour as one structure, or necrotic core, edema and enhancing tumour apart"
    )


def list_cases(folder: Path, options: Options) -> list[CaseFiles]:
    """Every case folder of the release below `folder`; the segmentation is missing in validation archives."""
    found = _case_folders(folder, options.release)
    if not found:
        for release in set(_FOLDERS) - {options.release}:
            if _case_folders(folder, release):
                raise DataError(f"{folder} holds BraTS {release}, not {options.release}: set `release: '{release}'`")
        example = {
            "2019": "HGG/BraTS19_2013_1_1/BraTS19_2013_1_1_t1.nii.gz",
            "2020": "BraTS20_Training_001/BraTS20_Training_001_t1.nii",
            "2021": "BraTS2021_00000/BraTS2021_00000_t1.nii.gz",
            "2023": "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz",
        }[options.release]
        raise nothing_found(f"BraTS {options.release}", folder, example)
    cases = []
    for case, path in sorted(one_per_case([(p.name, p) for p in found]).items()):
        match = _FOLDERS[options.release].fullmatch(case)
        seg = _segmentation(path, options.release)
        contours = ((_WHOLE, seg),) if seg and options.labels == "whole" else seg
        cases.append(
            CaseFiles(
                case,
                _scan(path, options.fixed, options.release),
                _scan(path, options.moving, options.release),
                fixed_labels=contours,
                moving_labels=contours,
                # From 2023 on, a patient can have several time points.
                patient=match[1] if match and match.groups() else None,
            )
        )
    return cases


def _case_folders(folder: Path, release: str) -> list[Path]:
    candidates = [p for p in published_files(folder, "BraTS*") if _FOLDERS[release].fullmatch(p.name)]
    return [p for p in candidates if p.is_dir()]


def _scan(path: Path, contrast: str, release: str) -> Path:
    name = f"{path.name}-{_SUFFIX_2023[contrast]}" if release == "2023" else f"{path.name}_{contrast}"
    return image_file(path / name)


def _segmentation(path: Path, release: str) -> Path | None:
    expected = image_file(path / (f"{path.name}-seg" if release == "2023" else f"{path.name}_seg"))
    if expected.is_file():
        return expected
    # Case 355 of 2020 was published with a segmentation under another name.
    others = [p for p in path.glob("*.nii*") if "seg" in p.name.lower()]
    return others[0] if len(others) == 1 else None


def _labels(options: Options) -> dict[int, str]:
    if options.labels == "whole":
        return {1: _WHOLE}
    enhancing = 3 if options.release == "2023" else 4
    return {1: "necrotic_core", 2: "edema", enhancing: "enhancing_tumour"}


READER = Reader(
    name="brats",
    options=Options,
    archive=lambda options: f"brats{options.release}",
    modalities=lambda options: (options.fixed, options.moving),
    labels=_labels,
    list_cases=list_cases,
    layout=lambda options: Layout(
        {"fixed": (1.0, 1.0, 1.0), "moving": (1.0, 1.0, 1.0)},
        tolerance=0.001,
        shape=(240, 240, 155),
        cases=_CASES.get(options.release),
    ),
    notes=lambda options: (
        []
        if options.fixed == options.moving
        else ["The scans of a case are aligned: misalign them on purpose before registering them."]
    ),
    pairs_patients=lambda options: options.fixed == options.moving,
)
