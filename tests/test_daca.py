"""DACA: windowed attention against loops and against gathering all samples, in value and gradient, in 2D and 3D."""

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch

from modalign.networks import daca_attention, daca_windows
from modalign.networks.daca import DacaBlock, squared_distances
from modalign.networks.daca_attention import deformable_window_attention
from modalign.networks.daca_reference import gather_all_attention
from modalign.training.loop import count_parameters


@pytest.fixture(autouse=True)
def tiled(monkeypatch):
    """Small windows go through the tiles as well, but for the test of the choice."""
    monkeypatch.setattr(daca_attention, "FEW_SAMPLES", 0)


def inputs(*shape: int, batch: int = 2, channels: int = 6, displacement: float = 2.0, dtype=torch.float64):
    """Random query, key, value and field of `displacement` voxels."""
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(batch, channels, *shape, generator=draw, dtype=dtype) for _ in range(3)]
    field = displacement * torch.randn(batch, len(shape), *shape, generator=draw, dtype=dtype)
    return [image.requires_grad_() for image in images], field


def with_gradients(attention, images, field, window, heads):
    output = attention(*images, field, window, heads)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).sin().view_as(output)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), images)]


@pytest.mark.parametrize(("shape", "window"), [((6, 9), 4), ((6, 9), 5), ((4, 5, 3), 2)])
def test_it_is_softmax_attention_to_linearly_interpolated_samples(shape, window):
    heads = 2
    (query, key, value), field = inputs(*shape, batch=1, channels=4)
    attended = deformable_window_attention(query, key, value, field, window, heads)[0].detach().numpy()
    query, key, value, field = (tensor[0].detach().numpy() for tensor in (query, key, value, field))
    along_axis = range(-((window - 1) // 2), window // 2 + 1)
    offsets = np.array(list(itertools.product(along_axis, repeat=len(shape))))
    assert len(offsets) == window ** len(shape)
    for pixel in itertools.product(*[range(0, n, 2) for n in shape]):
        positions = (np.array(pixel) + field[(slice(None), *pixel)] + offsets).T

        def sample(images, positions=positions):
            return np.stack([ndi.map_coordinates(i, positions, order=1, mode="grid-constant") for i in images])

        for head in (slice(0, 2), slice(2, 4)):
            logits = query[(head, *pixel)] @ sample(key[head]) / math.sqrt(2)
            weights = np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose(attended[(head, *pixel)], sample(value[head]) @ weights, atol=1e-12)


@pytest.mark.parametrize("displacement", [0.0, 2.0, 40.0], ids=["no field", "across borders", "far outside"])
@pytest.mark.parametrize(
    ("shape", "window", "heads"),
    [((13, 18), 1, 2), ((13, 18), 2, 3), ((13, 18), 7, 1), ((17, 11), 28, 2), ((5, 9, 7), 3, 2), ((5, 4, 6), 7, 2)],
)
def test_it_agrees_with_gathering_all_samples(shape, window, heads, displacement):
    images, field = inputs(*shape, displacement=displacement)
    expected = with_gradients(gather_all_attention, images, field, window, heads)
    for ours, theirs in zip(
        with_gradients(deformable_window_attention, images, field, window, heads), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    single = [image.detach().float().requires_grad_() for image in images]
    for ours, theirs in zip(
        with_gradients(deformable_window_attention, single, field.float(), window, heads), expected, strict=True
    ):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("samples", "gathers"), [(9, True), (8, False)])
def test_few_samples_are_gathered(monkeypatch, samples, gathers):
    images, field = inputs(6, 7)
    expected = with_gradients(deformable_window_attention, images, field, 3, 2)
    calls = []
    monkeypatch.setattr(
        daca_attention, "gather_all_attention", lambda *given: calls.append(1) or gather_all_attention(*given)
    )
    monkeypatch.setattr(daca_attention, "FEW_SAMPLES", samples)
    for ours, tiled in zip(with_gradients(deformable_window_attention, images, field, 3, 2), expected, strict=True):
        torch.testing.assert_close(ours, tiled, atol=1e-12, rtol=1e-12)
    assert bool(calls) == gathers


@pytest.mark.parametrize(("shape", "window"), [((4, 5), 3), ((3, 2, 3), 2)])
def test_gradients_are_those_of_finite_differences(shape, window):
    images, field = inputs(*shape, batch=1, channels=2, displacement=1.0)
    assert torch.autograd.gradcheck(lambda *x: deformable_window_attention(*x, field, window, 2), images)


@pytest.mark.parametrize("dimension", [2, 3])
def test_tiles_and_cells_do_not_change_results(monkeypatch, dimension):
    images, field = inputs(*[12, 17] if dimension == 2 else [5, 7, 4], displacement=3.0)
    expected = with_gradients(deformable_window_attention, images, field, 4, 2)
    for most_pixels, cell in ((1, 3), (7, 5), (1000, 2)):
        monkeypatch.setattr(daca_attention, "MOST_PIXELS", most_pixels)
        monkeypatch.setitem(daca_windows.CELL, dimension, cell)
        for ours, before in zip(
            with_gradients(deformable_window_attention, images, field, 4, 2), expected, strict=True
        ):
            torch.testing.assert_close(ours, before, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shift", [(3, -2), (2, 1, -3)])
def test_a_constant_field_looks_at_the_reference_where_it_points(shift):
    """``ref(p + shift)``: content is kept away from the border, which a rolled image would carry to the other side."""
    shape = (18, 16, 15)[: len(shift)]
    (query, key, value), _ = inputs(*shape)
    inner = (slice(None), slice(None), *[slice(4, -4)] * len(shape))
    key, value = torch.zeros_like(key), torch.zeros_like(value)
    draw = torch.Generator().manual_seed(1)
    key[inner], value[inner] = torch.randn(2, *key[inner].shape, generator=draw, dtype=torch.float64)
    field = torch.tensor(shift, dtype=torch.float64).reshape(1, -1, *[1] * len(shape)).expand(2, -1, *shape)
    rolled = [torch.roll(x, [-s for s in shift], list(range(2, x.ndim))) for x in (key, value)]
    ours = deformable_window_attention(query, key, value, field, 3, 2)
    on_shifted_reference = gather_all_attention(query, *rolled, torch.zeros_like(field), 3, 2)
    torch.testing.assert_close(ours, on_shifted_reference, atol=1e-12, rtol=1e-12)
    assert (ours - deformable_window_attention(query, key, value, -field, 3, 2)).abs().max() > 0.1
    assert (ours - deformable_window_attention(query, key, value, field.flip(1), 3, 2)).abs().max() > 0.1


def test_samples_outside_have_a_logit_of_zero_and_count():
    """A window of 4 x 4 at the corner (0, 0) has offsets -1 to 2, so that 9 of its 16 samples lie inside."""
    key, value = torch.full((2, 1, 1, 5, 5), 3.0, dtype=torch.float64)
    query = torch.full_like(key, 0.5)
    attended = deformable_window_attention(query, key, value, query.new_zeros(1, 2, 5, 5), 4, 1)
    assert attended[0, 0, 0, 0].item() == pytest.approx(3 * 9 * math.exp(1.5) / (9 * math.exp(1.5) + 7))
    outside = deformable_window_attention(query, key, value, query.new_full((1, 2, 5, 5), 1e6), 4, 1)
    assert torch.equal(outside, torch.zeros_like(outside))


def test_large_logits_do_not_overflow():
    (query, key, value), field = inputs(7, 8, dtype=torch.float32)
    largest = deformable_window_attention(1e4 * query, key, value, field, 5, 2)
    assert torch.isfinite(largest).all()
    torch.testing.assert_close(largest, gather_all_attention(1e4 * query, key, value, field, 5, 2), atol=2e-2, rtol=0)


def test_a_field_that_is_not_a_number_spoils_only_its_own_pixel():
    (query, key, value), field = inputs(6, 7)
    field[0, 1, 2, 3] = math.nan
    broken = deformable_window_attention(query, key, value, field, 3, 2).isnan()
    assert broken[0, :, 2, 3].all()
    assert broken.sum() == query.shape[1]


def test_only_inputs_and_output_are_kept_for_the_gradient():
    images, field = inputs(24, 24, batch=1)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        deformable_window_attention(*images, field, 28, 2)
    assert 0 < sum(x.numel() for x in saved) <= 6 * images[0].numel()


def test_half_precision_is_computed_in_single():
    images, field = inputs(9, 8, dtype=torch.float32)
    half = [image.detach().bfloat16() for image in images]
    ours = deformable_window_attention(*half, field.bfloat16(), 4, 2)
    assert ours.dtype == torch.bfloat16
    exact = deformable_window_attention(*[x.double() for x in half], field.bfloat16().double(), 4, 2)
    torch.testing.assert_close(ours.double(), exact, atol=0, rtol=2**-8)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = with_gradients(deformable_window_attention, images, field, 4, 2)
    for ours, plain in zip(mixed, with_gradients(deformable_window_attention, images, field, 4, 2), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.zeros(1, 4, 5, 6)}, r"have one shape \(B, C, \*S\).*\(1, 4, 5, 6\)"),
        ({"field": torch.zeros(1, 2, 5, 6)}, r"the field has shape \(1, 2, 5, 6\), not \(1, 2, 5, 5\)"),
        ({"heads": 3}, "4 channels can't be split into 3 heads"),
        ({"window": 0}, "at least 1 sample along each axis, not 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    good = {**dict.fromkeys(("query", "key", "value"), torch.zeros(1, 4, 5, 5)), "field": torch.zeros(1, 2, 5, 5)}
    with pytest.raises(ValueError, match=message):
        deformable_window_attention(**{**good, "window": 3, "heads": 2, **change})


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_block_with_window_1_and_no_field_is_pointwise(dimension):
    torch.manual_seed(0)
    block = DacaBlock(6, window=1, dimension=dimension).double()
    features, reference = torch.randn(2, 2, 6, *[5, 8, 4][:dimension], dtype=torch.float64)
    out = block.fuse(block.value(reference))
    expected = block.norm(out + block.mlp(out))
    no_field = torch.zeros(2, dimension, *features.shape[2:], dtype=torch.float64)
    torch.testing.assert_close(block(features, reference, no_field), expected, atol=1e-12, rtol=1e-12)
    assert (block(features, reference, no_field + 1) - expected).abs().max() > 0.1


def test_attention_by_distances_weighs_keys_by_how_near_they_are():
    """Away from the border, where every sample is inside, the weights are softmax of -|q - k|^2 / sqrt(channels)."""
    (query, key, value), field = inputs(7, 7, batch=1)
    parts = squared_distances(query, key, value, 2)
    attended = deformable_window_attention(*parts, torch.zeros_like(field), 3, 2)[0, :, 3, 3]
    around = (slice(2, 5), slice(2, 5))
    for head in (0, 1):
        channels = slice(3 * head, 3 * head + 3)
        keys, values = (x[0, channels][(slice(None), *around)].flatten(1) for x in (key, value))
        distances = (query[0, channels, 3, 3][:, None] - keys).square().sum(0)
        expected = values @ torch.softmax(-distances / math.sqrt(3), 0)
        torch.testing.assert_close(attended[4 * head : 4 * head + 3], expected, atol=1e-12, rtol=1e-12)


def test_attention_by_distances_finds_a_shifted_reference_where_products_find_the_brightest():
    torch.manual_seed(0)
    reference = torch.rand(1, 4, 16, 16) * torch.rand(1, 1, 16, 16) * 4
    features = torch.roll(reference, (1, -1), (2, 3))
    field = torch.zeros(1, 2, 16, 16)
    query, key, value = squared_distances(features * 10, reference * 10, reference, 1)
    inner = (slice(None), slice(None, 4), slice(2, -2), slice(2, -2))
    near = deformable_window_attention(query, key, value, field, 3, 1)[inner]
    like = deformable_window_attention(features * 10, reference * 10, reference, field, 3, 1)[inner]
    assert (near - features[inner]).abs().mean() < 0.01
    assert (like - features[inner]).abs().mean() > 0.2


def test_the_block_has_the_published_number_of_parameters():
    assert count_parameters(DacaBlock()) == 1_638
    assert count_parameters(DacaBlock(attention="distance")) == 1_638
