"""Similarities and regularisers: known values, slow loops, other libraries, gradients, and where they are lowest."""

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch

from modalign.similarity.filters import box_mean, gaussian_mean
from modalign.similarity.losses import loss_function
from modalign.similarity.mind import mind_loss
from modalign.similarity.mse import mse
from modalign.similarity.mutual_information import mutual_information
from modalign.similarity.ncc import gaussian_ncc, global_ncc, local_ncc
from modalign.similarity.regularisation import bending_energy, folding_penalty, gradient_l2, jacobian_determinant

CROSS_MODAL = [local_ncc, mutual_information, mind_loss]


def images(rng: np.random.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Smooth random images in [0, 1], (1, 1, *shape)."""
    values = ndi.gaussian_filter(rng.standard_normal(shape), 2)
    values = (values - values.min()) / (values.max() - values.min())
    return torch.from_numpy(values)[None, None].to(dtype)


@pytest.mark.parametrize("radius", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("shape", [(11, 14), (9, 12, 10)])
def test_box_mean_agrees_with_scipy(rng, shape, radius):
    image = rng.random((2, 3, *shape))
    size = (1, 1, *[2 * radius + 1] * len(shape))
    for padding, mode in (("replicate", "nearest"), ("constant", "constant")):
        expected = ndi.uniform_filter(image, size, mode=mode)
        np.testing.assert_allclose(box_mean(torch.from_numpy(image), radius, padding), expected, atol=1e-12)


def test_gaussian_mean_agrees_with_scipy(rng):
    image = rng.random((2, 3, 12, 15, 9))
    expected = ndi.gaussian_filter(image, (0, 0, 1.3, 1.3, 1.3), mode="nearest", radius=(0, 0, 4, 4, 4))
    np.testing.assert_allclose(gaussian_mean(torch.from_numpy(image), 1.3, 4), expected, atol=1e-12)


def test_mse_counts_only_the_mask():
    fixed, warped = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    warped[..., :2] = 3
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    assert mse(fixed, warped).item() == pytest.approx(5)
    assert mse(fixed, warped, mask).item() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(20, 24), (13, 15, 12)])
@pytest.mark.parametrize("window", [3, 9])
def test_local_ncc_agrees_with_monai(rng, shape, window):
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    a, b = (torch.from_numpy(rng.random((2, 1, *shape))) for _ in range(2))
    theirs = LocalNormalizedCrossCorrelationLoss(len(shape), window, "rectangular")(a, b)
    assert local_ncc(a, b, window=window).item() == pytest.approx(theirs.item(), rel=1e-4)


def test_local_ncc_of_one_window_is_the_squared_correlation(rng):
    a, b = rng.random((9, 9)), rng.random((9, 9))
    centre = torch.zeros(1, 1, 9, 9)
    centre[..., 4, 4] = 1
    loss = local_ncc(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None], centre, window=9)
    assert -loss.item() == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1] ** 2, abs=1e-6)


def test_correlations_ignore_linear_changes_of_contrast_and_see_inversion(rng):
    image = images(rng, 32, 30)
    # Near the border, windows reach into the zeros around the image, which follow no line.
    inside = torch.zeros_like(image)
    inside[..., 4:-4, 4:-4] = 1
    assert local_ncc(image, 1 - 0.5 * image, inside).item() == pytest.approx(-1, abs=0.02)
    assert global_ncc(image, 2 * image + 3).item() == pytest.approx(0, abs=1e-9)
    assert global_ncc(image, -image).item() == pytest.approx(2, abs=1e-9)
    assert gaussian_ncc(image, 2 * image).item() == pytest.approx(0, abs=0.02)
    assert gaussian_ncc(image, -image).item() == pytest.approx(2, abs=0.02)
    assert gaussian_ncc(image, -image, squared=True).item() == pytest.approx(0, abs=0.02)


def test_global_ncc_is_numpys_correlation_and_respects_the_mask(rng):
    a, b = rng.random((2, 12, 13))
    inside = rng.random((12, 13)) < 0.4
    x, y, mask = (torch.from_numpy(np.asarray(v, float))[None, None] for v in (a, b, inside))
    assert 1 - global_ncc(x, y).item() == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-9)
    assert 1 - global_ncc(x, y, mask).item() == pytest.approx(np.corrcoef(a[inside], b[inside])[0, 1], abs=1e-9)


def test_an_even_window_is_refused():
    with pytest.raises(ValueError, match="has to be odd and at least 3, not 8"):
        local_ncc(torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9), window=8)


@pytest.mark.parametrize("bins", [16, 23])
def test_mutual_information_agrees_with_monai(rng, bins):
    from monai.losses import GlobalMutualInformationLoss

    a, b = (torch.from_numpy(rng.random((2, 1, 10, 11, 12))) for _ in range(2))
    b = 0.7 * a + 0.3 * b
    theirs = GlobalMutualInformationLoss(num_bins=bins)(a, b)
    assert mutual_information(a, b, bins=bins).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_mutual_information_of_known_distributions():
    levels = torch.arange(8).repeat_interleave(64).reshape(1, 1, 16, 32).double() / 7
    shuffled = levels.flatten()[torch.arange(512).reshape(64, 8).T.flatten()].reshape_as(levels)
    independent = torch.arange(8).repeat(64).reshape(1, 1, 16, 32).double() / 7
    sharp = {"bins": 8, "sigma_ratio": 0.1}
    assert mutual_information(levels, levels, **sharp).item() == pytest.approx(-np.log(8), abs=1e-4)
    assert mutual_information(levels, 1 - levels, **sharp).item() == pytest.approx(-np.log(8), abs=1e-4)
    assert mutual_information(levels, independent, **sharp).item() == pytest.approx(0, abs=1e-5)
    assert mutual_information(shuffled, shuffled, **sharp).item() == pytest.approx(-np.log(8), abs=1e-4)


def test_mutual_information_in_a_mask_is_that_of_the_masked_voxels(rng):
    a, b = images(rng, 20, 24), images(rng, 20, 24)
    mask = torch.zeros_like(a)
    mask[..., 4:12, 6:20] = 1
    cut = (..., slice(4, 12), slice(6, 20))
    inside = mutual_information(a[cut], b[cut])
    assert mutual_information(a, b, mask).item() == pytest.approx(inside.item(), abs=1e-9)
    assert mutual_information(a, b).item() != pytest.approx(inside.item(), abs=1e-3)


def test_mutual_information_with_limits_of_its_own_ignores_intensity_units(rng):
    a, b = images(rng, 20, 24), images(rng, 20, 24)
    scaled = mutual_information(1000 * a - 400, 3 * b, limits=None)
    assert scaled.item() == pytest.approx(mutual_information(a, b).item(), abs=1e-9)


@pytest.mark.parametrize("loss", [*CROSS_MODAL, gaussian_ncc, global_ncc, mse])
def test_flat_images_give_finite_losses_and_gradients(loss):
    fixed, warped = torch.full((1, 1, 16, 16), 0.4), torch.full((1, 1, 16, 16), 0.4, requires_grad=True)
    value = loss(fixed, warped)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(warped.grad).all()


@pytest.mark.parametrize("loss", [*CROSS_MODAL, gaussian_ncc, global_ncc, mse])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_agree_with_finite_differences(rng, loss, masked):
    fixed, warped = images(rng, 10, 11), images(rng, 10, 11) * 0.9 + 0.05
    mask = (torch.from_numpy(rng.random((1, 1, 10, 11))) < 0.7).double() if masked else None
    warped.requires_grad_()
    loss(fixed, warped, mask).backward()
    step = 1e-6
    for x, y in [(0, 0), (5, 5), (9, 3), (4, 10)]:
        bump = torch.zeros_like(fixed)
        bump[..., x, y] = step
        with torch.no_grad():
            slope = (loss(fixed, warped + bump, mask) - loss(fixed, warped - bump, mask)) / (2 * step)
        assert warped.grad[0, 0, x, y].item() == pytest.approx(slope.item(), rel=2e-3, abs=1e-7)


@pytest.mark.parametrize("loss", CROSS_MODAL)
@pytest.mark.parametrize("shape", [(48, 48), (24, 24, 24)])
def test_cross_modal_losses_are_lowest_at_alignment(rng, loss, shape):
    fixed = images(rng, *shape)
    moving = (1 - fixed) ** 2 + 0.3 * fixed
    inside = torch.zeros_like(fixed)
    inside[(slice(None), slice(None), *[slice(6, -6)] * len(shape))] = 1
    values = {s: loss(fixed, torch.roll(moving, s, dims=2), inside).item() for s in (-4, -2, -1, 0, 1, 2, 4)}
    assert min(values, key=values.get) == 0
    assert values[-2] > values[-1]
    assert values[2] > values[1]


def test_losses_by_name_take_their_settings(rng):
    a, b = images(rng, 16, 16), images(rng, 16, 16)
    assert loss_function("ncc", window=5)(a, b).item() == local_ncc(a, b, window=5).item()
    with pytest.raises(ValueError, match="there is no similarity 'ssim'; choose from mae, mse, ncc"):
        loss_function("ssim")


def linear_field(matrix: np.ndarray, *shape: int) -> torch.Tensor:
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)
    return torch.from_numpy(np.tensordot(matrix, points, axes=1))[None]


def test_regularisers_of_linear_fields():
    matrix = np.array([[0.1, 0.2, 0.0], [-0.3, 0.0, 0.1], [0.0, 0.4, -0.2]])
    field = linear_field(matrix, 7, 8, 9)
    assert gradient_l2(field).item() == pytest.approx((matrix**2).sum() / 9)
    assert bending_energy(field).item() == pytest.approx(0, abs=1e-20)
    determinant = jacobian_determinant(field)
    assert determinant.shape == (1, 5, 6, 7)
    np.testing.assert_allclose(determinant, np.linalg.det(np.eye(3) + matrix))
    assert folding_penalty(field).item() == 0


def test_folding_penalty_is_the_negative_determinant():
    mirrored = np.array([[-3.0, 0.0], [0.0, 0.5]])
    assert folding_penalty(linear_field(mirrored, 6, 6)).item() == pytest.approx(3.0)


@pytest.mark.parametrize("shape", [(9, 10), (7, 8, 9)])
def test_bending_energy_agrees_with_monai(rng, shape):
    from monai.losses import BendingEnergyLoss

    field = torch.from_numpy(rng.random((2, len(shape), *shape)))
    assert bending_energy(field).item() == pytest.approx(BendingEnergyLoss()(field).item(), rel=1e-9)


def test_bending_energy_of_a_quadratic_field():
    x, y = np.meshgrid(np.arange(8.0), np.arange(9.0), indexing="ij")
    field = torch.from_numpy(np.stack([x**2, x * y]))[None]
    # Mean over both components of (2^2) and (2 * 1^2).
    assert bending_energy(field).item() == pytest.approx((4 + 2) / 2)


def test_mixed_precision_changes_no_similarity(rng):
    """Matrices are multiplied in half precision there, where differences of means and sums of histograms get lost."""
    fixed, warped = images(rng, 40, 36).float() + 3, images(rng, 40, 36).float() + 3
    inside = (fixed > 3.3).float()
    measures = (
        lambda: gaussian_mean(fixed, 2.0),
        lambda: gaussian_ncc(fixed, warped, inside),
        lambda: mutual_information(fixed, warped, None, 23, limits=None),
        lambda: mutual_information(fixed - 3, warped - 3, inside, 50),
    )
    for measure in measures:
        expected = measure()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(measure(), expected)
    # What a network makes under mixed precision is in half precision itself.
    coarse = warped.bfloat16()
    assert gaussian_ncc(fixed, coarse).item() == gaussian_ncc(fixed, coarse.float()).item()
    assert mutual_information(fixed, coarse).item() == mutual_information(fixed, coarse.float()).item()
