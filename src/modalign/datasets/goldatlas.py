"""Gold Atlas male pelvis: CT (fixed) and T2 MR (moving) of 19 patients, with organs contoured on both scans.

Nyholm et al., Med Phys 2018, doi 10.1002/mp.12748. The archive is DICOM (scans and RTSTRUCT per patient), on request.
This reader expects its conversion to NIfTI, one folder per patient, each scan and its masks on the scan's own grid::

    1_01_P/{ct,mr_T1,mr_T2}.nii.gz
    1_01_P/ct_{bladder,prostate,rectum}.nii.gz
    1_01_P/mr_{bladder,prostate,rectum}.nii.gz

Any DICOM converter will do that keeps world coordinates (dcm2niix for scans; plastimatch or 3D Slicer for RTSTRUCT).
The masks ``mr_*`` belong to the T2 scan, on which the organs were drawn; a T1 scan has to lie on its grid. Cao et al.
(MLMI 2018, section 2.1) deform the MR to fit the CT.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

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

ORGANS = ("bladder", "prostate", "rectum")


class Options(ReaderOptions):
    """Direction, and which MR."""

    fixed: Literal["ct", "mr"] = Field("ct", description="scan that stays")
    moving: Literal["ct", "mr"] = Field("mr", description="scan to be aligned")
    contrast: Literal["T1", "T2"] = Field("T2", description="which MR scan")

    @model_validator(mode="after")
    def _two_scans(self) -> "Options":
        if self.fixed == self.moving:
            raise ValueError(f"fixed and moving of reader goldatlas are both {self.fixed}: one is mr, the other ct")
        return self


def list_cases(folder: Path, options: Options) -> list[CaseFiles]:
    """Every folder with a CT or an MR in it."""
    names = {"ct": "ct", "mr": f"mr_{options.contrast}"}
    scans = [p for name in names.values() for p in published_files(folder, f"{name}.nii*")]
    found = {(p.parent.name, p.parent) for p in scans if p.parent != folder}
    if not found:
        layout = f"1_01_P/{{ct,{names['mr']}}}.nii.gz (the archive is DICOM: convert it to NIfTI first)"
        if published_files(folder, "*.dcm"):
            raise DataError(f"{folder} holds DICOM files, and the reader goldatlas expects {layout}")
        raise nothing_found("Gold Atlas", folder, layout)
    cases = []
    for case, path in sorted(one_per_case(sorted(found)).items()):
        labels = {scan: _masks(path, scan) for scan in names}
        cases.append(
            CaseFiles(
                case,
                image_file(path / names[options.fixed]),
                image_file(path / names[options.moving]),
                fixed_labels=labels[options.fixed],
                moving_labels=labels[options.moving],
            )
        )
    return cases


def _masks(folder: Path, scan: str) -> tuple[tuple[str, Path], ...] | None:
    found = [(organ, existing(image_file(folder / f"{scan}_{organ}"))) for organ in ORGANS]
    return tuple((organ, path) for organ, path in found if path) or None


READER = Reader(
    name="goldatlas",
    options=Options,
    archive=lambda options: "goldatlas",
    modalities=lambda options: (options.fixed, options.moving),
    labels=lambda options: dict(enumerate(ORGANS, start=1)),
    list_cases=list_cases,
    layout=lambda options: Layout(cases=19),
    notes=lambda options: ["Stands in for the 15 private patients of Cao et al.; the scans come from other sites."],
)
