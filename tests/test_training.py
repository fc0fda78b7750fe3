"""The training loop, its checkpoints and its data: it survives kills without a changed bit."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from modalign.devices import resolve_device
from modalign.errors import ConfigError, DataError, ModalignError
from modalign.training import checkpoint
from modalign.training.data import PackedCases, Sampling, data_digest
from modalign.training.devices import accelerate, random_states, restore_random_states
from modalign.training.loop import fit
from modalign.training.options import TrainingOptions

SCRIPT = """
import sys, time
from pathlib import Path
import torch
from torch import nn
from modalign.training.data import PackedCases, Sampling
from modalign.training.loop import fit
from modalign.training.options import TrainingOptions

folder, out, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Dropout(0.2), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
data = PackedCases(folder / "train.h5", Sampling(2, batch=3, crop=(12, 12), flips=True), seed=4)

def losses(networks, batch, step):
    time.sleep(pause)
    noisy = batch["moving"] + 0.1 * torch.randn_like(batch["moving"])
    yield ("network",), {"difference": (networks["network"](noisy) - batch["fixed"]).square().mean()}

def validate(networks):
    return (networks["network"](data.pick([0])["moving"]) - data.pick([0])["fixed"]).square().mean()

options = TrainingOptions(steps=40, learning_rate=0.01, checkpoint_seconds=0, schedule="linear", clip=0.5)
record = fit({"network": network}, losses, data, options, out / "state", "same", seed=4, validate=validate)
torch.save(network.state_dict(), out / "weights.pt")
print(record["resumes"], record["seconds"])
"""


@pytest.fixture
def packed(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two cases of different size, whose voxel values say where they come from."""
    path = tmp_path / "train.h5"
    with h5py.File(path, "w") as file:
        for case, shape in (("a", (16, 14, 5)), ("b", (13, 18, 4))):
            fixed = rng.random(shape).astype(np.float32)
            file[f"{case}/fixed"], file[f"{case}/moving"] = fixed, fixed + 10
    return path


def start(packed: Path, out: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    source = Path(__file__).parents[1] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(packed.parent), str(out), str(pause)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(state: Path, steps: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (state / "log.csv").is_file() and len((state / "log.csv").read_text().splitlines()) > steps:
            return
        time.sleep(0.02)
    raise AssertionError("the training did not get going")


def steps_logged(state: Path) -> list[int]:
    with (state / "log.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_killed_and_stopped_trainings_end_with_the_same_bytes(packed, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    uninterrupted, killed = start(packed, whole), start(packed, broken, pause=0.05)
    wait_for_steps(broken / "state", 7)
    killed.kill()
    killed.wait()
    assert uninterrupted.wait(120) == 0, uninterrupted.stderr.read()

    stopped = start(packed, broken, pause=0.05)
    time.sleep(0.5)
    wait_for_steps(broken / "state", 20)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == 128 + signal.SIGTERM, stopped.stderr.read()
    assert not (broken / "weights.pt").exists()

    finished = start(packed, broken)
    output, errors = finished.communicate(timeout=120)
    assert finished.returncode == 0, errors
    resumes, seconds = output.split()
    assert resumes == "2"
    assert float(seconds) > 20 * 0.05  # the pauses of the first two attempts count
    assert steps_logged(broken / "state") == list(range(1, 41)) == steps_logged(whole / "state")
    assert (broken / "weights.pt").read_bytes() == (whole / "weights.pt").read_bytes()


def line(networks, batch, step):
    yield ("line",), {"error": (networks["line"](batch["x"]) - 2 * batch["x"] - 1).square().mean()}


class Points:
    """Batches for a line to be fitted to."""

    steps_per_epoch = 4

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        return {"x": torch.from_numpy(np.random.default_rng(step).random((8, 1), np.float32))}


def train_line(state: Path, fingerprint: str = "one", validate=None, **options):
    torch.manual_seed(1)
    network = torch.nn.Linear(1, 1)
    given = TrainingOptions(**{"steps": 300, "learning_rate": 0.05, **options})
    return network, fit({"line": network}, line, Points(), given, state, fingerprint, validate=validate)


def test_it_learns_a_line(tmp_path):
    network, record = train_line(tmp_path)
    assert network.weight.item() == pytest.approx(2, abs=0.01)
    assert network.bias.item() == pytest.approx(1, abs=0.01)
    assert (record["steps"], record["parameters"], record["device"]) == (300, 2, "cpu")


def test_the_best_weights_are_kept_not_the_last(tmp_path):
    seen = []

    def validate(networks) -> float:
        seen.append(networks["line"].weight.item())
        return abs(networks["line"].weight.item() - 1.5)

    network, record = train_line(tmp_path, validate=validate, validate_every=1)
    best = int(np.argmin(np.abs(np.array(seen) - 1.5)))
    assert network.weight.item() == seen[best] != seen[-1]
    assert record["best_step"] == best + 1
    assert record["best_validation"] == abs(seen[best] - 1.5)


def test_a_finished_training_is_not_repeated_and_a_changed_one_starts_afresh(tmp_path, caplog):
    network, first = train_line(tmp_path)
    again, second = train_line(tmp_path)
    assert torch.equal(network.weight, again.weight)
    assert (second["resumes"], second["seconds"] - first["seconds"] < 0.5) == (1, True)
    _, third = train_line(tmp_path, "two")
    assert third["resumes"] == 0
    assert "have changed" in caplog.text


def test_two_phases_update_their_own_networks(tmp_path):
    networks = {"a": torch.nn.Linear(1, 1, bias=False), "b": torch.nn.Linear(1, 1, bias=False)}

    def losses(networks, batch, step):
        a, b = networks["a"], networks["b"]
        yield ("a",), {"a": (a.weight - b.weight.detach()).square().sum()}
        yield ("b",), {"b": (b.weight - 3).square().sum() + 0 * a.weight.sum()}

    fit(networks, losses, Points(), TrainingOptions(steps=200, learning_rate=0.1), tmp_path, "x")
    assert networks["a"].weight.item() == pytest.approx(3, abs=0.05)
    assert networks["b"].weight.item() == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize(("loading", "computing", "low", "high"), [(0.02, 0.0, 0.5, 1.0), (0.0, 0.02, 0.0, 0.5)])
def test_the_record_tells_how_long_networks_waited_for_batches(tmp_path, loading, computing, low, high):
    class Slow(Points):
        def batch(self, step):
            time.sleep(loading)
            return super().batch(step)

    def losses(networks, batch, step):
        time.sleep(computing)
        yield ("line",), {"error": networks["line"](batch["x"]).square().sum()}

    network, options = torch.nn.Linear(1, 1, bias=False), TrainingOptions(steps=20, checkpoint_seconds=100)
    fit(
        {"line": network}, losses, Points(), TrainingOptions(steps=1), tmp_path / "first", "x"
    )  # imports take their time
    record = fit({"line": network}, losses, Slow(), options, tmp_path, "x")
    assert low <= record["waiting_share"] <= high


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    def losses(networks, batch, step):
        yield ("line",), {"error": networks["line"](batch["x"]).sum() * (float("nan") if step == 3 else 1)}

    with pytest.raises(ModalignError, match=r"the loss 'error' became nan at step 4 .* Lower learning_rate"):
        fit({"line": torch.nn.Linear(1, 1)}, losses, Points(), TrainingOptions(steps=9), tmp_path, "x")


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


def test_reading_from_disk_gives_the_same_batches_as_from_memory(packed):
    sampling = Sampling(2, batch=4, crop=(10, 15), flips=True)
    memory, disk = (PackedCases(packed, sampling, memory_mib=limit) for limit in (100, 0))
    for step in range(5):
        assert torch.equal(memory.batch(step)["moving"], disk.batch(step)["moving"])


def test_crops_are_at_the_same_place_in_both_images_and_pad_what_is_too_small(packed):
    data = PackedCases(packed, Sampling(3, batch=2, crop=(12, 16, 6), flips=True))
    for step in range(6):
        batch = data.batch(step)
        assert batch["fixed"].shape == (2, 1, 12, 16, 6)
        inside = batch["fixed"] != batch["fixed"].amin((2, 3, 4), keepdim=True)
        difference = (batch["moving"] - batch["fixed"])[inside]
        torch.testing.assert_close(difference, torch.full_like(difference, 10.0))


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


def test_a_broken_checkpoint_is_not_used(tmp_path, caplog):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"half a file")
    assert checkpoint.load(path, "x") is None
    assert "can't be read" in caplog.text


def test_fingerprints_follow_everything_that_matters():
    given = ({"a": 1}, "data", "code", 0)
    changed = [({"a": 2}, *given[1:]), (given[0], "other", *given[2:]), (*given[:2], "other", 0), (*given[:3], 1)]
    assert len({checkpoint.fingerprint(*g) for g in [given, *changed]}) == 5


def test_random_states_survive_a_round_trip_through_a_file(tmp_path):
    import random

    checkpoint.save(tmp_path / "c.pt", {"fingerprint": "f", "random": random_states()})

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    first = draw()
    restore_random_states(checkpoint.load(tmp_path / "c.pt", "f")["random"])
    assert draw() == first


def test_devices_that_are_not_there():
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="there is no device 'gpu'"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        assert resolve_device("auto") == "cpu"
        with pytest.raises(ConfigError, match=r"sees no GPU. Write device: auto or cpu"):
            resolve_device("cuda")
    with pytest.raises(ConfigError, match="1 device with precision 32, not on 2 with bf16-mixed"):
        accelerate("cpu", "bf16-mixed", 2)


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
