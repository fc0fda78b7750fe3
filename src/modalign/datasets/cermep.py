"""CERMEP-IDB-MRXFDG: T1 MR (fixed) and CT (moving) of 37 healthy heads, on request.

Merida et al., EJNMMI Research 2021, doi 10.1186/s13550-021-00830-6. The folders above the subjects differ from one
delivery to the next, so files are searched by name: ``sub-0001_T1w.nii.gz`` and ``sub-0001_ct.nii.gz``, or with a
space, as in ``sub-0001_space-pet_T1w.nii.gz``.
"""

import re
from pathlib import Path

from pydantic import Field

from modalign.datasets.base import (
    CaseFiles,
    Layout,
    Reader,
    ReaderOptions,
    nothing_found,
    one_per_case,
    published_files,
)
from modalign.errors import DataError

_NAME = re.compile(r"(sub-\d+)(?:_space-(\w+?))?_(T1w|ct)\.nii(?:\.gz)?")


class Options(ReaderOptions):
    """Which of the delivered versions."""

    space: str | None = Field(
        None, description="the word after `space-` in the file names, such as pet; none: files without it"
    )


def list_cases(folder: Path, options: Options) -> list[CaseFiles]:
    """Every subject of which T1 or CT is there in the space asked for."""
    scans: dict[str, list[tuple[str, Path]]] = {"T1w": [], "ct": []}
    other_spaces = set()
    for path in published_files(folder, "sub-*.nii*"):
        match = _NAME.fullmatch(path.name)
        if match and match[2] == options.space:
            scans[match[3]].append((match[1], path))
        elif match:
            other_spaces.add(match[2])
    if not any(scans.values()):
        if other_spaces:
            names = ", ".join(f"`space: {space}`" if space else "no `space`" for space in sorted(other_spaces, key=str))
            raise DataError(f"{folder} holds no scans with space {options.space}; set {names}")
        raise nothing_found("CERMEP-IDB-MRXFDG", folder, "sub-0001_T1w.nii.gz and sub-0001_ct.nii.gz")
    t1, ct = one_per_case(scans["T1w"]), one_per_case(scans["ct"])
    infix = f"_space-{options.space}" if options.space else ""
    subjects = sorted(set(t1) | set(ct))
    return [
        CaseFiles(
            subject,
            t1.get(subject, folder / subject / f"{subject}{infix}_T1w.nii.gz"),
            ct.get(subject, folder / subject / f"{subject}{infix}_ct.nii.gz"),
        )
        for subject in subjects
    ]


READER = Reader(
    name="cermep",
    options=Options,
    archive=lambda options: "cermep",
    modalities=lambda options: ("t1", "ct"),
    labels=lambda options: {},
    list_cases=list_cases,
    layout=lambda options: Layout(cases=37),
    notes=lambda options: ["There are no contours: Locor is judged by a pseudo-CT that is made for the purpose."],
)
