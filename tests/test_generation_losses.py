"""PatchNCE, the contextual loss and VGG-19 features, against direct computations."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modalign.errors import ConfigError, DataError
from modalign.methods._generation import GenerationOptions, contextual_term
from modalign.networks.vgg import LAYERS, Vgg19, from_torchvision, layer_channels, vgg19
from modalign.similarity import contextual
from modalign.similarity.contextual import contextual_loss, contextual_similarity
from modalign.similarity.patch_nce import PatchSampler, patch_nce, patch_nce_of_maps, random_places


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=random, dtype=dtype), dim=2)


def test_patch_nce_is_the_cross_entropy_written_out():
    query, key = unit(2, 7, 5), unit(2, 7, 5, seed=1)
    terms = []
    for image in range(2):
        for place in range(7):
            scores = [math.exp(float(query[image, place] @ key[image, other]) / 0.2) for other in range(7)]
            terms.append(-math.log(scores[place] / sum(scores)))
    assert float(patch_nce(query, key, 0.2)) == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_patch_nce_equals_the_released_formulation():
    """The positive first, and a diagonal of -10 among the negatives before the division by the temperature."""
    query, key = unit(2, 30, 16), unit(2, 30, 16, seed=1)
    positive = (query * key).sum(2, keepdim=True)
    negatives = torch.bmm(query, key.transpose(1, 2))
    negatives.masked_fill_(torch.eye(30, dtype=torch.bool), -10.0)
    logits = torch.cat([positive, negatives], 2).flatten(0, 1) / 0.07
    expected = functional.cross_entropy(logits, torch.zeros(60, dtype=torch.long))
    torch.testing.assert_close(patch_nce(query, key), expected)


def test_patch_nce_at_its_ends():
    orthogonal = torch.eye(8)[None]
    assert float(patch_nce(orthogonal, orthogonal)) < 1e-5
    alike = functional.normalize(torch.ones(1, 8, 8), dim=2)
    assert float(patch_nce(alike, alike)) == pytest.approx(math.log(8), abs=1e-5)
    key = orthogonal.clone().requires_grad_()
    assert not patch_nce(alike, key).requires_grad
    with pytest.raises(ValueError, match=r"are \(B, N, C\) alike, not \(1, 8, 8\) and \(1, 7, 8\)"):
        patch_nce(alike, alike[:, :7])


def test_places_are_the_same_in_both_maps_and_repeat_with_the_seed():
    maps = [torch.rand(2, 4, 6, 5), torch.rand(2, 4, 3, 2)]
    random = torch.Generator().manual_seed(0)
    first = random_places(maps, 10, random)
    assert [len(set(p.tolist())) for p in first] == [10, 6]
    assert all(torch.equal(a, b) for a, b in zip(first, random_places(maps, 10, random.manual_seed(0)), strict=True))
    sampler = PatchSampler([4, 4], 8, shared=True)
    same = patch_nce_of_maps(sampler, maps, maps, random.manual_seed(1), 10)
    moved = patch_nce_of_maps(sampler, [m.roll(1, 2) for m in maps], maps, random.manual_seed(1), 10)
    assert same < moved


def test_the_sampler_picks_features_from_their_places():
    maps = [torch.rand(2, 3, 4, 5), torch.rand(2, 6, 2, 2)]
    places = [torch.tensor([0, 7, 19]), torch.tensor([3])]
    sampler = PatchSampler([3, 6], 8)
    for own, m, p, found in zip(sampler.perceptrons, maps, places, sampler(maps, places), strict=True):
        for row, place in enumerate(p.tolist()):
            i, j = divmod(place, m.shape[3])
            torch.testing.assert_close(found[:, row], functional.normalize(own(m[:, :, i, j]), dim=1))
    with pytest.raises(ValueError, match=r"maps of \[3, 6\] channels can't share"):
        PatchSampler([3, 6], 8, shared=True)


def direct_contextual(image: Tensor, target: Tensor, bandwidth: float = 0.5) -> float:
    """One image pair, (N, C) and (M, C), element by element."""
    mean = target.mean(0)
    first, second = ([(x - mean) / (x - mean).norm() for x in side] for side in (image, target))
    table = []
    for x in first:
        distances = [max((1 - float(x @ y)) / 2, 0.0) for y in second]
        weights = [math.exp((1 - d / (min(distances) + 1e-5)) / bandwidth) for d in distances]
        table.append([w / sum(weights) for w in weights])
    best = [max(row[j] for row in table) for j in range(len(second))]
    return -math.log(sum(best) / len(best))


def test_the_contextual_loss_is_the_one_written_out():
    random = torch.Generator().manual_seed(0)
    image, target = (torch.randn(1, 6, *size, generator=random).double() for size in ((3, 4), (5, 3)))
    expected = direct_contextual(image[0].flatten(1).T, target[0].flatten(1).T)
    assert float(contextual_loss([image], [target], parts=1)) == pytest.approx(expected, rel=1e-5)
    twice = contextual_loss([image, image], [target, target], parts=1)
    assert float(twice) == pytest.approx(2 * expected, rel=1e-5)


def test_quadrants_are_compared_by_themselves():
    random = torch.Generator().manual_seed(0)
    image, target = torch.randn(2, 1, 6, 8, 6, generator=random)
    quarters = [(slice(i, i + 4), slice(j, j + 3)) for i in (0, 4) for j in (0, 3)]
    # The mean that is taken off is that of all quarters.
    target = target - target.mean((2, 3), keepdim=True)
    values = []
    for rows, columns in quarters:
        part = target[0, :, rows, columns]
        centred = part - part.mean((1, 2), keepdim=True)
        values.append((image[0, :, rows, columns], part, centred))
    whole = contextual_loss([image], [target])
    pieces = [
        -contextual_similarity(
            functional.normalize(i.flatten(1).T[None], dim=2), functional.normalize(p.flatten(1).T[None], dim=2)
        ).log()
        for i, p, _ in values
    ]
    torch.testing.assert_close(whole, torch.cat(pieces).mean(), rtol=1e-5, atol=1e-6)


def test_an_offset_moves_the_cuts():
    """By half a part of 4 rows and a quarter of one of 4 columns: as if the images had been rolled there."""
    random = torch.Generator().manual_seed(0)
    image, target = torch.randn(2, 1, 6, 8, 8, generator=random)
    rolled = [x.roll((-2, -1), (2, 3)) for x in (image, target)]
    moved = contextual_loss([image], [target], offset=(0.5, 0.25))
    torch.testing.assert_close(moved, contextual_loss([rolled[0]], [rolled[1]]))
    assert moved != contextual_loss([image], [target])
    with pytest.raises(ValueError, match="smaller than 9 voxels can't be cut into 9 parts"):
        contextual_loss([image], [target], parts=9)


def materialised(first: Tensor, second: Tensor, bandwidth: float = 0.5) -> Tensor:
    distance = ((1 - torch.bmm(first, second.transpose(1, 2))) / 2).clamp(min=0)
    relative = distance / (distance.amin(2, keepdim=True) + 1e-5)
    weights = torch.exp((1 - relative) / bandwidth)
    return (weights / weights.sum(2, keepdim=True)).amax(1).mean(1)


@pytest.mark.parametrize("tile", [1, 60, 10**6])
def test_tiles_do_not_change_the_contextual_similarity_or_its_gradients(monkeypatch, tile):
    monkeypatch.setitem(contextual.TILE_ELEMENTS, "cpu", tile)
    first, second = unit(2, 23, 6).requires_grad_(), unit(2, 31, 6, seed=1).requires_grad_()
    outcomes = []
    for similarity in (contextual_similarity, materialised):
        value = similarity(first, second)
        outcomes.append([value, *torch.autograd.grad(-value.log().sum(), (first, second))])
    for ours, plain in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_the_contextual_similarity_is_that_of_its_values():
    first, second = unit(1, 5, 3).requires_grad_(), unit(1, 6, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(contextual_similarity, (first, second))


def test_the_contextual_loss_forgives_shifts_but_not_other_features():
    random = torch.Generator().manual_seed(0)
    target = torch.randn(1, 16, 12, 12, generator=random)
    same = contextual_loss([target], [target], parts=1)
    shifted = contextual_loss([target.roll(3, 2)], [target], parts=1)
    other = contextual_loss([torch.randn(1, 16, 12, 12, generator=random)], [target], parts=1)
    torch.testing.assert_close(same, shifted, rtol=1e-4, atol=1e-4)
    assert same < 0.01 < other
    with pytest.raises(ValueError, match="1 feature maps can't be compared with 2"):
        contextual_loss([target], [target, target])


@pytest.mark.parametrize("form", ["relative", "nearest"])
def test_the_contextual_loss_is_exact_under_mixed_precision(form):
    """With cosines in bfloat16, of 8 bits, the smallest distances of like features would all be 0."""
    random = torch.Generator().manual_seed(0)
    target = torch.randn(1, 16, 8, 8, generator=random)
    image = (target + 0.05 * torch.randn(target.shape, generator=random)).requires_grad_()
    outcomes = []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = contextual_loss([image], [target], parts=1, form=form)
            outcomes.append([loss, *torch.autograd.grad(loss, image)])
    assert outcomes[1][0].dtype == torch.float32
    for exact, mixed in zip(*outcomes, strict=True):
        assert torch.equal(exact, mixed)


def test_the_printed_contextual_loss_is_the_mean_distance_to_the_nearest_feature(monkeypatch):
    monkeypatch.setitem(contextual.TILE_ELEMENTS, "cpu", 50)
    random = torch.Generator().manual_seed(0)
    image, target = (torch.randn(2, 5, *size, generator=random) for size in ((4, 5), (3, 6)))
    first, second = (functional.normalize(x.flatten(2), dim=1) for x in (image, target))
    expected = (1 - torch.einsum("bci,bcj->bij", first, second)).amin(1).mean()
    torch.testing.assert_close(contextual_loss([image], [target], parts=1, form="nearest"), expected)
    same = contextual_loss([image], [image.roll(1, 2)], parts=1, form="nearest")
    assert same.item() == pytest.approx(0, abs=1e-6)


def test_options_choose_form_and_bandwidth_of_the_contextual_loss():
    random = torch.Generator().manual_seed(0)
    output, reference = ([torch.randn(1, 6, 8, 8, generator=random)] for _ in range(2))
    given = {"steps": 1, "contextual_weight": 2.0, "contextual_of": "output", "contextual_bandwidth": 0.2}
    relative = contextual_term(output, reference, GenerationOptions(**given))
    torch.testing.assert_close(relative, 2 * contextual_loss(reference, output, bandwidth=0.2))
    nearest = contextual_term(output, reference, GenerationOptions(**given, contextual_form="nearest"))
    torch.testing.assert_close(nearest, 2 * contextual_loss(reference, output, form="nearest"))


def test_random_features_of_the_published_width_are_warned_of(caplog):
    vgg19(["conv1_1"], None, 0, 16)
    assert caplog.text == ""
    vgg19(["conv1_1"], None, 0)
    assert "seeded random weights" in caplog.text
    assert "features: {files: {vgg19: <path>}}" in caplog.text


def test_vgg19_is_that_of_torchvision(tmp_path):
    from torchvision.models import vgg19 as torchvision_vgg19

    torch.manual_seed(0)
    peer = torchvision_vgg19(weights=None).eval()
    network = Vgg19(LAYERS)
    network.load_state_dict(from_torchvision(peer.state_dict()))
    image = torch.randn(1, 1, 32, 48)
    x, expected = image.expand(-1, 3, -1, -1), []
    for layer in peer.features:
        x = layer(x)
        if isinstance(layer, torch.nn.ReLU):
            expected.append(x)
    for layer, ours, theirs in zip(LAYERS, network(image), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=layer)
    torch.testing.assert_close(network(image, ["conv3_2"])[0], expected[LAYERS.index("conv3_2")])
    assert layer_channels(["conv1_2", "conv4_2"]) == [64, 512]


def test_random_features_tell_places_apart_however_deep():
    """With plain random weights the cosines between places of conv5_4 are above 0.99."""
    network = vgg19(["conv1_2", "conv5_4"], None, seed=0, width=8)
    state = torch.random.get_rng_state()
    again = vgg19(["conv1_2", "conv5_4"], None, seed=0, width=8)
    assert torch.equal(torch.random.get_rng_state(), state)
    image = torch.zeros(1, 1, 96, 96)
    image[:, :, 20:70, 30:80] = 1
    for ours, same in zip(network(image), again(image), strict=True):
        assert torch.equal(ours, same)
        cosines = functional.normalize(ours[0].flatten(1).T, dim=1)
        assert (cosines @ cosines.T).median() < 0.97
    other = vgg19(["conv1_2"], None, seed=1, width=8)
    assert not torch.equal(other(image)[0], network(image, ["conv1_2"])[0])


def test_weights_files_that_are_not_vgg19(tmp_path):
    with pytest.raises(DataError, match=r"none\.pth does not exist: fetch the VGG-19 weights from https://"):
        vgg19(["conv1_2"], tmp_path / "none.pth", 0)
    (tmp_path / "other.pth").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"has SHA-256 [0-9a-f]{64}, not dcbb9e9d"):
        vgg19(["conv1_2"], tmp_path / "other.pth", 0)
    with pytest.raises(ConfigError, match="need vgg_width 64, not 16"):
        vgg19(["conv1_2"], tmp_path / "other.pth", 0, width=16)
    with pytest.raises(ValueError, match="VGG-19 has no layer 'conv1_3'"):
        Vgg19(["conv1_3"])
