"""MIND and MIND-SSC: convexAdam, definitions in loops and SciPy, and automatic differentiation of the plain formula."""

import itertools

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch

from modalign.similarity.filters import gaussian_mean
from modalign.similarity.mind import mind, mind_loss, mind_ssc


@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 2), (2, 1)])
def test_mind_ssc_agrees_with_convexadam(rng, radius, dilation):
    from convexAdam.convex_adam_utils import MINDSSC

    image = torch.from_numpy(rng.random((1, 1, 14, 12, 13))).float()
    theirs = MINDSSC(image.clone(), radius, dilation, device="cpu")
    ours = mind_ssc(image, radius, dilation)
    # Their channels come in another order, and a pair may be taken either way round.
    unmatched = list(range(12))
    for channel in theirs[0]:
        differences = [(ours[0, k] - channel).abs().max().item() for k in unmatched]
        assert min(differences) < 2e-5  # float32: descriptors divide by small variances
        unmatched.pop(int(np.argmin(differences)))


def test_mind_ssc_in_2d_agrees_with_a_loop_over_pixels(rng):
    image, radius, dilation = rng.random((9, 11)), 1, 2
    padded = np.pad(image, dilation, mode="edge")

    def at(x: int, y: int, offset: tuple[int, int]) -> float:
        return padded[x + offset[0] + dilation, y + offset[1] + dilation]

    neighbours = [(-dilation, 0), (dilation, 0), (0, -dilation), (0, dilation)]
    pairs = [(p, q) for p, q in itertools.combinations(neighbours, 2) if p[0] * q[0] + p[1] * q[1] == 0]
    squared = np.array([[[(at(x, y, p) - at(x, y, q)) ** 2 for y in range(11)] for x in range(9)] for p, q in pairs])
    window = np.pad(squared, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    distance = np.array(
        [[[window[c, x : x + 3, y : y + 3].mean() for y in range(11)] for x in range(9)] for c in range(4)]
    )
    distance -= distance.min(0)
    variance = distance.mean(0)
    variance = variance.clip(0.001 * variance.mean(), 1000 * variance.mean())
    ours = mind_ssc(torch.from_numpy(image)[None, None], radius, dilation)[0]
    assert len(ours) == 4
    np.testing.assert_allclose(ours, np.exp(-distance / variance), atol=1e-9)


def test_mind_ssc_with_gaussian_patches_agrees_with_scipy(rng):
    image = rng.random((10, 12))
    up, down, left, right = (ndi.shift(image, s, order=0, mode="nearest") for s in [(-1, 0), (1, 0), (0, -1), (0, 1)])
    pairs = [(up, left), (up, right), (down, left), (down, right)]
    distance = np.stack([ndi.gaussian_filter((a - b) ** 2, 1.0, mode="nearest", radius=3) for a, b in pairs])
    distance -= distance.min(0)
    variance = distance.mean(0)
    variance = variance.clip(0.001 * variance.mean(), 1000 * variance.mean())
    ours = mind_ssc(torch.from_numpy(image)[None, None], dilation=1, sigma=1.0)[0].numpy()
    expected = np.exp(-distance / variance)
    assert ours.shape == expected.shape
    for channel in expected:
        assert min(np.abs(own - channel).max() for own in ours) < 1e-9


@pytest.mark.parametrize("shape", [(9, 11), (8, 7, 9)])
@pytest.mark.parametrize("patches", [{"radius": 1}, {"radius": 2, "dilation": 1}, {"radius": 0}, {"sigma": 0.7}])
def test_gradient_of_mind_ssc_agrees_with_automatic_differentiation(rng, shape, patches):
    image = torch.from_numpy(rng.random((2, 1, *shape)))
    # Where nothing changes, the variance is held, and all patches are equally far from each other.
    image[:, :, : shape[0] // 2] = 0.3
    image.requires_grad_()
    pull = torch.from_numpy(rng.random((2, len(shape) * (len(shape) - 1) * 2, *shape)))
    ours, plain = (
        torch.autograd.grad((descriptor(image, **patches) * pull).sum(), image)[0]
        for descriptor in (mind_ssc, plain_mind_ssc)
    )
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


def plain_mind_ssc(image, radius=2, dilation=2, sigma=None):
    """The formula in operations that PyTorch differentiates by itself."""
    axes = range(2, image.ndim)
    pad = torch.nn.functional.pad
    padded = pad(image, [dilation] * 2 * len(axes), mode="replicate")

    def shifted(axis, sign):
        whole = [slice(dilation, n - dilation) for n in padded.shape[2:]]
        whole[axis - 2] = slice(dilation * (1 + sign), padded.shape[axis] - dilation * (1 - sign))
        return padded[(..., *whole)]

    sides = list(itertools.product(axes, (-1, 1)))
    pairs = [(p, q) for p, q in itertools.combinations(sides, 2) if p[0] != q[0]]
    squared = torch.cat([(shifted(*p) - shifted(*q)).square() for p, q in pairs], 1)
    if sigma is None:
        distance = pad(squared, [radius] * 2 * len(axes), mode="replicate")
        for axis in axes:
            distance = distance.unfold(axis, 2 * radius + 1, 1).mean(-1)
    else:
        distance = gaussian_mean(squared, sigma)
    distance = distance - distance.amin(1, keepdim=True)
    variance = distance.mean(1, keepdim=True)
    level = variance.detach().mean(tuple(range(1, variance.ndim)), keepdim=True)
    return torch.exp(-distance / (torch.minimum(torch.maximum(variance, 0.001 * level), 1000 * level) + 1e-12))


def test_mind_agrees_with_its_definition_in_scipy(rng):
    image = rng.random((10, 12, 9))
    offsets = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]

    def distance(offset: tuple[int, ...]) -> np.ndarray:
        shifted = ndi.shift(image, [-o for o in offset], order=0, mode="nearest")
        return ndi.gaussian_filter((image - shifted) ** 2, 0.5, mode="nearest", radius=2)

    distances = np.stack([distance(offset) for offset in offsets])
    expected = np.exp(-distances / (distances.mean(0) + 1e-5))
    expected /= expected.max(0)
    ours = mind(torch.from_numpy(image)[None, None], offsets)[0]
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_mind_descriptors_do_not_see_inversion_and_offsets(rng):
    image = torch.from_numpy(ndi.gaussian_filter(rng.standard_normal((20, 22)), 2))[None, None]
    torch.testing.assert_close(mind_ssc(image), mind_ssc(3 - 2 * image))
    assert mind_loss(image, 3 - 2 * image).item() == pytest.approx(0, abs=1e-9)
