"""VoxelMorph: it learns to undo known deformations, and refuses what can't work."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ellipsoid_pairs import Recolour, phantom_case, remaining_error, slice_store, volume_store, write_store

from modalign.cases import Case, CaseStore
from modalign.errors import ConfigError, DataError
from modalign.methods.base import Context
from modalign.methods.voxelmorph import VoxelMorph
from modalign.spatial.fields import warp_volume
from modalign.spatial.warp import warp
from modalign.training.registration import save_weights
from modalign.volumes import Volume


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> tuple[CaseStore, list[Case]]:
    return slice_store(tmp_path_factory.mktemp("slices"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> tuple[CaseStore, list[Case]]:
    return volume_store(tmp_path_factory.mktemp("volumes"))


@pytest.mark.parametrize("similarity", ["mind", "mi"])
def test_it_learns_to_align_slices_of_two_contrasts(slices, tmp_path, similarity):
    store, unseen = slices
    options = {"preset": "small", "similarity": similarity, "steps": 130}
    method = VoxelMorph(options, 2, Context(model=tmp_path / "model"))
    record = method.train(store)
    assert remaining_error(method, unseen) < 0.72
    assert record["best_validation"] is not None
    alignment = method.align(unseen[0])
    assert np.all(alignment.field[2] == 0)
    warped = warp_volume(unseen[0].moving, alignment.field, unseen[0].grid)
    np.testing.assert_array_equal(alignment.image.data, warped.data)


def test_it_learns_to_align_volumes_of_two_contrasts(volumes, tmp_path):
    store, unseen = volumes
    method = VoxelMorph({"preset": "small", "steps": 110}, 3, Context(model=tmp_path / "model"))
    method.train(store)
    assert remaining_error(method, unseen) < 0.8


def test_after_a_translation_mse_does_and_every_case_is_translated_once(slices, tmp_path):
    store, unseen = slices
    context = Context(model=tmp_path / "model", needs={"translator": Recolour(dimension=2)})
    options = {"preset": "small", "similarity": "mse", "translator": True, "steps": 40}
    Recolour.translated.clear()
    method = VoxelMorph(options, 2, context)
    method.train(store)
    assert sorted(Recolour.translated) == sorted(store.ids(["train", "validation"]))
    assert remaining_error(method, unseen) < 0.95
    VoxelMorph({**options, "steps": 1}, 2, context).train(store)
    assert Recolour.translated.count("case-0") == 1


def test_training_again_gives_the_same_weights(slices, tmp_path):
    store, _ = slices
    options = {"preset": "small", "steps": 4, "batch": 2, "flips": True}
    for name in "ab":
        VoxelMorph(options, 2, Context(seed=3, model=tmp_path / name)).train(store)
    VoxelMorph(options, 2, Context(seed=4, model=tmp_path / "c")).train(store)
    first, second, other = ((tmp_path / name / "weights.pt").read_bytes() for name in "abc")
    assert first == second != other


@pytest.fixture
def untrained(tmp_path: Path) -> Callable[..., VoxelMorph]:
    """A network whose weights are as they were drawn, with a flow large enough to see."""

    def make(dimension: int, preset: str = "small") -> VoxelMorph:
        import torch

        torch.manual_seed(0)
        method = VoxelMorph({"preset": preset, "similarity": "ncc"}, dimension, Context(model=tmp_path))
        network = method._network()
        torch.nn.init.normal_(network.flow.weight, std=0.1)
        limits = {"fixed": (0.0, 1.0), "moving": (0.0, 1.0)}
        save_weights(tmp_path / "weights.pt", network.state_dict(), dimension=dimension, limits=limits)
        return method

    return make


@pytest.mark.parametrize("preset", ["small", "paper", "imse3d"])
def test_any_size_and_any_moving_grid(untrained, preset):
    rng = np.random.default_rng(0)
    fixed = Volume(rng.random((21, 18, 9), dtype=np.float32))
    moving = Volume(rng.random((15, 30, 12), dtype=np.float32), np.diag([1.5, 0.7, 0.9, 1.0]))
    alignment = untrained(3, preset).align(Case("odd", fixed, moving))
    assert np.abs(alignment.field).max() > 0.01
    np.testing.assert_array_equal(alignment.image.data, warp_volume(moving, alignment.field, fixed.grid).data)


def test_slices_are_aligned_as_if_alone(untrained):
    case = phantom_case(3, (32, 40), 2.0, 8.0, slices=11)
    method = untrained(2)
    whole = method.align(case).field
    alone = Case("one", *(Volume(v.data[:, :, 9:10]) for v in (case.fixed, case.moving)))
    np.testing.assert_allclose(whole[..., 9:10], method.align(alone).field, atol=1e-5)


def test_weights_of_the_other_dimension_are_refused(untrained, tmp_path):
    untrained(2)
    case = Case("x", Volume(np.random.default_rng(0).random((8, 8, 8))), Volume(np.eye(8)[None].repeat(8, 0)))
    with pytest.raises(ConfigError, match="was trained in 2 dimensions, not in 3"):
        VoxelMorph({}, 3, Context(model=tmp_path)).align(case)
    with pytest.raises(DataError, match=r"weights\.pt does not exist: train this method"):
        VoxelMorph({}, 3, Context(model=tmp_path / "none")).align(case)


def test_with_a_blur_noise_no_longer_asks_for_fields_between_slices():
    """Half-way between voxels, interpolation takes the mean of two, which halves the noise."""
    draw = torch.Generator().manual_seed(0)
    x, y, z = torch.meshgrid(*(torch.linspace(0, 3, n) for n in (24, 24, 24)), indexing="ij")
    fixed = (torch.sin(x) * torch.cos(2 * y) + torch.sin(2 * z))[None, None]
    moving = fixed + 0.3 * torch.randn(fixed.shape, generator=draw)

    def loss(shift: float, blur: float) -> float:
        field = torch.zeros(1, 3, *fixed.shape[2:])
        field[:, 2] = shift
        options = {"similarity": "mse", "translator": True, "blur_voxels": blur}
        inner = (..., slice(4, -4))
        compare = VoxelMorph(options, 3).options.similarity_loss()
        return float(compare(fixed[inner], warp(moving, field)[inner], None))

    assert loss(0.5, blur=0) < 0.7 * loss(0.0, blur=0)
    assert loss(0.0, blur=1) < min(loss(0.5, blur=1), loss(-0.5, blur=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "mse"}, "compares intensities of one contrast: add translator: true"),
        ({"similarity": "mind", "blur_voxels": 1}, "blur_voxels is for similarity mae and mse, not for mind"),
        ({"similarity": "mind", "window": 8}, "window has to be odd, not 8"),
        ({"steps": 5, "epochs": 2}, "either in steps or in epochs"),
        ({"preset": "small", "int_steps": 0}, "preset small needs integration at half resolution"),
        ({"step": 5}, "has no option 'step'"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        VoxelMorph(options, 2)


def test_the_translator_option_and_the_need_go_together(tmp_path):
    with pytest.raises(ConfigError, match=r"option translator is True: add needs: \{translator: "):
        VoxelMorph({"similarity": "mse", "translator": True}, 2, Context(model=tmp_path))
    with pytest.raises(ConfigError, match="option translator is False: add the option translator: true"):
        VoxelMorph({}, 2, Context(model=tmp_path, needs={"translator": Recolour(dimension=2)}))


@pytest.mark.parametrize("regularise", ["velocity", "displacement", "image"])
def test_what_is_smoothed(regularise):
    torch.manual_seed(0)
    moving, fixed = torch.rand(2, 1, 1, 32, 32)
    field, velocity = 3 * torch.randn(1, 2, 32, 32), torch.randn(1, 2, 16, 16)
    seen = {"velocity": 2 * velocity.diff(dim=2).square().mean() / 2 + 2 * velocity.diff(dim=3).square().mean() / 2}
    for name, image in (("displacement", field), ("image", warp(moving, field))):
        seen[name] = (image.diff(dim=2).square().mean() + image.diff(dim=3).square().mean()) / 2
    method = VoxelMorph({"preset": "small", "regularise": regularise, "smoothness_weight": 0.5}, 2)
    terms = method._terms(lambda *images: (field, velocity), moving, fixed, None, 0)
    torch.testing.assert_close(terms["smoothness"], 0.5 * seen[regularise])


def test_presets_give_defaults_that_options_override():
    paper = VoxelMorph({}, 2).options
    assert (paper.epochs, paper.steps, paper.batch, paper.schedule) == (100, None, 10, "multistep")
    assert VoxelMorph({"preset": "imse3d", "steps": 7}, 3).options.steps == 7
    assert VoxelMorph({"preset": "imse3d"}, 3).options.int_steps == 0


def test_a_store_without_training_cases(tmp_path):
    store = write_store(tmp_path, {"test": [phantom_case(0, (16, 16), 1.0, 4.0)]})
    with pytest.raises(DataError, match="has no training cases"):
        VoxelMorph({"preset": "small"}, 2, Context(model=tmp_path / "model")).train(store)
