"""Steps that make masks from the images, as the Locor experiments do."""

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.ndimage as ndi

from modalign.cases import Case
from modalign.preprocess.context import StepContext
from modalign.preprocess.sampling import HOUNSFIELD, background
from modalign.volumes import Volume


def foreground_masks(
    case: Case,
    context: StepContext,
    *,
    mr_above: float = 0.0,
    ct_above_hu: float = -1024.0,
    mr_erosion: int = 1,
    ct_erosion: int = 1,
    exceptions: dict[str, dict[str, float]] | None = None,
    exceptions_in: str = "",
) -> tuple[Case, dict[str, Any]]:
    """Masks of where there is data: voxels above a threshold, eroded by so many voxels (6-neighbourhood).

    `exceptions` changes the numbers for cases whose id ends in the given key, if the data is the archive
    `exceptions_in` (empty: any), since another version can have other patients under the same ids. Masks of the data
    set are replaced.
    """
    numbers = {"mr_above": mr_above, "ct_above_hu": ct_above_hu, "mr_erosion": mr_erosion, "ct_erosion": ct_erosion}
    for ending, changes in (exceptions or {}).items():
        if case.id.endswith(ending) and exceptions_in in ("", context.archive):
            numbers |= changes
    for side in ("fixed", "moving"):
        family, threshold = ("ct", "ct_above_hu") if context.modality(side) in HOUNSFIELD else ("mr", "mr_above")
        volume: Volume = getattr(case, side)
        mask = _erode(volume.data > numbers[threshold], int(numbers[f"{family}_erosion"]))
        changed: dict[str, Any] = {f"{side}_mask": volume.like(mask.astype(np.uint8))}
        case = replace(case, **changed)
    return case, numbers


def body_mask(
    case: Case,
    context: StepContext,
    *,
    above: float = 0.1,
    quantile: float = 0.99,
    median_voxels: int = 3,
    erosion: int = 1,
    dilation: int = 1,
    closing: int = 8,
    final_dilation: int = 2,
    final_erosion: int = 0,
) -> tuple[Case, dict[str, Any]]:
    """The head or body in the fixed scan, as evaluation_mask: measures keep to it, methods see the air around it.

    Threshold at `above` times the `quantile` of the intensities (of HU: both counted from the lowest value, or from
    -1024 where scanners pad with less), median filter, erosion, dilation, largest component, closing, filling of holes,
    then `final_dilation` or `final_erosion` (voxels, 6-neighbourhood). The MICCAI version of the Locor experiments
    eroded by 4 at the end instead of dilating by 2. What lies outside the fixed mask, where there is one, is left out.
    """
    data = case.fixed.data
    if context.modality("fixed") in HOUNSFIELD:
        data = np.maximum(data - background(case.fixed, context.modality("fixed")), 0)
    mask = data > above * np.quantile(data, quantile)
    if median_voxels > 1:
        mask = ndi.median_filter(mask.astype(np.uint8), size=median_voxels) > 0
    mask = _dilate(_erode(mask, erosion), dilation)
    components, count = ndi.label(mask)
    if count > 1:
        sizes = np.bincount(components.ravel())[1:]
        mask = components == int(sizes.argmax()) + 1
    # Padding keeps the closing from eating into a head that touches the border.
    padded = np.pad(mask, closing)
    padded = ndi.binary_fill_holes(_erode(_dilate(padded, closing), closing))
    mask = padded[tuple(slice(closing, n + closing) for n in mask.shape)]
    mask = _erode(_dilate(mask, final_dilation), final_erosion)
    if case.fixed_mask is not None:
        mask = mask & (case.fixed_mask.data > 0)
    mask_volume = case.fixed.like(mask.astype(np.uint8))
    return replace(case, evaluation_mask=mask_volume), {"fraction": float(mask.mean())}


def _dilate(mask: np.ndarray, iterations: int) -> np.ndarray:
    return ndi.binary_dilation(mask, iterations=iterations) if iterations > 0 else mask


def _erode(mask: np.ndarray, iterations: int) -> np.ndarray:
    return ndi.binary_erosion(mask, iterations=iterations) if iterations > 0 else mask
