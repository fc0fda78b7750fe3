"""Locor's similarity with its gradient channel, in three dimensions, and in the smallest windows that are searched."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from registration_pairs import blind, contrast_pair, mean_error

from modalign.methods.locor import Locor
from modalign.similarity.local_regression import window_matrix
from modalign.similarity.locor import Locor as Similarity
from modalign.volumes import axis_aligned


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(shape: tuple[int, ...], smooth: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Two contrasts of one object, (1, 1, *shape), float64; neither is a function of the other everywhere."""
    noise = np.random.default_rng(0)
    tissue = ndi.gaussian_filter(noise.standard_normal(shape), smooth)
    tissue = (tissue - tissue.min()) / np.ptp(tissue)
    other = np.sin(np.pi * tissue) * (1 + 0.3 * ndi.gaussian_filter(noise.standard_normal(shape), 6))
    return tuple(torch.from_numpy(image)[None, None] for image in (tissue, other / other.max()))


@pytest.mark.parametrize("settings", [{"functions": 3, "hidden": (4,)}, {"basis": "polynomial", "degree": 2}])
@pytest.mark.parametrize("shape", [(8, 7), (6, 5, 5)])
def test_gradients_through_the_derivative_channel_are_those_of_finite_differences(settings, shape):
    """By the moving image's intensities, of which the second channel is made."""
    fixed, moving = scene(shape, smooth=1.0)
    similarity = Similarity(**settings, derivative_scale=1.0, stride=2, rng=rng(1))
    if (networks := similarity.networks()) is not None:
        networks.double()
    valid = torch.ones_like(fixed)
    target, mask = similarity.channels(fixed, valid), similarity.validity(valid)

    def loss(image):
        source = similarity.channels(image, valid)
        assert source.shape[1] == 2
        return similarity.loss(target, source, mask, forward=True, spacing=1.0, rng=rng(2))

    assert torch.autograd.gradcheck(loss, moving.clone().requires_grad_(), rtol=1e-4)


@pytest.mark.parametrize("derivative", [True, False])
def test_it_is_lowest_at_alignment_when_a_volume_is_shifted_along_any_axis(derivative):
    fixed, moving = scene((22, 21, 20))
    similarity = Similarity(basis="polynomial", degree=2, derivative=derivative)
    valid = torch.ones_like(fixed)
    inner = (..., *[slice(4, -4)] * 3)
    target, source = (similarity.channels(image, valid) for image in (fixed, moving))
    for axis in (2, 3, 4):
        losses = []
        for shift in (-3, -2, -1, 0, 1, 2, 3):
            moved = torch.roll(source, shift, axis)[inner]
            of_draws = [
                similarity.loss(target[inner], moved, valid[inner], forward=True, spacing=1.0, rng=rng(draw))
                for draw in range(3)
            ]
            losses.append(float(torch.stack(of_draws).mean()))
        assert all(a > b for a, b in pairwise(losses[:4])), (axis, losses)
        assert all(a < b for a, b in pairwise(losses[3:])), (axis, losses)


def test_windows_of_less_than_a_voxel_lie_on_the_nearest_voxels():
    for shift in (-1.5, -0.5, 0.0, 0.3, 1.49):
        matrix = window_matrix(30, 0.35, 3, shift)
        assert np.isfinite(matrix).all()
        np.testing.assert_allclose(matrix[1:-1].sum(1), 1)
        assert np.sort(matrix[1:-1], axis=1)[:, -2:].sum(1).min() > 0.95
    # Over the shifts every voxel has its turn.
    total = sum(window_matrix(30, 0.35, 3, shift).sum(0) for shift in np.linspace(-1.5, 1.5, 31)[:-1])
    assert np.ptp(total[3:-3]) < 0.15 * total.mean()


@pytest.mark.parametrize("window_sigma", [0.35, 4.0])
def test_the_ends_of_the_published_range_of_windows_register(window_sigma):
    case, body = contrast_pair(axis_aligned((48, 48, 1), (1, 1, 3)), largest_voxels=3, in_plane=True)
    options = {"preset": "small", "window_sigma": window_sigma, "schedule": (10, 0, 20, 20, 15, 0)}
    found = Locor(options, 2).align(blind(case)).field
    before = mean_error(np.zeros_like(case.true_field), case.true_field, body)
    assert mean_error(found, case.true_field, body) < 0.85 * before
