"""HaN-Seg: CT and T1 MR of the head and neck with contours of 30 organs at risk, drawn on the CT alone.

Podobnik et al., Med Phys 2023, doi 10.1002/mp.16197. A case is a folder ``set_1/case_01`` with
``case_01_IMG_{CT,MR_T1}.nrrd`` and ``case_01_OAR_<structure>.seg.nrrd``. The scans are not registered, and the MR has
no contours: Dice needs a second set of masks on the MR grid, which the user names with `mr_labels`. With CT on both
sides, or MR, different patients are paired.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

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

_CASE = re.compile(r"case_\d{2}")


class Options(BetweenPatients):
    """Direction and structures."""

    fixed: Literal["mr", "ct"] = Field("mr", description="scan that stays; IMSE registers both ways, and CT with CT")
    moving: Literal["mr", "ct"] = Field("ct", description="scan to be aligned")
    structures: tuple[str, ...] = Field(
        ("Parotid_L", "Parotid_R"), description="contours to read, as in the file names, in the order of their labels"
    )
    mr_labels: Path | None = Field(
        None, description="folder of masks on the MR grid, named as those of the CT: case_01_OAR_Parotid_L.nii.gz"
    )

    @field_validator("structures")
    @classmethod
    def _distinct(cls, structures: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(structures)) < len(structures) or not structures:
            raise ValueError("name each structure once, and at least one")
        return structures


def list_cases(folder: Path, options: Options) -> list[CaseFiles]:
    """Every case folder, with the masks of the structures asked for where they exist."""
    found = [(p.name, p) for p in published_files(folder, "case_[0-9][0-9]") if p.is_dir() and _CASE.fullmatch(p.name)]
    if not found:
        raise nothing_found("HaN-Seg", folder, "set_1/case_01/case_01_IMG_{CT,MR_T1}.nrrd")
    if options.mr_labels and not options.mr_labels.is_dir():
        raise DataError(f"{options.mr_labels} (option `mr_labels` of reader hanseg) is not a folder")
    cases = []
    on_ct: set[str] = set()
    on_mr = published_files(options.mr_labels, "case_*_OAR_*") if options.mr_labels else []
    for case, path in sorted(one_per_case(found).items()):
        contours = {"ct": _masks(sorted(path.iterdir()), case, options), "mr": _masks(on_mr, case, options)}
        on_ct.update(name for name, _ in contours["ct"] or ())
        scans = {"ct": image_file(path / f"{case}_IMG_CT"), "mr": image_file(path / f"{case}_IMG_MR_T1")}
        fixed, moving = options.fixed, options.moving
        cases.append(
            CaseFiles(case, scans[fixed], scans[moving], fixed_labels=contours[fixed], moving_labels=contours[moving])
        )
    missing = [name for name in options.structures if label_name(name) not in on_ct]
    if missing:
        # A single case may lack an organ; a structure that no case has is a wrong name.
        known = sorted({p.name.split("_OAR_")[1].split(".")[0] for p in published_files(folder, "case_*_OAR_*")})
        raise DataError(f"{folder} has no contour of {', '.join(missing)}; it has: {', '.join(known) or 'none'}")
    return cases


def label_name(structure: str) -> str:
    """A structure's name in tables: ``Parotid_L`` becomes ``parotid_l``."""
    return structure.lower()


def _masks(files: list[Path], case: str, options: Options) -> tuple[tuple[str, Path], ...] | None:
    masks = []
    for name in options.structures:
        found = [p for p in files if p.name.startswith(f"{case}_OAR_{name}.")]
        if found:
            masks.append((label_name(name), found[0]))
    return tuple(masks) or None


def _layout(options: Options) -> Layout:
    roles = {"fixed": options.fixed, "moving": options.moving}
    on_ct = {role: (0.62, 0.62, 2.0) for role, modality in roles.items() if modality == "ct"}
    return Layout(on_ct, tolerance=0.25, cases=42)


def _notes(options: Options) -> list[str]:
    notes = [] if options.fixed == options.moving else ["CT and MR are not registered to each other."]
    if options.mr_labels is None and "mr" in (options.fixed, options.moving):
        notes.append(
            "Contours exist on the CT alone, so Dice and HD95 can't be computed: "
            "to have them, name a folder of masks on the MR grid with the option `mr_labels`."
        )
    return notes


READER = Reader(
    name="hanseg",
    options=Options,
    archive=lambda options: "hanseg",
    modalities=lambda options: (options.fixed, options.moving),
    labels=lambda options: {i: label_name(name) for i, name in enumerate(options.structures, start=1)},
    list_cases=list_cases,
    layout=_layout,
    notes=_notes,
    pairs_patients=lambda options: options.fixed == options.moving,
)
