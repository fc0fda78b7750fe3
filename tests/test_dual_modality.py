"""Dual-modality: the layout of the network, the loss in numpy, fields from tiles, and a training that helps."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from ellipsoid_pairs import write_store
from registration_pairs import blind, contrast_pair, mean_error
from torch import nn

from modalign.cases import Case, CaseStore
from modalign.errors import ConfigError, DataError
from modalign.methods._registration import by_field
from modalign.methods.base import Context
from modalign.methods.dual_modality import DualModality
from modalign.methods.syn import SyN
from modalign.networks.valid_unet import ValidUNet, centre, margin_of
from modalign.spatial.fields import warp_volume
from modalign.training.aligned_pairs import IMAGES, PairedPatches, label_demons, write_pairs
from modalign.training.loop import _optimiser, count_parameters
from modalign.volumes import Grid, Volume, write_volume

GRID = Grid((28, 26, 21), np.diag([2.0, 2.0, 3.0, 1.0]))
MARGIN = margin_of(2)
TINY = {"preset": "small", "channels": (4, 4, 4)}
TINY_AS_PRINTED = {**TINY, "convolutions": 2}


def test_the_layout_is_the_papers():
    def level(channels_in: int, channels: int) -> int:
        return 27 * (channels_in + channels) * channels + 2 * 2 * channels

    fine, middle, coarse = 32, 64, 128
    down = level(2, fine) + level(fine, middle) + level(middle, coarse)
    widen = 8 * (coarse * middle + middle * fine) + middle + fine
    up = level(2 * middle, middle) + level(2 * fine, fine)
    network = ValidUNet()
    assert count_parameters(network) == down + widen + up + 3 * fine + 3
    sizes = []
    for part in network.modules():
        if isinstance(part, nn.Sequential):
            part.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    torch.manual_seed(0)
    field = network.eval()(torch.rand(1, 2, 68, 68, 68))
    assert sizes == [64, 28, 10, 16, 28]
    assert field.shape == (1, 3, 28, 28, 28)
    assert 0 < field.abs().max() < 1e-2


@pytest.mark.parametrize("shape", [(40, 44, 44), (44, 46, 44), (68, 68, 67)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=f"sizes of 44, 48, 52 ... voxels, not {shape[0]} x {shape[1]} x {shape[2]}"):
        ValidUNet((2, 2, 2))(torch.zeros(1, 2, *shape))


def test_with_one_convolution_per_level_the_margin_is_half_as_wide():
    network = ValidUNet((2, 2, 2), convolutions=1).eval()
    for size in (26, 30, 58):
        assert network(torch.zeros(1, 2, size, 26, 30)).shape == (1, 3, size - 20, 6, 10)
    with pytest.raises(ValueError, match="sizes of 26, 30, 34 ... voxels, not 28 x 26 x 26"):
        network(torch.zeros(1, 2, 28, 26, 26))


def test_tiles_join_without_a_seam_and_every_weight_learns():
    torch.manual_seed(0)
    network = ValidUNet((3, 4, 5)).eval()
    nn.init.normal_(network.flow.weight, std=100)
    image = torch.rand(1, 2, 52, 44, 48)
    whole = network(image)
    assert whole.shape == (1, 3, 12, 4, 8)
    assert whole.std() > 0.1
    torch.testing.assert_close(network(image[:, :, 8:, :, 4:]), whole[:, :, 8:, :, 4:], atol=1e-5, rtol=1e-4)
    whole.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


class Known(nn.Module):
    """A network that predicts one field, whatever it sees."""

    def __init__(self, field: torch.Tensor, convolutions: int = 2):
        super().__init__()
        self.field, self.shapes, self.margin = field, [], margin_of(convolutions)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(images.shape))
        return self.field.expand(len(images), 3, *[n - 2 * self.margin for n in images.shape[2:]])


@pytest.mark.parametrize("region", ["patch", "centre"])
def test_the_loss_in_numpy(region, rng):
    field = rng.normal(size=(1, 3, 8, 4, 12))
    batch = {part: rng.normal(50, 20, (1, 1, 48, 44, 52)) for part in IMAGES}
    limits = {"fixed": (10.0, 90.0), "moving": (-100.0, 500.0)}
    padded = np.pad(field[0], [(0, 0), *[(MARGIN, MARGIN)] * 3])
    inside = tuple(slice(MARGIN, -MARGIN) if region == "centre" else slice(None) for _ in range(3))

    def dissimilarity(still: str, moved: str) -> float:
        look = np.stack(np.meshgrid(*map(np.arange, padded.shape[1:]), indexing="ij")) + padded
        warped = ndi.map_coordinates(batch[moved][0, 0], look, order=1, mode="nearest")[inside].ravel()
        return 1 - np.corrcoef(batch[still][0, 0][inside].ravel(), warped)[0, 1]

    second = np.stack([ndi.laplace(component)[1:-1, 1:-1, 1:-1] for component in field[0]])
    fixed, moving = dissimilarity("fixed", "fixed_pair"), dissimilarity("moving_pair", "moving")
    penalties = {"laplacian": 0.7 * (second**2).sum(0).mean(), "magnitude": 0.3 * (field[0] ** 2).sum(0).mean()}
    tensors = {part: torch.from_numpy(images) for part, images in batch.items()}
    for supervision, expected in {
        "both": {"fixed contrast": fixed / 2, "moving contrast": moving / 2},
        "fixed": {"fixed contrast": fixed},
        "moving": {"moving contrast": moving},
    }.items():
        options = {"supervision": supervision, "region": region, "laplacian_weight": 0.7, "magnitude_weight": 0.3}
        terms = DualModality(options)._terms(Known(torch.from_numpy(field)), tensors, limits)
        assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected | penalties, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "patch"), [((30, 28, 9), 68), ((61, 5, 28), 68), ((30, 13, 9), None), ((9, 6, 7), 44)]
)
def test_a_constant_field_comes_back_from_the_tiles(shape, patch, rng):
    images = [Volume(rng.random(shape).astype(np.float32)) for _ in range(2)]
    method = DualModality({"patch": patch})
    network = Known(torch.tensor([1.0, -2.0, 0.5]).reshape(1, 3, 1, 1, 1))
    method._loaded = network, {"limits": {"fixed": (0.0, 1.0), "moving": (0.0, 1.0)}}
    aligned = method.align(Case("toy", *images))
    np.testing.assert_array_equal(aligned.field, np.broadcast_to(network.field[0].numpy(), (3, *shape)))
    sizes = [-(-n // 4) * 4 + 40 for n in shape] if patch is None else [patch] * 3
    small = DualModality({"patch": None, "convolutions": 1})
    small._loaded = Known(network.field, 1), method._loaded[1]
    np.testing.assert_array_equal(small.align(Case("toy", *images)).field, aligned.field)
    tiles = np.prod([-(-n // (size - 40)) for n, size in zip(shape, sizes, strict=True)])
    assert network.shapes == [(1, 2, *sizes)] * tiles
    np.testing.assert_array_equal(aligned.image.data, warp_volume(images[1], aligned.field, images[0].grid).data)


def test_each_tile_sees_what_lies_around_it(rng):
    fixed, moving = (Volume(rng.random((10, 9, 5)).astype(np.float32)) for _ in range(2))
    method = DualModality({"patch": 44})

    class Seen(nn.Module):
        def forward(self, images):
            return torch.cat([centre(images, (4, 4, 4)), images[:, :1, 21:25, 20:24, 20:24]], 1)

    method._loaded = Seen(), {"limits": {"fixed": (0.0, 2.0), "moving": (-1.0, 1.0)}}
    field = method.align(Case("toy", fixed, moving)).field
    after = np.concatenate([fixed.data[1:], fixed.data[-1:]])
    np.testing.assert_allclose(field, [fixed.data / 2, (moving.data + 1) / 2, after / 2], rtol=1e-6)


def test_label_demons_bring_structures_together():
    x = np.stack(np.meshgrid(*map(np.arange, (28, 24, 20)), indexing="ij")).T
    fixed, moving = (
        np.select([np.linalg.norm(x - shift - c, axis=-1).T < 5 for c in ((9, 12, 10), (19, 12, 10))], [1, 2], 0)
        for shift in ((0, 0, 0), (2, -1, 1))
    )
    field = label_demons(fixed, moving, np.array([2.0, 2.0, 4.0]))
    warped = warp_volume(Volume(moving), field, Grid(moving.shape, np.eye(4)), order=0).data
    for value in (1, 2):
        before, after = (((fixed == value) & (seen == value)).sum() for seen in (moving, warped))
        assert after > 0.9 * (fixed == value).sum() > 1.3 * before


def make_store(folder: Path, splits: dict[str, list[Case]]) -> CaseStore:
    """Cases with a label map of each image, of its brighter half."""
    store = write_store(folder, splits)
    for case in itertools.chain(*splits.values()):
        for part, image in (("fixed", case.fixed), ("moving", case.moving)):
            labels = (image.data > np.median(image.data)).astype(np.uint8)
            write_volume(folder / case.id / f"{part}_labels.nii.gz", image.like(labels))
    return store


def toy(seed: int) -> tuple[Case, np.ndarray]:
    case, inside = contrast_pair(GRID, seed=seed)
    return dataclasses.replace(case, id=f"toy-{seed}"), inside


@pytest.fixture
def true_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """SyN doesn't find every one of these deformations; what is learned from is to be right here."""
    monkeypatch.setattr(SyN, "align", lambda self, case: by_field(case, toy(int(case.id[4:]))[0].true_field))


def test_a_training_lowers_the_true_error(tmp_path, true_pairs):
    case, inside = toy(0)
    store = make_store(tmp_path, {"train": [case]})
    options = {**TINY, "steps": 20, "learning_rate": 0.03, "deform_voxels": 0.0, "pairs": "syn"}
    method = DualModality(options, 3, Context(model=tmp_path / "model"))
    record = method.train(store)
    assert (record["steps"], record["pairs"], record["pairs_with_labels"]) == (20, 1, 0)
    field = method.align(blind(case)).field
    assert mean_error(field, case.true_field, inside) < 0.75 * mean_error(0 * field, case.true_field, inside)


def test_training_again_gives_the_same_weights_and_never_reads_a_test_case(tmp_path):
    train, validation, test = (toy(seed)[0] for seed in range(3))
    store = make_store(tmp_path, {"train": [train], "validation": [validation], "test": [test]})
    # Whoever looks for what a test case holds, fails.
    shutil.rmtree(store.folder / test.id)
    options = {**TINY_AS_PRINTED, "steps": 2, "batch": 2, "patch": 44, "flips": True}
    records = [DualModality(options, 3, Context(seed=3, model=tmp_path / name)).train(store) for name in "ab"]
    assert [(record["pairs"], record["pairs_with_labels"]) for record in records] == [(2, 2)] * 2
    first, second = ((tmp_path / name / "weights.pt").read_bytes() for name in "ab")
    assert first == second
    DualModality(options, 3, Context(seed=4, model=tmp_path / "c")).train(store)
    assert (tmp_path / "c/weights.pt").read_bytes() != first


def test_pairs_are_written_once_and_the_way_back_is_the_inverse(tmp_path, true_pairs, monkeypatch):
    case, inside = toy(0)
    store, path = make_store(tmp_path, {"train": [case]}), tmp_path / "pairs.h5"
    about = write_pairs(store, [case.id], path, "syn", Context())
    monkeypatch.setattr(SyN, "align", None)
    assert write_pairs(store, [case.id], path, "syn", Context()) == about
    with h5py.File(path) as file:
        images = {part: np.asarray(file[case.id][part]) for part in IMAGES}
    there_and_back = warp_volume(case.fixed.like(images["fixed_pair"]), case.true_field, GRID).data
    off = [np.abs(image - case.fixed.data)[inside].mean() for image in (there_and_back, images["fixed_pair"])]
    assert off[0] < 0.5 * off[1]


def test_the_parts_of_a_patch_lie_together_and_are_mirrored_along_x(tmp_path):
    with h5py.File(tmp_path / "pairs.h5", "w", libver="latest") as file:
        for number, part in enumerate(IMAGES):
            file[f"toy/{part}"] = GRID.indices()[0].astype(np.float32) + 100 * number
    options = DualModality({"patch": 44, "flips": True, "batch": 2, "patches": 5}).options
    patches = PairedPatches(tmp_path / "pairs.h5", options, 0, ("toys",))
    assert patches.steps_per_epoch == 3
    batch = {part: np.concatenate([patches.batch(s)[part] for s in range(12)]) for part in IMAGES}
    for number, part in enumerate(IMAGES):
        np.testing.assert_array_equal(batch[part], batch["fixed"] + 100 * number)
    middle = batch["fixed"][:, 0, 20:24, 0, 0]
    assert set(np.diff(middle).ravel()) == {-1.0, 1.0}
    assert len(np.unique(middle.min(1))) > 10
    assert middle.max() >= 22


def test_the_papers_training():
    options = DualModality().options
    rates = [options.learning_rate_at(epoch * 10, 10) for epoch in (0, 3, 4, 8, 11)]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.0025, 0.0025])
    layer, x = nn.Linear(3, 1, bias=False), torch.tensor([[1.0, 2.0, 3.0]])
    before, optimiser = layer.weight.detach().clone(), _optimiser(layer, options)
    layer(x).sum().backward()
    optimiser.step()
    torch.testing.assert_close(before - layer.weight, 0.01 * x)


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="patch is 66: the network takes 44, 48, 52"):
        DualModality({"patch": 66})
    with pytest.raises(DataError, match="has no training cases"):
        DualModality(TINY, 3, Context(model=tmp_path)).train(make_store(tmp_path, {"test": [toy(0)[0]]}))
