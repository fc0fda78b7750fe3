"""RegGAN: the registration network takes the misalignment, so that the translation stays where its input is."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from ellipsoid_pairs import Recolour, slice_store
from torch import Tensor, nn

from modalign.cases import Case, CaseStore
from modalign.errors import ConfigError, DataError
from modalign.methods.base import Context
from modalign.methods.reggan import RegGan
from modalign.networks.gan import PatchDiscriminator
from modalign.networks.reggan import ImageDiscriminator, TranslateAndRegister
from modalign.networks.resunet import IMSE, ResUnet
from modalign.similarity.mse import mse
from modalign.spatial.warp import warp
from modalign.training.loop import count_parameters

SMALL = {"preset": "small", "channels": 8, "blocks": 2, "registration_channels": (8, 16, 16), "batch": 4}


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> tuple[CaseStore, list[Case]]:
    return slice_store(tmp_path_factory.mktemp("slices"))


def test_it_learns_to_translate_from_misaligned_pairs(slices, tmp_path):
    store, unseen = slices
    method = RegGan({**SMALL, "steps": 50}, 2, Context(model=tmp_path))
    method.train(store)
    case = unseen[0]
    true = Recolour(dimension=2).align(case).image.data
    alignment = method.align(case)
    assert alignment.field is None
    error, unregistered = (np.abs(image - true).mean() for image in (alignment.image.data, case.moving.data))
    assert error < unregistered


@pytest.mark.parametrize("preset", ["paper", "cycle", "registformer", "released"])
def test_presets_are_built_and_take_a_step(slices, tmp_path, preset):
    """At the published channels: 11,365,633 weights a generator; two networks a direction."""
    method = RegGan({"preset": preset}, 2)
    directions = 1 if preset == "paper" else 2
    generators = method._network()
    assert count_parameters(generators) == directions * (11_365_633 + count_parameters(ResUnet()))
    small = {**SMALL, "preset": preset, "steps": 1, "discriminator_channels": 8, "vgg_width": 4}
    record = RegGan(small, 2, Context(model=tmp_path)).train(slices[0])
    assert record["steps"] == 1
    images = {name: torch.rand(1, 1, 32, 32) * 2 - 1 for name in ("fixed", "moving")}
    terms = RegGan(small, 2)._terms(RegGan(small, 2)._network(), images, 0)[1]
    extra = {"paper": {"reversed"}, "cycle": {"reversed", "cycle"}, "registformer": {"reversed", "perceptual"}}
    expected = extra.get(preset, set())
    assert {name.split()[0] for name in terms} == {"correction", "smoothness"} | expected


class Shift(nn.Module):
    """A registration network that finds a translation by two voxels, whatever it sees."""

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        return torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1).expand(len(moving), 2, *moving.shape[2:])


class Negative(nn.Module):
    """A translation that changes each voxel by itself, so that the order makes no difference."""

    def forward(self, images: Tensor) -> Tensor:
        return -images


def test_both_orders_agree_for_a_voxelwise_translation():
    networks = TranslateAndRegister(["moving"], Negative, Shift)
    images = {name: torch.rand(1, 1, 16, 16) * 2 - 1 for name in ("fixed", "moving")}
    made = networks(images, reverse=True)
    torch.testing.assert_close(made["fake moving"], -images["fixed"])
    torch.testing.assert_close(made["registered moving"][:, :, :-2], -images["fixed"][:, :, 2:])
    torch.testing.assert_close(made["reversed moving"], made["registered moving"])

    options = {**SMALL, "reversed_order": "each-other"}
    terms = RegGan(options, 2)._terms(networks, images, 0)[1]
    assert terms["reversed moving"].item() == pytest.approx(0, abs=1e-5)
    assert terms["smoothness moving"].item() == 0
    difference = (made["registered moving"] - images["moving"]).abs().mean().item()
    assert terms["correction moving"].item() == pytest.approx(20 * difference, rel=1e-5)
    against_reference = RegGan(SMALL, 2)._terms(networks, images, 0)[1]
    assert against_reference["reversed moving"].item() == pytest.approx(20 * difference, rel=1e-5)


def test_the_perceptual_term_compares_the_registered_fake_with_the_real_image():
    networks = TranslateAndRegister(["moving"], Negative, Shift)
    images = {name: torch.rand(1, 1, 32, 32) * 2 - 1 for name in ("fixed", "moving")}
    method = RegGan({**SMALL, "perceptual_weight": 3.0, "perceptual_layers": ("conv1_1", "conv2_1"), "vgg_width": 4}, 2)
    pairs = [method._vgg(image) for image in (networks(images)["registered moving"], images["moving"])]
    expected = 3 * sum((a - b).abs().mean() for a, b in zip(*pairs, strict=True)) / 2
    torch.testing.assert_close(method._terms(networks, images, 0)[1]["perceptual moving"], expected)


def test_the_residual_unet_learns_a_translation():
    torch.manual_seed(0)
    network = ResUnet(2, (8, 16))
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    moving = nn.functional.avg_pool2d(torch.rand(4, 1, 36, 36), 5, 1, 2)
    fixed = torch.roll(moving, -2, 2)
    moving, fixed = moving[:, :, 2:-2, 2:-2], fixed[:, :, 2:-2, 2:-2]
    assert network(moving, fixed).abs().max() < 1e-2
    for _ in range(60):
        optimiser.zero_grad()
        loss = mse(fixed, warp(moving, network(moving, fixed)))
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.4 * mse(fixed, moving).item()
    field = network(moving, fixed)[:, :, 4:-4, 4:-4].mean((0, 2, 3))
    assert field[0].item() == pytest.approx(2, abs=0.7)
    assert field[1].item() == pytest.approx(0, abs=0.7)


def test_sizes_of_the_residual_unet():
    def conv(before: int, after: int, kernel: int) -> int:
        return before * after * kernel**2 + after

    def block(channels: int) -> int:
        return 2 * conv(channels, channels, 3)

    down, last = [2, 32, *[64] * 6], 64
    expected = sum(conv(a, b, 3) + block(b) for a, b in pairwise(down))
    expected += conv(last, 2 * last, 1) + 3 * block(2 * last) + conv(2 * last, last, 1)
    expected += 6 * conv(128, 64, 3) + conv(64 + 32, 32, 3) + block(32) + conv(32, 32, 1) + conv(32, 2, 3)
    assert count_parameters(ResUnet()) == expected
    images = torch.rand(2, 1, 1, 130, 129)
    assert ResUnet(2, IMSE)(*images).shape == (1, 2, 130, 129)
    with pytest.raises(DataError, match="of 7 levels needs 128 voxels or more along each axis, and this image has 127"):
        ResUnet()(*images[..., :127, :])
    with pytest.raises(DataError, match="has 60: give it 5 levels or fewer"):
        ResUnet(2, (8,) * 6)(*images[..., :60, :60])
    assert ResUnet(2, (8,) * 5)(*images[..., :64, :64]).shape == (1, 2, 64, 64)


def test_the_residual_unet_takes_slices_that_are_no_power_of_two():
    """Slices of cone-beam CT have 196 x 196 voxels; seven levels leave two voxels of 256."""
    network = ResUnet(2, (4,) * 7)
    nn.init.normal_(network.output.weight)
    moving, fixed = torch.rand(2, 1, 1, 196, 196)
    extended = [nn.functional.pad(image, (0, 60, 0, 60), mode="replicate") for image in (moving, fixed)]
    field = network(moving, fixed)
    assert field.shape == (1, 2, 196, 196)
    torch.testing.assert_close(field, network(*extended)[:, :, :196, :196])


def test_one_logit_an_image():
    judge = PatchDiscriminator(2, 1, 4)
    images = torch.rand(3, 1, 48, 48)
    expected = judge(images).mean((2, 3))
    torch.testing.assert_close(ImageDiscriminator(judge)(images), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paired": False}, "RegGAN learns from pairs"),
        ({"cycle_weight": 1.0}, "add directions: both"),
        ({"discriminator": "multiscale"}, "leave discriminator at patch"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        RegGan(options, 2)
