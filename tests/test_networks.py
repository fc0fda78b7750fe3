"""The VoxelMorph network: published parameter counts, starts at the identity, takes any size."""

import pytest
import torch

from modalign.networks.voxelmorph import ARCHITECTURES, Architecture, VoxelMorph, pad_to_multiple
from modalign.spatial.integrate import integrate, resize_field
from modalign.training.loop import count_parameters


@pytest.mark.parametrize(("dimension", "published"), [(2, 109_170), (3, 327_331)])
def test_the_paper_network_has_the_published_number_of_parameters(dimension, published):
    assert count_parameters(VoxelMorph(dimension)) == published


def test_the_imse_networks_have_the_parameters_of_their_published_layout():
    def conv(channels_in: int, channels_out: int) -> int:
        return 27 * channels_in * channels_out + channels_out

    down = conv(2, 16) + conv(16, 32) + conv(32, 32) + conv(32, 64) + conv(64, 64)
    up = conv(64, 64) + conv(64 + 64, 64) + conv(64 + 32, 32) + conv(32 + 32, 32)
    rest = conv(32 + 16, 16) + conv(16, 16) + conv(16, 3)
    network = VoxelMorph(3, ARCHITECTURES["imse3d"], int_steps=0)
    assert count_parameters(network) == down + up + rest
    strides = [layer.stride[0] for layer in network.unet.encoder]
    assert strides == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("dimension", "shape"), [(2, (37, 50)), (3, (19, 16, 23))])
def test_any_size_starts_near_the_identity_and_reaches_every_weight(name, dimension, shape):
    torch.manual_seed(0)
    network = VoxelMorph(dimension, ARCHITECTURES[name], int_steps=0 if "imse" in name else 7)
    moving, fixed = torch.rand(2, 2, 1, *shape)
    field, _ = network(moving, fixed)
    assert field.shape == (2, dimension, *shape)
    assert field.abs().max() < 1e-2
    torch.nn.init.normal_(network.flow.weight, std=0.1)
    field, _ = network(moving, fixed)
    field.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_field_is_the_integrated_velocity():
    torch.manual_seed(0)
    network = VoxelMorph(2, int_steps=5)
    torch.nn.init.normal_(network.flow.weight, std=0.05)
    field, velocity = network(torch.rand(1, 1, 32, 48), torch.rand(1, 1, 32, 48))
    assert velocity.shape[2:] == (16, 24)
    torch.testing.assert_close(field, resize_field(integrate(velocity, 5), (32, 48)))


def test_padding_does_not_move_the_image():
    images = torch.rand(1, 1, 5, 7)
    padded = pad_to_multiple(images, 4)
    assert torch.equal(padded[..., :5, :7], images)
    assert torch.equal(padded[..., 5:, :7], images[..., -1:, :].expand(1, 1, 3, 7))


def test_the_moving_image_comes_first():
    torch.manual_seed(0)
    network = VoxelMorph(2)
    torch.nn.init.normal_(network.flow.weight, std=0.1)
    seen = []
    network.unet.encoder[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network(torch.full((1, 1, 16, 16), 3.0), torch.full((1, 1, 16, 16), 5.0))
    assert seen[0][0, :, 0, 0].tolist() == [3.0, 5.0]


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="needs 4 decoder channels or more"):
        VoxelMorph(2, Architecture((8, 8, 8, 8), (8, 8)))
    with pytest.raises(ValueError, match="int_downsize 2, int_steps above 0"):
        VoxelMorph(2, ARCHITECTURES["small"], int_steps=0)
