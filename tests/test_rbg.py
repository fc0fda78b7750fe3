"""RbG and RegistFormer: both stages learn on slices with known truth, and ask the methods they build on properly."""

from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
import torch
from ellipsoid_pairs import Recolour, phantom_case, write_store

from modalign.cases import Alignment, Case, CaseStore
from modalign.errors import ConfigError, DataError
from modalign.methods._stage2_losses import Stage2Losses, as_slices
from modalign.methods.base import Context, Method
from modalign.methods.rbg import Rbg
from modalign.methods.rbg_stage1 import RbgStage1
from modalign.methods.registformer import RegistFormer
from modalign.spatial.fields import warp_volume
from modalign.training.data import draw_cases

Slices = tuple[CaseStore, list[Case]]


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Slices:
    cases = [phantom_case(seed, (48, 48), 2.0, 10.0, slices=6) for seed in range(7)]
    return write_store(tmp_path_factory.mktemp("slices"), {"train": cases[:6]}), cases[6:]


def truth(case: Case) -> np.ndarray:
    """The moving contrast in the fixed geometry."""
    return warp_volume(case.moving, case.true_field, case.grid).data


def error(image: np.ndarray, case: Case) -> float:
    """The mean absolute error, as a fraction of that of the unregistered reference."""
    return float(np.abs(image - truth(case)).mean() / np.abs(case.moving.data - truth(case)).mean())


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


class Known(Method):
    """A registration that returns a given field, or none at all, and remembers what it was given."""

    label, kind, source, dimensions = "Known", "registration", "a test", frozenset({2, 3})
    seen: ClassVar[list[tuple[np.ndarray, np.ndarray]]] = []
    field: ClassVar[np.ndarray | None] = None

    def align(self, case: Case) -> Alignment:
        for needed in self.context.needs.values():
            case.fixed = needed.align(case).image
        self.seen.append((case.fixed.data, case.moving.data))
        field = np.zeros((3, *case.grid.shape), np.float32) if self.field is None else self.field
        return Alignment(warp_volume(case.moving, field, case.grid), field)


def context(folder: Path, seed: int = 0, dimension: int = 2, **needs: Method) -> Context:
    needs = {"stage1": Recolour(dimension=dimension), "registration": Known(dimension=dimension), **needs}
    return Context(seed=seed, model=folder, needs=needs)


def test_stage_1_learns_from_misaligned_pairs(slices, tmp_path):
    """Forty steps make the other contrast from the fixed image; the two contrasts themselves are less correlated."""
    store, (case,) = slices
    options = {"preset": "small", "steps": 40}
    method = RbgStage1(options, 2, Context(model=tmp_path))
    record = method.train(store)
    assert record["vgg19"] == "random"
    first, again = (method.align(case).image.data for _ in range(2))
    assert correlation(first, truth(case)) > 0.8
    assert correlation(case.fixed.data, truth(case)) < 0.65
    assert np.array_equal(first, again)
    other = RbgStage1(options, 2, Context(seed=1, model=tmp_path)).align(case).image.data
    assert not np.array_equal(other, first)


def test_stage_2_refines_a_translation_by_the_reference(slices, tmp_path):
    """Stage 1 knows three grey values only, and R finds nothing; stage 2 ends nearer to the truth than the first output
    and than the unregistered reference, whose error is 1."""
    store, (case,) = slices
    method = Rbg({"preset": "small", "steps": 70}, 2, context(tmp_path, stage1=Merging(dimension=2)))
    method.train(store)
    assert error(method.align(case).image.data, case) < 0.95
    assert error(Merging(dimension=2).align(case).image.data, case) > 1.4


class Merging(Recolour):
    """A translation that knows three grey values only."""

    def align(self, case: Case) -> Alignment:
        image = super().align(case).image
        return Alignment(image.like((np.round(image.data * 2) / 2).astype(np.float32)))


def test_the_first_outputs_are_made_once_and_again_for_another_field_or_other_code(slices, tmp_path, monkeypatch):
    store, _ = slices
    options = {"preset": "small", "steps": 1, "batch": 1}
    Recolour.translated.clear()
    for flow, expected in (("corrected", 1), ("corrected", 1), ("zero", 2)):
        Rbg({**options, "daca_flow": flow}, 2, context(tmp_path)).train(store)
        assert Recolour.translated.count("case-0") == expected
    monkeypatch.setattr("modalign.digest.code_digest", lambda *modules: "changed")
    Rbg({**options, "daca_flow": "zero"}, 2, context(tmp_path)).train(store)
    assert Recolour.translated.count("case-0") == 3


def test_r_registers_the_reference_with_the_first_output(slices, tmp_path, monkeypatch):
    """R's own translator is left out, for its fixed image is translated already; as released, R's images change places
    and the axes of its field as well."""
    _, (case,) = slices
    translated = Recolour(dimension=2).align(case).image.data
    field = np.zeros((3, *case.grid.shape), np.float32)
    field[0], field[1] = 1, 2
    monkeypatch.setattr(Known, "field", field)
    registration = Known({}, 2, Context(needs={"translator": Recolour(dimension=2)}))

    def ask(flow: str) -> np.ndarray:
        Known.seen.clear()
        method = Rbg({"preset": "small", "daca_flow": flow}, 2, context(tmp_path, registration=registration))
        initial, found = method._first(case)
        np.testing.assert_allclose(initial[:, 0].permute(1, 2, 0).numpy(), translated)
        return found.numpy()

    corrected = ask("corrected")
    assert corrected.shape == (6, 2, 48, 48)
    assert np.all(corrected[:, 0] == 1)
    assert np.all(corrected[:, 1] == 2)
    np.testing.assert_allclose(Known.seen[0], (translated, case.moving.data))
    released = ask("as_released")
    np.testing.assert_allclose(Known.seen[0], (case.moving.data, translated))
    assert np.all(released[:, 0] == 2)
    assert np.all(released[:, 1] == 1)
    assert not ask("zero").any()
    assert not Known.seen
    assert "translator" in registration.context.needs


def test_training_again_gives_the_same_weights_of_every_stage(slices, tmp_path):
    store, _ = slices
    for kind in (RbgStage1, Rbg):
        options = {"preset": "small", "steps": 3, "batch": 2}
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            kind(options, 2, context(tmp_path / kind.__name__ / name, seed)).train(store)
        first, same, other = ((tmp_path / kind.__name__ / name / "weights.pt").read_bytes() for name in "abc")
        assert first == same != other


@pytest.mark.parametrize(
    ("weights", "terms"),
    [
        ({}, {"contextual", "patch_nce", "gan", "discriminator"}),
        ({"warm_up": 0.5, "steps": 2}, {"practice", "contextual", "patch_nce", "gan", "discriminator"}),
        ({"cool_down": 0.5, "warm_up": 0, "steps": 2}, {"practice", "contextual", "patch_nce", "gan", "discriminator"}),
        ({"practice_every": 2, "steps": 2}, {"practice", "contextual", "patch_nce", "gan", "discriminator"}),
        ({"nce_weight": 0, "mind_weight": 1}, {"contextual", "mind", "gan", "discriminator"}),
        ({"contextual_weight": 0, "gan_weight": 0}, {"patch_nce"}),
        ({"contextual_weight": 0, "gan_weight": 0, "nce_features": "extractors"}, {"patch_nce"}),
        ({"contextual_weight": 0, "l1_weight": 1}, {"patch_nce", "l1", "gan", "discriminator"}),
    ],
)
def test_the_losses_of_the_ablations(slices, tmp_path, weights, terms):
    store, _ = slices
    options = {"preset": "small", "steps": 1, "batch": 1, "warm_up": 0, "cool_down": 0, "practice_every": 0}
    Rbg({**options, **weights}, 2, context(tmp_path)).train(store)
    header = (tmp_path / "state" / "log.csv").read_text().splitlines()[0].split(",")
    assert set(header) - {"step", "seconds", "learning_rate", "validation"} == terms


def test_the_adversarial_gradient_of_stage_1_can_be_kept_away(slices, tmp_path):
    """With the released defect, the weight of the adversarial term makes no difference to the generator."""
    store, _ = slices
    written = {}
    for detach in (False, True):
        for weight in (1.0, 5.0):
            folder = tmp_path / f"{detach}-{weight}"
            options = {"preset": "small", "steps": 2, "batch": 1, "gan_detach": detach, "gan_weight": weight}
            RbgStage1(options, 2, Context(model=folder)).train(store)
            weights = torch.load(folder / "weights.pt", weights_only=True)["weights"]
            written[detach, weight] = torch.cat([w.flatten() for w in weights.values()])
    assert torch.equal(written[True, 1.0], written[True, 5.0])
    assert not torch.equal(written[False, 1.0], written[False, 5.0])


def test_the_paper_settings_build_and_step(slices, tmp_path):
    store, _ = slices
    step = {"steps": 1, "batch": 1, "crop": (32, 32)}
    assert RbgStage1(step, 2, Context(model=tmp_path / "1")).train(store)["parameters"] > 33_826_317
    for kind in (Rbg, RegistFormer):
        method = kind({**step, "window": 4}, 2, context(tmp_path / kind.__name__))
        assert sum(p.numel() for p in method._network().parameters()) == 71_233
        method.train(store)


def test_volumes_are_refined_as_volumes(tmp_path):
    cases = [phantom_case(seed, (16, 16, 8), 1.0, 5.0) for seed in range(2)]
    store = write_store(tmp_path, {"train": cases})
    needs = context(tmp_path / "model", dimension=3)
    method = Rbg({"preset": "small", "steps": 2, "warm_up": 0.5, "crop": (12, 12, 8), "parts": 2}, 3, needs)
    method.train(store)
    assert np.isfinite(method.align(cases[0]).image.data).all()
    volume = torch.rand(2, 1, 4, 5, 3)
    torch.testing.assert_close(as_slices(volume)[4], volume[1, ..., 1])
    through_itself = {"steps": 1, "warm_up": 0, "cool_down": 0, "crop": (12, 12, 8), "nce_features": "extractors"}
    Rbg({"preset": "small", **through_itself}, 3, context(tmp_path / "other", dimension=3)).train(store)


def test_a_share_of_the_training_cases(slices, tmp_path):
    store, _ = slices
    ids = [f"case-{n}" for n in range(20)]
    few, more = (draw_cases(ids, fraction, 0, "data") for fraction in (0.1, 0.2))
    assert (len(few), len(more)) == (2, 4)
    assert set(few) < set(more)
    assert few != draw_cases(ids, 0.1, 1, "data")
    assert len(draw_cases(ids, 0.01, 0)) == 1
    Rbg({"preset": "small", "steps": 1, "batch": 1, "train_fraction": 0.4}, 2, context(tmp_path)).train(store)
    with h5py.File(tmp_path / "state" / "first-train.h5") as file:
        assert list(file) == draw_cases(store.ids(["train"]), 0.4, 0, store.dataset)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Rbg, {"crop": (32, 32, 8)}, r"has crop \[(\d+, ){2}\d+\], and works in 2 dimensions"),
        (Rbg, {"warm_up": 1.0}, "less than 1"),
        (Rbg, {"warm_up": 0.6, "cool_down": 0.4}, "leave no steps in between"),
        (Rbg, {"keep": "best"}, "makes no validations"),
        (Rbg, {"heads": 3}, "14 channels can't be divided among 3 heads"),
        (Rbg, {"contextual_weight": 0, "nce_weight": 0, "gan_weight": 0}, "there is nothing to learn from"),
        (Rbg, {"nce_layers": ["conv6_1"]}, "should match pattern"),
        (RbgStage1, {"nce_layers": [7]}, "less than or equal to 6"),
        (RbgStage1, {"padain_factor": 0}, "'padain_factor"),
        (RbgStage1, {"step": 5}, "has no option 'step'"),
    ],
)
def test_options_that_cannot_work(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(options, 2)


def test_presets(tmp_path):
    paper = Rbg({}, 2).options
    assert (paper.contextual_weight, paper.nce_weight, paper.gan_weight) == (1.0, 0.1, 0.1)
    assert (paper.window, paper.batch, paper.shift_voxels, paper.crop) == (28, 4, 10, (96, 96))
    assert RegistFormer({}, 2).options.shift_voxels == 0
    assert paper.warm_up == 0
    assert RbgStage1({"epochs": 2}, 2).options.steps is None
    with pytest.raises(DataError, match="has no training cases"):
        Rbg({"preset": "small"}, 2, context(tmp_path)).train(write_store(tmp_path, {}))
    with pytest.raises(DataError, match=r"weights\.pt does not exist: train this method"):
        Rbg({"preset": "small"}, 2, context(tmp_path)).align(phantom_case(0, (16, 16), 1.0, 4.0))


def test_features_are_computed_where_the_batch_is():
    """One process of several has its batches on a GPU of its own, which it isn't told before it trains."""
    losses = Stage2Losses(Rbg({"preset": "small"}, 2).options, {}, 0, ("test",), 1)
    assert losses.layers
    found = losses._features(torch.zeros(1, 1, 32, 32, device="meta"), losses.layers)
    assert {features.device.type for features in found.values()} == {"meta"}
    assert {weights.device.type for weights in losses.vgg.state_dict().values()} == {"meta"}


def test_large_slices_are_translated_in_fewer_at_a_time(slices, tmp_path, monkeypatch):
    store, (case,) = slices
    method = RbgStage1({"preset": "small", "steps": 1, "batch": 1}, 2, context(tmp_path))
    method.train(store)
    assert method._together(torch.empty(20, 1, 512, 512, device="meta")) == 16
    published = RbgStage1({"preset": "paper"}, 2)
    assert published._together(torch.empty(20, 1, 384, 320, device="meta")) == 2
    assert published._together(torch.empty(20, 1, 2048, 2048, device="meta")) == 1
    seen = []
    translate = method._translate
    monkeypatch.setattr(method, "_translate", lambda g, x, y: seen.append(len(x)) or translate(g, x, y))
    whole = method.align(case).image.data
    monkeypatch.setattr("modalign.methods.rbg_stage1.FEATURES", 4 * 16 * 48 * 48 + 1)
    # The strength of the noise is 0 before much is learned.
    np.testing.assert_allclose(method.align(case).image.data, whole, atol=0.05 * np.ptp(whole))
    assert seen == [6, 4, 2]
