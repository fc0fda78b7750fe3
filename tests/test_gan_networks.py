"""The parts of adversarial networks against MONAI, direct formulas and each other."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from modalign.networks.cut import Cut, feature_channels, feature_layers, features
from modalign.networks.gan import (
    BlurPool,
    Doubling,
    ImagePool,
    PatchDiscriminator,
    ResnetGenerator,
    lsgan_discriminator,
    lsgan_generator,
)
from modalign.networks.munit import (
    AdainBlock,
    ImageNorm,
    MultiscaleDiscriminator,
    Munit,
    Unit,
    adaptive_instance_norm,
)
from modalign.training.loop import count_parameters


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def conv(before: int, after: int, kernel: int, bias: bool = True) -> int:
    """Parameters of a 2D convolution."""
    return before * after * kernel**2 + after * bias


def test_least_squares_losses_agree_with_monai():
    from monai.losses import PatchAdversarialLoss

    monai = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
    real, fake = torch.randn(2, 1, 6, 5), torch.randn(2, 1, 6, 5)
    torch.testing.assert_close(lsgan_generator(fake), monai(fake, target_is_real=True, for_discriminator=False))
    judged = monai(real, target_is_real=True, for_discriminator=True)
    judged = judged + monai(fake, target_is_real=False, for_discriminator=True)
    torch.testing.assert_close(lsgan_discriminator(real, fake), judged / 2)
    both = lsgan_discriminator([real, 2 * real], [fake, -fake])
    torch.testing.assert_close(both, lsgan_discriminator(real, fake) + lsgan_discriminator(2 * real, -fake))


def test_a_discriminator_that_is_right_has_no_loss_and_a_fooled_one_gives_the_generator_none():
    assert lsgan_discriminator(torch.ones(3), torch.zeros(3)) == 0
    assert lsgan_generator([torch.ones(3), torch.ones(2)]) == 0
    assert lsgan_generator([torch.zeros(3), torch.zeros(2)]) == 2


def test_the_plain_discriminator_computes_what_monai_computes():
    from monai.networks.nets import PatchDiscriminator as Peer

    ours = PatchDiscriminator(2, channels=8, antialias=False)
    peer = Peer(spatial_dims=2, channels=8, in_channels=1, num_layers_d=3, norm="INSTANCE")
    convolutions = [m for m in peer.modules() if isinstance(m, torch.nn.Conv2d)]
    own = [m for m in ours.modules() if isinstance(m, torch.nn.Conv2d)]
    for theirs, mine in zip(convolutions, own, strict=True):
        theirs.weight.data.copy_(mine.weight)
        if theirs.bias is not None:
            theirs.bias.data.copy_(mine.bias)
    images = torch.randn(2, 1, 48, 40)
    torch.testing.assert_close(ours(images), peer(images)[-1], rtol=1e-4, atol=1e-6)


def test_the_published_sizes():
    blocks = 9 * 2 * conv(256, 256, 3)
    down = conv(1, 64, 7) + conv(64, 128, 3) + conv(128, 256, 3)
    up = conv(256, 128, 3) + conv(128, 64, 3) + conv(64, 1, 7)
    assert count_parameters(ResnetGenerator()) == down + blocks + up == 11_365_633
    patch = conv(1, 64, 4) + conv(64, 128, 4) + conv(128, 256, 4) + conv(256, 512, 4) + conv(512, 1, 4)
    assert count_parameters(PatchDiscriminator()) == count_parameters(PatchDiscriminator(antialias=False)) == patch
    without_bias_but_scales = patch + (2 - 1) * (128 + 256 + 512)
    assert count_parameters(PatchDiscriminator(norm="batch")) == without_bias_but_scales

    content = conv(1, 64, 7) + conv(64, 128, 4) + conv(128, 256, 4) + 4 * 2 * conv(256, 256, 3)
    style = conv(1, 64, 7) + conv(64, 128, 4) + conv(128, 256, 4) + 2 * conv(256, 256, 4) + conv(256, 8, 1)
    perceptron = conv(8, 256, 1) + conv(256, 256, 1) + conv(256, 4 * 2 * 2 * 256, 1)
    ups = conv(256, 128, 5) + 2 * 128 + conv(128, 64, 5) + 2 * 64 + conv(64, 1, 7)
    decoder = 4 * 2 * conv(256, 256, 3) + ups
    assert count_parameters(Munit(2)) == 2 * (content + style + perceptron + decoder)
    assert count_parameters(Unit(2, shared=0)) == 2 * (content + decoder)
    assert count_parameters(Unit(2, shared=1)) == 2 * (content + decoder) - 2 * 2 * conv(256, 256, 3)


def test_an_output_of_the_discriminator_sees_70_voxels():
    judge = PatchDiscriminator(2, channels=2, norm="none", antialias=False).double()
    for module in judge.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1.0)
    images = torch.rand(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    logits = judge(images)
    logits[0, 0, 7, 7].backward()
    assert [int(line.any(0).sum()) for line in (images.grad[0, 0] != 0, (images.grad[0, 0] != 0).T)] == [70, 70]


@pytest.mark.parametrize("size", [(8, 9), (7, 6, 5)])
def test_blur_pooling_against_a_direct_convolution(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    line = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    letters = "abc"[: len(size)]
    kernel = torch.einsum(",".join(letters) + "->" + letters, *[line] * len(size)).expand(3, 1, *[3] * len(size))
    apply = {2: functional.conv2d, 3: functional.conv3d}[len(size)]
    wanted = apply(functional.pad(x, [1, 1] * len(size), mode="reflect"), kernel, stride=2, groups=3)
    torch.testing.assert_close(BlurPool(len(size))(x), wanted)


def test_doubling_is_the_transposed_binomial_filter():
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4
    spread = functional.conv_transpose2d(
        functional.pad(x, [1] * 4, mode="replicate"), torch.outer(line, line)[None, None], stride=2
    )
    torch.testing.assert_close(Doubling(2)(x), spread[..., 3:-3, 3:-3])


@pytest.mark.parametrize("antialias", [False, True])
def test_generators_of_odd_sizes_shift_nothing(antialias):
    network = ResnetGenerator(channels=3, blocks=1, norm="none", antialias=antialias, final="linear").double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    images = torch.randn(1, 1, 96, 96, dtype=torch.float64)
    whole, part, moved = network(images), network(images[..., :93, :95]), network(images.roll((4, 8), (2, 3)))
    inner = (..., slice(38, 50), slice(38, 50))
    torch.testing.assert_close(part[inner], whole[inner])
    torch.testing.assert_close(moved.roll((-4, -8), (2, 3))[inner], whole[inner])
    assert part.shape[2:] == (93, 95)


def test_volumes_of_few_slices():
    image = torch.randn(1, 1, 12, 16, 9)
    made = ResnetGenerator(3, channels=2, blocks=1)(image)
    logits = PatchDiscriminator(3, channels=2, layers=1)(made)
    logits.mean().backward()
    assert made.shape == image.shape
    assert made.abs().max() <= 1


def test_the_pool_shows_old_and_new_and_survives():
    def fakes(step: int) -> torch.Tensor:
        return torch.full((2, 1, 3, 3), float(step)) + torch.tensor([0.0, 0.5]).reshape(2, 1, 1, 1)

    def shown(pool: ImagePool, step: int) -> torch.Tensor:
        return pool.exchange(fakes(step), np.random.default_rng(step))

    whole = ImagePool(6)
    for step in range(3):
        torch.testing.assert_close(shown(whole, step), fakes(step))
    saved = {key: value.clone() for key, value in whole.state_dict().items()}
    first = [shown(whole, step) for step in range(3, 60)]
    resumed = ImagePool(6)
    resumed.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(first, (shown(resumed, step) for step in range(3, 60)), strict=True))
    old = np.mean([(f.flatten(1)[:, 0] < step).double().mean() for step, f in enumerate(first, start=3)])
    assert 0.3 < old < 0.7
    kept = len({float(image[0, 0, 0]) for image in whole.images})
    assert kept == 6


def test_a_pool_passes_what_it_cannot_keep():
    pool = ImagePool(1)
    pool.exchange(torch.zeros(1, 1, 4, 4), np.random.default_rng(0))
    other = torch.ones(1, 1, 5, 4, requires_grad=True)
    assert torch.equal(pool.exchange(other, np.random.default_rng(0)), other)
    none = ImagePool(0)
    assert not none.exchange(other, np.random.default_rng(0)).requires_grad
    assert none.images.numel() == 0


def test_adaptive_normalisation_sets_mean_and_deviation():
    x = 5 + 3 * torch.randn(2, 4, 12, 10, dtype=torch.float64)
    mean, deviation = torch.randn(2, 4, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64) + 1
    made = adaptive_instance_norm(x, mean, deviation)
    torch.testing.assert_close(made.mean((2, 3)), mean)
    torch.testing.assert_close(made.std((2, 3), unbiased=False), deviation, rtol=1e-5, atol=0)


def test_an_adain_block_takes_means_first():
    block = AdainBlock(2, 3).double()
    x, parameters = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.randn(2, 12, dtype=torch.float64)

    def normalised(hidden: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(hidden)
        for place in itertools.product(range(2), range(3)):
            own = hidden[place]
            result[place] = (own - own.mean()) / (own.var(unbiased=False) + 1e-5).sqrt() * deviation[place] + mean[
                place
            ]
        return result

    hidden = normalised(block.first(x), parameters[:, :3], parameters[:, 3:6])
    wanted = x + normalised(block.second(hidden.relu()), parameters[:, 6:9], parameters[:, 9:])
    torch.testing.assert_close(block(x, parameters), wanted)


def test_image_norm_against_group_norm():
    x, norm = torch.randn(2, 6, 8, 8, dtype=torch.float64), ImageNorm(2, 6).double()
    count = x[0].numel()
    wanted = functional.group_norm(x, 1, eps=0.0) * ((count - 1) / count) ** 0.5 * norm.scale + norm.shift
    torch.testing.assert_close(norm(x), wanted, rtol=2e-5, atol=1e-6)


def test_munit_puts_the_content_of_one_and_the_style_of_the_other_together():
    network = Munit(2, channels=2, blocks=1, hidden=8)
    fixed, moving = torch.randn(2, 3, 1, 16, 16)
    made = network(fixed, moving)
    content, style = network.content["fixed"](fixed), network.style["moving"](moving)
    torch.testing.assert_close(made["moving"], network.decode["moving"](content, style))
    torch.testing.assert_close(made["moving"], network.translate(fixed, style))
    torch.testing.assert_close(made["style_moving"], style)
    torch.testing.assert_close(made["content_fixed_again"], network.content["moving"](made["moving"]))
    torch.testing.assert_close(
        made["cycled_fixed"],
        network.decode["fixed"](made["content_fixed_again"], network.style["fixed"](fixed)),
    )
    random = network(fixed, moving, style="random", cycle=False)
    assert not torch.allclose(random["style_moving"], style)
    assert "cycled_fixed" not in random
    torch.testing.assert_close(random["own_fixed"], made["own_fixed"])


@pytest.mark.parametrize("halvings", [1, 2])
def test_content_codes_at_half_or_a_quarter_of_the_resolution(halvings):
    munit, unit = (kind(2, channels=2, blocks=2, halvings=halvings) for kind in (Munit, Unit))
    image = torch.randn(1, 1, 16, 24)
    size = (2 * 2**halvings, 16 // 2**halvings, 24 // 2**halvings)
    assert munit.content["fixed"](image).shape[1:] == size
    assert unit(image, image)["code_fixed"].shape[1:] == size
    for network in (munit, unit):
        assert network(image, image)["moving"].shape == image.shape


def test_unit_shares_what_is_next_to_the_code():
    network = Unit(2, channels=2, blocks=2, shared=1)
    fixed, moving = torch.randn(2, 3, 1, 16, 16)
    network.translate(fixed).sum().backward()
    used = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert used == {"encode", "decode", "shared_encode", "shared_decode"}
    assert all(p.grad is None for p in network.encode["moving"].parameters())
    first, second = network(fixed, moving), network(fixed, moving)
    torch.testing.assert_close(first["code_fixed"], second["code_fixed"])
    assert not torch.allclose(first["moving"], second["moving"])


def test_coarser_discriminators_judge_pooled_images():
    judge = MultiscaleDiscriminator(2, channels=2)
    images = torch.randn(2, 1, 64, 64)
    fine, middle, _ = judge(images)
    pooled = functional.avg_pool2d(images, 3, 2, 1, count_include_pad=False)
    torch.testing.assert_close(judge.scales[1](pooled), middle)
    assert fine.shape[2:] == (4, 4)


def test_cut_compares_the_layers_that_its_paper_names():
    generator = ResnetGenerator(channels=4, antialias=True)
    assert feature_channels(generator) == [1, 8, 16, 16, 16]
    image = torch.randn(1, 1, 32, 32)
    found = features(generator, image)
    assert [tuple(f.shape[1:]) for f in found] == [(1, 32, 32), (8, 32, 32), (16, 16, 16), (16, 8, 8), (16, 8, 8)]
    torch.testing.assert_close(found[3], generator.encoder[: feature_layers(generator)[2] + 1](image))
    blocks = [m for m in generator.encoder if type(m).__name__ == "ResidualBlock"]
    assert generator.encoder[feature_layers(generator)[3]] is blocks[4]
    assert feature_channels(ResnetGenerator(channels=4, blocks=1)) == [1, 8, 16, 16]


def test_a_generator_that_changes_nothing_is_found_everywhere():
    class Same(ResnetGenerator):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    network = Cut(Same(channels=4, blocks=2), width=16)
    image = torch.randn(2, 1, 32, 32)
    random = torch.Generator().manual_seed(0)
    same = network(image, image, random, places=32)
    shuffled = network._nce(image.flip(-1), image, random, 32)
    assert same["nce"] < 0.7 * shuffled
    assert network(image, image, random, places=32, own=False, flip=True)["nce"] < shuffled
