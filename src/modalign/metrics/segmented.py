"""Does a segmenter find the structures of the fixed scan in the aligned image? RbG table 3, RegistFormer table 2."""

from collections.abc import Iterator

import numpy as np
import scipy.ndimage as ndi

from modalign.metrics.overlap import dice
from modalign.metrics.pair import Pair, Value
from modalign.metrics.surface import flat_axes, hausdorff, lost_distance, surface_distances


def _structures(pair: Pair) -> Iterator[tuple[str, np.ndarray | None, np.ndarray | None]]:
    """Name, true and found mask, cropped to both; None where the fixed scan doesn't have the structure."""
    assert pair.case.fixed_labels is not None
    assert pair.segmented is not None
    true, found = pair.case.fixed_labels.data, pair.segmented
    boxes = ndi.find_objects(np.maximum(true, 0).astype(int)), ndi.find_objects(found.astype(int))
    for value, name in sorted(pair.structures.items()):
        own = [found_boxes[value - 1] for found_boxes in boxes if value <= len(found_boxes)]
        if value > len(boxes[0]) or boxes[0][value - 1] is None:
            yield name, None, None
            continue
        both = [box for box in own if box is not None]
        box = tuple(slice(min(b[k].start for b in both), max(b[k].stop for b in both)) for k in range(3))
        yield name, true[box] == value, found[box] == value


def measure_dice(pair: Pair) -> list[Value]:
    """Dice of every structure between the contours of the fixed scan and the segmentation of the aligned image.

    Range 0 to 1, higher is better; background plays no part. 0 where the segmenter finds nothing,
    NaN where the fixed scan lacks the structure.
    """
    return [
        Value(float("nan") if true is None or found is None else dice(true, found), None, name)
        for name, true, found in _structures(pair)
    ]


def measure_hausdorff(pair: Pair, missing: str) -> list[Value]:
    """Hausdorff distance of every structure between the contours of the fixed scan and the segmented aligned image.

    Unit mm, range 0 and up, lower is better; background plays no part.

    Args:
        pair: the case, its alignment and the segmentation of the aligned image.
        missing: what counts where the segmenter finds nothing: see :data:`~modalign.metrics.choices.MISSING`.

    NaN where the fixed scan lacks the structure.
    """
    grid, values = pair.case.grid, []
    for name, true, found in _structures(pair):
        if true is None or found is None:
            value = float("nan")
        elif not found.any():
            value = lost_distance(pair, name, missing)
        else:
            value = hausdorff(surface_distances(true, found, grid.spacing, flat_axes(grid.shape)))
        values.append(Value(value, None, name))
    return values
