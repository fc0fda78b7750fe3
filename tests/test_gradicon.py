"""GradICON: maps compose the right way round, the consistency penalty is what it says, and training lowers it."""

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from ellipsoid_pairs import ONE_CONTRAST, Unchanged, remaining_difference, remaining_error, slice_store
from torch import Tensor, nn

from modalign.cases import Case, CaseStore
from modalign.errors import ConfigError
from modalign.methods.base import Context
from modalign.methods.gradicon import GradICON
from modalign.networks.gradicon import GradICON as Network
from modalign.networks.gradicon import ResidualUNet, compose
from modalign.seeds import generator
from modalign.similarity.inverse_consistency import gradient_of_inconsistency, inconsistency
from modalign.similarity.ncc import gaussian_ncc
from modalign.spatial import fields
from modalign.training.loop import count_parameters

SMALL = {"preset": "small", "similarity": "mse", "translator": True, "down": (8, 16, 32), "up": (8, 16, 16)}


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> tuple[CaseStore, list[Case]]:
    return slice_store(tmp_path_factory.mktemp("slices"), ONE_CONTRAST)


def trained(store: CaseStore, folder: Path, **options) -> GradICON:
    context = Context(model=folder, needs={"translator": Unchanged(dimension=2)})
    method = GradICON({**SMALL, **options}, 2, context)
    method.train(store)
    return method


def inconsistency_of(method: GradICON, case: Case) -> float:
    """The root mean square distance in voxels between a voxel and where the maps there and back take it."""
    there = method.align(case).field[:2]
    back = method.align(Case("swapped", case.moving, case.fixed)).field[:2]
    errors = [
        fields.compose(np.ascontiguousarray(there[..., z]), np.ascontiguousarray(back[..., z]))
        for z in range(there.shape[-1])
    ]
    return float(np.sqrt(np.square(errors).sum(1).mean()))


def test_it_learns_and_the_penalty_makes_maps_inverse(slices, tmp_path):
    store, unseen = slices
    strong = trained(store, tmp_path / "strong", steps=30)
    weak = trained(store, tmp_path / "weak", steps=30, consistency_weight=0.0, smoothness_weight=0.01)
    assert remaining_error(strong, unseen) < 0.85
    assert remaining_difference(strong, unseen) < 0.4
    assert inconsistency_of(strong, unseen[0]) < 0.6 * inconsistency_of(weak, unseen[0])


def linear(matrix: np.ndarray, size: int) -> Tensor:
    """The field of a linear map about the first corner, (1, 2, size, size)."""
    points = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij")).astype(float)
    return torch.from_numpy(np.einsum("ij,jxy->ixy", matrix - np.eye(2), points)[None])


class OnGrid:
    """A generator whose noise is zero, so that points are voxels and linear maps are sampled without error."""

    def standard_normal(self, shape, dtype):
        return np.zeros(shape, dtype)


@pytest.mark.parametrize("seed", range(3))
def test_penalties_of_linear_maps(seed):
    rng = np.random.default_rng(seed)
    # Small enough that no point leaves the image, where fields go on as constants.
    inner = np.diag([0.8, 0.85]) + rng.uniform(0, 0.03, (2, 2))
    outer = np.diag([1.1, 0.95]) + rng.uniform(0, 0.03, (2, 2))
    size, error = 48, np.eye(2) - outer @ inner
    forward, backward = linear(outer, size), linear(inner, size)
    penalty = gradient_of_inconsistency(forward, backward, OnGrid())
    assert float(penalty) == pytest.approx(np.square(error).sum() / 2, rel=1e-4)
    points = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij")).reshape(2, -1)
    other = np.eye(2) - inner @ np.diag([0.9, 0.9])
    expected = np.square((np.eye(2) - np.diag([0.9, 0.9]) @ inner) @ points).mean() + np.square(other @ points).mean()
    value = inconsistency(linear(np.diag([0.9, 0.9]), size), backward)
    assert float(value) == pytest.approx(expected / (size - 1) ** 2, rel=1e-4)


def test_inverse_maps_cost_nothing_and_translations_only_in_value():
    rng = np.random.default_rng(0)
    field = np.stack([ndi.gaussian_filter(rng.standard_normal((64, 64)), 8) for _ in range(2)])
    field *= 3 / np.abs(field).max() * np.hanning(64)[:, None] * np.hanning(64)
    forward, backward = (torch.from_numpy(f)[None].double() for f in (field, fields.invert(field)))
    penalty = gradient_of_inconsistency(forward, backward, generator(0, "points"))
    negated = gradient_of_inconsistency(forward, -forward, generator(0, "points"))
    assert float(penalty) < 0.3 * float(negated)
    moved = torch.full((1, 2, 64, 64), 1.5, dtype=torch.float64)
    nothing = torch.zeros_like(moved)
    assert float(gradient_of_inconsistency(moved, nothing, generator(0, "points"))) < 1e-12
    assert float(inconsistency(moved, nothing)) == pytest.approx(2 * (1.5 / 63) ** 2)


def test_composition_agrees_with_scipy(rng):
    first, second = (np.stack([ndi.gaussian_filter(rng.standard_normal((20, 17)), 3) for _ in "xy"]) * 9 for _ in "ab")
    composed = compose(torch.from_numpy(second)[None], torch.from_numpy(first)[None])[0].numpy()
    np.testing.assert_allclose(composed, fields.compose(first, second), atol=1e-5)


class Step(nn.Module):
    """Moves by a fixed fraction of the extent along the first axis, and remembers the moving image it saw."""

    def __init__(self, fraction: float):
        super().__init__()
        self.fraction, self.seen = fraction, torch.empty(0)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        self.seen = moving
        field = torch.zeros(len(moving), 2, *moving.shape[2:])
        field[:, 0] = self.fraction
        return field


def test_later_steps_see_the_moving_image_warped_so_far():
    network = Network(2, (1, 0), (4,), (4,))
    network.steps = nn.ModuleList([Step(2 / 32), Step(3 / 32)])
    moving, fixed = torch.rand(2, 1, 1, 33, 33, generator=torch.Generator().manual_seed(0))
    field = network(moving, fixed)
    torch.testing.assert_close(field[:, 0], torch.full((1, 33, 33), 5.0))
    torch.testing.assert_close(network.steps[1].seen[:, :, :-2], moving[:, :, 2:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dimension", "published"), [(2, 4.76), (3, 17.7)])
def test_the_unet_has_the_published_size(dimension, published):
    count = count_parameters(ResidualUNet(dimension))
    assert count == {2: 4_756_902, 3: 17_670_229}[dimension]
    assert count / 1e6 == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize("shape", [(16, 16, 3), (21, 18, 9), (70, 64, 5)])
def test_any_size_will_do(shape):
    torch.manual_seed(0)
    network = Network(3, (2, 1, 0), (4, 6, 8, 8, 8), (4, 6, 6, 8, 8)).eval()
    for step in network.steps:
        nn.init.normal_(step.last.weight, std=0.1)
    field = network(*torch.rand(2, 1, 1, *shape))
    assert field.shape == (1, 3, *shape)
    assert torch.isfinite(field).all()
    assert field.abs().max() > 1e-3


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_paper_preset_takes_a_step(slices, tmp_path, dimension):
    options = {"similarity": "mse", "translator": True, "steps": 1}
    context = Context(model=tmp_path, needs={"translator": Unchanged(dimension=dimension)})
    method = GradICON(options, dimension, context)
    network = method._network()
    assert count_parameters(network) == 3 * {2: 4_756_902, 3: 17_670_229}[dimension]
    moving, fixed = torch.rand(2, 1, 1, *(32, 32, 8)[:dimension])
    terms = method._terms(network, moving, fixed, None, 0)
    sum(terms.values()).backward()
    assert terms["similarity"].item() == pytest.approx(4 * 2 * float((moving - fixed).square().mean()), rel=1e-5)
    assert terms["consistency"].item() == 0
    assert network.steps[-1].last.weight.grad.abs().max() > 0


def test_the_papers_own_similarity_is_there(rng):
    method = GradICON({"similarity": "gaussian-ncc", "sigma": 3.0, "steps": 1}, 2)
    fixed, warped = torch.from_numpy(rng.random((2, 1, 1, 24, 24), dtype=np.float32))
    loss = method.options.similarity_loss()(fixed, warped, None)
    torch.testing.assert_close(loss, gaussian_ncc(fixed, warped, sigma=3.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"down": (8, 16)}, "down and up need as many channels each, not 2 and 5"),
        ({"halvings": (1, -1)}, "halvings can't be negative"),
        ({"similarity": "mse"}, "add translator: true"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        GradICON(options, 2)
