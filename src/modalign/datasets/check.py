"""Looking at every file of a case before anything is computed from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from modalign.cases import PARTS
from modalign.datasets.base import CaseFiles, LabelFiles, Layout
from modalign.datasets.labels import TOLERANCE_MM, read_labels
from modalign.errors import DataError
from modalign.files import sha256
from modalign.spatial.fields import read_itk_field
from modalign.volumes import NIFTI_SUFFIXES, Grid, Volume, apply_affine, read_volume

ROLES = ("fixed", "moving")


@dataclass
class Findings:
    """What a look at one case brought: what has to be mended, what is worth knowing, and the facts for the index."""

    case: CaseFiles
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    label_values: set[int] = field(default_factory=set)


def check_case(case: CaseFiles, layout: Layout, labels: dict[int, str], frames: str) -> Findings:
    """Read every file of a case and collect all that is wrong with it, each with the file and the way out.

    Args:
        case: its files.
        layout: what the published scans have in common; an empty one for phantoms and one's own pairs.
        labels: structure name of every value; empty if any value may occur.
        frames: ``related`` if both scans lie in one world frame, ``centred`` if they have none in common.
    """
    found = Findings(case)
    grids: dict[str, Grid] = {}
    for role in ROLES:
        path = getattr(case, role)
        image = _scan(path, found)
        if image is not None:
            grids[role] = image.grid
            _compare_with_layout(path, image.grid, role, layout, found)
            found.facts |= _facts(role, path, image.grid)
    if case.fixed.is_file() and found.facts.get("fixed_sha256", "") == found.facts.get("moving_sha256"):
        found.problems.append(f"{case.fixed} and {case.moving} are the same scan: name the moving one")
    if len(grids) == 2 and frames == "related" and not have_common_points(grids["fixed"], grids["moving"]):
        found.problems.append(
            f"{case.fixed} and {case.moving} don't overlap in world space. If they have no common frame, "
            "set the reader's option `frames: centred`; otherwise correct the header of one of them"
        )
    for role, grid in grids.items():
        mask, contours = getattr(case, f"{role}_mask"), getattr(case, f"{role}_labels")
        if mask is not None:
            _on_grid(mask, grid, found)
        if contours is not None:
            _contours(contours, grid, labels, found)
    if "fixed" in grids:
        for path in (case.true_image, case.evaluation_mask):
            if path is not None:
                _on_grid(path, grids["fixed"], found)
        if case.true_field is not None:
            _field(case.true_field, grids["fixed"], found)
    found.facts |= {f"{part}_sha256": digest for part in PARTS[2:] if (digest := _digest(getattr(case, part)))}
    return found


def shared_scans(findings: Sequence[Findings], split_of: Mapping[str, str], between_patients: bool) -> list[str]:
    """What is wrong with scans that two cases share, which could be trained on and tested on.

    In one split, a patient's cases may share a scan, such as the CT of several CBCTs, and so may pairs of patients.
    """
    first: dict[str, tuple[CaseFiles, Path]] = {}
    problems = []
    for found in findings:
        case = found.case
        for role, path in (("fixed", case.fixed), ("moving", case.moving)):
            digest = found.facts.get(f"{role}_sha256")
            if digest is None:
                continue
            other, other_path = first.setdefault(digest, (case, path))
            one_patient = case.patient is not None and case.patient == other.patient
            one_split = split_of[other.case] == split_of[case.case]
            if other.case != case.case and not (one_split and (one_patient or between_patients)):
                problems.append(
                    f"{path} (case {case.case}) and {other_path} (case {other.case}) are the same file: leave one case "
                    "out, or, if both are of one patient, say so (in the CSV file of own pairs, column `patient`)"
                )
    return problems


def have_common_points(first: Grid, second: Grid) -> bool:
    """Whether two grids, which may be oblique to each other, have points in common.

    Two boxes are apart if and only if their shadows on one of 15 axes are: the normals of the faces of either, and
    the directions at right angles to an edge of each (Gottschalk et al., SIGGRAPH 1996, doi 10.1145/237170.237244).
    """
    edges = [grid.affine[:3, :3].T / grid.spacing[:, None] for grid in (first, second)]
    normals = [np.cross(np.roll(e, -1, axis=0), np.roll(e, -2, axis=0)) for e in edges]
    crossed = np.cross(edges[0][:, None], edges[1][None]).reshape(-1, 3)
    axes = np.concatenate([*normals, crossed])
    lengths = np.linalg.norm(axes, axis=1)
    # Edges that are parallel have no direction at right angles of their own; rounding would make one up.
    axes = axes[lengths > 1e-6] / lengths[lengths > 1e-6, None]
    shadows = [axes @ _corners(grid) for grid in (first, second)]
    low = np.maximum(shadows[0].min(axis=1), shadows[1].min(axis=1))
    high = np.minimum(shadows[0].max(axis=1), shadows[1].max(axis=1))
    return bool((low < high - 1e-6).all())


def _corners(grid: Grid) -> np.ndarray:
    """The outer corners of a grid's corner voxels in RAS mm, (3, 8)."""
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape], indexing="ij")).reshape(3, -1)
    return apply_affine(grid.affine, corners)


def _scan(path: Path, found: Findings) -> Volume | None:
    """The scan if its grid is sound, so that the other files can be held against it."""
    if not path.is_file():
        found.problems.append(
            f"{path} does not exist (case {found.case.case}): fetch it, or leave such cases out with the reader's "
            "option `incomplete: skip`"
        )
        return None
    image = _volume(path, found)
    if image is None:
        return None
    if not np.isfinite(image.data).all():
        count = int(np.size(image.data) - np.isfinite(image.data).sum())
        found.problems.append(f"{path} has {count} voxels that are NaN or infinite: set them to the background value")
    elif image.data.min() == image.data.max():
        found.problems.append(f"{path} has the value {image.data.flat[0]:g} everywhere: export or fetch it again")
    if min(image.shape) < 2:
        shape = " x ".join(map(str, image.shape))
        found.problems.append(f"{path} is a single slice ({shape} voxels): volumes are needed, stack its slices")
    if _has_no_frame(path):
        found.notes.append(f"{path.name} of {found.case.case} states no position (sform_code and qform_code are 0)")
    return image


def _volume(path: Path, found: Findings) -> Volume | None:
    try:
        return read_volume(path)
    except DataError as error:
        found.problems.append(str(error))
        return None


def _has_no_frame(path: Path) -> bool:
    if not path.name.endswith(NIFTI_SUFFIXES):
        return False
    header: Any = nib.load(path).header
    return int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0


def _compare_with_layout(path: Path, grid: Grid, role: str, layout: Layout, found: Findings) -> None:
    expected = layout.spacing_mm.get(role)
    # Axis by axis: every archive stores its scans along the same axes, so slices in another place are another scan.
    if expected and not np.allclose(grid.spacing, expected, rtol=layout.tolerance, atol=1e-3):
        found.problems.append(
            f"{path} has voxels of {_times(grid.spacing, '.4g')} mm, and the published scans have "
            f"{_times(expected, '.4g')} mm: take the original file, or read your own version with the reader `pairs`"
        )
    if layout.shape and grid.shape != layout.shape:
        found.problems.append(
            f"{path} has {_times(grid.shape)} voxels, and the published scans have {_times(layout.shape)}: "
            "take the original file, or read your own version with the reader `pairs`"
        )


def _facts(role: str, path: Path, grid: Grid) -> dict[str, str]:
    return {
        f"{role}_shape": "x".join(map(str, grid.shape)),
        f"{role}_spacing_mm": "x".join(f"{s:.6g}" for s in grid.spacing),
        f"{role}_orientation": grid.orientation,
        f"{role}_sha256": sha256(path),
    }


def _digest(files: LabelFiles | None) -> str:
    """SHA-256 of a file, or of each structure's; empty if there is none."""
    if isinstance(files, tuple):
        return ";".join(f"{name}={sha256(path)}" for name, path in files if path.is_file())
    return sha256(files) if files is not None and files.is_file() else ""


def _on_grid(path: Path, grid: Grid, found: Findings) -> None:
    image = _volume(path, found)
    if image is None:
        return
    if not image.grid.same_as(grid, TOLERANCE_MM):
        found.problems.append(
            f"{path} does not lie on the grid of its scan ({_times(image.shape)} voxels, the scan has "
            f"{_times(grid.shape)}): resample it to the scan"
        )
    if not np.isfinite(image.data).all():
        found.problems.append(f"{path} has voxels that are NaN or infinite: set them to the background value")


def _contours(files: LabelFiles, grid: Grid, labels: dict[int, str], found: Findings) -> None:
    if not isinstance(files, Path):
        labels = labels or {i: name for i, (name, _) in enumerate(files, start=1)}
    try:
        values = _values(read_labels(files, grid, labels).data) - {0}
    except DataError as error:
        found.problems.append(str(error))
        return
    found.label_values |= values
    unknown = sorted(values - set(labels))
    if labels and unknown:
        known = ", ".join(f"{value} {name}" for value, name in labels.items())
        found.problems.append(f"{files} has the values {unknown}, and the labels are {known}: correct one of them")
    if not values:
        found.notes.append(f"the labels of {found.case.case} are empty: {files}")


def _values(labels: np.ndarray) -> set[int]:
    present = np.zeros(int(labels.max()) + 1, dtype=bool)
    for z in range(labels.shape[2]):  # slice by slice, as indexing widens small integers to 8 bytes
        present[labels[:, :, z]] = True
    return set(np.flatnonzero(present).tolist())


def _field(path: Path, grid: Grid, found: Findings) -> None:
    if not path.is_file():
        found.problems.append(f"{path} does not exist")
        return
    try:
        if not np.isfinite(read_itk_field(path, grid)).all():
            found.problems.append(f"{path} has vectors that are NaN or infinite")
    except DataError as error:
        found.problems.append(str(error))
    except Exception as error:
        found.problems.append(f"{path} can't be read as a displacement field ({error})")


def _times(numbers: object, form: str = "") -> str:
    return " x ".join(format(n, form) for n in numbers)  # type: ignore[attr-defined]
