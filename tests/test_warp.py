"""Warping and integration with PyTorch, held against SciPy and closed forms."""

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage as ndi
import torch

from modalign.spatial.integrate import integrate, resize_field
from modalign.spatial.warp import identity, warp


@pytest.mark.parametrize("shape", [(17, 23), (12, 9, 15), (8, 1, 5)])
@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
def test_warp_agrees_with_scipy_inside_and_beyond_the_border(rng, shape, mode, order):
    image = rng.random((2, 3, *shape)).astype(np.float32)
    field = rng.normal(0, 3, (2, len(shape), *shape)).astype(np.float32)
    warped = warp(torch.from_numpy(image), torch.from_numpy(field), mode).numpy()
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    for b in range(2):
        for c in range(3):
            expected = ndi.map_coordinates(image[b, c], grid + field[b], order=order, mode="nearest")
            np.testing.assert_allclose(warped[b, c], expected, atol=1e-5)


def test_zero_padding_is_zero_beyond_the_border_and_the_image_inside():
    image = torch.ones(1, 1, 6, 7)
    field = torch.zeros(1, 2, 6, 7)
    field[:, 0] = 2.0
    warped = warp(image, field, padding="zeros")[0, 0]
    assert torch.equal(warped[:4], torch.ones(4, 7))
    assert torch.equal(warped[4:], torch.zeros(2, 7))


def test_a_field_on_a_smaller_grid_looks_at_the_image_in_its_own_voxels(rng):
    image = torch.from_numpy(rng.random((1, 1, 10, 12)))
    field = torch.full((1, 2, 4, 5), 2.0, dtype=image.dtype)
    torch.testing.assert_close(warp(image, field), image[:, :, 2:6, 2:7])


@pytest.mark.parametrize("field_type", [torch.bfloat16, torch.float32])
def test_an_image_in_half_precision_is_sampled_at_exact_places(rng, field_type):
    """In bfloat16, a coordinate of 300 voxels would be off by one, and a zero field would blur."""
    image = torch.from_numpy(rng.random((1, 1, 300, 20))).to(torch.bfloat16) * 1000
    field = torch.zeros(1, 2, 300, 20, dtype=field_type)
    torch.testing.assert_close(warp(image, field), image, atol=0.1, rtol=2**-8)
    field[:, 0] = 3.5
    expected = (image.float()[:, :, 3:-1] + image.float()[:, :, 4:]) / 2
    torch.testing.assert_close(warp(image, field)[:, :, :-4].float(), expected, atol=0.1, rtol=2**-8)


def test_warp_gradients_with_respect_to_image_and_field(rng):
    image = torch.from_numpy(rng.random((1, 1, 5, 6))).requires_grad_()
    field = torch.from_numpy(rng.uniform(0.1, 0.4, (1, 2, 5, 6))).requires_grad_()
    assert torch.autograd.gradcheck(warp, (image, field))


def test_a_grid_made_in_inference_mode_can_be_trained_with(rng):
    shape = (5, 11)
    with torch.inference_mode():
        warp(torch.zeros(1, 1, *shape), torch.zeros(1, 2, *shape))
    field = torch.zeros(1, 2, *shape, requires_grad=True)
    warp(torch.rand(1, 1, *shape), field).sum().backward()
    assert field.grad is not None


def test_warp_refuses_a_field_with_the_wrong_number_of_components():
    with pytest.raises(ValueError, match=r"has 2 components, in as many axes; got shape \(1, 3, 4, 4\)"):
        warp(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))


def test_a_constant_velocity_integrates_to_itself():
    velocity = torch.tensor([1.25, -0.5]).reshape(1, 2, 1, 1).expand(1, 2, 9, 9)
    for steps in (0, 1, 7):
        torch.testing.assert_close(integrate(velocity, steps), velocity)


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_linear_velocity_integrates_to_the_matrix_exponential(dimension):
    generator = np.zeros((dimension, dimension))
    generator[0, 1], generator[1, 0] = -0.3, 0.3
    generator[-1, -1] += 0.1
    shape = (33,) * dimension
    points = identity(shape, torch.device("cpu"), torch.float64)[0] - 16
    velocity = torch.einsum("ij,j...->i...", torch.from_numpy(generator), points)[None]
    expected = torch.einsum("ij,j...->i...", torch.from_numpy(scipy.linalg.expm(generator)), points) - points
    inner = (slice(None), *[slice(8, -8)] * dimension)
    exact = expected[inner]
    error = (integrate(velocity, 7)[0][inner] - exact).abs().max() / exact.abs().max()
    coarse = (integrate(velocity, 2)[0][inner] - exact).abs().max() / exact.abs().max()
    assert error < 0.002
    assert error < coarse / 8


def test_the_negative_velocity_gives_the_inverse(rng):
    velocity = np.stack([ndi.gaussian_filter(rng.standard_normal((48, 48)), 6) for _ in range(2)])
    velocity = torch.from_numpy(velocity / np.abs(velocity).max() * 4)[None]
    there, back = integrate(velocity), integrate(-velocity)
    composed = (there + warp(back, there))[:, :, 6:-6, 6:-6]
    assert there.abs().max() > 2
    assert composed.abs().max() < 0.05


def test_resizing_keeps_a_linear_map_and_rescales_its_values():
    old, new = (9, 13), (17, 7)
    matrix = torch.tensor([[0.1, -0.2], [0.3, 0.05]], dtype=torch.float64)
    scale = torch.tensor([16 / 8, 6 / 12], dtype=torch.float64)

    def linear(shape: tuple[int, int], factor: torch.Tensor) -> torch.Tensor:
        points = identity(shape, torch.device("cpu"), torch.float64)[0]
        return factor.reshape(2, 1, 1) * torch.einsum("ij,jxy->ixy", matrix, points / factor.reshape(2, 1, 1))

    resized = resize_field(linear(old, torch.ones(2, dtype=torch.float64))[None], new)
    torch.testing.assert_close(resized[0], linear(new, scale))
