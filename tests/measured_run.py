"""A tiny case store and alignments of it, written by hand, for the tests of measuring."""

from pathlib import Path

import numpy as np

from modalign.files import write_json
from modalign.metrics.features import FeatureSource
from modalign.spatial.fields import write_itk_field
from modalign.volumes import Volume, axis_aligned, write_volume

GRID = axis_aligned((36, 32, 6), (2.0, 2.0, 3.0))
FEATURES = FeatureSource(image_size=75)


def anatomy(rng):
    """A body with two organs: label map on GRID."""
    x, y, z = GRID.indices()
    cx, cy = 17.5 + rng.uniform(-1, 1), 15.5 + rng.uniform(-1, 1)
    labels = np.zeros(GRID.shape, dtype=np.uint8)
    labels[((x - cx) / 14) ** 2 + ((y - cy) / 12) ** 2 < 1] = 1
    labels[((x - cx + 4) / 5) ** 2 + ((y - cy) / 6) ** 2 < 1] = 2
    labels[((x - cx - 6) / 3) ** 2 + ((y - cy) / 3) ** 2 + ((z - 2.5) / 2) ** 2 < 1] = 3
    return labels


def write_run(folder: Path) -> Path:
    """A store of three test cases whose moving scan is 3 voxels off along x, and its identity and true alignments."""
    rng = np.random.default_rng(7)
    cases = ["p1", "p2", "p3"]
    shift = np.zeros((3, *GRID.shape), dtype=np.float32)
    shift[0] = 3
    for case in cases:
        labels = anatomy(rng)
        moved = np.zeros_like(labels)
        moved[3:] = labels[:-3]
        mr = np.array([-1, -0.2, 0.9, 0.3])[labels] + 0.03 * rng.normal(size=labels.shape) * (labels > 0)
        ct = np.array([-1, 0.1, -0.5, 0.8])[moved]
        truth = np.array([-1, 0.1, -0.5, 0.8])[labels]
        parts = {
            "fixed": np.clip(mr, -1, 1),
            "moving": ct,
            "fixed_mask": (labels > 0).astype(np.uint8),
            "fixed_labels": np.where(labels == 1, 0, labels).astype(np.uint8),
            "moving_labels": np.where(moved == 1, 0, moved).astype(np.uint8),
            "true_image": truth,
        }
        for name, data in parts.items():
            write_volume(folder / "store" / case / f"{name}.nii.gz", Volume(data, GRID.affine))
        write_itk_field(folder / "store" / case / "true_field.nii.gz", shift, GRID)
        hu = {"scale": 1000.0, "offset": 0.0, "unit": "HU"}
        record = {"case": case, "dataset": "toy", "split": "test", "fixed_intensity": {}, "moving_intensity": hu}
        write_json(folder / "store" / case / "case.json", record)
        for method, image, field in (("identity", ct, 0 * shift), ("oracle", truth, shift), ("generated", truth, None)):
            write_volume(folder / method / case / "image.nii.gz", Volume(image, GRID.affine))
            if field is not None:
                write_itk_field(folder / method / case / "field.nii.gz", field, GRID)
    manifest = {
        "dataset": "toy",
        "fixed_modality": "mr",
        "moving_modality": "ct",
        "labels": {"2": "bladder", "3": "rectum"},
        "cases": [{"case": case, "split": "test"} for case in cases],
    }
    write_json(folder / "store" / "cases.json", manifest)
    return folder


def mean(measured, metric, **where):
    rows = [r for r in measured.rows if r.metric == metric and all(getattr(r, k) == v for k, v in where.items())]
    assert rows, metric
    return np.mean([r.value for r in rows])
