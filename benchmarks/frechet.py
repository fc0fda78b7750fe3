"""Fréchet distance of two sets of features, against pytorch-fid."""

import numpy as np
from pytorch_fid.fid_score import calculate_frechet_distance
from racing import Race

from modalign.metrics.distribution import frechet_distance


def races() -> list[Race]:
    """More samples than features, and, as with a few test patients, fewer."""
    return [_race(samples=800, features=384), _race(samples=150, features=768)]


def _race(samples: int, features: int) -> Race:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(features, features)) / np.sqrt(features)
    a = rng.normal(size=(samples, features)) @ mixing
    b = rng.normal(0.1, 1.1, size=(samples, features)) @ mixing

    def theirs() -> float:
        moments = [part for x in (a, b) for part in (x.mean(0), np.cov(x, rowvar=False))]
        return float(calculate_frechet_distance(*moments))

    return Race(
        f"FID of 2 × {samples} samples of {features} features",
        "pytorch-fid `calculate_frechet_distance`",
        lambda: frechet_distance(a, b),
        theirs,
        lambda x, y: abs(x - y) / abs(y),
        "(relative)",
    )
