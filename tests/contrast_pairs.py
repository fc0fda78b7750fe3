"""Slices in two contrasts for trained translations: the moving image shows other anatomy than the fixed one."""

from pathlib import Path
from typing import Any

import ellipsoid_pairs
import numpy as np
import scipy.ndimage as ndi

from modalign.cases import Case, CaseStore
from modalign.methods import method_class
from modalign.methods._translation import Translation
from modalign.methods.base import Context
from modalign.volumes import Volume

CONTRASTS = {"fixed": np.array([0.0, 0.4, 1.0, 0.7]), "moving": np.array([500.0, -100.0, -1000.0, -600.0])}
"""Background, body, a large organ, a small one; what is bright in the one contrast is dark in the other."""
TINY = {"preset": "small", "batch": 2, "channels": 6, "discriminator_channels": 8}


def two_contrasts(seed: int, slices: int = 12, size: int = 32) -> tuple[Case, np.ndarray]:
    """A case whose moving image shows other anatomy, and the fixed anatomy in the moving contrast."""
    rng = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij"))

    def inside(centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
        shift, scale = rng.uniform(-0.1, 0.1, (2, 1, 1)), rng.uniform(0.85, 1.15, (2, 1, 1))
        return (((points - np.reshape(centre, (2, 1, 1)) - shift) / (np.reshape(radii, (2, 1, 1)) * scale)) ** 2).sum(
            0
        ) < 1

    def anatomy() -> np.ndarray:
        labels = inside((0, 0), (0.75, 0.7)).astype(int)
        labels[inside((0.25, 0.0), (0.3, 0.4))] = 2
        labels[inside((-0.4, 0.1), (0.18, 0.18))] = 3
        return labels

    def seen(labels: np.ndarray, contrast: str) -> np.ndarray:
        width = np.ptp(CONTRASTS[contrast])
        clean = ndi.gaussian_filter(CONTRASTS[contrast][labels], 0.5)
        return (clean + 0.01 * width * rng.standard_normal(labels.shape)).astype(np.float32)

    ours, others = ([anatomy() for _ in range(slices)] for _ in range(2))
    truth = np.stack([ndi.gaussian_filter(CONTRASTS["moving"][labels], 0.5) for labels in ours], -1)
    fixed, moving = (
        np.stack([seen(labels, name) for labels in group], -1) for name, group in (("fixed", ours), ("moving", others))
    )
    return Case(f"case-{seed}", Volume(fixed), Volume(moving), dataset="discs"), truth


def write_store(folder: Path) -> CaseStore:
    """Five training cases and one for validation."""
    cases = [two_contrasts(seed)[0] for seed in range(6)]
    return ellipsoid_pairs.write_store(folder, {"train": cases[:5], "validation": cases[5:]})


def make(name: str, folder: Path, dimension: int = 2, seed: int = 0, **options: Any) -> Translation:
    method = method_class(name)({**TINY, **options}, dimension, Context(seed=seed, model=folder))
    assert isinstance(method, Translation)
    return method
