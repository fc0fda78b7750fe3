"""What one benchmark case is, and how cases lie on disk.

A case store is a folder, written by ``modalign prepare``::

    store/cases.json                     dataset, modalities, labels, provenance, and the list of cases with their split
    store/<case>/case.json               ids, seeds, every preprocessing step with its parameters
    store/<case>/fixed.nii.gz, ...       one file per part, see PARTS
    store/<split>.h5                     fixed, moving and masks of a split, uncompressed, to train from

All parts of a prepared case are oriented to RAS, so the last array axis runs through the axial slices.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modalign.errors import DataError, ModalignError, StoreError
from modalign.files import read_json
from modalign.volumes import Grid, Volume, read_volume

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

INPUTS = ("fixed", "moving", "fixed_mask", "moving_mask")
"""What a method may see."""
LABELS = ("fixed_labels", "moving_labels")
"""Integer label maps on the grid of fixed and of moving; 0 is background."""
TRUTH = ("true_field", "true_image")
"""Where it is known: the displacement field (ITK, mm, LPS) that brings moving onto fixed, and the aligned image."""
EVALUATION_MASK = "evaluation_mask"
"""Where measures look, on the fixed grid, where that isn't the fixed mask: methods neither see nor need it."""
PARTS = (*INPUTS, *LABELS, *TRUTH, EVALUATION_MASK)


@dataclass(frozen=True)
class Intensity:
    """How stored values relate to physical ones: ``physical = scale * stored + offset``, in `unit`."""

    scale: float = 1.0
    offset: float = 0.0
    unit: str = "a.u."

    def to_physical(self, values: np.ndarray) -> np.ndarray:
        """Stored values in `unit` (HU for CT)."""
        return values * self.scale + self.offset


@dataclass(eq=False)
class Case:
    """A pair of scans, of one patient unless the data set pairs different ones, with whatever is known about it.

    `fixed` (the papers' input x) stays as it is; `moving` (their reference y) is to be aligned with it. Both may lie
    on their own grids. `true_field` is (3, X, Y, Z) in voxels of the fixed grid, array axis order, with
    ``aligned(x) = moving(x + true_field(x))``; `true_image` is the moving modality as it would look in the fixed
    scan's geometry. Masks say where methods are to look, and where measures are, unless there is an `evaluation_mask`.
    Parts that don't exist, or that weren't asked for, are None.
    """

    id: str
    fixed: Volume
    moving: Volume
    fixed_mask: Volume | None = None
    moving_mask: Volume | None = None
    fixed_labels: Volume | None = None
    moving_labels: Volume | None = None
    true_field: np.ndarray | None = None
    true_image: Volume | None = None
    evaluation_mask: Volume | None = None
    dataset: str = ""
    split: Split = "test"
    fixed_intensity: Intensity = dataclasses.field(default_factory=Intensity)
    moving_intensity: Intensity = dataclasses.field(default_factory=Intensity)
    record: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The fixed grid, on which every alignment is given."""
        return self.fixed.grid

    @property
    def measured_in(self) -> Volume | None:
        """The mask inside which measures look; None if there is none."""
        return self.fixed_mask if self.evaluation_mask is None else self.evaluation_mask

    @property
    def on_one_grid(self) -> bool:
        """Whether fixed and moving share their grid."""
        return self.fixed.grid.same_as(self.moving.grid)


@dataclass(eq=False)
class Alignment:
    """What a method returns for a case: the aligned image and, if it deforms, the displacement field.

    `image` lies on the fixed grid, in the stored intensities of the moving modality. `field` is (3, X, Y, Z), float32,
    in voxels of the fixed grid, array axis order: ``image(x) = moving(x + field(x))``, where the position
    ``x + field(x)`` is taken to world coordinates by the fixed affine, and from there to the moving grid. Methods that
    generate the image instead of deforming leave `field` None. `notes` goes into run.json. Methods that find the way
    back as well give it as `inverse_field`, (3, X', Y', Z') in voxels of the moving grid, from there to fixed.
    """

    image: Volume
    field: np.ndarray | None = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    inverse_field: np.ndarray | None = None


def load_case(folder: Path | str, parts: Iterable[str] = PARTS) -> Case:
    """Read the named parts of a prepared case; parts without a file come as None.

    Raises:
        DataError: case.json, the fixed or the moving image is missing.
    """
    from modalign.spatial.fields import read_itk_field

    folder, parts = Path(folder), tuple(parts)
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"unknown parts {sorted(unknown)}; choose from {PARTS}")
    record = read_json(folder / "case.json")
    values: dict[str, Any] = {}
    for part in parts:
        path = folder / f"{part}.nii.gz"
        if part != "true_field" and path.is_file():
            values[part] = read_volume(path)
    for part in ("fixed", "moving"):
        if part not in values:
            raise DataError(f"{folder / part}.nii.gz does not exist: prepare the data set again")
    if "true_field" in parts and (folder / "true_field.nii.gz").is_file():
        values["true_field"] = read_itk_field(folder / "true_field.nii.gz", values["fixed"].grid)
    return Case(
        id=record["case"],
        dataset=record["dataset"],
        split=record["split"],
        fixed_intensity=Intensity(**record["fixed_intensity"]),
        moving_intensity=Intensity(**record["moving_intensity"]),
        record=record,
        **values,
    )


def patients_of(manifest: Mapping[str, Any], split: str | None = None) -> dict[str, str]:
    """Whom every case of a store's manifest, or of one split of it, is of: itself, unless the data set says more."""
    cases = [case for case in manifest.get("cases", ()) if split is None or case["split"] == split]
    return {case["case"]: case.get("patient") or case["case"] for case in cases}


class CaseStore:
    """The prepared cases of a data set, read from `folder`."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = read_json(self.folder / "cases.json")

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.manifest["dataset"]

    @property
    def label_names(self) -> dict[int, str]:
        """Structure name of every label value."""
        return {int(value): name for value, name in self.manifest["labels"].items()}

    def ids(self, splits: Sequence[str] = SPLITS) -> list[str]:
        """Case ids of the given splits, in the order of the manifest."""
        return [case["case"] for case in self.manifest["cases"] if case["split"] in splits]

    def load(self, case: str, parts: Iterable[str] = PARTS) -> Case:
        """Read one case.

        Raises:
            StoreError: one of its files is missing or unreadable.
        """
        try:
            return load_case(self.folder / case, parts)
        except ModalignError as error:
            raise StoreError(f"{error} (prepare the data set again: remove {self.folder / 'cases.json'})") from error

    def cases(self, splits: Sequence[str], parts: Iterable[str] = PARTS) -> Iterator[Case]:
        """Read the cases of the given splits one by one."""
        for case in self.ids(splits):
            yield self.load(case, parts)

    def pack(self, split: str) -> Path:
        """The HDF5 file of a split: groups named by case with data sets `fixed`, `moving` (float32, X x Y x Z)
        and, where they exist, `fixed_mask`, `moving_mask` (uint8), stored without compression."""
        return self.folder / f"{split}.h5"
