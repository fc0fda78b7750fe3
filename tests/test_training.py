"""The training loop, its checkpoints and its data: it survives kills without a changed bit."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_training_data import write_packed

from modalign.devices import resolve_device
from modalign.errors import ConfigError, ModalignError
from modalign.training import checkpoint
from modalign.training.devices import Gpus, accelerate, random_states, restore_random_states
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
    return write_packed(tmp_path / "train.h5", rng)


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


def test_the_last_weights_are_kept_if_asked_for_and_validated_only_if_asked_for(tmp_path):
    seen = []

    def validate(networks) -> float:
        seen.append(networks["line"].weight.item())
        return abs(networks["line"].weight.item() - 1.5)

    network, record = train_line(tmp_path / "a", validate=validate, validate_every=1, keep="last")
    assert network.weight.item() == seen[-1]
    assert record["best_step"] == 1 + int(np.argmin(np.abs(np.array(seen) - 1.5))) < 300
    seen.clear()
    alone, record = train_line(tmp_path / "b", validate=validate, keep="last")
    assert (seen, record["best_step"]) == ([], None)
    assert torch.equal(alone.weight, network.weight)


def test_a_validation_that_is_no_number_is_not_the_best(tmp_path):
    values = iter([float("nan"), 3.0, float("inf"), 2.0, float("nan")])
    _, record = train_line(tmp_path, validate=lambda networks: next(values), validate_every=1, steps=5)
    assert (record["best_validation"], record["best_step"]) == (2.0, 4)
    network, record = train_line(tmp_path, "nan", validate=lambda networks: float("nan"), steps=5)
    last, _ = train_line(tmp_path, "none", steps=5)
    assert record["best_step"] is None
    assert torch.equal(network.weight, last.weight)


def test_validations_draw_the_same_numbers_every_time_and_leave_training_its_own(tmp_path):
    drawn = []

    def noisy(networks, batch, step):
        x = batch["x"] + torch.randn_like(batch["x"])
        yield ("line",), {"error": networks["line"](x).square().mean()}

    def run(state: Path, validate) -> torch.Tensor:
        torch.manual_seed(1)
        network = torch.nn.Linear(1, 1)
        options = TrainingOptions(steps=6, keep="last", validate_every=2)
        fit({"line": network}, noisy, Points(), options, state, "x", validate=validate)
        return network.weight

    def validate(networks) -> float:
        drawn.append(torch.randn(()).item())
        return 0.0

    assert torch.equal(run(tmp_path / "a", validate), run(tmp_path / "b", None))
    assert len(drawn) == 3
    assert len(set(drawn)) == 1


def test_gradients_of_a_phase_are_unscaled_by_one_factor():
    """A scaler that doubles at every update would halve the second network's gradient in between."""
    precision = SimpleNamespace(scaler=torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1))
    fabric = SimpleNamespace(
        **{"device": torch.device("cpu"), "world_size": 1, "global_rank": 0, "is_global_zero": True},
        _precision=precision,
        backward=lambda loss: precision.scaler.scale(loss).backward(),
    )
    gpus, weights = Gpus(fabric), [torch.nn.Parameter(torch.zeros(())) for _ in range(2)]
    optimisers = [torch.optim.SGD([weight], lr=1.0) for weight in weights]
    for _ in range(2):
        for optimiser in optimisers:
            optimiser.zero_grad()
        gpus.backward(3 * weights[0] + 3 * weights[1])
        gpus.step(optimisers)
    assert [weight.item() for weight in weights] == [-6, -6]
    assert precision.scaler.get_scale() == 16


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
