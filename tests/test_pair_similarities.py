"""The similarities of the instance optimiser: slow definitions, gradients, shifts, and images without contrast."""

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch

from modalign.instance.similarities import SIMILARITIES, pair_similarity
from modalign.similarity.correlation_ratio import correlation_ratio, region_weights, srwcr
from modalign.similarity.mutual_information import histogram_information, mutual_information
from modalign.similarity.ncc import local_ncc, masked_local_ncc
from modalign.similarity.parzen import joint_histogram, parzen_taps

CROSS_MODAL = sorted(set(SIMILARITIES) - {"mae"})


def textured(rng: np.random.Generator, *shape: int, smooth: float = 2.0) -> torch.Tensor:
    """A smooth random image from 0 to 1, (1, 1, *shape), float64."""
    values = ndi.gaussian_filter(rng.standard_normal(shape), smooth)
    return torch.from_numpy((values - values.min()) / np.ptp(values))[None, None]


def dissimilarity(name: str, fixed: torch.Tensor, warped: torch.Tensor, mask: torch.Tensor, **settings) -> torch.Tensor:
    """As the optimiser calls it: target and channels first."""
    measure = pair_similarity(name, **settings)
    whole = torch.ones_like(mask)
    target = measure.target(measure.channels(fixed, whole), whole)
    source = measure.channels(warped, whole)
    return measure.loss(target, source, mask, forward=True, spacing=1.0, rng=torch.Generator())


def dense_weights(values: torch.Tensor, bins: int, window: str) -> torch.Tensor:
    """Parzen weights (N, slots) from the taps."""
    taps = parzen_taps(values.flatten(), bins, window)
    dense = values.new_zeros(values.numel(), taps.slots)
    for k, weights in enumerate(taps.weights):
        dense[torch.arange(len(dense)), taps.first + k] = weights
    return dense


def naive_srwcr(fixed, warped, mask, bins, stride, window):
    """The double sum over bins a and b of every region, as it is printed."""
    a, b = dense_weights(warped, bins, window), dense_weights(fixed, bins, window)
    centre = torch.linspace(0, 1, b.shape[1], dtype=fixed.dtype)
    axes = [region_weights(n, stride, fixed.device, fixed.dtype) for n in fixed.shape[2:]]
    letters = ("ax,by->abxy", "ax,by,cz->abcxyz")[len(axes) - 2]
    regions = torch.einsum(letters, *axes).reshape(-1, fixed.numel())
    total, mass = 0.0, 0.0
    for weights in regions:
        p = a.T @ (b * (weights * mask.flatten())[:, None])
        mean = (p @ centre) / p.sum(1).clamp(min=1e-12)
        p_b = p.sum(0) / p.sum().clamp(min=1e-12)
        variance = p_b @ centre**2 - (p_b @ centre) ** 2
        total = total + (p * (centre**2 - mean[:, None] ** 2)).sum() / (variance + 1e-6)
        mass = mass + p.sum()
    return total / mass


@pytest.mark.parametrize("window", ["polynomial", "bspline"])
@pytest.mark.parametrize(("shape", "stride"), [((13, 17), 3), ((9, 11, 10), 4)])
def test_srwcr_agrees_with_the_sum_over_all_pairs_of_bins(rng, shape, stride, window):
    fixed, warped = (torch.from_numpy(rng.random((1, 1, *shape))) for _ in range(2))
    mask = torch.from_numpy(rng.random((1, 1, *shape)))
    warped.requires_grad_()
    fast, slow = (f(fixed, warped, mask, 8, stride, window) for f in (srwcr, naive_srwcr))
    assert fast.item() == pytest.approx(slow.item(), rel=1e-10)
    gradients = [torch.autograd.grad(value, warped)[0] for value in (fast, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


def test_srwcr_works_in_portions(rng, monkeypatch):
    fixed, warped = (torch.from_numpy(rng.random((1, 1, 12, 23, 7))).requires_grad_() for _ in range(2))
    whole = srwcr(fixed, warped)
    expected = torch.autograd.grad(whole, warped)[0]
    monkeypatch.setattr("modalign.similarity.correlation_ratio._CHUNK_VALUES", 12 * 7 * 64 * 5)
    portions = srwcr(fixed, warped)
    assert portions.item() == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(portions, warped)[0], expected)


def test_regions_cover_the_image_evenly():
    weights = region_weights(24, 4, torch.device("cpu"), torch.float64)
    np.testing.assert_allclose(weights.sum(0)[4:-4], 1)
    np.testing.assert_allclose(weights, weights.flip(0, 1), atol=1e-15)
    assert int((weights[3] > 0).sum()) == 16


@pytest.mark.parametrize("window", ["polynomial", "bspline"])
def test_parzen_weights_add_up_and_have_the_right_mean_and_slope(window):
    values = torch.linspace(0, 1, 401, dtype=torch.float64).requires_grad_()
    dense = dense_weights(values, 9, window)
    np.testing.assert_allclose(dense.sum(1).detach(), 1)
    slopes = torch.autograd.functional.jacobian(lambda v: dense_weights(v, 9, window).sum(0), values)
    taps = parzen_taps(values.detach(), 9, window)
    inside = slice(1, -1)
    for k in range(len(taps.weights)):
        own = slopes[taps.first + k, torch.arange(401)]
        np.testing.assert_allclose(own[inside], taps.slopes[k][inside], atol=1e-9)
    outside = parzen_taps(torch.tensor([-0.2, 1.3]), 9, window)
    assert not outside.slopes.any()


def test_the_polynomial_window_is_that_of_its_paper():
    weights = dense_weights(torch.tensor([0.5, 0.525, 0.55, 0.575], dtype=torch.float64), 11, "polynomial")
    t = np.array([0, 0.25, 0.5, 0.75])
    expected = np.where(t < 0.5, 1 - 0.1 * t - 1.8 * t**2, 1.9 - 3.7 * t + 1.8 * t**2)
    np.testing.assert_allclose(weights[:, 5], expected, atol=1e-12)


def test_correlation_ratio_is_the_variance_within_bins(rng):
    codes = rng.integers(0, 5, (1, 1, 20, 20))
    fixed = torch.from_numpy(rng.random((1, 1, 20, 20)) + 0.3 * codes) / 2.5
    mask = torch.from_numpy((rng.random((1, 1, 20, 20)) < 0.7).astype(float))
    # Intensities on the centres of bins fall into one bin each.
    ours = correlation_ratio(fixed, torch.from_numpy(codes / 4.0), mask, bins=5)
    chosen = mask.numpy() > 0
    values, groups = fixed.numpy()[chosen], codes[chosen]
    within = sum(values[groups == g].var() * (groups == g).mean() for g in range(5))
    assert ours.item() == pytest.approx(within / (values.var() + 1e-6), rel=1e-9)
    function = torch.from_numpy(np.cos(codes / 4.0))
    assert correlation_ratio(function, torch.from_numpy(codes / 4.0), bins=5).item() == pytest.approx(0, abs=1e-9)


def test_joint_histogram_gives_the_mutual_information_of_the_simple_version(rng):
    fixed, warped = textured(rng, 20, 22, 19), textured(rng, 20, 22, 19).requires_grad_()
    mask = (torch.from_numpy(rng.random(fixed.shape)) < 0.6).double()
    simple = mutual_information(fixed, warped, mask, 23)
    fast = -histogram_information(joint_histogram(fixed, warped, mask, 23))
    assert fast.item() == pytest.approx(simple.item(), rel=1e-9)
    gradients = [torch.autograd.grad(value, warped)[0] for value in (fast, simple)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-12)


def test_mixed_precision_does_not_change_the_joint_histogram(rng):
    fixed, warped = textured(rng, 20, 22, 19).float(), textured(rng, 20, 22, 19).float()
    expected = joint_histogram(fixed, warped, torch.ones_like(fixed), 23)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(joint_histogram(fixed, warped, torch.ones_like(fixed), 23), expected)


def test_information_of_known_distributions():
    identical = torch.diag(torch.full((8,), 1 / 8, dtype=torch.float64))
    assert histogram_information(identical).item() == pytest.approx(np.log(8), abs=1e-4)
    assert histogram_information(identical, True).item() == pytest.approx(2, abs=1e-4)
    independent = torch.full((8, 8), 1 / 64, dtype=torch.float64)
    assert histogram_information(independent).item() == pytest.approx(0, abs=1e-4)
    assert histogram_information(independent, True).item() == pytest.approx(1, abs=1e-4)


def test_masked_local_correlation_agrees_with_loops_and_with_the_plain_one(rng):
    fixed, warped = (torch.from_numpy(rng.random((1, 1, 12, 13))) for _ in range(2))
    mask = (torch.from_numpy(rng.random((1, 1, 12, 13))) < 0.8).double()
    squared = []
    for x, y in np.argwhere(mask[0, 0].numpy() > 0):
        cut = (0, 0, slice(max(0, x - 2), x + 3), slice(max(0, y - 2), y + 3))
        valid = mask[cut].numpy() > 0
        a, b = fixed[cut].numpy()[valid], warped[cut].numpy()[valid]
        covariance = ((a - a.mean()) * (b - b.mean())).mean()
        squared.append(covariance**2 / (a.var() * b.var() + 1e-5 / 25**2))
    assert masked_local_ncc(fixed, warped, mask, 5).item() == pytest.approx(-np.mean(squared), rel=1e-9)
    # Inside a border of zeros, it makes no difference what lies outside the image.
    a, b = (torch.nn.functional.pad(image, [9] * 4) for image in (fixed, warped))
    assert masked_local_ncc(a, b, torch.ones_like(a), 5).item() == pytest.approx(local_ncc(a, b, None, 5).item())


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
@pytest.mark.parametrize("shape", [(10, 11), (7, 8, 6)])
def test_gradients_agree_with_finite_differences(rng, name, shape):
    fixed, warped = textured(rng, *shape, smooth=1.0), 0.9 * textured(rng, *shape, smooth=1.0) + 0.05
    mask = torch.from_numpy(rng.random((1, 1, *shape)))
    settings = {"srwcr": {"bins": 6}, "cr": {"bins": 6}, "mi": {"bins": 6}, "nmi": {"bins": 6}}.get(name, {})
    warped.requires_grad_()
    dissimilarity(name, fixed, warped, mask, **settings).backward()
    random = torch.from_numpy(rng.normal(size=(3, *warped.shape)))
    step = 1e-6
    for direction in random:
        with torch.no_grad():
            up, down = (dissimilarity(name, fixed, warped + s * direction, mask, **settings) for s in (step, -step))
        slope = (up - down).item() / (2 * step)
        assert (warped.grad * direction).sum().item() == pytest.approx(slope, rel=2e-4, abs=1e-8)


@pytest.mark.parametrize("name", CROSS_MODAL)
@pytest.mark.parametrize("shape", [(64, 64), (28, 28, 28)])
def test_lowest_at_alignment_when_one_image_is_shifted(rng, name, shape):
    fixed = textured(rng, *shape)
    other = (1 - fixed) ** 2 + 0.3 * fixed
    mask = torch.zeros_like(fixed)
    mask[(slice(None), slice(None), *[slice(6, -6)] * len(shape))] = 1
    for axis in range(2, 2 + len(shape)):
        values = {
            s: dissimilarity(name, fixed, torch.roll(other, s, axis), mask).item() for s in (-4, -2, -1, 0, 1, 2, 4)
        }
        assert min(values, key=values.get) == 0
        assert values[-4] > values[-2] > values[-1]
        assert values[4] > values[2] > values[1]


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
def test_flat_images_and_empty_masks_are_finite(rng, name):
    flat = torch.full((1, 1, 12, 12), 0.4)
    textures = textured(rng, 12, 12).float()
    half = textures.clone()
    half[..., :6] = 0.3
    whole, none = torch.ones_like(flat), torch.zeros_like(flat)
    for fixed, warped, mask in [
        (flat, flat, whole),
        (textures, flat, whole),
        (flat, half, whole),
        (textures, half, none),
    ]:
        warped = warped.clone().requires_grad_()
        value = dissimilarity(name, fixed, warped, mask)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(warped.grad).all()
    assert not warped.grad.any()


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
def test_the_same_images_give_the_same_bytes(rng, name):
    fixed, warped = textured(rng, 20, 18, 16).float(), textured(rng, 20, 18, 16).float()
    results = []
    for _ in range(2):
        image = warped.clone().requires_grad_()
        value = dissimilarity(name, fixed, image, torch.ones_like(fixed))
        value.backward()
        results.append(value.detach().numpy().tobytes() + image.grad.numpy().tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
@pytest.mark.parametrize("shape", [(28, 28), (18, 19, 17)])
def test_nothing_outside_the_mask_counts(rng, name, shape):
    fixed, warped = textured(rng, *shape), textured(rng, *shape)
    valid = torch.zeros_like(fixed)
    valid[..., 3:-2, 2:-3] = 1
    noise = torch.rand(warped.shape, generator=torch.Generator().manual_seed(0)).double()
    # As the optimiser does it: the measure says where it can be trusted, given where the images are valid.
    values = []
    for settings in [{"inside": True}, {}] if name.startswith("mind") else [{}]:
        mask = pair_similarity(name, **settings).validity(valid)
        assert mask.any()
        disturbed = torch.where(valid > 0, warped, noise)
        values += [dissimilarity(name, fixed, image, mask, **settings).item() for image in (warped, disturbed)]
    assert values[0] == pytest.approx(values[1], rel=1e-6 if name.startswith("mind") else 1e-9)
    if name.startswith("mind"):
        # The code of the Locor paper's comparison keeps them.
        assert abs(values[2] - values[3]) > 1e-3 * values[2]


@pytest.mark.parametrize(("name", "settings", "reach"), [("mind-ssc", {"radius": 1}, 3), ("mind", {"sigma": 1.0}, 4)])
def test_descriptors_see_as_far_as_their_reach(rng, name, settings, reach):
    """One sample more of it would leave valid descriptors out, one less would let invalid ones in."""
    image = textured(rng, 21, 21, smooth=1.0).requires_grad_()
    seen = torch.autograd.grad(pair_similarity(name, **settings).descriptor(image)[0, :, 10, 10].sum(), image)[0]
    columns = torch.nonzero(seen[0, 0].abs().amax(0) > 1e-12).flatten()
    assert (int(columns.min()), int(columns.max())) == (10 - reach, 10 + reach)
    mask = torch.ones(1, 1, 21, 21)
    mask[..., 0] = 0
    valid = pair_similarity(name, **settings, inside=True).validity(mask)[0, 0, 10]
    assert valid.tolist() == [0.0] * (reach + 1) + [1.0] * (20 - reach)


def test_extreme_intensities_are_clipped_on_request(rng):
    image = textured(rng, 30, 30) * 0.1
    image[..., 3, 3] = 1
    clipped = pair_similarity("mi", quantile=0.01).channels(image, torch.ones_like(image))
    assert clipped.quantile(0.5) > 0.3
    assert clipped.max() == 1


def test_unknown_similarities_and_windows_are_refused():
    with pytest.raises(ValueError, match="there is no similarity 'ssd'; choose from srwcr, mind-ssc, mind, mi"):
        pair_similarity("ssd")
    with pytest.raises(ValueError, match="there is no Parzen window 'box'; choose polynomial or bspline"):
        parzen_taps(torch.zeros(3), 4, "box")
    with pytest.raises(ValueError, match="2 bins or more, not 1"):
        parzen_taps(torch.zeros(3), 1)
