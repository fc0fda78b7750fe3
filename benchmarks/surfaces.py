"""HD95 and average surface distance of several structures, against MONAI."""

import numpy as np
import scipy.ndimage as ndi
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from racing import Race
from scenes import smooth_field

from modalign.cases import Case
from modalign.metrics.pair import Pair
from modalign.metrics.surface import measure_asd, measure_hd95
from modalign.volumes import Volume, axis_aligned

SHAPE = (160, 128, 64)
SPACING_MM = (1.5, 1.5, 3.0)
NAMES = {1: "liver", 2: "spleen", 3: "right kidney", 4: "left kidney"}


def races() -> list[Race]:
    """Both measures of four structures, from the label maps; ours includes looking up the warped labels."""
    fixed = _labels()
    positions = np.indices(SHAPE) + smooth_field(SHAPE, seed=0, largest_voxels=6.0)
    moved = ndi.map_coordinates(fixed, positions, order=0)
    grid = axis_aligned(SHAPE, SPACING_MM)
    image = Volume(np.zeros(SHAPE, np.float32), grid.affine)
    case = Case("a", image, image, fixed_labels=Volume(fixed, grid.affine), moving_labels=Volume(moved, grid.affine))
    one_hot = [torch.from_numpy(np.stack([x == value for value in (0, *NAMES)])[None]) for x in (fixed, moved)]

    def ours() -> list[float]:
        pair = Pair(case, image.data, None, NAMES)
        hd95 = measure_hd95(pair, "nearest", "grid", per_slice=False, directions="max", missing="drop")
        asd = measure_asd(pair, "nearest", "grid", per_slice=False, missing="drop")
        return [v.value for v in (*hd95, *asd)]

    def theirs() -> list[float]:
        y, y_pred = one_hot
        hd95 = compute_hausdorff_distance(y_pred, y, percentile=95, spacing=SPACING_MM)
        asd = compute_average_surface_distance(y_pred, y, symmetric=True, spacing=SPACING_MM)
        return [*hd95[0].tolist(), *asd[0].tolist()]

    return [
        Race(
            "HD95 and ASD of 4 structures, 160 × 128 × 64",
            "MONAI `compute_hausdorff_distance`, `compute_average_surface_distance`",
            ours,
            theirs,
            unit="mm",
        )
    ]


def _labels() -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    x, y, z = np.indices(SHAPE)
    for value, (centre, radii) in enumerate(
        [
            ((50, 60, 32), (38, 34, 24)),
            ((125, 60, 36), (16, 22, 14)),
            ((60, 30, 20), (9, 9, 13)),
            ((110, 28, 20), (9, 9, 13)),
        ],
        start=1,
    ):
        distance = sum(((p - c) / r) ** 2 for p, c, r in zip((x, y, z), centre, radii, strict=True))
        labels[distance < 1] = value
    return labels
