"""Learned translations: they find the contrast without paired images, go on after kills, and refuse what can't work."""

import math
from pathlib import Path
from typing import Any

import contrast_pairs
import ellipsoid_pairs
import numpy as np
import pytest
import torch
from contrast_pairs import make, two_contrasts

from modalign.cases import Case, CaseStore
from modalign.errors import ConfigError, DataError, ModalignError
from modalign.methods import method_class
from modalign.methods._batches import from_network, padded, to_network
from modalign.methods._translation import Translation, frozen
from modalign.methods.base import Context
from modalign.training import registration
from modalign.volumes import Volume

NAMES = ["cyclegan", "sc_cyclegan", "unit", "munit", "cut"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaseStore:
    return contrast_pairs.write_store(tmp_path_factory.mktemp("discs"))


def disagreement(image: np.ndarray, truth: np.ndarray) -> float:
    """One minus the correlation."""
    return 1 - float(np.corrcoef(image.ravel(), truth.ravel())[0, 1])


@pytest.mark.parametrize(
    ("name", "steps", "threshold"),
    [("cyclegan", 70, 0.65), ("unit", 120, 0.65), ("munit", 60, 0.65), ("cut", 120, 0.75)],
)
def test_it_learns_the_contrast_from_unpaired_images(store, tmp_path, name, steps, threshold):
    method = make(name, tmp_path, steps=steps, paired=False)
    method.train(store)
    case, truth = two_contrasts(99)
    unregistered = disagreement(case.moving.data, truth)
    assert disagreement(case.fixed.data, truth) > 1
    assert disagreement(method.align(case).image.data, truth) < threshold * unregistered


def test_a_killed_training_ends_with_the_same_bytes(store, tmp_path, monkeypatch, request):
    """Those of the best validation, which here is one of the first: the sign is turned."""
    options = {"steps": 6, "batch": 2, "pool": 3, "checkpoint_seconds": 0.0, "flips": True}
    options |= {"keep": "best", "validate_every": 1}
    own = registration.validation_loss
    turned = pytest.MonkeyPatch()
    turned.setattr(registration, "validation_loss", lambda *given: -own(*given))
    request.addfinalizer(turned.undo)
    assert make("munit", tmp_path / "whole", **options).train(store)["best_step"] < 3
    method_type = method_class("munit")
    terms = method_type._terms

    def until_the_third(self: Any, generators: Any, images: Any, step: int) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return terms(self, generators, images, step)

    monkeypatch.setattr(method_type, "_terms", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        make("munit", tmp_path / "broken", **options).train(store)
    monkeypatch.undo()
    assert make("munit", tmp_path / "broken", **options).train(store)["resumes"] == 1
    make("munit", tmp_path / "other", seed=1, **options).train(store)
    whole, broken, other = ((tmp_path / name / "weights.pt").read_bytes() for name in ("whole", "broken", "other"))
    assert whole == broken != other


def untrained(name: str, folder: Path, dimension: int = 2, **options: Any) -> Translation:
    """A method whose weights are as they were drawn, for intensities from 0 to 1 (fixed) and -1000 to 500 (moving)."""
    from modalign.training.registration import save_weights

    torch.manual_seed(0)
    method = make(name, folder, dimension, **options)
    limits = {"fixed": (0.0, 1.0), "moving": (-1000.0, 500.0)}
    save_weights(folder / "weights.pt", method._network().state_dict(), dimension=dimension, limits=limits)
    return method


@pytest.mark.parametrize("name", NAMES)
def test_slices_of_any_size_are_translated_as_if_alone(tmp_path, rng, name):
    fixed = Volume(rng.random((21, 18, 19), dtype=np.float32), np.diag([1.0, 1.0, 2.5, 1.0]))
    moving = Volume(rng.random((15, 30, 24), dtype=np.float32), np.diag([1.5, 0.7, 2.0, 1.0]))
    method = untrained(name, tmp_path)
    whole = method.align(Case("odd", fixed, moving))
    assert whole.field is None
    assert whole.image.grid.same_as(fixed.grid)
    assert -1000 <= whole.image.data.min() < whole.image.data.max() <= 500
    affine = fixed.affine.copy()
    affine[2, 3] = 17 * 2.5
    alone = method.align(Case("one", Volume(fixed.data[:, :, 17:18], affine), moving)).image.data
    np.testing.assert_allclose(alone, whole.image.data[:, :, 17:18], atol=0.05)


@pytest.mark.parametrize("name", ["cyclegan", "munit"])
def test_a_step_on_volumes(tmp_path, name):
    cases = [two_contrasts(seed, slices=17, size=18)[0] for seed in range(2)]
    store = ellipsoid_pairs.write_store(tmp_path, {"train": cases})
    method = make(name, tmp_path / "model", 3, steps=2, batch=1, channels=2, discriminator_layers=2)
    method.train(store)
    image = method.align(cases[0]).image.data
    assert image.shape == (18, 18, 17)
    assert np.ptp(image) > 0


def test_the_style_of_the_result(tmp_path):
    cases = [two_contrasts(seed, slices=2)[0] for seed in range(2)]
    same = [Case("same", cases[0].fixed, case.moving) for case in cases]
    reference = [untrained("munit", tmp_path).align(case).image.data for case in same]
    random = [untrained("munit", tmp_path, align_style="random").align(case).image.data for case in same]
    assert np.abs(reference[0] - reference[1]).max() > 1e-3
    np.testing.assert_array_equal(*random)
    assert np.abs(random[0] - reference[0]).max() > 1e-3


def test_the_released_target_of_styles_is_a_fresh_draw():
    from modalign.networks.munit import Munit

    given, released = (make("munit", Path(), style_target=target) for target in ("given", "as_released"))
    torch.manual_seed(0)
    network = Munit(2, channels=2, blocks=1)
    images = {c: torch.randn(2, 1, 16, 16) for c in ("fixed", "moving")}
    made, terms = given._terms(network, images, 0)
    wanted = (made["style_moving_again"] - network.style["moving"](images["moving"])).abs().mean()
    torch.testing.assert_close(terms["style moving"], wanted)
    draws = [released._terms(network, images, 0)[1]["style moving"].item() for _ in range(2)]
    assert draws[0] != draws[1]


def test_structure_is_blind_to_contrast_and_to_the_rim():
    method = make("sc_cyclegan", Path())
    images = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    structure = method._structure(images)
    torch.testing.assert_close(method._structure(1 - images), structure)
    rim = images.clone()
    rim[..., 0, :] = 5
    outside = slice(1, None)
    torch.testing.assert_close(method._structure(rim)[:, :, outside], structure[:, :, outside])
    assert (method._structure(torch.rand_like(images)) - structure).abs().mean() > 0.05


def test_features_before_and_after_a_translation():
    options = {"perceptual_weight": 2.0, "contextual_weight": 3.0, "vgg_width": 4, "perceptual_layer": "conv2_2"}
    method = make("unit", Path(), contextual_layers=("conv1_2",), **options)
    images = {c: torch.rand(1, 1, 32, 32) for c in ("fixed", "moving")}
    unchanged = method.feature_terms({"moving": images["fixed"], "fixed": images["moving"]}, images)
    assert unchanged["perceptual moving"] == unchanged["perceptual fixed"] == 0
    exchanged = method.feature_terms(images, images)
    assert exchanged["perceptual moving"] > 0.1
    assert exchanged["contextual moving"] < unchanged["contextual moving"]
    assert make("unit", Path()).feature_terms(images, images) == {}


@pytest.mark.parametrize("name", NAMES)
def test_the_published_networks_take_a_step(store, tmp_path, name):
    method = method_class(name)({"steps": 1, "crop": (32, 32)}, 2, Context(model=tmp_path))
    record = method.train(store)
    log = (tmp_path / "state" / "log.csv").read_text().splitlines()
    values = [float(value) for value in log[1].split(",") if value]
    assert record["parameters"] > 1e7
    assert all(map(math.isfinite, values))


def test_cut_starts_with_the_weights_of_its_authors():
    """Glorot's deviation times 0.02, not 0.02 itself, in generator and discriminator."""
    for initialisation, glorot in (("xavier", True), ("normal", False)):
        cut = method_class("cut")({"preset": "paper", "initialisation": initialisation}, 2)
        for network in (cut._network(), cut._discriminators()):
            weights = [
                m.weight for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.weight.numel() > 20_000
            ]
            for weight in weights:
                fans = (weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()
                expected = 0.02 * ((2 / fans) ** 0.5 if glorot else 1)
                assert float(weight.detach().std()) == pytest.approx(expected, rel=0.05)
    fast = method_class("cut")({"preset": "fast"}, 2).options
    assert [fast.learning_rate_at(epoch, 1) / 2e-4 for epoch in (0, 149, 175)] == pytest.approx([1, 1, 0.5])


def test_presets_and_what_overrides_them():
    paper = method_class("cyclegan")({}, 2).options
    assert (paper.epochs, paper.cycle_weight, paper.learning_rate, paper.weight_decay) == (100, 100, 1e-4, 1e-4)
    assert method_class("sc_cyclegan")({}, 2).options.structure_weight == 0.01
    assert method_class("sc_cyclegan")({"preset": "original"}, 2).options.cycle_weight == 10
    original = method_class("munit")({"preset": "original", "style": "reference"}, 2).options
    assert (original.image_weight, original.style, original.discriminator) == (10, "reference", "multiscale")
    rates = [original.learning_rate_at(step, 1) for step in (0, 99_999, 100_000, 999_999)]
    assert rates == [1e-4, 1e-4, 5e-5, 1e-4 / 512]
    fast = method_class("cut")({"preset": "fast", "steps": 3}, 2).options
    assert (fast.nce_weight, fast.identity, fast.steps, fast.epochs) == (10, False, 3, None)


def test_a_share_of_the_patients(store, tmp_path, caplog):
    options = {"steps": 2, "batch": 2, "discriminator_channels": 2}
    make("cut", tmp_path / "all", **options).train(store)
    make("cut", tmp_path / "part", train_fraction=0.2, **options).train(store)
    whole, part = (torch.load(tmp_path / name / "weights.pt")["limits"] for name in ("all", "part"))
    assert whole != part


def test_intensities_come_back():
    values = torch.tensor([-1200.0, -1000.0, -250.0, 500.0, 900.0])
    seen = to_network(values, (-1000.0, 500.0))
    torch.testing.assert_close(seen, torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0]))
    torch.testing.assert_close(from_network(seen, (-1000.0, 500.0)), values.clamp(-1000, 500))


def test_padding_repeats_the_far_border():
    images = torch.rand(1, 1, 17, 5)
    wider = padded(images)
    assert wider.shape[2:] == (20, 16)
    torch.testing.assert_close(wider[..., :17, :5], images)
    torch.testing.assert_close(wider[..., 17:, :5], images[..., 16:, :].expand(-1, -1, 3, -1))
    assert padded(wider) is wider


def test_a_frozen_network_gives_gradients_to_its_input_alone():
    layer = torch.nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    x = torch.ones(1, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="boom"), frozen(layer):
        layer(x).sum().backward()
        raise RuntimeError("boom")
    torch.testing.assert_close(x.grad, layer.weight.detach())
    assert layer.weight.grad is None
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (True, False)


def test_what_cannot_work(store, tmp_path):
    case = two_contrasts(0, slices=1)[0]
    with pytest.raises(ConfigError, match="has to be trained first: name the folder of its model"):
        method_class("cyclegan")({"preset": "small"}, 2).align(case)
    with pytest.raises(DataError, match=r"weights\.pt does not exist: train this method"):
        make("cyclegan", tmp_path / "none").align(case)
    untrained("cyclegan", tmp_path)
    with pytest.raises(ConfigError, match="was trained in 2 dimensions, not in 3"):
        make("cyclegan", tmp_path, 3).align(case)
    with pytest.raises(ModalignError, match="training needs a folder"):
        method_class("unit")({"preset": "small"}, 2).train(store)
    with pytest.raises(ConfigError, match="perceptual_layer conv5_3 sees a single place of 16 x 16 voxels"):
        make("unit", tmp_path / "a", perceptual_weight=1.0, vgg_width=4, crop=(16, 16), steps=1).train(store)
    with pytest.raises(ConfigError, match="shared_blocks is 3, and there are 2 blocks"):
        method_class("unit")({"preset": "small", "shared_blocks": 3}, 2)
    with pytest.raises(ConfigError, match=r"has crop \[96, 96\], and works in 3 dimensions: give one number per axis"):
        method_class("munit")({}, 3)
    with pytest.raises(ConfigError, match="method munit has no option 'cycle'"):
        method_class("munit")({"cycle": 1}, 2)
    empty = ellipsoid_pairs.write_store(tmp_path, {"test": [case]})
    with pytest.raises(DataError, match="has no training cases"):
        make("cut", tmp_path / "model").train(empty)
