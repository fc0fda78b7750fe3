"""Do aligned slices look like reference slices, as a set? Fréchet and kernel distance of network features."""

import numpy as np

from modalign.errors import ConfigError


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017, Eq. 6).

    ``|mean_a - mean_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2))``, range 0 and up, lower is better. The value is
    biased upwards for small sets, and covariances of fewer than 2049 slices are singular. With ``C = R^T R`` the last
    trace is the sum of the singular values of ``R_a R_b^T``, which is exact then as well, where the matrix square root
    of pytorch-fid needs a guard; both agree to 1e-6 (relative) on regular covariances.

    Args:
        a: features of one set, (n, d).
        b: features of the other, (m, d).

    Returns:
        The squared distance; NaN if a set has fewer than 2 members.
    """
    if len(a) < 2 or len(b) < 2:
        return float("nan")
    shift = a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(max(0.0, shift @ shift + (root_a**2).sum() + (root_b**2).sum() - 2 * cross))


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """R with ``cov(features) = R^T R``, at most d rows."""
    centred = (features - features.mean(0, dtype=np.float64)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"))


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, rng: np.random.Generator, subsets: int = 100, subset_size: int = 50
) -> tuple[float, float]:
    """Mean and sd over random subsets of the unbiased squared MMD with kernel ``(x.y / d + 1)^3``.

    Binkowski et al. 2018, section 3; range about 0 and up, lower is better. Unbiased for independent sets, so it can be
    negative; here every aligned slice has its own reference in the other set, which lowers the value by a term that
    falls with 1 / n, so compare runs of equal n. The same numbers as torchmetrics' ``poly_mmd``, with a seed and
    without its seconds of import.

    Args:
        real: features (n, d).
        fake: features (m, d).
        rng: draws the subsets.
        subsets: how many.
        subset_size: slices in each; capped to the smaller set.

    Returns:
        Mean and sample standard deviation over subsets, 0 where all subsets are alike because each holds every slice;
        NaN if a set has fewer than 2 members.

    Raises:
        ConfigError: a subset of fewer than 2, or no subsets.
    """
    if subset_size < 2 or subsets < 1:
        raise ConfigError(
            f"kid needs subset_size of 2 or more and at least one subset, not {subset_size} and {subsets}"
        )
    size = min(subset_size, len(real), len(fake))
    if size < 2:
        return float("nan"), float("nan")
    draws = []
    for _ in range(subsets):
        chosen = [features[rng.permutation(len(features))[:size]] for features in (real, fake)]
        draws.append(_unbiased_mmd(*chosen))
        if size == len(real) == len(fake):
            break  # Every other draw is the same.
    return float(np.mean(draws)), float(np.std(draws, ddof=1)) if len(draws) > 1 else 0.0


def _unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n = len(x)
    within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
    return float(within / (n * (n - 1)) - 2 * xy.mean())


def measure_fid(real: np.ndarray, fake: np.ndarray, rng: np.random.Generator) -> tuple[float, str]:
    """FID between features of reference slices and of aligned slices, and a note on the number of slices."""
    few = ": biased upwards, compare only with equal n" if min(len(real), len(fake)) <= real.shape[1] else ""
    return frechet_distance(real, fake), f"{len(real)} reference and {len(fake)} aligned slices{few}"


def measure_kid(
    real: np.ndarray, fake: np.ndarray, rng: np.random.Generator, subsets: int, subset_size: int
) -> tuple[float, str]:
    """KID between features of reference slices and of aligned slices, and a note with its sd over subsets.

    Where a subset holds every slice of both sets, all subsets are alike, and one is drawn.

    The RbG code takes `subset_size` 2, which is unbiased but very noisy.
    """
    mean, sd = kernel_distance(real, fake, rng, subsets, subset_size)
    size = min(subset_size, len(real), len(fake))
    if size == len(real) == len(fake):
        how = f"all {size} slices at once, so there is no sd over subsets"
    else:
        how = f"{subsets} subsets of {size} slices, sd {sd:.3g}"
    return mean, f"{how}; {len(real)} reference, {len(fake)} aligned slices"
