"""Do warped structures cover the fixed ones? Dice, and which structures can be compared at all."""

from collections.abc import Iterator

import numpy as np
import scipy.ndimage as ndi

from modalign.metrics.pair import Pair, Value


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient ``2 |a and b| / (|a| + |b|)`` of two masks of any shape.

    Range 0 to 1, higher is better; background plays no part. NaN if both are empty.
    """
    size = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / size if size else float("nan")


def structures(
    pair: Pair, interpolation: str, region: str, per_slice: bool
) -> Iterator[tuple[str, int | None, np.ndarray | None, np.ndarray | None]]:
    """Name, slice, fixed mask and warped mask of every structure.

    Masks are cropped to their common bounding box, (X, Y, Z) or, per slice, (X, Y, 1). They are None where the
    structure is missing in the fixed or the unwarped moving label map, so that there is nothing to compare. Per slice,
    only slices count in which both scans contain it before alignment (IMSE section 4.3: slices with contours).
    """
    fixed, warped = pair.labels(interpolation, region)
    fixed_boxes, warped_boxes = ndi.find_objects(fixed), ndi.find_objects(warped)
    moving = pair.case.moving_labels
    assert moving is not None
    present = set(np.unique(moving.data).tolist())
    for value, name in sorted(pair.structures.items()):
        boxes = [b[value - 1] for b in (fixed_boxes, warped_boxes) if value <= len(b) and b[value - 1] is not None]
        missing = value not in present or value > len(fixed_boxes) or fixed_boxes[value - 1] is None
        if missing:
            if not per_slice:
                yield name, None, None, None
            continue
        box = tuple(slice(min(b[k].start for b in boxes), max(b[k].stop for b in boxes)) for k in range(3))
        a, b = fixed[box] == value, warped[box] == value
        if not per_slice:
            yield name, None, a, b
            continue
        both = a.any((0, 1)) & (pair.unwarped_labels[:, :, box[2]] == value).any((0, 1))
        for k in np.flatnonzero(both):
            yield name, int(box[2].start + k), a[:, :, k : k + 1], b[:, :, k : k + 1]


def measure_dice(pair: Pair, interpolation: str, region: str, per_slice: bool) -> list[Value]:
    """Dice of every structure between fixed labels and moving labels warped by the field.

    Args:
        pair: the case and its alignment.
        interpolation: ``nearest``, or ``linear`` with a cut at one half (IMSE's code).
        region: ``grid``, or ``mask``: structures count inside the case's mask only (Locor's abdomen experiment).
        per_slice: one value per structure and axial slice that contains it, instead of one per structure.

    A structure that warping drives out of the grid scores 0.
    """
    values = []
    for name, z, a, b in structures(pair, interpolation, region, per_slice):
        values.append(Value(float("nan") if a is None or b is None else dice(a, b), z, name))
    return values
