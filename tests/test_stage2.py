"""Stage 2 of RbG and RegistFormer: layout, any size, fields at three scales, how it starts and what it practises."""

import pytest
import torch
from torch import nn

from modalign.methods._stage2_practice import practice
from modalign.networks.stage2 import Stage2, daca_field, scale_field
from modalign.similarity.filters import gaussian_mean
from modalign.spatial.warp import warp
from modalign.training.loop import count_parameters


def test_the_parts_have_the_published_numbers_of_parameters():
    network = Stage2()
    parts = (network.extract_images, network.extract_reference, network.fuse, network.reconstruct, network)
    assert [count_parameters(part) for part in parts] == [21_602, 21_476, 4_914, 23_241, 71_233]


@pytest.mark.parametrize("shape", [(32, 24), (21, 34), (13, 9, 10)])
def test_any_size_gives_an_image_and_reaches_every_weight(shape):
    torch.manual_seed(0)
    network = Stage2(6, window=3, dimension=len(shape), initialisation="kaiming")
    fixed, initial, reference = torch.rand(3, 2, 1, *shape) * 2 - 1
    made = network(fixed, initial, reference, torch.randn(2, len(shape), *shape))
    assert made.shape == fixed.shape
    assert made.abs().max() <= 1
    made.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    torch.testing.assert_close(
        network(fixed, initial, reference), network(fixed, initial, reference, torch.zeros(2, len(shape), *shape))
    )


def test_output_and_input_can_be_compared_through_the_extractors():
    """PatchNCE through FE1 and FE2: the query has a gradient, the key has none."""
    network = Stage2(window=3)
    fixed, initial, reference = torch.rand(3, 1, 1, 12, 16) * 2 - 1
    made, query, key = network(fixed, initial, reference, compare=True)
    torch.testing.assert_close(made, network(fixed, initial, reference))
    torch.testing.assert_close(query, network.extract_reference(made))
    torch.testing.assert_close(key, network.extract_images(torch.cat([fixed, initial], 1)))
    assert all(features.requires_grad for features in query)
    assert not any(features.requires_grad for features in key)


def test_each_scale_gets_the_field_in_its_own_voxels(monkeypatch):
    network = Stage2(4, window=1)
    seen = []
    for block in network.fuse:
        monkeypatch.setattr(block, "forward", lambda image, reference, field: seen.append(field) or reference)
    images = torch.zeros(3, 1, 1, 16, 20)
    network(*images, torch.tensor([8.0, -4.0]).reshape(1, 2, 1, 1).expand(1, 2, 16, 20))
    assert [tuple(field.shape[2:]) for field in seen] == [(16, 20), (8, 10), (4, 5)]
    assert [field.mean((0, 2, 3)).tolist() for field in seen] == [[8, -4], [4, -2], [2, -1]]


def test_a_field_at_half_resolution_moves_averages_of_voxels():
    """Halving by averaging has its voxels' centres between those of the image: a linear map stays that map."""
    position = torch.arange(16.0) - 7.5
    field = torch.stack([0.2 * position[:, None].expand(16, 16), -0.1 * position[None].expand(16, 16)])[None]
    halved = scale_field(field, torch.Size((8, 8)))
    centres = torch.arange(8.0) - 3.5
    torch.testing.assert_close(halved[0, 0], 0.2 * centres[:, None].expand(8, 8))
    torch.testing.assert_close(halved[0, 1], -0.1 * centres[None].expand(8, 8))


@pytest.mark.parametrize("initialisation", ["normal", "kaiming"])
def test_the_initial_weights_have_the_named_spread(initialisation):
    torch.manual_seed(0)
    network = Stage2(initialisation=initialisation)
    weights = network.reconstruct.down[0][0].weight
    expected = 0.02 if initialisation == "normal" else (2 / (1 + 0.2**2) / (14 * 9)) ** 0.5
    assert weights.std().item() == pytest.approx(expected, rel=0.05)
    assert all(not m.bias.any() for m in network.modules() if isinstance(m, nn.Conv2d) and m.bias is not None)


def known_registration(moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """The integer translation of one bright pixel, as a registration network would predict it."""
    there, here = (torch.nonzero(image[0, 0] == image.max())[0] for image in (moving, fixed))
    return (there - here).float().reshape(1, -1, *[1] * (fixed.ndim - 2)).expand(1, -1, *fixed.shape[2:])


def test_the_corrected_field_brings_the_reference_onto_the_first_output():
    initial, reference = torch.zeros(2, 1, 1, 12, 14)
    initial[0, 0, 4, 5] = 1
    reference[0, 0, 6, 4] = 1
    corrected = daca_field(known_registration, initial, reference)
    assert torch.equal(warp(reference, corrected), initial)
    assert corrected[0, :, 0, 0].tolist() == [2, -1]
    assert daca_field(known_registration, initial, reference, "as_released")[0, :, 0, 0].tolist() == [1, -2]
    assert not daca_field(known_registration, initial, reference, "zero").any()
    with pytest.raises(ValueError, match="corrected, as_released or zero, not 'fixed'"):
        daca_field(known_registration, initial, reference, "fixed")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exists in 2D alone"):
        daca_field(known_registration, initial[..., None], reference[..., None], "as_released")


def trained_error(mode: str) -> float:
    """How well a network with a window of one pixel learns to copy a reference that is displaced at random."""
    torch.manual_seed(0)
    network = Stage2(6, window=1, initialisation="kaiming")
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    errors = []
    for _ in range(30):
        reference = nn.functional.interpolate(torch.randn(2, 1, 4, 5), scale_factor=4).clamp(-1, 1)
        field = torch.randint(-6, 7, (2, 2, 1, 1)).float().expand(2, 2, 16, 20)
        target = warp(reference, field, padding="zeros")
        flat = torch.zeros_like(target)

        def register(moving, fixed, field=field, target=target):
            return field if fixed is target else -field

        error = (network(flat, flat, reference, daca_field(register, target, reference, mode)) - target).abs().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    return sum(errors[-10:]) / 10


def test_with_the_corrected_field_it_learns_to_copy_a_displaced_reference():
    """Neither image shows the anatomy, so that only a field that points the right way can help."""
    corrected, released, zero = (trained_error(mode) for mode in ("corrected", "as_released", "zero"))
    assert corrected < 0.5 * min(released, zero)


@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_an_output_gain_reaches_the_ends_and_is_cut_when_aligning(gain):
    torch.manual_seed(0)
    network = Stage2(6, window=1, initialisation="kaiming", output_gain=gain)
    network.reconstruct.image.weight.data *= 100
    images = torch.rand(3, 1, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        assert float(network(*images).abs().max()) == pytest.approx(gain, abs=1e-3)
        assert float(network.eval()(*images).abs().max()) == pytest.approx(1, abs=1e-3)


def test_a_start_as_identity():
    """First output and reference start with the same features, queries are keys made sharper, the fixed image has no
    effect yet, and the image comes out within the range where tanh still learns."""
    torch.manual_seed(0)
    network = Stage2(window=5, initialisation="identity")
    image, *fixed = torch.rand(3, 1, 1, 24, 24) * 2 - 1
    for other in fixed:
        found = network.extract_images(torch.cat([other, image], 1))
        for ours, theirs in zip(found, network.extract_reference(image), strict=True):
            torch.testing.assert_close(ours, theirs)
    for block in network.fuse:
        assert torch.equal(block.query.weight, 3 * block.key.weight)
    made = network(fixed[0], image, image)
    assert made.abs().max() < 0.95
    assert made.std() > 0.02
    assert sum(p.numel() for p in network.parameters()) == 71_233


def test_the_answer_to_a_practice_task_is_the_reference_along_a_field_near_the_given_one():
    reference = torch.full((2, 1, 40, 40), -1.0)
    reference[:, :, 8:32, 8:32] = (
        torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        .repeat_interleave(4, 2)
        .repeat_interleave(4, 3)
    )
    still = practice(reference, 0.0, 0, "test")
    torch.testing.assert_close(still.target, reference)
    assert 0.3 < still.field.std() < 1.2
    task = practice(reference, 1.5, 0, "test")
    without, along = ((warp(reference, u) - task.target).abs().mean() for u in (0 * task.field, task.field))
    assert along < 0.7 * without
    # Air stays air, intensities inside are wrong, and outlines lie where the target has them.
    air = gaussian_mean(task.target, 0.7) < -1 + 1e-6
    assert air.float().mean() > 0.3
    torch.testing.assert_close(task.initial[air], task.target[air], atol=1e-3, rtol=0)
    assert (task.initial - task.target)[~air].abs().mean() > 0.05
    assert torch.corrcoef(torch.stack([task.initial.flatten(), task.target.flatten()]))[0, 1] > 0.95
    assert not torch.equal(practice(reference, 1.5, 1, "test").target, task.target)
