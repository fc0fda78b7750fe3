"""Gaussian-process regression over the unit cube, as it chooses among noisy trials."""

import warnings

import numpy as np


def posterior_mean(points: np.ndarray, values: np.ndarray, seed: int) -> np.ndarray:
    """The posterior mean at the points themselves of a Gaussian process fitted to noisy values.

    Matérn 5/2 with one length scale a dimension, plus white noise; the kernel maximises the marginal likelihood, within
    bounds that keep a handful of points from being explained as noise-free wiggles.

    Args:
        points: (N, D), in the unit cube.
        values: (N,).
        seed: seeds the restarts of the fit.

    Returns:
        (N,), in the unit of `values`; the values themselves if they are all the same, or fewer than three.
    """
    spread = float(np.std(values))
    if len(values) < 3 or spread == 0:
        return np.asarray(values, dtype=float)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    dimensions = points.shape[1]
    kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(np.full(dimensions, 0.5), (0.1, 10.0), nu=2.5)
    process = GaussianProcessRegressor(
        kernel + WhiteKernel(0.1, (1e-4, 1.0)), n_restarts_optimizer=4, random_state=seed
    )
    centred = (values - np.mean(values)) / spread
    with warnings.catch_warnings():
        # A dimension that plays no part has its length scale at the bound.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(points, centred)
    return process.predict(points) * spread + np.mean(values)
