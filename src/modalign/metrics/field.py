"""Is the deformation plausible? Smoothness, folds and volume changes of displacement fields."""

import numpy as np

from modalign.metrics.choices import check_option
from modalign.metrics.pair import Pair, Value

SMALLEST_DETERMINANT = 1e-9
FLAT_VOXELS = 1e-4
"""A field whose components along the third axis are all smaller is one of slices."""


def jacobian_determinant(field: np.ndarray) -> np.ndarray:
    """Determinant of ``I + grad u``, (X, Y, Z): local volume change; 1 keeps it, 0 and below folds.

    Central differences, one-sided at the border, in float64 within slabs. The value is the same in voxels and in mm.
    Central differences overlook folds between neighbours that alternate (Liu et al. 2024).

    Args:
        field: (3, X, Y, Z) in voxels; slice-wise fields have no third component, and need no third axis extent.
    """
    determinant = np.empty(field.shape[1:])
    last = field.shape[3]
    for start in range(0, last, 16):
        low, high = max(start - 1, 0), min(start + 17, last)
        slab = field[:, :, :, low:high].astype(np.float64)
        j = np.zeros((3, 3, *slab.shape[1:]))
        for axis in range(3):
            if slab.shape[axis + 1] > 1:
                j[:, axis] = np.gradient(slab, axis=axis + 1)
            j[axis, axis] += 1
        stop = min(start + 16, last)
        determinant[:, :, start:stop] = _determinant(j)[:, :, start - low : stop - low]
    return determinant


def _determinant(j: np.ndarray) -> np.ndarray:
    return (
        j[0, 0] * (j[1, 1] * j[2, 2] - j[1, 2] * j[2, 1])
        - j[0, 1] * (j[1, 0] * j[2, 2] - j[1, 2] * j[2, 0])
        + j[0, 2] * (j[1, 0] * j[2, 1] - j[1, 1] * j[2, 0])
    )


def folding_percent(determinant: np.ndarray) -> float:
    """Per cent of voxels that a deformation folds: those whose determinant is 0 or less.

    Range 0 to 100, lower is better, 0 for a diffeomorphism; every voxel given counts, background too. Liu et al. 2024
    show what central differences overlook, see :func:`jacobian_determinant`.

    Args:
        determinant: of any shape; see :func:`jacobian_determinant`.

    Returns:
        The share in per cent; NaN if there are no voxels.
    """
    return 100 * float(np.mean(determinant <= 0)) if determinant.size else float("nan")


def sdlogj(determinant: np.ndarray) -> float:
    """Standard deviation of ``log |J|`` (Leow et al. 2007; Learn2Reg); determinants below 1e-9 count as 1e-9.

    Range 0 and up, lower is smoother, 0 for affine fields; every voxel given counts. NaN if there are none.
    """
    return float(np.log(np.maximum(determinant, SMALLEST_DETERMINANT)).std()) if determinant.size else float("nan")


def sdlogj_l2r(determinant: np.ndarray, inside: np.ndarray | None = None) -> float:
    """What the evaluation script of Learn2Reg (8847509) calls SDlogJ: ``sd(log(clip(det + 3, 1e-9, 1e9)))``.

    The 3 hides folds (the script then counts them on the shifted values, and finds none) and makes the value several
    times smaller than :func:`sdlogj`; it is here so that numbers from that script can be compared.

    Args:
        determinant: (X, Y, Z), see :func:`jacobian_determinant`; away from the border the script's is the same.
        inside: bool (X, Y, Z), or None for everywhere; 2 voxels along every border never count.

    Returns:
        The value; NaN if nothing is left inside.
    """
    inner = (slice(2, -2),) * 3
    counted = determinant[inner] if inside is None else determinant[inner][inside[inner]]
    return float(np.log((counted + 3).clip(1e-9, 1e9)).std()) if counted.size else float("nan")


def grad_phi_l2(field: np.ndarray, dimension: int) -> float:
    """IMSE's smoothness of a field, as coded: mean squared forward differences, summed over axes, over 3.

    Range 0 and up, lower is better. Everything counts, background too. In 2D the sum over two axes is divided by 3 as
    well. Units: voxels of displacement per voxel, squared. Source: IMSE Eq. 7, its smoothness loss.

    Args:
        field: (3, X, Y, Z) in voxels; with `dimension` 2 only the in-plane components and differences count.
        dimension: 2 or 3.
    """
    components = field[:dimension].astype(np.float64)
    means = [
        np.mean(np.diff(components, axis=axis + 1) ** 2) for axis in range(dimension) if components.shape[axis + 1] > 1
    ]
    return float(np.sum(means) / 3) if means else float("nan")


def _determinant_of(pair: Pair) -> np.ndarray:
    if "determinant" not in pair.memory:
        pair.memory["determinant"] = jacobian_determinant(_field(pair))
    return pair.memory["determinant"]


def _field(pair: Pair) -> np.ndarray:
    if pair.field is None:
        raise ValueError(f"the alignment of case {pair.case.id} has no field")
    return pair.field


def measure_folding(pair: Pair, region: str) -> list[Value]:
    """Per cent of folded voxels inside the fixed ``mask``, or the whole ``grid``, background included.

    Range 0 to 100, lower is better; NaN for an empty mask; see :func:`folding_percent`.
    """
    return [Value(folding_percent(_determinant_of(pair)[pair.inside(region)]))]


def measure_jacobian_sd(pair: Pair, region: str) -> list[Value]:
    """Standard deviation of the Jacobian determinant inside the fixed ``mask``, or the whole ``grid``.

    Range 0 and up, lower is smoother, 0 for affine fields; NaN for an empty mask. In the mask, background plays no
    part; over the grid, background that stays in place lowers the value. Source: Locor's experiments, whose measure
    of regularity it is beside the non-diffeomorphic volume.
    """
    determinant = _determinant_of(pair)[pair.inside(region)]
    return [Value(float(determinant.std()) if determinant.size else float("nan"))]


def measure_sdlogj(pair: Pair, region: str) -> list[Value]:
    """SDlogJ inside the fixed ``mask``, or the whole ``grid``: range 0 and up, lower is smoother.

    In the mask, background plays no part; NaN for an empty mask; see :func:`sdlogj`.
    """
    return [Value(sdlogj(_determinant_of(pair)[pair.inside(region)]))]


def measure_sdlogj_l2r(pair: Pair, region: str) -> list[Value]:
    """The Learn2Reg script's SDlogJ over the whole ``grid``, or the fixed ``mask`` (its `masked_evaluation`).

    Range 0 and up, lower is smoother; over the grid, background that stays in place lowers the value.
    """
    inside = pair.inside("mask") if region == "mask" else None
    return [Value(sdlogj_l2r(_determinant_of(pair), inside))]


def measure_grad_phi_l2(pair: Pair, dimension: int | str) -> list[Value]:
    """IMSE's smoothness; `dimension` 2, 3, or ``auto``: 2 if the field has no through-plane component."""
    check_option("grad_phi_l2", "dimension", dimension)
    field = _field(pair)
    # On an oblique grid, a field of slices comes back from its file with rounding errors along the third axis.
    flat = field.shape[3] == 1 or float(np.abs(field[2]).max()) < FLAT_VOXELS
    return [Value(grad_phi_l2(field, (2 if flat else 3) if dimension == "auto" else int(dimension)))]
