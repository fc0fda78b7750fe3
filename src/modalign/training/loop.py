"""The training loop: one function to be read from top to bottom."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modalign.errors import ModalignError
from modalign.memory import peak_memory_mb
from modalign.training import checkpoint
from modalign.training.data import Batch
from modalign.training.devices import (
    accelerate,
    make_deterministic,
    random_states,
    restore_random_states,
)
from modalign.training.options import TrainingOptions
from modalign.training.progress import csv_log, progress_bar, stop_signals

log = logging.getLogger(__name__)

Networks = Mapping[str, nn.Module]
Phases = Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]


class Batches(Protocol):
    """A source of batches, such as :class:`modalign.training.data.PackedCases`."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same whenever it is asked for."""


def fit(
    networks: Networks,
    losses: Callable[[Networks, Batch, int], Phases],
    batches: Batches,
    options: TrainingOptions,
    state: Path,
    fingerprint: str,
    *,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
    validate: Callable[[Networks], float] | None = None,
    rate_factors: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Train `networks` in place and leave them, on the CPU, with the weights that `options.keep` asks for.

    After a kill, the same call continues from the last checkpoint, and on a CPU ends with the same bytes as without the
    kill. SIGTERM and SIGINT write a checkpoint and leave by :class:`SystemExit`.

    Args:
        networks: by name; each that learns gets an optimiser of its own. What else has to survive a kill (a pool of
            images, say) belongs into their buffers.
        losses: a generator ``losses(networks, batch, step)`` with one yield per phase of a step: the names of the
            networks to update, and the weighted terms whose sum they descend. A GAN yields twice.
        batches: where the batches come from.
        options: budget, optimiser, schedule.
        state: folder for checkpoint.pt and log.csv; not an output of the workflow, so that it survives kills.
        fingerprint: see :func:`modalign.training.checkpoint.fingerprint`; a checkpoint with another one is ignored.
        seed: seeds everything that draws from global generators.
        device: ``cpu`` or ``cuda``.
        threads: number of CPU threads; another number may change the last bits of results.
        validate: a number for the networks as they are, lower is better; called without gradients, and always with
            the same state of PyTorch's random generators, which it leaves alone. Not called if the options say so.
        rate_factors: by network, how many times the learning rate of the options it learns with; 1 where not named.

    Returns:
        The record: steps, seconds (over all resumes), parameters, best_validation and best_step (None without
        `validate`), device, peak_memory_mb, resumes, and the share of the time since the last resume in which the
        networks waited for a batch (waiting_share).

    Raises:
        ModalignError: a loss is not finite.
        SystemExit: a signal asked to stop.
    """
    make_deterministic(seed, device, threads, "training")
    fabric = accelerate(device, options.precision, options.devices)
    per_epoch = max(1, batches.steps_per_epoch // fabric.world_size)
    total = options.total_steps(per_epoch)
    validate = validate if options.validates else None
    validate_every, log_every = options.validate_every or max(1, total // 20), max(1, total // 1000)
    wrapped: dict[str, nn.Module] = {}
    optimisers: dict[str, torch.optim.Optimizer] = {}
    for name, network in networks.items():
        wrapped[name] = network.to(fabric.device).train()
        if count_parameters(network):
            wrapped[name], optimisers[name] = fabric.setup(network, _optimiser(network, options))

    step, seconds, resumes = 0, 0.0, 0
    best: dict[str, Any] = {"validation": None, "step": None, "weights": None}
    found = checkpoint.load(state / "checkpoint.pt", fingerprint)
    if found is not None:
        step, seconds, resumes, best = found["step"], found["seconds"], found["resumes"] + 1, found["best"]
        for name, network in networks.items():
            network.load_state_dict(found["networks"][name])
        for name, optimiser in optimisers.items():
            optimiser.load_state_dict(found["optimisers"][name])
        fabric.load_scaler(found["scaler"])
        restore_random_states(found["random"])
        log.info("continuing at step %d of %d, after %.0f s of training", step, total, seconds)
    started = saved = time.monotonic()
    waited = 0.0

    def elapsed() -> float:
        return seconds + time.monotonic() - started

    def save() -> None:
        content = {
            "fingerprint": fingerprint,
            "step": step,
            "seconds": elapsed(),
            "resumes": resumes,
            "best": best,
            "networks": {name: network.state_dict() for name, network in networks.items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in optimisers.items()},
            "scaler": fabric.scaler(),
            "random": random_states(),
        }
        if fabric.is_global_zero:
            checkpoint.save(state / "checkpoint.pt", content)

    def read(step: int) -> Batch:
        return batches.batch(step * fabric.world_size + fabric.global_rank)

    with (
        csv_log(state / "log.csv", step, fabric.is_global_zero) as write,
        progress_bar(total, step, fabric.is_global_zero) as show,
        stop_signals() as signalled,
        ThreadPoolExecutor(1) as reader,
    ):
        upcoming = reader.submit(read, step)
        while step < total:
            asked = time.monotonic()
            loaded = upcoming.result()
            waited += time.monotonic() - asked
            batch = {part: images.to(fabric.device) for part, images in loaded.items()}
            upcoming = reader.submit(read, step + 1)
            rate = options.learning_rate_at(step, per_epoch)
            reported: dict[str, Tensor] = {}
            phases = losses(wrapped, batch, step)
            while True:
                with fabric.autocast():
                    phase = next(phases, None)
                if phase is None:
                    break
                names, terms = phase
                for name in names:
                    optimisers[name].zero_grad(set_to_none=True)
                fabric.backward(torch.stack(list(terms.values())).sum())
                for name in names:
                    for group in optimisers[name].param_groups:
                        group["lr"] = rate * (rate_factors or {}).get(name, 1.0)
                    if options.clip is not None:
                        fabric.clip_gradients(wrapped[name], optimisers[name], options.clip)
                fabric.step([optimisers[name] for name in names])
                reported.update({term: value.detach() for term, value in terms.items()})
            step += 1

            row: dict[str, Any] = {}
            if step % log_every == 0 or step in (1, total):
                # Reading the values makes a GPU wait, so not at every step.
                row = {term: float(value) for term, value in reported.items()}
                _check_finite(row, step, state)
            if validate is not None and (step % validate_every == 0 or step == total):
                value = row["validation"] = _validated(validate, networks, fabric.device)
                # What isn't a number is no best, not even the first.
                if math.isfinite(value) and (best["validation"] is None or value < best["validation"]):
                    keep = options.keep == "best"
                    weights = {name: _copied(network) for name, network in networks.items()} if keep else None
                    best = {"validation": value, "step": step, "weights": weights}
            if row:
                write({"step": step, "seconds": elapsed(), "learning_rate": rate, **row})
            show(step, row)
            if signalled():
                save()
                log.warning("stopped by a signal at step %d of %d; the same command continues there", step, total)
                raise SystemExit(128 + signalled())
            if step == total or time.monotonic() - saved >= options.checkpoint_seconds:
                save()
                saved = time.monotonic()

    seconds, here = elapsed(), time.monotonic() - started
    for name, network in networks.items():
        network.cpu().eval()
        if best["weights"] is not None:
            network.load_state_dict(best["weights"][name])
    return {
        "steps": step,
        "seconds": seconds,
        "parameters": sum(count_parameters(network) for network in networks.values()),
        "best_validation": best["validation"],
        "best_step": best["step"],
        "device": device,
        "peak_memory_mb": peak_memory_mb(device),
        "resumes": resumes,
        "waiting_share": waited / here if here > 0 else 0.0,
    }


def count_parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _optimiser(network: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    learning = [p for p in network.parameters() if p.requires_grad]
    rate, decay = options.learning_rate, options.weight_decay
    if options.optimiser == "sgd":
        return torch.optim.SGD(learning, lr=rate, weight_decay=decay)
    kind = torch.optim.AdamW if options.optimiser == "adamw" else torch.optim.Adam
    amsgrad = options.optimiser == "amsgrad"
    return kind(learning, lr=rate, betas=options.betas, weight_decay=decay, amsgrad=amsgrad)


def _validated(validate: Callable[[Networks], float], networks: Networks, device: torch.device) -> float:
    for network in networks.values():
        network.eval()
    gpus = [] if device.type == "cpu" else [device]
    with torch.no_grad(), torch.random.fork_rng(gpus):
        # The same noise every time, so that validations can be compared.
        torch.manual_seed(0)
        value = float(validate(networks))
    for network in networks.values():
        network.train()
    return value


def _check_finite(row: Mapping[str, float], step: int, state: Path) -> None:
    for name, value in row.items():
        if not math.isfinite(value):
            message = f"the loss {name!r} became {value} at step {step} of the training in {state}"
            raise ModalignError(f"{message}. Lower learning_rate, or limit gradients by clip: 0.5")


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
