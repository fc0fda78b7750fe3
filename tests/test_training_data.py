"""Batches from packed files: their order, crops and intensities, from memory and from disk."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from modalign.cases import Case
from modalign.errors import DataError
from modalign.preprocess import store
from modalign.training.data import PackedCases, Sampling, data_digest
from modalign.volumes import Volume


def write_packed(path: Path, rng: np.random.Generator) -> Path:
    """Two cases of different size, whose voxel values say where they come from."""
    with h5py.File(path, "w") as file:
        for case, shape in (("a", (16, 14, 5)), ("b", (13, 18, 4))):
            fixed = rng.random(shape).astype(np.float32)
            file[f"{case}/fixed"], file[f"{case}/moving"] = fixed, fixed + 10
    return path


@pytest.fixture
def packed(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write_packed(tmp_path / "train.h5", rng)


def test_every_slice_comes_up_once_per_epoch_and_pairs_stay_together(packed):
    data = PackedCases(packed, Sampling(2, batch=3), seed=1)
    with h5py.File(packed) as file:
        slices = [np.array(file[case]["fixed"][:, :, z]) for case in "ab" for z in range(file[case]["fixed"].shape[2])]
    assert (len(data), data.steps_per_epoch) == (9, 3)
    met = []
    for step in range(3):
        batch = data.batch(step)
        for fixed, moving in zip(batch["fixed"][:, 0].numpy(), batch["moving"][:, 0].numpy(), strict=True):
            own = next(i for i, s in enumerate(slices) if np.array_equal(fixed[: s.shape[0], : s.shape[1]], s))
            met.append(own)
            shape = slices[own].shape
            np.testing.assert_array_equal(moving[: shape[0], : shape[1]], slices[own] + 10)
    assert sorted(met) == list(range(9))
    assert torch.equal(data.batch(2)["fixed"], PackedCases(packed, Sampling(2, batch=3), seed=1).batch(2)["fixed"])


@pytest.mark.parametrize(("dimension", "crop"), [(2, (10, 15)), (3, (10, 15, 3))])
def test_reading_from_disk_gives_the_same_batches_and_limits_as_from_memory(packed, dimension, crop):
    sampling = Sampling(dimension, batch=4, crop=crop, flips=True)
    memory, disk = (PackedCases(packed, sampling, memory_mib=limit) for limit in (100, 0))
    for step in range(5):
        assert torch.equal(memory.batch(step)["moving"], disk.batch(step)["moving"])
    assert memory.limits("fixed") == disk.limits("fixed")
    assert packed.with_suffix(".slices.h5").exists() == (dimension == 2)


def test_slices_from_disk_are_contiguous_and_follow_the_packed_file(packed):
    with h5py.File(packed) as file:
        translated = {case: -np.array(file[case]["fixed"]) for case in file}
    other = packed.with_name("translated.h5")
    with h5py.File(other, "w") as file:
        for case, data in translated.items():
            file[f"{case}/fixed"], file[f"{case}/field_x"] = data, 2 * data
    for changed in (False, True):
        if changed:
            with h5py.File(packed, "a") as file:
                file["b/moving"][...] += 1
        data = PackedCases(packed, Sampling(2), 0, (), other, 0, ["b"], beside=(other, ("field_x",)))
        assert all(image.flags.c_contiguous for images in data.images.values() for image in images)
        batch = data.pick([2])
        assert (len(data), set(batch)) == (4, {"fixed", "moving", "field_x"})
        expected = torch.from_numpy(translated["b"][..., 2])
        torch.testing.assert_close(batch["fixed"][0, 0], expected)
        torch.testing.assert_close(batch["field_x"][0, 0], 2 * expected)
        torch.testing.assert_close(batch["moving"][0, 0], 10 + changed - expected)


def test_limits_copy_no_image(packed):
    """They come from a million voxels, whatever the images' number and order in memory."""
    data = PackedCases(packed, Sampling(3))
    image = np.lib.stride_tricks.as_strided(np.arange(4000.0), (4000, 2000, 5000), (8, 0, 0))  # 320 GB if copied
    data.images["fixed"] = [image]
    low, high = data.limits("fixed")
    assert low == pytest.approx(4, abs=2)
    assert high == pytest.approx(3995, abs=2)


def test_limits_look_at_every_column(packed):
    """Also where a million voxels are one of every row: the first voxel of a row is air, as a rule."""
    data = PackedCases(packed, Sampling(2))
    rows = np.lib.stride_tricks.as_strided(np.arange(320.0), (500_000, 320), (0, 8))
    data.images["fixed"] = [rows, rows]
    low, high = data.limits("fixed")
    assert low == pytest.approx(0, abs=1)
    assert high == pytest.approx(319, abs=1)


def test_crops_are_at_the_same_place_in_both_images_and_pad_what_is_too_small(packed):
    data = PackedCases(packed, Sampling(3, batch=2, crop=(12, 16, 6), flips=True))
    for step in range(6):
        batch = data.batch(step)
        assert batch["fixed"].shape == (2, 1, 12, 16, 6)
        inside = batch["fixed"] != batch["fixed"].amin((2, 3, 4), keepdim=True)
        difference = (batch["moving"] - batch["fixed"])[inside]
        torch.testing.assert_close(difference, torch.full_like(difference, 10.0))


def test_beyond_small_images_nothing_moves_and_nothing_is_valid(packed):
    with h5py.File(packed) as file:
        shapes = {case: file[case]["fixed"].shape for case in file}
    other = packed.with_name("fields.h5")
    with h5py.File(other, "w") as file:
        for case, shape in shapes.items():
            file[f"{case}/field_x"] = np.full(shape, -5.0, np.float32)
    size = tuple(np.max(list(shapes.values()), axis=0) + 4)
    sampling = Sampling(3, crop=size, masks=True)
    batch = PackedCases(packed, sampling, beside=(other, ("field_x",))).batch(0)
    scanned = batch["fixed_mask"].bool()
    assert not scanned.all()
    assert (batch["field_x"] == torch.where(scanned, -5.0, 0.0)).all()


def test_unpaired_batches_draw_moving_images_of_their_own(packed):
    batches = [PackedCases(packed, Sampling(2, batch=9, crop=(8, 8), paired=False)).batch(s) for s in range(3)]
    assert all((b["moving"] - b["fixed"] - 10).abs().amax((1, 2, 3)).count_nonzero() >= 5 for b in batches)


def test_packed_files_that_cannot_be_trained_from(tmp_path):
    with pytest.raises(DataError, match=r"none\.h5 does not exist"):
        PackedCases(tmp_path / "none.h5", Sampling(2))
    path = tmp_path / "bad.h5"
    with h5py.File(path, "w") as file:
        file["p1/fixed"] = np.zeros((4, 4, 4), np.float32)
    with pytest.raises(DataError, match="case p1 has no moving image"):
        PackedCases(path, Sampling(3))
    with h5py.File(path, "a") as file:
        file["p1/moving"] = np.zeros((4, 4, 5), np.float32)
    with pytest.raises(DataError, match="differ in shape"):
        PackedCases(path, Sampling(3))
    with h5py.File(path, "a") as file:
        del file["p1/moving"]
        file.create_dataset("p1/moving", data=np.zeros((4, 4, 4), np.float32), compression="gzip")
    with pytest.raises(DataError, match="p1/moving is stored in chunks"):
        PackedCases(path, Sampling(3))


def test_the_data_digest_follows_the_content(packed):
    before = data_digest(packed)
    packed.touch()
    assert data_digest(packed) == before
    with h5py.File(packed, "a") as file:
        file["a/fixed"][3, 3, 3] = 0.123
    assert data_digest(packed) != before


@pytest.fixture
def packed_cases(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> dict[str, Case]:
    """Many cases of equal size, as the packing of splits will load them."""

    def volume() -> Volume:
        return Volume(rng.random((128, 64, 16), np.float32), np.eye(4))

    cases = {f"p{number:02}": Case(f"p{number:02}", volume(), volume()) for number in range(40)}
    monkeypatch.setattr(store, "load_case", lambda folder, parts: cases[folder.name])
    return cases


def test_one_other_image_of_many_changes_the_data_digest(tmp_path, packed_cases):
    def digest(folder: str) -> str:
        store.pack_split(tmp_path / folder, "train", list(packed_cases))
        return data_digest(tmp_path / folder / "train.h5")

    before = digest("a")
    assert digest("b") == before
    packed_cases["p17"].moving.data[20, 20, 4] += 1e-3
    other = digest("a")
    assert other != before
    case = packed_cases["p17"]
    packed_cases["p17"] = Case("p17", case.fixed, case.fixed)
    assert digest("a") not in (before, other)


def test_without_a_digest_of_each_case_the_whole_file_is_read(tmp_path, packed_cases):
    store.pack_split(tmp_path, "train", list(packed_cases))
    path = tmp_path / "train.h5"
    digests = {data_digest(path)}
    with h5py.File(path, "a") as file:
        del file["p05"].attrs["sha256"]
    digests.add(data_digest(path))
    with h5py.File(path, "a") as file:
        file["p31/fixed"][30, 10, 3] += 1
    assert len(digests | {data_digest(path)}) == 3


def test_slices_without_contrast_are_left_out(tmp_path, rng):
    with h5py.File(tmp_path / "train.h5", "w") as file:
        fixed, moving = (rng.random((8, 8, 5)).astype(np.float32) for _ in range(2))
        fixed[..., 0], moving[..., 3] = -1, 0.5
        file["a/fixed"], file["a/moving"] = fixed, moving
    slices = PackedCases(tmp_path / "train.h5", Sampling(2))
    assert len(slices) == 3
    assert torch.equal(
        slices.pick([0, 1, 2])["moving"][:, 0], torch.from_numpy(moving[..., [1, 2, 4]]).permute(2, 0, 1)
    )
    assert len(PackedCases(tmp_path / "train.h5", Sampling(3))) == 1
