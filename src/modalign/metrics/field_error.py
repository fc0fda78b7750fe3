"""How far is the field from the true one? Target registration error over all voxels."""

import numpy as np

from modalign.metrics.choices import check_option
from modalign.metrics.pair import Pair, Value
from modalign.spatial.fields import field_to_mm
from modalign.volumes import Grid


def field_error(field: np.ndarray, truth: np.ndarray, grid: Grid, unit: str = "mm") -> np.ndarray:
    """Length of ``field - truth`` at every voxel, (X, Y, Z), in ``mm`` or in ``voxel`` of the fixed grid.

    Raises:
        ConfigError: the unit is neither.
    """
    check_option("tre_mm", "unit", unit)
    difference = field.astype(np.float64) - truth
    if unit == "mm":
        difference = field_to_mm(difference, grid)
    return np.sqrt((difference**2).sum(axis=0))


def measure_tre(pair: Pair, unit: str, percentile: float | None, region: str) -> list[Value]:
    """Mean, or a percentile, of the distance between field and true field inside the fixed ``mask`` or the ``grid``.

    Range 0 and up, lower is better. Every voxel is a target (Locor section 5, head MRI T2-PD, in voxels with the
    background masked out); where an image is even, no method can know the true displacement.
    """
    if pair.field is None or pair.case.true_field is None:
        raise ValueError(f"case {pair.case.id} has no field, or no true one")
    errors = field_error(pair.field, pair.case.true_field, pair.case.grid, unit)[pair.inside(region)]
    if not errors.size:
        return [Value(float("nan"))]
    return [Value(float(errors.mean() if percentile is None else np.percentile(errors, percentile)))]
