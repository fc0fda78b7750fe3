"""LapIRN: velocities add up from level to level, levels are trained in turn, and a kill in between changes nothing."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from ellipsoid_pairs import ONE_CONTRAST, Unchanged, remaining_difference, remaining_error, slice_store, volume_store
from torch import Tensor, nn

from modalign.cases import Case, CaseStore
from modalign.errors import ConfigError
from modalign.methods.base import Context
from modalign.methods.lapirn import LapIRN
from modalign.networks.lapirn import LapIRN as Network
from modalign.similarity.ncc import local_ncc
from modalign.spatial.fields import warp_volume
from modalign.spatial.integrate import resize_field
from modalign.spatial.pyramid import halved
from modalign.spatial.warp import warp
from modalign.training.loop import count_parameters
from modalign.training.registration import load_weights, save_weights
from modalign.volumes import Volume

SMALL = {"preset": "small", "similarity": "mse", "translator": True}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> tuple[CaseStore, list[Case]]:
    return volume_store(tmp_path_factory.mktemp("volumes"), ONE_CONTRAST, 24)


def context(model: Path, **others) -> Context:
    return Context(model=model, needs={"translator": Unchanged(dimension=3)}, **others)


def test_it_learns_to_align_slices_of_one_contrast(tmp_path):
    store, unseen = slice_store(tmp_path, ONE_CONTRAST)
    method = LapIRN(SMALL, 2, Context(model=tmp_path / "model", needs={"translator": Unchanged(dimension=2)}))
    record = method.train(store)
    assert remaining_difference(method, unseen) < 0.2
    assert remaining_error(method, unseen) < 0.85
    assert [level["steps"] for level in record["levels"]] == [20, 20, 40]
    assert record["steps"] == 80
    alignment = method.align(unseen[0])
    warped = warp_volume(unseen[0].moving, alignment.field, unseen[0].grid)
    np.testing.assert_array_equal(alignment.image.data, warped.data)


def test_the_paper_preset_has_the_published_size_and_takes_a_step(volumes, tmp_path):
    options = {"similarity": "mse", "translator": True, "steps": 3}
    method = LapIRN(options, 3, context(tmp_path))
    assert count_parameters(method._network()) == 923_748
    assert [level["steps"] for level in method.train(volumes[0])["levels"]] == [1, 1, 2]


class Constant(nn.Module):
    """A level that always gives the same residual velocity, and remembers what it saw."""

    def __init__(self, velocity: tuple[float, ...]):
        super().__init__()
        self.velocity = torch.tensor(velocity)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor, embedding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.seen.append(images)
        shape = (len(images), len(self.velocity), *images.shape[2:])
        return self.velocity.reshape(1, -1, *[1] * (images.ndim - 2)).expand(shape), images


def test_velocities_of_all_levels_add_up_in_voxels_of_each():
    network = Network(2, start_channel=1)
    levels = [Constant((4 / 31, 0.0)), Constant((0.0, -2 / 15)), Constant((2 / 31, 0.0))]
    images = torch.rand(2, 1, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    field, velocity = network(*images, levels)
    # Halves of the extent of 63 and 31 voxels.
    expected = torch.tensor([(4 + 2) / 31 * 63 / 2, -2 / 15 * 31 / 2]).reshape(1, 2, 1, 1).expand(1, 2, 64, 32)
    torch.testing.assert_close(velocity, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(field, expected, atol=1e-3, rtol=0)
    moving, fixed, below = levels[2].seen[0].split([1, 1, 2], dim=1)
    torch.testing.assert_close(below[:, :, 0, 0], torch.tensor([[4 / 31, -2 / 15]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(fixed, images[1])
    half_way = torch.tensor([4 / 31 * 63 / 2, -2 / 15 * 31 / 2]).reshape(1, 2, 1, 1).expand(1, 2, 64, 32)
    torch.testing.assert_close(moving, warp(images[0], half_way), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(64, 48), (31, 20), (24, 16, 9)])
def test_smaller_images_and_fields_keep_to_the_same_corners(shape):
    axes = [torch.linspace(-1, 1, n) for n in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    small = halved(points)
    assert [-(-n // 2) for n in shape] == list(small.shape[2:])
    inside = (..., *[slice(1, -1)] * len(shape))
    expected = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n) for n in small.shape[2:]], indexing="ij"))[None]
    torch.testing.assert_close(small[inside], expected[inside], atol=1e-5, rtol=0)
    field = resize_field(points, small.shape[2:])
    assert field.shape == small.shape


def test_correlation_is_summed_over_resolutions(rng):
    method = LapIRN({"preset": "small", "similarity": "ncc", "steps": 1}, 2)
    fixed, warped = torch.from_numpy(rng.random((2, 1, 1, 32, 32), dtype=np.float32))
    total = local_ncc(fixed, warped, None, 7)
    for scale, window in ((2, 5), (4, 3)):
        fixed_small, warped_small = fixed, warped
        for _ in range(scale // 2):
            fixed_small, warped_small = halved(fixed_small), halved(warped_small)
        total += local_ncc(fixed_small, warped_small, None, window) / scale
    torch.testing.assert_close(method._correlation(3, fixed, warped, None), total)
    torch.testing.assert_close(method._correlation(1, fixed, warped, None), local_ncc(fixed, warped, None, 3))


def first_level(store: CaseStore, folder: Path, shares: tuple[float, ...], frozen_steps: int) -> dict[str, Tensor]:
    options = {**SMALL, "steps": 4, "level_shares": shares, "frozen_steps": frozen_steps}
    LapIRN(options, 3, context(folder)).train(store)
    weights = load_weights(folder / "weights.pt")["weights"]
    return {name: value for name, value in weights.items() if name.startswith("levels.0.")}


def test_lower_levels_stay_frozen_for_as_long_as_asked(volumes, tmp_path):
    store, _ = volumes
    frozen = first_level(store, tmp_path / "frozen", (0.25, 0.25, 0.5), 2)
    # One step more on the levels above, where this one isn't touched either.
    longer = first_level(store, tmp_path / "longer", (0.25, 0.5, 0.25), 2)
    free = first_level(store, tmp_path / "free", (0.25, 0.25, 0.5), 0)
    assert all(torch.equal(frozen[name], longer[name]) for name in frozen)
    assert not any(torch.equal(frozen[name], free[name]) for name in frozen)


def test_a_kill_between_levels_and_within_one_changes_no_byte(volumes, tmp_path, monkeypatch):
    store, _ = volumes
    options = {**SMALL, "steps": 8, "frozen_steps": 1, "checkpoint_seconds": 0}
    LapIRN(options, 3, context(tmp_path / "whole")).train(store)
    original, calls = LapIRN._loss, []

    def stopping(self, depth, *images):
        if torch.is_grad_enabled():
            calls.append(depth)
            if len(calls) in (2, 6):
                os.kill(os.getpid(), signal.SIGTERM)
        return original(self, depth, *images)

    monkeypatch.setattr(LapIRN, "_loss", stopping)
    for _ in range(2):
        with pytest.raises(SystemExit):
            LapIRN(options, 3, context(tmp_path / "broken")).train(store)
        assert not (tmp_path / "broken" / "weights.pt").exists()
    record = LapIRN(options, 3, context(tmp_path / "broken")).train(store)
    assert calls == [1, 1, 2, 2, 3, 3, 3, 3]
    assert record["resumes"] >= 1
    assert (tmp_path / "broken" / "weights.pt").read_bytes() == (tmp_path / "whole" / "weights.pt").read_bytes()


def test_masks_follow_the_pyramid(volumes, tmp_path):
    options = {**SMALL, "steps": 4, "masked": True, "similarity": "ncc", "folding_weight": 1.0}
    masked = LapIRN(options, 3, context(tmp_path / "masked"))
    whole = LapIRN({**options, "masked": False}, 3, context(tmp_path / "whole"))
    losses = [method.train(volumes[0])["best_validation"] for method in (masked, whole)]
    # The phantoms have no masks, which counts as a mask of ones everywhere.
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("shape", [(21, 18, 9), (16, 16, 3)])
def test_any_size_will_do(tmp_path, shape):
    rng = np.random.default_rng(0)
    method = LapIRN({"preset": "small", "steps": 1}, 3, Context(model=tmp_path))
    torch.manual_seed(0)
    network = method._network()
    for level in network.levels:
        nn.init.normal_(level.output[2].weight, std=0.01)
    limits = {"fixed": (0.0, 1.0), "moving": (0.0, 1.0)}
    save_weights(tmp_path / "weights.pt", network.state_dict(), dimension=3, limits=limits)
    fixed, moving = (Volume(rng.random(shape, dtype=np.float32)) for _ in range(2))
    field = method.align(Case("odd", fixed, moving)).field
    assert field.shape == (3, *shape)
    assert 1e-3 < np.abs(field).max() < 0.4 * 1.5 * max(shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level_shares": (0.5, 0.5)}, "level_shares has 2 numbers for 3 levels"),
        ({"level_shares": (0.5, 0.5, 0.5)}, "has to be positive and sum to 1"),
        ({"similarity": "ncc", "window": 5}, "window has to be 7 or more for 3 levels"),
        ({"similarity": "mse"}, "add translator: true"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        LapIRN(options, 3)
