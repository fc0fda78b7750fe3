"""Pairs of different patients, for registration within one contrast (IMSE, section 4.3)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from modalign.cases import SPLITS
from modalign.datasets.base import CaseFiles
from modalign.datasets.labels import read_labels
from modalign.datasets.splits import some
from modalign.errors import DataError
from modalign.volumes import Grid, apply_affine, read_volume


@dataclass(frozen=True)
class Contours:
    """Where the contours of a scan are: RAS mm from the centre of its grid, (3, n), and a map of their bounding box.

    `first` is the voxel of the scan's `grid` where the map begins.
    """

    points: np.ndarray
    inside: np.ndarray
    first: np.ndarray
    grid: Grid

    @property
    def volume(self) -> float:
        """Of all contours, in mm3."""
        return float(self.points.shape[1] * np.prod(self.grid.spacing))


def pair_patients(
    cases: Sequence[CaseFiles],
    of_case: Mapping[str, str],
    labels: Mapping[int, str],
    kept: Collection[int] = (),
    pairs: int | None = None,
) -> tuple[list[CaseFiles], dict[str, str], list[str]]:
    """Cases whose fixed scan is one patient's and whose moving scan is another's.

    In the training split every patient is fixed once and moving once, in the order of the ids. For validation and
    test the two patients whose contours overlap most, with the centres of their grids put together, become the first
    pair, and so on with those that are left, as long as contours overlap: no patient is in two pairs, so that pairs are
    independent of each other.

    Args:
        cases: a scan each, which is both fixed and moving.
        of_case: split of every case that is used.
        labels: structure name of every label value.
        kept: label values whose overlap counts; all if empty.
        pairs: keep so many pairs of the validation and of the test split, those that overlap most; all if None.

    Returns:
        The pairs, called ``<moving>_to_<fixed>``; the split of each; what is worth knowing about the choice.

    Raises:
        DataError: files can't be read, or a split has no two patients whose contours overlap.
    """
    paired: list[CaseFiles] = []
    split_of: dict[str, str] = {}
    notes = []
    for split in (name for name in SPLITS if name in of_case.values()):
        # One scan of each patient: two of the same would be no pair of different patients.
        scans = [case for case in cases if of_case.get(case.case) == split]
        members = list({case.patient or case.case: case for case in reversed(scans)}.values())[::-1]
        if split == "train":
            chosen = list(zip(members, [*members[1:], *members[:1]], strict=True)) if len(members) > 1 else []
        else:
            with_contours = [case for case in members if case.fixed_labels is not None]
            if without := [case.case for case in members if case.fixed_labels is None]:
                notes.append(f"In no pair, for lack of contours: {some(without)}.")
            overlaps = _overlaps(with_contours, labels, kept)
            chosen = _disjoint(with_contours, overlaps)[:pairs]
            if chosen:
                values = [overlaps[first.case, second.case] for first, second in chosen]
                notes.append(
                    f"{split.capitalize()}: {len(chosen)} pairs of {len(members)} patients, chosen by the overlap of "
                    f"their contours (Dice {min(values):.2f} to {max(values):.2f} before any registration)."
                )
        if not chosen:
            why = "" if split == "train" else ": the contours of none overlap, by which pairs are chosen"
            who = f"no two patients of the {split} split ({some([case.case for case in members])})"
            raise DataError(f"{who} make a pair{why}. Give the split more patients, or none")
        pairs_of_split = [_pair(fixed, moving) for fixed, moving in chosen]
        paired += pairs_of_split
        split_of |= dict.fromkeys((case.case for case in pairs_of_split), split)
    return paired, split_of, notes


def _pair(fixed: CaseFiles, moving: CaseFiles) -> CaseFiles:
    return replace(
        fixed,
        case=f"{moving.case}_to_{fixed.case}",
        moving=moving.moving,
        moving_mask=moving.moving_mask,
        moving_labels=moving.moving_labels,
        patient=None,
    )


def _overlaps(
    cases: Sequence[CaseFiles], labels: Mapping[int, str], kept: Collection[int]
) -> dict[tuple[str, str], float]:
    contours, problems = {}, []
    for case in cases:
        try:
            contours[case.case] = _contours(case, labels, kept)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n  - ".join(["pairs of patients can't be chosen:", *problems[:10]]))
    return {(a.case, b.case): _dice(contours[a.case], contours[b.case]) for a, b in combinations(cases, 2)}


def _contours(case: CaseFiles, labels: Mapping[int, str], kept: Collection[int]) -> Contours:
    grid = read_volume(case.fixed).grid
    assert case.fixed_labels is not None
    data = read_labels(case.fixed_labels, grid, labels).data
    inside = np.isin(data, list(kept)) if kept else data > 0
    voxels = np.array(np.nonzero(inside))
    first = voxels.min(axis=1) if voxels.size else np.zeros(3, dtype=int)
    # Of a whole head, what is between the contours is enough to keep.
    box = tuple(slice(low, high + 1) for low, high in zip(first, voxels.max(axis=1, initial=0), strict=True))
    centre = apply_affine(grid.affine, (np.array(grid.shape)[:, None] - 1) / 2)
    return Contours(apply_affine(grid.affine, voxels) - centre, inside[box].copy(), first, grid)


def _dice(first: Contours, second: Contours) -> float:
    """Of all contours together; a voxel of the first counts as shared if its centre lies in a voxel of the second."""
    grid = second.grid
    centre = (np.array(grid.shape)[:, None] - 1) / 2
    voxels = np.rint(np.linalg.solve(grid.affine[:3, :3], first.points) + centre).astype(int) - second.first[:, None]
    voxels = voxels[:, ((voxels >= 0) & (voxels < np.array(second.inside.shape)[:, None])).all(axis=0)]
    shared = np.count_nonzero(second.inside[tuple(voxels)]) * float(np.prod(first.grid.spacing))
    total = first.volume + second.volume
    return 2 * shared / total if total else 0.0


def _disjoint(
    cases: Sequence[CaseFiles], overlaps: Mapping[tuple[str, str], float]
) -> list[tuple[CaseFiles, CaseFiles]]:
    """Pairs in the order of their overlap, no case in two of them."""
    by_id = {case.case: case for case in cases}
    chosen: list[tuple[CaseFiles, CaseFiles]] = []
    free = set(by_id)
    for first, second in sorted(overlaps, key=lambda ids: (-overlaps[ids], ids)):
        if {first, second} <= free and overlaps[first, second] > 0:
            free -= {first, second}
            chosen.append((by_id[first], by_id[second]))
    return chosen
