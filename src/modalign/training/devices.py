"""Where a training runs: fixed randomness, and what Lightning Fabric does on GPUs."""

import os
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modalign.errors import ConfigError
from modalign.seeds import derive_seed


def make_deterministic(seed: int, device: str, threads: int, *purpose: str) -> None:
    """Seed Python, NumPy and PyTorch for one purpose, fix the number of threads, and choose deterministic kernels.

    On a CPU the same seed and thread count give the same bytes. On cuda, warping has no deterministic gradient, so
    there it is only asked for, not enforced.
    """
    # cuBLAS reads this when it starts; without it, its results may change from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    derived = derive_seed(seed, *purpose)
    random.seed(derived)
    np.random.seed(derived)  # noqa: NPY002 - for libraries that draw from the global generator
    torch.manual_seed(derived)


def random_states() -> dict[str, Any]:
    """The states of all global random generators, as :func:`torch.save` can store them."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put the global random generators back to where :func:`random_states` found them."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


class OneCpu:
    """The few calls of Lightning Fabric that the loop makes, for one CPU.

    Importing Fabric takes three times as long as importing PyTorch, and on one CPU it has nothing to do.
    """

    device = torch.device("cpu")
    world_size = 1
    global_rank = 0
    is_global_zero = True

    def setup(self, network: nn.Module, optimiser: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Both as they are."""
        return network, optimiser

    def autocast(self) -> AbstractContextManager[None]:
        """No mixed precision."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""
        loss.backward()

    def clip_gradients(self, network: nn.Module, optimiser: Optimizer, max_norm: float) -> None:
        """Scale the gradients of one network down to a norm of `max_norm`, if they exceed it."""
        nn.utils.clip_grad_norm_(network.parameters(), max_norm)

    def step(self, optimisers: Sequence[Optimizer]) -> None:
        """Update all networks of a phase."""
        for optimiser in optimisers:
            optimiser.step()

    def scaler(self) -> dict[str, Any]:
        """The state of the gradient scaler: there is none."""
        return {}

    def load_scaler(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


class Gpus(OneCpu):
    """The same calls, answered by Lightning Fabric: devices, mixed precision, one process per GPU."""

    def __init__(self, fabric: Any):
        self.fabric = fabric
        self.device = fabric.device
        self.world_size, self.global_rank = fabric.world_size, fabric.global_rank
        self.is_global_zero = fabric.is_global_zero

    def setup(self, network: nn.Module, optimiser: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Both on the device, wrapped so that gradients are averaged over the GPUs."""
        return self.fabric.setup(network, optimiser)

    def autocast(self) -> AbstractContextManager[None]:
        """The chosen precision."""
        return self.fabric.autocast()

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients, scaled where the precision needs it."""
        self.fabric.backward(loss)

    def clip_gradients(self, network: nn.Module, optimiser: Optimizer, max_norm: float) -> None:
        """Scale the gradients of one network down to a norm of `max_norm`, if they exceed it."""
        # A 16-mixed step with infinite gradients is skipped later on, so they are no error here.
        self.fabric.clip_gradients(network, optimiser, max_norm=max_norm, error_if_nonfinite=False)

    def step(self, optimisers: Sequence[Optimizer]) -> None:
        """Update all networks of a phase."""
        scaler = getattr(self.fabric._precision, "scaler", None)
        if scaler is None:
            super().step(optimisers)
            return
        for optimiser in optimisers:
            scaler.step(getattr(optimiser, "optimizer", optimiser))
        # Once, not after every network as Fabric does: gradients of the next one would be divided by another factor
        # than their loss was multiplied by.
        scaler.update()

    def scaler(self) -> dict[str, Any]:
        """The state of the gradient scaler of 16-mixed."""
        return self.fabric._precision.state_dict()

    def load_scaler(self, state: dict[str, Any]) -> None:
        """Put the gradient scaler back."""
        self.fabric._precision.load_state_dict(state)


def accelerate(device: str, precision: str = "32", devices: int = 1) -> OneCpu:
    """What runs the loop: Lightning Fabric on cuda, and plain PyTorch on a CPU.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: ``32``, ``bf16-mixed`` or ``16-mixed``.
        devices: number of GPUs; more than one starts a process for each, which runs the same command.

    Raises:
        ConfigError: mixed precision or several devices on a CPU, or more GPUs than there are.
    """
    if device == "cpu":
        if devices > 1 or precision != "32":
            message = f"on a CPU, training runs on 1 device with precision 32, not on {devices} with {precision}"
            raise ConfigError(f"{message}: leave both options out, or set device: cuda")
        return OneCpu()
    if devices > torch.cuda.device_count():
        raise ConfigError(f"{devices} GPUs are asked for, and PyTorch sees {torch.cuda.device_count()}")
    return Gpus(_launched("cuda", precision, devices))


def _launched(accelerator: str, precision: str, devices: int) -> Any:
    from lightning_fabric import Fabric

    # Networks of a GAN take turns, so a phase leaves some of them without gradients.
    strategy = "auto" if devices == 1 else "ddp_find_unused_parameters_true"
    fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric
