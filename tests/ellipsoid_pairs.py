"""Pairs of ellipsoids in two contrasts with a known deformation, for tests of methods that learn."""

from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import scipy.ndimage as ndi

from modalign.cases import Alignment, Case, CaseStore
from modalign.files import write_json
from modalign.methods.base import Method
from modalign.spatial.fields import warp_volume
from modalign.volumes import Volume, write_volume

Contrasts = dict[str, np.ndarray]
"""Intensity of each label, by image."""


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], mean_voxels: float, sigma: float) -> np.ndarray:
    """A smooth random field whose displacement is `mean_voxels` on average."""
    field = np.stack([ndi.gaussian_filter(rng.standard_normal(shape), sigma) for _ in shape])
    return (field * mean_voxels / np.linalg.norm(field, axis=0).mean()).astype(np.float32)


def anatomy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Labels: a body with organs, all ellipsoids."""
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    axes = (slice(None), *[None] * len(shape))
    radii = np.array([0.85, 0.75, 0.8])[: len(shape)]
    labels = (((points / radii[axes]) ** 2).sum(0) < 1).astype(int)
    for organ, (centre, radius) in enumerate(ORGANS, start=2):
        middle = np.array(centre)[: len(shape)] + rng.uniform(-0.08, 0.08, len(shape))
        extent = np.array(radius)[: len(shape)] * rng.uniform(0.8, 1.2, len(shape))
        labels[(((points - middle[axes]) / extent[axes]) ** 2).sum(0) < 1] = organ
    return labels


ORGANS = [
    ((0.35, 0.3, 0.1), (0.25, 0.3, 0.4)),
    ((-0.4, 0.25, -0.1), (0.2, 0.3, 0.3)),
    ((0.0, -0.45, 0.2), (0.3, 0.15, 0.3)),
    ((-0.45, -0.25, 0.2), (0.15, 0.2, 0.25)),
    ((0.5, -0.2, -0.3), (0.15, 0.18, 0.3)),
    ((0.0, 0.0, -0.2), (0.15, 0.2, 0.25)),
]
CONTRASTS = {
    "fixed": np.array([0, 0.35, 0.9, 0.1, 0.6, 0.75, 0.2, 1.0]),
    "moving": np.array([0, 0.7, 0.2, 1.0, 0.45, 0.95, 0.3, 0.55]),
}


ONE_CONTRAST = {"fixed": CONTRASTS["moving"], "moving": CONTRASTS["moving"]}


def phantom_case(
    seed: int,
    shape: tuple[int, ...],
    mean_voxels: float,
    sigma: float,
    slices: int = 1,
    contrasts: Contrasts = CONTRASTS,
) -> Case:
    """A pair of two contrasts with known field: slices of their own, or one volume."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {"fixed": [], "moving": [], "field": []}
    for _ in range(slices):
        labels, field = anatomy(rng, shape), smooth_field(rng, shape, mean_voxels, sigma)
        look = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) + field
        images = {
            name: ndi.gaussian_filter(lut[labels], 0.7) + 0.01 * rng.standard_normal(shape)
            for name, lut in contrasts.items()
        }
        # warped(x) = moving(x + field(x)) has to be the fixed anatomy, so fixed is what gets resampled here.
        parts["fixed"].append(ndi.map_coordinates(images["fixed"], look, order=1, mode="nearest"))
        parts["moving"].append(images["moving"])
        parts["field"].append(field)
    if len(shape) == 3:
        fixed, moving, field = (parts[name][0] for name in ("fixed", "moving", "field"))
    else:
        fixed, moving = (np.stack(parts[name], -1) for name in ("fixed", "moving"))
        field = np.concatenate([np.stack(parts["field"], -1), np.zeros((1, *fixed.shape))])
    volumes = {"fixed": Volume(fixed.astype(np.float32)), "moving": Volume(moving.astype(np.float32))}
    return Case(f"case-{seed}", true_field=field.astype(np.float32), dataset="ellipsoids", **volumes)


def write_store(folder: Path, splits: dict[str, list[Case]]) -> CaseStore:
    listed = []
    for split, cases in splits.items():
        with h5py.File(folder / f"{split}.h5", "w") as file:
            for case in cases:
                for part in ("fixed", "moving"):
                    file[f"{case.id}/{part}"] = getattr(case, part).data
                    write_volume(folder / case.id / f"{part}.nii.gz", getattr(case, part))
                intensity = {"scale": 1.0, "offset": 0.0, "unit": "a.u."}
                record = {"case": case.id, "dataset": case.dataset, "split": split}
                write_json(
                    folder / case.id / "case.json",
                    {**record, "fixed_intensity": intensity, "moving_intensity": intensity},
                )
                listed.append({"case": case.id, "split": split})
    write_json(folder / "cases.json", {"dataset": "ellipsoids", "labels": {}, "cases": listed})
    return CaseStore(folder)


def field_error(field: np.ndarray, case: Case) -> float:
    """The mean distance from the true field in voxels, inside the fixed body."""
    inside = ndi.gaussian_filter(case.fixed.data, 1.0) > 0.15
    return float(np.linalg.norm(field - case.true_field, axis=0)[inside].mean())


def slice_store(folder: Path, contrasts: Contrasts = CONTRASTS) -> tuple[CaseStore, list[Case]]:
    """Training and validation cases of 16 slices (64 x 64) each, and an unseen one."""
    cases = [phantom_case(seed, (64, 64), 2.5, 12.0, 16, contrasts) for seed in range(10)]
    return write_store(folder, {"train": cases[:8], "validation": cases[8:9]}), cases[9:]


def volume_store(folder: Path, contrasts: Contrasts = CONTRASTS, size: int = 32) -> tuple[CaseStore, list[Case]]:
    """Training and validation volumes, and three unseen ones."""
    cases = [phantom_case(seed, (size,) * 3, 2.5, 10.0, contrasts=contrasts) for seed in range(14)]
    return write_store(folder, {"train": cases[:10], "validation": cases[10:11]}), cases[11:]


def remaining_error(method: Method, cases: list[Case]) -> float:
    """The error of the predicted fields as a fraction of the error without registration."""
    still = [field_error(np.zeros_like(case.true_field), case) for case in cases]
    return float(np.mean([field_error(method.align(case).field, case) for case in cases]) / np.mean(still))


class Recolour(Method):
    """A perfect translation: the look-up table that made the phantom, backwards and forwards."""

    label, kind, source, dimensions = "Recolour", "translation", "a test", frozenset({2, 3})
    translated: ClassVar[list[str]] = []

    def align(self, case: Case) -> Alignment:
        self.translated.append(case.id)
        order = np.argsort(CONTRASTS["fixed"])
        values = np.interp(case.fixed.data, CONTRASTS["fixed"][order], CONTRASTS["moving"][order])
        return Alignment(case.fixed.like(values.astype(np.float32)))


class Unchanged(Method):
    """What a perfect translation does where both images have one contrast already."""

    label, kind, source, dimensions = "Unchanged", "translation", "a test", frozenset({2, 3})

    def align(self, case: Case) -> Alignment:
        return Alignment(case.fixed)


def remaining_difference(method: Method, cases: list[Case]) -> float:
    """The squared difference from the truly aligned images, as a fraction of what it is without registration."""

    def difference(image: Volume, case: Case) -> float:
        true = warp_volume(case.moving, case.true_field, case.grid)
        return float(np.square(image.data - true.data).mean())

    aligned = np.mean([difference(method.align(case).image, case) for case in cases])
    return float(aligned / np.mean([difference(case.moving, case) for case in cases]))
