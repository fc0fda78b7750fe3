"""SynthRAD2023: MR-CT (task 1) and CBCT-CT (task 2) of brain and pelvis.

Thummerer et al., Med Phys 2023, doi 10.1002/mp.16529. Every case is a folder ``<region>/<id>`` with the input scan
(mr or cbct), the CT and a dilated mask of the body on one grid; the id is task, B or P, centre, three digits. The
input scan has been registered rigidly to the CT; what deforms is left as it was.
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


class Options(ReaderOptions):
    """Which part of the challenge."""

    task: Literal[1, 2] = Field(1, description="1: MR and CT; 2: CBCT and CT")
    region: Literal["brain", "pelvis"] = Field("pelvis", description="part of the body")


def list_cases(folder: Path, options: Options) -> list[CaseFiles]:
    """All cases of the region and task, wherever below `folder` the archive was unpacked."""
    pattern = re.compile(rf"{options.task}{options.region[0].upper()}[A-Z]\d{{3}}")
    # The folder `overview` beside the cases doesn't match, and neither do lone files.
    found = [
        (path.name, path)
        for path in published_files(folder, f"{options.task}{options.region[0].upper()}[A-Z][0-9][0-9][0-9]")
        if path.is_dir() and pattern.fullmatch(path.name) and path.parent.name == options.region
    ]
    if not found:
        example = f"Task{options.task}/{options.region}/{options.task}{options.region[0].upper()}A001"
        raise nothing_found("SynthRAD2023", folder, f"{example}/{{{_input(options)},ct,mask}}.nii.gz")
    cases = []
    for case, path in one_per_case(found).items():
        mask = existing(image_file(path / "mask"))
        fixed, moving = image_file(path / _input(options)), image_file(path / "ct")
        cases.append(CaseFiles(case, fixed, moving, fixed_mask=mask, moving_mask=mask))
    return sorted(cases, key=lambda c: c.case)


def _input(options: Options) -> str:
    return "mr" if options.task == 1 else "cbct"


def _layout(options: Options) -> Layout:
    spacing = (1.0, 1.0, 1.0) if options.region == "brain" else (1.0, 1.0, 2.5)
    return Layout({"fixed": spacing, "moving": spacing}, cases=180)


READER = Reader(
    name="synthrad2023",
    options=Options,
    archive=lambda options: f"synthrad2023-task{options.task}-{options.region}",
    modalities=lambda options: (_input(options), "ct"),
    labels=lambda options: {},
    list_cases=list_cases,
    layout=_layout,
    notes=lambda options: [
        "The archive has no organ contours: Dice and HD95 need contours of your own, through the reader `pairs`.",
        "Cases of the validation archives have no CT; with `incomplete: skip` they are left out.",
    ],
)
