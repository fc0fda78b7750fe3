"""RbG's synthesis network: published size, the fast style networks equal to the plain ones, local style."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modalign.networks.padain import REACH, PAdaIN, Stage1, Style, Synthesis, coarse_reference, style_for
from modalign.training.loop import count_parameters


def seeded(network: torch.nn.Module, seed: int = 0, deviation: float = 0.2) -> torch.nn.Module:
    """Weights large enough that every path matters, noise included."""
    random = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random, dtype=torch.float64) * deviation
    return network.double()


def test_the_paper_network_has_the_published_number_of_parameters():
    """33,826,317: convolutions 5,444,864, style networks 28,379,136, twelve noise strengths, last convolution 2,305."""
    network = Synthesis()
    assert count_parameters(network) == 33_826_317
    styles = [m for m in network.modules() if isinstance(m, PAdaIN)]
    assert len(styles) == 12
    assert sum(count_parameters(m) - 1 for m in styles) == 28_379_136


@pytest.mark.parametrize("size", [(96, 96), (52, 76), (40, 36)])
@pytest.mark.parametrize("factor", ["global", 32, 16, 8])
def test_blocks_of_five_give_what_the_full_style_map_gives(size, factor):
    """Forward and backward, at all three scales, with blocks that don't divide the image, up to its border."""
    torch.manual_seed(0)
    image, reference = torch.rand(2, 2, 1, *size, dtype=torch.float64) * 2 - 1
    outcomes = []
    for fast in (True, False):
        network = seeded(Synthesis(3, 4, factor, fast=fast))
        style = reference.clone().requires_grad_()
        made = network(image, style, torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad(made.square().sum(), [style, *network.parameters()], allow_unused=True)
        outcomes.append([made, *gradients])
    scale = max(float(g.abs().max()) for g in outcomes[1][1:])
    torch.testing.assert_close(outcomes[0][0], outcomes[1][0], rtol=0, atol=1e-13)
    for fast, plain in zip(outcomes[0][1:], outcomes[1][1:], strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-13 * scale)


@pytest.mark.parametrize(("few", "many"), [(1, 17), (3, 24), (5, 23), (4, 20), (6, 31), (7, 21)])
def test_a_reduced_style_map_spreads_back_to_the_full_one(few, many):
    coarse = torch.rand(1, 1, few, few)
    style = style_for(coarse, (many, many), "nearest")
    full = functional.interpolate(coarse, (many, many), mode="nearest")
    reduced = style.map if style.rows is None else style.map[:, :, style.rows][..., style.columns]
    assert torch.equal(reduced, full)
    widths = torch.bincount(torch.arange(many) * few // many)
    assert style.map.shape[2] == int(widths.clamp(max=REACH).sum())


def test_bilinear_style_is_interpolated_and_never_reduced():
    coarse = torch.rand(2, 1, 3, 4)
    style = style_for(coarse, (24, 32), "bilinear")
    assert style.rows is None
    expected = functional.interpolate(coarse, (24, 32), mode="bilinear", align_corners=False)
    assert torch.equal(style.map, expected)


def test_coarse_references():
    """Points whose corners are the image's, or means of blocks; one pixel is always the mean."""
    ramp = torch.arange(16.0).reshape(1, 1, 1, 16).expand(1, 1, 16, 16)
    torch.testing.assert_close(coarse_reference(ramp, 4)[0, 0, 0], torch.tensor([0.0, 5.0, 10.0, 15.0]))
    torch.testing.assert_close(coarse_reference(ramp, 4, "mean")[0, 0, 0], torch.tensor([1.5, 5.5, 9.5, 13.5]))
    for factor in ("global", 16, 40):
        assert coarse_reference(ramp, factor).flatten().tolist() == [7.5]


def test_padain_scales_and_shifts_what_was_normalised():
    """With the networks set by hand: gamma 3 and beta the style, on features of known mean and deviation."""
    block = PAdaIN(2, 1)
    for layer in (block.shared, block.gamma, block.beta):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    block.shared.weight.data[0, 0, 1, 1] = 1
    block.beta.weight.data[:, 0, 1, 1] = 1
    block.gamma.bias.data[:] = 3
    features = torch.randn(1, 2, 8, 8) * 5 + 7
    style = torch.rand(1, 1, 8, 8)
    mean, variance = features.mean((2, 3), keepdim=True), features.var((2, 3), correction=0, keepdim=True)
    expected = 3 * (features - mean) / (variance + 1e-5).sqrt() + style
    torch.testing.assert_close(block(features, Style(style), None), expected)


def test_the_style_is_local():
    """Changing the reference in one corner changes scale and shift around there, not far away."""
    block = seeded(PAdaIN(4, 8))
    features = torch.randn(1, 4, 32, 32, dtype=torch.float64)
    reference = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    other = reference.clone()
    other[:, :, :8, :8] += 1

    def made(image: Tensor) -> Tensor:
        return block(features, style_for(coarse_reference(image, 8, "mean"), (32, 32), "nearest"), None)

    change = (made(other) - made(reference)).abs().amax((0, 1))
    assert change[:8, :8].min() > 1e-4
    assert torch.equal(change[10:], torch.zeros_like(change[10:]))


def test_noise_is_seeded_and_starts_without_effect():
    network = Synthesis(4, 4, 8)
    image, reference = torch.rand(2, 1, 1, 16, 16)

    def made(seed: int) -> Tensor:
        return network(image, reference, torch.Generator().manual_seed(seed))

    assert torch.equal(made(0), made(1))
    for module in network.modules():
        if isinstance(module, PAdaIN):
            module.noise_strength.data.fill_(0.5)
    assert torch.equal(made(0), made(0))
    assert not torch.equal(made(0), made(1))


def test_any_size_and_the_input_decides_where_things_are():
    network = seeded(Synthesis(4, 4, 8), deviation=0.3)
    image, reference = torch.rand(2, 1, 1, 33, 46, dtype=torch.float64)
    made = network(image, reference)
    assert made.shape == image.shape
    padded = functional.pad(image, (0, 2, 0, 3), mode="replicate"), functional.pad(reference, (0, 2, 0, 3), "replicate")
    torch.testing.assert_close(network(*padded)[..., :33, :46], made)


def test_patch_nce_of_stage_1_teaches_every_part():
    """A few steps on the PatchNCE alone lower it, and the perceptron learns too."""
    torch.manual_seed(0)
    network = Stage1(Synthesis(8, 8, 8), (0, 2), 16)
    image, reference = torch.rand(2, 2, 1, 16, 16) * 2 - 1
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    before = [p.detach().clone() for p in network.sampler.parameters()]
    values = []
    for step in range(12):
        random = (torch.Generator().manual_seed(step), torch.Generator().manual_seed(step))
        made, nce = network(image, reference, *random, 64, 0.07)
        optimiser.zero_grad()
        (nce + 0 * made.sum()).backward()
        optimiser.step()
        values.append(float(nce.detach()))
    assert values[-1] < 0.8 * values[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, network.sampler.parameters(), strict=True))
