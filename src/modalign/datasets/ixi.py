"""IXI: T1, T2 and PD of healthy brains, from https://brain-development.org/ixi-dataset.

The archives unpack to flat folders of ``IXI<3 digits>-<Guys|HH|IOP>-<4 digits>-<T1|T2|PD>.nii.gz``. T2 and PD come
from one dual-echo scan and share their grid; T1 is stored sagittally on a grid of its own. A few subjects lack a scan.
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
    image_file,
    nothing_found,
    one_per_case,
    published_files,
)

_NAME = re.compile(r"(IXI\d{3}-(?:Guys|HH|IOP)-\d{4})-(T1|T2|PD)\.nii(?:\.gz)?")
# Along the axes of the file: T1 is stored sagittally, with 1.2 mm from right to left.
_SPACING_MM = {"t1": (0.9375, 0.9375, 1.2), "t2": (0.9375, 0.9375, 1.25), "pd": (0.9375, 0.9375, 1.25)}

_SUBJECTS = {"t1-t2": 577, "t2-pd": 578}
"""Subjects with both scans, of 581 with T1 and 578 with T2 and PD."""


class Options(ReaderOptions):
    """Which two contrasts."""

    pair: Literal["t1-t2", "t2-pd"] = Field(
        "t1-t2", description="t1-t2: T1 is fixed, T2 moving (RbG); t2-pd: PD is fixed, T2 moving (Locor)"
    )
    incomplete: Literal["refuse", "skip"] = Field(
        "skip", description="what to do with a subject that lacks one of the two scans: in the archives, a few do"
    )


def list_cases(folder: Path, options: Options) -> list[CaseFiles]:
    """Every subject of which at least one of the two contrasts is there."""
    fixed, moving = (token.upper() for token in _modalities(options))
    scans: dict[str, list[tuple[str, Path]]] = {fixed: [], moving: []}
    for path in published_files(folder, "IXI*-*-*-*.nii*"):
        match = _NAME.fullmatch(path.name)
        if match and match[2] in scans:
            scans[match[2]].append((match[1], path))
    if not any(scans.values()):
        raise nothing_found("IXI", folder, f"IXI002-Guys-0828-{fixed}.nii.gz and IXI002-Guys-0828-{moving}.nii.gz")
    by_case = {contrast: one_per_case(found) for contrast, found in scans.items()}

    def scan(case: str, contrast: str) -> Path:
        return by_case[contrast].get(case, image_file(folder / f"{case}-{contrast}"))

    subjects = sorted({case for found in by_case.values() for case in found})
    return [CaseFiles(case, scan(case, fixed), scan(case, moving)) for case in subjects]


def _modalities(options: Options) -> tuple[str, str]:
    return ("t1", "t2") if options.pair == "t1-t2" else ("pd", "t2")


def _layout(options: Options) -> Layout:
    fixed, moving = _modalities(options)
    # Three scanners: the spacing of single subjects deviates from what is typical.
    spacing_mm = {"fixed": _SPACING_MM[fixed], "moving": _SPACING_MM[moving]}
    return Layout(spacing_mm, tolerance=0.25, cases=_SUBJECTS[options.pair])


READER = Reader(
    name="ixi",
    options=Options,
    archive=lambda options: "ixi",
    modalities=_modalities,
    labels=lambda options: {},
    list_cases=list_cases,
    layout=_layout,
    notes=lambda options: ["Whole heads, neither defaced nor skull-stripped, without contours."],
)
