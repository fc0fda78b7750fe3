"""Locor's similarity: against direct least squares in every window, finite differences, and known shifts."""

import math

import numpy as np
import pytest
import torch

from modalign.similarity.local_regression import local_regression_loss, window_matrix
from modalign.similarity.locor import LearnedBasis, Locor, PolynomialBasis, gradient_magnitude


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two contrasts of one scene, (1, 1, *shape) in float64; the second one is not a function of the first alone."""
    import scipy.ndimage as ndi

    noise = np.random.default_rng(seed)
    tissue = ndi.gaussian_filter(noise.standard_normal(shape), 1.5)
    tissue = (tissue - tissue.min()) / np.ptp(tissue)
    bias = 1 + 0.3 * ndi.gaussian_filter(noise.standard_normal(shape), 6)
    other = np.sin(math.pi * tissue) * bias
    return tuple(torch.from_numpy(i)[None, None] for i in (tissue, other / other.max()))


def windows(shape, sigma, stride, shifts):
    return [torch.from_numpy(window_matrix(n, sigma, stride, s)) for n, s in zip(shape, shifts, strict=True)]


def direct_loss(source, target, mask, basis, matrices, residual, ridge=1e-4, floor=1e-4):
    """One least-squares problem per window, solved by NumPy on the weighted samples themselves."""
    values = basis(source[0].flatten(1)).detach().numpy()
    wanted, valid = target[0].flatten(1).numpy(), mask.flatten().numpy()
    total, weights = 0.0, 0.0
    axes = [m.numpy() for m in matrices]
    for window in np.ndindex(*[len(m) for m in axes]):
        weight = axes[0][window[0]]
        for matrix, index in zip(axes[1:], window[1:], strict=True):
            weight = np.multiply.outer(weight, matrix[index])
        weight = weight.ravel() * valid
        share = weight.sum()
        if share <= 1e-3:
            continue
        root = np.sqrt(weight / share)
        # The ridge as further samples, so that nothing of the normal equations is used.
        design = np.vstack([(values * root).T, math.sqrt(ridge) * np.eye(len(values))])
        for channel in wanted:
            right = np.concatenate([channel * root, np.zeros(len(values))])
            best = np.linalg.lstsq(design, right, rcond=None)[0]
            left = (((channel - best @ values) * root) ** 2).sum()
            mean = (channel * root**2).sum()
            variance = ((channel - mean) ** 2 * root**2).sum()
            total += share * (math.log(left + floor) if residual == "log" else left / (variance + floor))
        weights += share * len(wanted)
    return total / weights


@pytest.mark.parametrize("residual", ["log", "normalised"])
@pytest.mark.parametrize(
    ("shape", "basis"),
    [
        ((9, 8, 7), LearnedBasis(2, 4, (6, 5), rng()).double()),
        ((9, 8, 7), PolynomialBasis(2, 2)),
        ((17, 20), LearnedBasis(2, 5, (16, 16), rng()).double()),
        ((17, 20), PolynomialBasis(2, 3)),
    ],
)
def test_the_loss_is_that_of_least_squares_in_every_window(shape, basis, residual):
    fixed, moving = scene(shape)
    source, target = (torch.cat([i, gradient_magnitude(i)], 1) for i in (moving, fixed))
    mask = torch.ones_like(fixed)
    mask[..., :3] = 0
    mask[..., -1] = 0
    matrices = windows(shape, 1.0, 3, [0.7, -1.2, 0.1][: len(shape)])
    fast = local_regression_loss(source, target, mask, basis, matrices, residual)
    assert float(fast.detach()) == pytest.approx(direct_loss(source, target, mask, basis, matrices, residual), rel=1e-9)
    single = local_regression_loss(
        *(t.float() for t in (source, target, mask)), basis.float(), [m.float() for m in matrices], residual
    )
    basis.double()
    assert float(single.detach()) == pytest.approx(float(fast.detach()), rel=2e-4)


@pytest.mark.parametrize("residual", ["log", "normalised"])
@pytest.mark.parametrize("shape", [(7, 6, 5), (9, 8)])
@pytest.mark.parametrize("polynomial", [False, True])
def test_gradients_are_those_of_finite_differences(shape, residual, polynomial):
    fixed, moving = scene(shape)
    mask = torch.ones_like(fixed)
    mask[..., 0] = 0
    basis = PolynomialBasis(1, 3) if polynomial else LearnedBasis(1, 3, (4,), rng(1)).double()
    matrices = windows(shape, 1.0, 2, [0.4, -0.8, 0.3][: len(shape)])

    def loss(source, *parameters):
        return local_regression_loss(source, fixed, mask, basis, matrices, residual)

    # A large ridge, so that an error in its share of the gradient shows.
    def ridged(source, *parameters):
        return local_regression_loss(source, fixed, mask, basis, matrices, residual, ridge=0.1)

    for function in (loss, ridged):
        assert torch.autograd.gradcheck(function, (moving.clone().requires_grad_(), *basis.parameters()), rtol=1e-4)


def test_chunks_do_not_change_the_result(monkeypatch):
    fixed, moving = scene((12, 9, 8))
    basis = LearnedBasis(1, 3, (4,), rng()).double()
    matrices = windows((12, 9, 8), 0.8, 3, [0.2, 0.3, -1.0])
    results = []
    for chunk in (10**6, 1, 200):
        monkeypatch.setattr("modalign.similarity.local_regression.CHUNK", chunk)
        source = moving.clone().requires_grad_()
        value = local_regression_loss(source, fixed, torch.ones_like(fixed), basis, matrices)
        results.append((value.detach(), *torch.autograd.grad(value, [source, *basis.parameters()])))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"functions": 5, "window_sigma": 0.8},
        {"residual": "normalised"},
        {"basis": "polynomial"},
        {"basis": "polynomial", "derivative": False, "degree": 5},
        {"derivative": False},
    ],
)
def test_it_is_lowest_at_alignment_in_both_directions(settings):
    """The mean over random lattices, of shifts along one axis; what is learned is learned at alignment."""
    fixed, moving = scene((40, 36))
    similarity = Locor(**settings, rng=rng(2))
    valid = torch.ones_like(fixed)
    networks = similarity.networks()
    if networks is not None:
        networks.double()
    mask = similarity.validity(valid)
    channels = {True: (moving, fixed), False: (fixed, moving)}

    def loss(shift, forward, draws):
        warped, still = (similarity.channels(i, valid) for i in channels[forward])
        cut = (slice(None), slice(None), slice(4, -4))
        moved = torch.roll(warped, shift, 2)[cut]
        return similarity.loss(
            similarity.target(still, valid)[cut], moved, mask[cut], forward=forward, spacing=1.0, rng=draws
        )

    if networks is not None:
        optimiser = torch.optim.Adam(networks.parameters(), lr=1e-2)
        for step in range(60):
            optimiser.zero_grad()
            (loss(0, True, rng(step)) + loss(0, False, rng(step))).backward()
            optimiser.step()
    for forward in (True, False):
        curve = {s: np.mean([float(loss(s, forward, rng(d)).detach()) for d in range(3)]) for s in range(-4, 5)}
        assert min(curve, key=curve.get) == 0
        assert curve[1] < curve[3]
        assert curve[-1] < curve[-3]


def test_windows_sum_to_one_and_meet_every_voxel_equally():
    matrix = window_matrix(30, 1.0, 3)
    inside = matrix[3:-3]
    np.testing.assert_allclose(inside.sum(1), 1)
    # Averaged over the random shifts, no voxel counts more than its neighbour.
    average = np.mean([window_matrix(30, 1.0, 3, s).sum(0) for s in np.linspace(-1.5, 1.5, 61)[:-1]], axis=0)
    assert np.ptp(average[6:-6]) < 0.01 * average.mean()
    assert len(window_matrix(30, 0.8, 3)) == 10
    assert len(window_matrix(30, 1.0, 3)) == 12


def test_what_lies_outside_the_mask_does_not_count():
    fixed, moving = scene((20, 21))
    similarity = Locor(rng=rng())
    valid = torch.ones_like(fixed)
    valid[..., :7] = 0
    mask = similarity.validity(valid)
    spoilt = moving.clone()
    spoilt[..., :7] = 5.0
    losses = [
        similarity.loss(
            similarity.channels(fixed.float(), valid),
            similarity.channels(image.float(), valid),
            mask.float(),
            forward=True,
            spacing=1.0,
            rng=rng(1),
        )
        for image in (moving, spoilt)
    ]
    assert float(losses[0].detach()) == float(losses[1].detach())


def test_empty_masks_and_constant_images_give_finite_numbers():
    similarity = Locor(functions=5, rng=rng())
    flat = torch.full((1, 2, 8, 8, 8), 0.5, requires_grad=True)
    target = torch.zeros(1, 2, 8, 8, 8)
    for mask in (torch.zeros(1, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)):
        loss = similarity.loss(target, flat, mask, forward=True, spacing=1.0, rng=rng())
        gradient = torch.autograd.grad(loss, flat)[0]
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_the_gradient_magnitude_of_a_ramp_is_its_slope():
    x, y, z = np.meshgrid(np.arange(6), np.arange(5), np.arange(4), indexing="ij")
    ramp = torch.from_numpy(0.3 * x - 0.4 * y + 1.2 * z)[None, None]
    np.testing.assert_allclose(gradient_magnitude(ramp), 1.3)


def test_the_polynomial_basis_has_the_terms_of_the_paper():
    assert PolynomialBasis(2, 3).functions == 10
    assert PolynomialBasis(1, 5).functions == 6
    values = PolynomialBasis(2, 2)(torch.tensor([[2.0], [3.0]]))
    assert sorted(values[:, 0].tolist()) == [1, 2, 3, 4, 6, 9]
