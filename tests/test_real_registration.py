"""Do the classical methods undo a known deformation between real contrasts? T1 stays, T2 of the same head is bent."""

import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage as ndi
from nibabel.processing import resample_to_output

from modalign.cases import Case
from modalign.methods import Context, method_class
from modalign.spatial.fields import invert
from modalign.volumes import Volume

pytestmark = pytest.mark.real


def known_deformation(folder: Path, patient: str, spacing_mm: float = 2.0, seed: int = 7, largest_voxels: float = 10.0):
    """A case with a smooth random truth, the head mask, and the mean size of the truth inside it in voxels."""
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
    bend = np.stack([ndi.gaussian_filter(rng.normal(size=fixed.shape), 9) for _ in range(3)])
    bend *= largest_voxels / np.abs(bend).max()
    positions = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij")) + bend
    moving = ndi.map_coordinates(contrast, positions, order=1)
    truth = invert(bend, tolerance=1e-4)
    mask = fixed > 0.1 * np.quantile(fixed, 0.99)
    case = Case(id=patient, fixed=Volume(fixed, t1.affine), moving=Volume(moving, t1.affine), true_field=truth)
    return case, mask, mean_error(np.zeros_like(truth), truth, mask)


def mean_error(field: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    return float(np.linalg.norm(field - truth, axis=0)[mask].mean())


@pytest.fixture(scope="module")
def bent_head(real_scans):
    return known_deformation(real_scans, "patient07")


def test_the_known_deformation_is_a_hard_and_consistent_truth(bent_head):
    case, mask, before = bent_head
    assert before == pytest.approx(1.99, abs=0.02)
    from modalign.spatial.fields import warp_volume

    unbent = warp_volume(case.moving, case.true_field, case.grid).data
    correlation = np.corrcoef(unbent[mask], case.moving.data[mask])[0, 1]
    assert correlation < 0.9


@pytest.mark.parametrize(
    ("method", "options", "share"),
    [
        pytest.param("niftyreg", {"similarity": "nmi"}, 1 / 3, id="niftyreg-nmi"),
        pytest.param("niftyreg", {"similarity": "mind", "preset": "locor"}, 1 / 3, id="niftyreg-mind"),
        pytest.param("syn", {"preset": "locor", "deterministic": False}, 1 / 2, id="syn-locor"),
        pytest.param("syn", {"preset": "rbg", "deterministic": False}, 2 / 3, id="syn-rbg"),
    ],
)
def test_a_known_deformation_of_a_real_head_is_found(bent_head, record_property, method, options, share):
    case, mask, before = bent_head
    blind = Case(id=case.id, fixed=case.fixed, moving=case.moving)
    started = time.perf_counter()
    alignment = method_class(method)(options, 3, Context(threads=2)).align(blind)
    after = mean_error(alignment.field, case.true_field, mask)
    record_property("seconds", time.perf_counter() - started)
    record_property("mean_error_voxels", after)
    assert after < share * before
