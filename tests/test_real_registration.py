"""Do the classical methods undo a known deformation between real contrasts? T1 stays, T2 of the same head is bent."""

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage as ndi
from nibabel.processing import resample_to_output

from modalign.cases import Case
from modalign.methods import Context, method_class
from modalign.spatial.fields import invert, warp_volume
from modalign.volumes import Volume

pytestmark = pytest.mark.real


@cache
def known_deformation(folder: Path, patient: str, spacing_mm: float, seed: int = 7):
    """A case with a smooth random truth, the head mask, and the mean size of the truth inside it in voxels.

    The deformation is smoothed by 18 mm, and 20 mm at most.
    """
    t1, t2 = (
        resample_to_output(
            nib.as_closest_canonical(nib.load(folder / f"ms_mni/{patient}_{contrast}.nii.gz")),
            [spacing_mm] * 3,
            order=1,
        )
        for contrast in ("T1", "T2")
    )
    fixed, contrast = (np.clip(i.get_fdata(), 0, None).astype(np.float32) for i in (t1, t2))
    rng = np.random.default_rng(seed)
    bend = np.stack([ndi.gaussian_filter(rng.normal(size=fixed.shape), 18 / spacing_mm) for _ in range(3)])
    bend *= 20 / spacing_mm / np.abs(bend).max()
    positions = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij")) + bend
    moving = ndi.map_coordinates(contrast, positions, order=1)
    truth = invert(bend, tolerance=1e-4)
    mask = fixed > 0.1 * np.quantile(fixed, 0.99)
    case = Case(id=patient, fixed=Volume(fixed, t1.affine), moving=Volume(moving, t1.affine), true_field=truth)
    return case, Volume(contrast, t2.affine), mask


def mean_error(field: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    return float(np.linalg.norm(field - truth, axis=0)[mask].mean())


def test_the_truth_is_large_and_undoes_the_deformation(real_scans):
    case, straight, mask = known_deformation(real_scans, "patient07", 2.0)
    assert mean_error(np.zeros_like(case.true_field), case.true_field, mask) == pytest.approx(1.99, abs=0.01)
    undone = warp_volume(case.moving, case.true_field, case.grid).data
    left, before = (np.abs(i - straight.data)[mask].mean() for i in (undone, case.moving.data))
    # What is left is the blur of two linear interpolations.
    assert left < 0.5 * before


# Shares of the error before; 2 mm where it matters, 3 mm where the method is slow.
@pytest.mark.parametrize(
    ("method", "options", "spacing_mm", "share"),
    [
        pytest.param("niftyreg", {"similarity": "nmi"}, 2.0, 1 / 3, id="niftyreg-nmi"),
        pytest.param("niftyreg", {"similarity": "mind", "preset": "locor"}, 3.0, 1 / 3, id="niftyreg-mind"),
        pytest.param("syn", {"preset": "locor", "deterministic": False}, 3.0, 1 / 2, id="syn-locor"),
        pytest.param("syn", {"preset": "rbg", "deterministic": False}, 2.0, 2 / 3, id="syn-rbg"),
        pytest.param("convexadam", {}, 3.0, 1 / 2, id="convexadam"),
        pytest.param("demons", {}, 2.0, 1 / 2, id="demons"),
    ],
)
def test_a_known_deformation_of_a_real_head_is_found(real_scans, method, options, spacing_mm, share):
    case, _, mask = known_deformation(real_scans, "patient07", spacing_mm)
    blind = Case(id=case.id, fixed=case.fixed, moving=case.moving)
    needs = {"translator": method_class("intensity_map")()} if method == "demons" else {}
    alignment = method_class(method)(options, 3, Context(threads=2, needs=needs)).align(blind)
    before = mean_error(np.zeros_like(case.true_field), case.true_field, mask)
    assert mean_error(alignment.field, case.true_field, mask) < share * before
