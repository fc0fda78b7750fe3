"""Images at the edge of what can be registered: right, or refused with a reason, never not-a-number."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from modalign.cases import Alignment, Case
from modalign.errors import ModalignError
from modalign.instance.similarities import SIMILARITIES
from modalign.methods import Context, method_class
from modalign.volumes import Volume

FEW = {"schedule": (3, 2, 2, 2, 2, 2)}
METHODS = [
    *[pytest.param("instance", {"similarity": name, **FEW}, id=name) for name in sorted(SIMILARITIES)],
    pytest.param("locor", FEW, id="locor"),
    pytest.param("locor", {"basis": "polynomial", **FEW}, id="locor-polynomial"),
    pytest.param("locor", {"residual": "normalised", **FEW}, id="locor-normalised"),
    pytest.param("corrfield", {"preset": "small"}, id="corrfield"),
    pytest.param("corrfield", {"preset": "paper"}, id="corrfield-paper"),
]


def right_or_refused(method: str, options: dict, dimension: int, case: Case) -> Alignment | None:
    """The alignment, with finite numbers within the image; None if the pair is refused with a reason."""
    refusal = ""
    try:
        alignment = method_class(method)(options, dimension, Context()).align(case)
    except ModalignError as error:
        refusal = str(error)
    if refusal:
        # What to do stands behind a colon.
        assert ": " in refusal
        return None
    assert np.isfinite(alignment.field).all()
    assert np.isfinite(alignment.image.data).all()
    assert np.abs(alignment.field).max() < max(case.fixed.shape) + max(case.moving.shape)
    if alignment.inverse_field is not None:
        assert np.isfinite(alignment.inverse_field).all()
    return alignment


def two_contrasts(shape: tuple[int, ...], smooth: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    tissue = ndi.gaussian_filter(np.random.default_rng(0).standard_normal(shape), smooth)
    tissue = (tissue - tissue.min()) / np.ptp(tissue)
    return tissue.astype(np.float32), np.sin(3 * tissue).astype(np.float32)


@pytest.mark.parametrize(("method", "options"), METHODS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_eight_voxels(method, options, dimension):
    fixed, moving = two_contrasts((8, 8, 8) if dimension == 3 else (8, 8, 1))
    found = right_or_refused(method, options, dimension, Case("tiny", Volume(fixed), Volume(moving)))
    if method != "corrfield":
        # Two or three steps of an aligned pair don't lead far.
        assert np.abs(found.field).max() < 2


@pytest.mark.parametrize(("method", "options"), METHODS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_regions_without_noise(method, options, dimension):
    """Blocks of constant intensities on a constant background, the second scan's with other ones, one voxel on."""
    labels = np.zeros((16, 15, 12), int)
    labels[3:13, 3:12, 1:11] = 1
    labels[5:9, 5:9, 3:8] = 2
    labels[9:12, 6:11, 4:9] = 3
    labels = labels if dimension == 3 else labels[:, :, 5:6]
    fixed = np.array([0, 100, 40, 70], np.float32)[labels]
    moving = np.roll(np.array([0, 30, 90, 10], np.float32)[labels], 1, axis=0)
    found = right_or_refused(method, options, dimension, Case("blocks", Volume(fixed), Volume(moving)))
    if method != "corrfield":
        assert np.abs(found.field).mean() < 1.5


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_a_part_of_the_view_on_another_grid(method, options):
    """Coarser voxels that begin in the middle of the fixed scan, along swapped and flipped axes."""
    fixed, contrast = two_contrasts((18, 16, 14), 1.5)
    affine = np.zeros((4, 4))
    affine[0, 1], affine[1, 0], affine[2, 2], affine[3, 3] = 1.4, -1.5, 1.2, 1
    affine[:3, 3] = [6, 14, 3]
    shape = (9, 12, 9)
    positions = np.tensordot(affine[:3, :3], np.indices(shape), axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)
    moving = ndi.map_coordinates(contrast, positions, order=1, mode="nearest")
    case = Case("part", Volume(fixed), Volume(moving.astype(np.float32), affine))
    found = right_or_refused(method, options, 3, case)
    if method != "corrfield":
        assert np.abs(found.field).mean() < 1.5


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_masks_of_a_few_voxels(method, options):
    fixed, moving = two_contrasts((12, 12, 10))
    mask = np.zeros(fixed.shape, np.uint8)
    mask[4:8, 4:8, 3:7] = 1
    masks = {"fixed_mask": Volume(mask), "moving_mask": Volume(mask)}
    right_or_refused(method, options, 3, Case("masked", Volume(fixed), Volume(moving), **masks))
