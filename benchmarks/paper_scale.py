"""Parameters, seconds per step and peak memory of every trained method at the scale of a paper's overlay.

``python benchmarks/paper_scale.py rbg`` trains each variant for a few steps at its own batch and crop, on random scans
of the paper's size, in a process of its own, and prints a Markdown table. What doesn't fit into a machine can be made
smaller: ``--batch 1 --crop 64 --size 96 96 32``; the table then says so.
"""

import argparse
import csv
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from modalign.cases import Alignment, Case, CaseStore
from modalign.files import write_json
from modalign.methods import method_class
from modalign.methods._trained import TrainedMethod
from modalign.methods.base import Context, Method
from modalign.methods.imse_evaluator import ImseEvaluator
from modalign.plan import make_plan
from modalign.training.data import Sampling
from modalign.training.registration import registration_data
from modalign.variants import Variant
from modalign.volumes import Volume, write_volume

ROOT = Path(__file__).parents[1]
OVERLAYS = ("rbg", "registformer", "imse", "cao2018", "rbg-medium")
SIZE = (384, 320, 128)
"""Voxels of a scan of RbG and RegistFormer, padded along z as their 3D networks want it."""
MODALITIES = {"fixed_modality": "t2", "moving_modality": "t1"}
log = logging.getLogger("paper_scale")


class TranslationStandIn(Method):
    """Stands in for a trained translator: the fixed image as it is."""

    kind = "translation"
    dimensions = frozenset({2, 3})

    def align(self, case: Case) -> Alignment:
        """No change."""
        return Alignment(case.fixed)


class RegistrationStandIn(Method):
    """Stands in for a trained registration network: no displacement."""

    kind = "registration"
    dimensions = frozenset({2, 3})

    def align(self, case: Case) -> Alignment:
        """No displacement."""
        return Alignment(case.moving, np.zeros((3, *case.fixed.shape), np.float32))


def trained_variants(overlay: str) -> dict[str, Variant]:
    """The trained variants of ``config.yaml`` with an overlay, without those that differ in their share of cases."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    _merge(config, yaml.safe_load((ROOT / "config" / f"{overlay}.yaml").read_text()))
    plan = make_plan(config)
    wanted = {name for _, name in plan.reachable}
    wanted |= {need for name in wanted for need in plan.trained_needs(name)}
    variants = {name: plan.variants[name] for name in sorted(wanted)}
    return {name: v for name, v in variants.items() if v.trained and "train_fraction" not in v.options}


def build(variant: Variant, context: Context | None = None, **overrides: Any) -> TrainedMethod:
    """The method of a variant with its own options; `overrides` of other sizes for smaller machines."""
    kind = method_class(variant.method)
    dimension = variant.dimension or max(kind.dimensions)
    made = kind({**variant.options, **overrides}, dimension, context)
    assert isinstance(made, TrainedMethod)
    return made


def measure(variant: Variant, folder: Path, size: Sequence[int], steps: int, device: str, **overrides: Any) -> dict:
    """Train for `steps` steps after a first one, on random scans.

    Returns:
        ``parameters`` of all that learns, ``seconds`` per step without the first one, ``memory_mb``: peak of the
        process, or of what is allocated on a GPU.
    """
    standing_in = {"registration": RegistrationStandIn, "translator": TranslationStandIn, "stage1": TranslationStandIn}
    method = build(variant)
    batch = overrides.get("batch") or method.options.batch
    slices = 2 * batch if method.dimension == 2 else size[2]
    store = random_store(folder / "store", (*size[:2], slices), 1 if method.dimension == 2 else 2)
    needs: dict[str, Method] = {}
    for role in variant.needs:
        known = standing_in.get(role)
        needs[role] = (
            known(dimension=method.dimension) if known else untrained_evaluator(store, method.dimension, device)
        )
    context = Context(model=folder / "model", device=device, threads=1, needs=needs)
    # LapIRN gives half of the steps to its last level.
    budget = 4 * steps if variant.method == "lapirn" else 1 + steps
    if variant.method == "lapirn":
        overrides["frozen_steps"] = 0
    if variant.method == "dual_modality":
        # Without the time that SyN takes; there are no labels.
        overrides["pairs"] = "labels-only"
    method = build(variant, context, steps=budget, **{name: value for name, value in overrides.items() if value})
    record = method.train(store)
    logs = sorted((folder / "model" / "state").rglob("log.csv"))
    with logs[-1].open() as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return {
        "parameters": record["parameters"],
        "seconds": (seconds[-1] - seconds[0]) / (len(seconds) - 1),
        "memory_mb": record["peak_memory_mb"],
        "batch": batch,
        "seen": list(getattr(method.options, "crop", None) or size[: method.dimension]),
    }


def untrained_evaluator(store: CaseStore, dimension: int, device: str) -> ImseEvaluator:
    """Stands in for a trained evaluator of the paper's size."""
    evaluator = ImseEvaluator({}, dimension)
    data = registration_data(store, Sampling(dimension, 1), 0, "benchmark", store.folder)
    about = {"limits": dict(data.limits), "role": "moving"}
    evaluator._loaded = evaluator._network().to(device).eval(), about
    return evaluator


def random_store(folder: Path, shape: Sequence[int], cases: int) -> CaseStore:
    """A case store of scans of blurred noise, with a packed training split and no validation split."""
    from scipy.ndimage import gaussian_filter

    listed = []
    folder.mkdir(parents=True)
    with h5py.File(folder / "train.h5", "w") as file:
        for number in range(cases):
            name, random = f"case{number}", np.random.default_rng(number)
            parts = {}
            for part in ("fixed", "moving"):
                data = gaussian_filter(random.standard_normal(shape, np.float32), 3)
                file[f"{name}/{part}"] = parts[part] = data
                write_volume(folder / name / f"{part}.nii.gz", Volume(data))
            unit = {"scale": 1.0, "offset": 0.0, "unit": "a.u."}
            head = {"case": name, "dataset": "random", "split": "train"}
            write_json(folder / name / "case.json", {**head, "fixed_intensity": unit, "moving_intensity": unit})
            listed.append({"case": name, "split": "train"})
    write_json(folder / "cases.json", {"dataset": "random", "labels": {}, "cases": listed, **MODALITIES})
    return CaseStore(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; a variant that fails gets a line that says why."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    variants = trained_variants(options.overlay)
    names = options.only or list(variants)
    if options.as_json:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_one(variants[names[0]], Path(folder), options)))
        return
    print("| variant | parameters | batch | crop | s per step | peak MB |\n|---|--:|--:|---|--:|--:|")
    for line in _lines(names, variants, options):
        print(line, flush=True)


def _lines(names: Sequence[str], variants: Mapping[str, Variant], options: argparse.Namespace) -> Iterator[str]:
    known: dict[str, str] = {}
    for name in names:
        variant = variants[name]
        identity = json.dumps([variant.method, variant.dimension, dict(variant.options)], default=str, sort_keys=True)
        if identity in known:
            yield f"| {name} | as {known[identity]} | | | | |"
            continue
        known[identity] = name
        log.info("%s", name)
        command = [sys.executable, __file__, *_again(options), "--only", name, "--as-json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=options.seconds)
        except subprocess.TimeoutExpired:
            yield f"| {name} | longer than {options.seconds:g} s | | | | |"
            continue
        if done.returncode:
            yield f"| {name} | failed: {done.stderr.strip().splitlines()[-1][:120]} | | | | |"
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        seen = " × ".join(map(str, found["seen"]))
        numbers = f"{found['batch']} | {seen} | {found['seconds']:.2f} | {found['memory_mb']:,.0f}"
        yield f"| {name} | {found['parameters']:,} | {numbers} |"


def _one(variant: Variant, folder: Path, options: argparse.Namespace) -> dict:
    made = build(variant)
    crop = None
    if options.crop and "crop" in type(made.options).model_fields:
        crop = (options.crop,) * made.dimension
    overrides = {"batch": options.batch, "crop": crop}
    return measure(variant, folder, options.size, options.steps, options.device, **overrides)


def _again(options: argparse.Namespace) -> list[str]:
    """The arguments for the process of one variant."""
    sizes = [] if options.batch is None else ["--batch", str(options.batch)]
    sizes += [] if options.crop is None else ["--crop", str(options.crop)]
    common = ["--device", options.device, "--steps", str(options.steps), "--size", *map(str, options.size)]
    return [options.overlay, *common, *sizes]


def _merge(config: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        else:
            config[key] = value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overlay", choices=OVERLAYS, help="of config/")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="these alone")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=2, help="to time, after a first one")
    parser.add_argument("--size", type=int, nargs=3, default=SIZE, help="voxels of the scans")
    parser.add_argument("--batch", type=int, help="instead of each method's own")
    parser.add_argument("--crop", type=int, help="side of crops, instead of each method's own")
    parser.add_argument("--seconds", type=float, default=600.0, help="after which a variant is given up")
    parser.add_argument("--as-json", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
