"""Normalised mutual information of 8-bit slices, against torchmetrics and scikit-learn."""

import numpy as np
import torch
from racing import Race
from scenes import other_contrast, smooth_image
from sklearn.metrics import normalized_mutual_info_score
from torchmetrics.functional.clustering import normalized_mutual_info_score as torchmetrics_nmi

from modalign.metrics.information import normalized_mutual_information

SHAPE = (384, 320)


def races() -> list[Race]:
    """Four slices of the size of RbG's pelvis."""
    slices = []
    for seed in range(4):
        image = smooth_image(SHAPE, seed)
        pair = image, other_contrast(image, seed + 10)
        slices.append(tuple((np.clip(x, 0, 1) * 255).astype(np.uint8) for x in pair))
    flat = [tuple(torch.from_numpy(x.ravel().astype(np.int64)) for x in pair) for pair in slices]
    what = "NMI of 4 slices, 384 × 320"
    return [
        Race(
            what,
            "torchmetrics `normalized_mutual_info_score`",
            lambda: [normalized_mutual_information(a, b) for a, b in slices],
            lambda: [float(torchmetrics_nmi(a, b)) for a, b in flat],
        ),
        Race(
            what,
            "scikit-learn `normalized_mutual_info_score`",
            lambda: [normalized_mutual_information(a, b) for a, b in slices],
            lambda: [normalized_mutual_info_score(a.ravel(), b.ravel()) for a, b in slices],
        ),
    ]
