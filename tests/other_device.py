"""A device that isn't there, to see without a GPU that no code mixes devices.

Tensors of ``elsewhere`` keep their numbers on the CPU and compute there, but, as on a GPU, they refuse to meet tensors
of the CPU (but for indices and numbers without axes) or to be handed to NumPy. What a method makes there has to be
what it makes on the CPU, up to rounding: some kernels differ, and Adam's first steps go by the signs of gradients.
Generators of random numbers stay on the CPU, and Triton's kernels don't take part. How trainings go on a GPU, through
Lightning Fabric in ``32`` or in ``bf16-mixed``, is tried on the CPU.

``python tests/other_device.py HOW NAME...`` trains and aligns with variants of :data:`VARIANTS` as `HOW` says,
``elsewhere`` or a precision, and compares with what comes out usually (but for ``bf16-mixed``). In a process of its
own, because a device can't be taken away from PyTorch again.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

ROOT = Path(__file__).parents[1]
NAME = "elsewhere"
SLICES, SLICE, VOLUME = (32, 32, 4), (32, 32, 1), (32, 32, 32)
VOLUMES = {"rbg": (16, 16, 8), "dual_modality": (44, 44, 44)}
"""Where others take too long, or are refused."""

SMALL = {"preset": "small"}
STAGE2 = {"stage1": "translator", "registration": "registration"}
TRANSLATED = {"similarity": "mse", "translator": True, **SMALL}
VARIANTS: dict[str, tuple[str, int, dict[str, Any], dict[str, str]]] = {
    "rbg_stage1": ("rbg_stage1", 2, {**SMALL, "padain_factor": 4}, {}),
    "rbg_stage1 as printed": (
        *("rbg_stage1", 2),
        {**SMALL, "padain_interpolation": "bilinear", "padain_reduce": "mean", "contextual_form": "nearest"},
        {},
    ),
    "rbg": ("rbg", 2, SMALL, STAGE2),
    "rbg with MIND": ("rbg", 2, {**SMALL, "mind_weight": 20, "nce_weight": 0, "attention": "dot"}, STAGE2),
    "rbg with its extractors": ("rbg", 2, {**SMALL, "nce_features": "extractors", "window": 4}, STAGE2),
    "rbg in 3D": ("rbg", 3, SMALL, STAGE2),
    "registformer": ("registformer", 2, SMALL, STAGE2),
    "cyclegan": ("cyclegan", 2, SMALL, {}),
    "sc_cyclegan": ("sc_cyclegan", 2, SMALL, {}),
    "unit": ("unit", 2, SMALL, {}),
    "munit": ("munit", 2, SMALL, {}),
    "cut": ("cut", 2, SMALL, {}),
    "reggan": ("reggan", 2, SMALL, {}),
    "pseudo_ct": ("pseudo_ct", 2, {**SMALL, "rigid": False}, {}),
    "voxelmorph, MI": ("voxelmorph", 2, {**SMALL, "similarity": "mi", "misalign": {}}, {}),
    "voxelmorph, MIND": ("voxelmorph", 3, {**SMALL, "similarity": "mind", "deform_voxels": 1}, {}),
    "voxelmorph, NCC": ("voxelmorph", 3, {**SMALL, "similarity": "ncc"}, {}),
    "lapirn": ("lapirn", 3, {**TRANSLATED, "frozen_steps": 0}, {"translator": "translator"}),
    "gradicon": ("gradicon", 2, TRANSLATED, {"translator": "translator"}),
    "transmorph": ("transmorph", 3, TRANSLATED, {"translator": "translator"}),
    "imse_evaluator": ("imse_evaluator", 2, {**SMALL, "learn_from": ["t1", "t2"]}, {}),
    "imse": ("imse", 2, {**SMALL, "deform_voxels": 0}, {"evaluator": "imse_evaluator"}),
    "free_displacement, IMSE": (
        *("free_displacement", 2, {"similarity": "imse", "iterations": 3}),
        {"evaluator": "imse_evaluator"},
    ),
    "free_displacement, MI": ("free_displacement", 3, {"similarity": "mi", "iterations": 3}, {}),
    "dual_modality": ("dual_modality", 3, {**SMALL, "pairs": "labels-only", "batch": 1}, {}),
    "locor": ("locor", 3, {}, {}),
    "locor, normalised polynomials": ("locor", 2, {"basis": "polynomial", "residual": "normalised"}, {}),
    **{f"instance, {kind}": ("instance", 3, {"similarity": kind}, {}) for kind in ("srwcr", "mind-ssc", "mi", "lncc")},
    **{f"instance, {kind}": ("instance", 2, {"similarity": kind}, {}) for kind in ("mind", "nmi", "cr", "mae")},
    "convexadam": ("convexadam", 3, {}, {}),
}
"""Method, dimension, options, and the stand-ins that it builds on: every way through the code that computes."""
KEPT: list[Any] = []
"""The device's own kernels, which would be gone with their library."""
ON_ANY_DEVICE = ("aten._to_copy.default", "aten.copy_.default")
INDEXING = ("aten.index.", "aten.index_put", "aten._index_put")


class Elsewhere(torch.Tensor):
    """A tensor that says it is elsewhere."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Elsewhere":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    def __repr__(self) -> str:
        return f"Elsewhere({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


class _Dispatch(TorchDispatchMode):
    """Sees what makes tensors from nothing, which no tensor would bring here."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


def _compute(func, args, kwargs):
    name, wanted = str(func), kwargs.get("device")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, Elsewhere)]
    if there and name not in ON_ANY_DEVICE:
        # A GPU takes indices from the CPU.
        asked = [args[0], *args[2:]] if name.startswith(INDEXING) else tensors
        if any(isinstance(t, torch.Tensor) and not isinstance(t, Elsewhere) and t.ndim for t in asked):
            found = ", ".join(f"{tuple(t.shape)} on {t.device.type}" for t in tensors)
            raise RuntimeError(f"{name} got tensors of two devices: {found}")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
        stays = torch.device(wanted).type == NAME
    else:
        stays = isinstance(args[0], Elsewhere) if name in ON_ANY_DEVICE else bool(there)
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if not stays:
        return found
    found = tree_map(lambda t: Elsewhere(t) if isinstance(t, torch.Tensor) else t, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if there else found


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Elsewhere) else value


class _Backend:
    """What PyTorch asks of the module of a device."""

    is_available = is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    manual_seed_all = staticmethod(lambda seed: None)
    _is_in_bad_fork = staticmethod(lambda: False)
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])


def register() -> TorchDispatchMode:
    """Make the device known to PyTorch and to modalign; inside the mode, it is there."""
    from torch.utils import backend_registration

    from modalign.methods import _generation, _stage2_losses, rbg_stage1
    from modalign.similarity import contextual
    from modalign.training import devices, loop

    backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend)
    kernels = torch.library.Library("aten", "IMPL", "PrivateUse1")
    kernels.impl(
        "empty_strided", lambda size, stride, **kind: Elsewhere(torch.empty_strided(size, stride, **_on_cpu(kind)))
    )
    kernels.impl("empty.memory_format", lambda size, **kind: Elsewhere(torch.empty(size, **_on_cpu(kind))))
    kernels.impl("_copy_from", _copy_from)
    KEPT.append(kernels)

    # These four would ask C++ for the device's memory.
    made, as_made, listed, forked = torch.tensor, torch.as_tensor, torch.Tensor.tolist, torch.random.fork_rng
    torch.tensor = lambda data, *, device=None, **kind: _moved(made(data, **kind), device)
    torch.as_tensor = lambda data, dtype=None, device=None: _moved(as_made(data, dtype=dtype), device)
    torch.Tensor.new_tensor = lambda self, data, device=None: made(data, dtype=self.dtype).to(device or self.device)
    torch.Tensor.tolist = lambda self: listed(_inner(self.detach()))

    torch.random.fork_rng = lambda devices=(): forked([d for d in devices if torch.device(d).type != NAME])
    drawn = _generation.torch_random
    for module in (_generation, _stage2_losses, rbg_stage1):
        module.torch_random = lambda device, *purpose: drawn("cpu", *purpose)
    contextual.TILE_ELEMENTS[NAME] = contextual.TILE_ELEMENTS["cpu"]
    elsewhere, accelerate = devices.OneCpu(), loop.accelerate
    elsewhere.device = torch.device(NAME, 0)
    loop.accelerate = lambda device, *more: elsewhere if device == NAME else accelerate(device, *more)
    return _Dispatch()


def _on_cpu(kind: Mapping[str, Any]) -> dict[str, Any]:
    return {**kind, "device": "cpu", "pin_memory": False}


def _moved(tensor: torch.Tensor, device: Any) -> torch.Tensor:
    return tensor if device is None else tensor.to(device)


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    _inner(target).copy_(_inner(source))
    return target


def train_and_align(name: str, device: str, folder: Path) -> Any:
    """What a variant makes of a random case after two steps of training, or after a few iterations."""
    from paper_scale import RegistrationStandIn, TranslationStandIn, random_store

    from modalign.methods import method_class
    from modalign.methods._trained import TrainedMethod
    from modalign.methods.base import Context

    kind, dimension, options, needed = VARIANTS[name]
    trained = issubclass(method_class(kind), TrainedMethod)
    size = VOLUMES.get(kind, VOLUME) if dimension == 3 else SLICES if trained else SLICE
    store = random_store(folder / "store", size, 2)
    needs: dict[str, Any] = {}
    for role, stand_in in needed.items():
        if stand_in == "imse_evaluator":
            context = Context(model=folder / "evaluator", device=device)
            needs[role] = method_class(stand_in)({**VARIANTS[stand_in][2], "steps": 1}, dimension, context)
            needs[role].train(store)
        else:
            needs[role] = {"translator": TranslationStandIn, "registration": RegistrationStandIn}[stand_in](
                dimension=dimension
            )
    if trained:
        # LapIRN has three levels to train.
        options = {**options, "steps": 4 if kind == "lapirn" else 2}
    elif kind in ("instance", "locor"):
        options = {**options, "schedule": (1, 0, 1, 0, 0, 1)}
    context = Context(model=folder / "model", device=device, needs=needs)
    method = method_class(kind)(options, dimension, context)
    if isinstance(method, TrainedMethod):
        method.train(store)
    return method.align(store.load("case0", ("fixed", "moving")))


def _check_the_device() -> None:
    """Raises AssertionError unless the device refuses what a GPU refuses."""
    here, there = torch.zeros(1, 3), torch.zeros(2, 3, device=NAME)
    assert (there + 1).sum().item() == 6
    assert (there * torch.tensor(2.0)).device.type == NAME
    for refused in (lambda: there + here, lambda: torch.cat([here, there]), there.numpy):
        try:
            refused()
        except RuntimeError:
            continue
        raise AssertionError("tensors of two devices met")


@contextmanager
def fabric(precision: str) -> Iterator[None]:
    """Trainings run as on a GPU, by Lightning Fabric, on the CPU."""
    from modalign.training import devices, loop

    accelerate = loop.accelerate
    loop.accelerate = lambda *usual: devices.Gpus(devices._launched("cpu", precision, 1))
    try:
        yield
    finally:
        loop.accelerate = accelerate


def compare(name: str, device: str, way: Any) -> None:
    """Raises AssertionError where a variant finds something else than usual."""
    found = []
    for where, mode in (("cpu", nullcontext()), (device, way)):
        with tempfile.TemporaryDirectory() as folder, mode:
            found.append(train_and_align(name, where, Path(folder)))
    usual, other = found
    allowed = 0.05 * np.ptp(usual.image.data)
    np.testing.assert_allclose(other.image.data, usual.image.data, atol=allowed, err_msg=f"{name}: image")
    if usual.field is not None:
        np.testing.assert_allclose(other.field, usual.field, atol=0.1, err_msg=f"{name}: field, voxels")


def run_in_half_precision(name: str) -> None:
    """Raises AssertionError unless an image comes out; Adam's first steps go elsewhere, so there is none to compare."""
    with tempfile.TemporaryDirectory() as folder, fabric("bf16-mixed"):
        image = train_and_align(name, "cpu", Path(folder)).image.data
    assert np.isfinite(image).all(), name
    assert np.ptp(image) > 0, name


def main(how: str, names: Sequence[str]) -> None:
    """Try every variant."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    if how == NAME:
        mode = register()
        with mode:
            _check_the_device()
    for name in names:
        if how == NAME:
            compare(name, NAME, mode)
        elif how == "bf16-mixed":
            run_in_half_precision(name)
        else:
            compare(name, "cpu", fabric(how))
        print(f"{name}: done", flush=True)  # noqa: T201 - the test counts them


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or list(VARIANTS))
