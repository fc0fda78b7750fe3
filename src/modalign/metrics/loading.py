"""What a case is measured from: its scans, its truth, and what a method made of it."""

from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from modalign.cases import EVALUATION_MASK, Case, CaseStore
from modalign.errors import DataError
from modalign.metrics.pair import Pair
from modalign.spatial.fields import read_itk_field
from modalign.volumes import read_volume

_PARTS = {
    "labels": ("fixed_labels", "moving_labels"),
    "segmentation": ("fixed_labels",),
    "true_field": ("true_field",),
    "true_image": ("true_image",),
}


def load_pair(
    store: CaseStore,
    aligned: Path,
    case: str,
    needs: Iterable[str] = (),
    pseudo: Path | None = None,
    segmented: Path | None = None,
) -> Pair:
    """A case, its alignment, and of labels, truth, pseudo image and segmentation (from their folders) what is needed.

    Raises:
        DataError: the alignment or the pseudo image doesn't lie on the fixed grid, or isn't finite.
    """
    needs = set(needs)
    wanted = [part for need in sorted(needs) for part in _PARTS.get(need, ())]
    parts = ["fixed", "moving", "fixed_mask", EVALUATION_MASK, *wanted]
    loaded = store.load(case, parts)
    for labels in (loaded.fixed_labels, loaded.moving_labels):
        if labels is not None and labels.data.dtype.kind not in "iu":
            labels.data = np.rint(labels.data).astype(np.int32)
    path = aligned / case / "image.nii.gz"
    image = _on_grid(path, loaded)
    pseudo_path = (pseudo or aligned) / case / "image.nii.gz"
    has_pseudo = pseudo is not None and "pseudo_image" in needs and pseudo_path.is_file()
    translated = _on_grid(pseudo_path, loaded) if has_pseudo else None
    field_path = aligned / case / "field.nii.gz"
    displacement = read_itk_field(field_path, loaded.grid) if "field" in needs and field_path.is_file() else None
    for name, data in ((path, image), (field_path, displacement), (pseudo_path, translated)):
        if data is not None and not np.isfinite(data).all():
            raise DataError(f"{name} has voxels that are not finite: the alignment of case {case} failed")
    modalities = (str(store.manifest.get("fixed_modality", "")), str(store.manifest.get("moving_modality", "")))
    label_path = (segmented or aligned) / case / "labels.nii.gz"
    has_segmentation = segmented is not None and "segmentation" in needs and label_path.is_file()
    found = _on_grid(label_path, loaded) if has_segmentation else None
    return Pair(loaded, image, displacement, store.label_names, modalities, translated, found)


def _on_grid(path: Path, case: Case) -> np.ndarray:
    image = read_volume(path)
    if not image.grid.same_as(case.grid, tolerance_mm=1e-2):
        raise DataError(f"{path} does not lie on the grid of the fixed image: align case {case.id} again")
    return image.data


def depth_of(path: Path) -> int:
    """The number of axial slices of a volume, from its header."""
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    return int(image.shape[2])
