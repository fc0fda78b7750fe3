"""A small results folder as the workflow leaves it: two data sets, three methods of which one fails, one paper."""

import json
from pathlib import Path

import numpy as np

from modalign.cases import CaseStore
from modalign.evaluate import compare_job, table_job
from modalign.files import write_json
from modalign.metrics.job import measure_job
from modalign.report.figures import make_figures
from modalign.report.page import build_report
from modalign.spatial.fields import write_itk_field
from modalign.volumes import Volume, axis_aligned, write_volume

PHANTOM, REAL = "goldatlas-ct-mr", "synthrad2023-mr-ct-pelvis"
GRID = axis_aligned((40, 32, 6), (2.0, 2.0, 3.0))
METHODS = ("identity", "affine-mi", "syn-cao")
REASON = "ModalignError: the <registration> ran out of patience"
MEASURES = ("tre_mm", "mae_hu", "dice", "gc", "nmi", "folding_percent")
HU = {"scale": 1000.0, "offset": 0.0, "unit": "HU"}


def anatomy(rng: np.random.Generator) -> np.ndarray:
    """A body with two organs, as labels on GRID."""
    x, y, _ = GRID.indices()
    cx, cy = 19.5 + rng.uniform(-1, 1), 15.5 + rng.uniform(-1, 1)
    labels = np.zeros(GRID.shape, dtype=np.uint8)
    labels[((x - cx) / 13) ** 2 + ((y - cy) / 11) ** 2 < 1] = 1
    labels[((x - cx + 4) / 4) ** 2 + ((y - cy) / 5) ** 2 < 1] = 2
    labels[((x - cx - 6) / 3) ** 2 + ((y - cy - 2) / 3) ** 2 < 1] = 3
    return labels


def moved(values: np.ndarray, voxels: int) -> np.ndarray:
    """`values` shifted by whole voxels along x."""
    return np.roll(values, voxels, axis=0)


def write_store(folder: Path, dataset: str, *, truth: bool, cases: int = 6, shift: int = 4) -> CaseStore:
    """Cases whose moving scan (CT) lies `shift` voxels further along x than the fixed one (MR)."""
    rng = np.random.default_rng(5)
    entries = []
    for number in range(cases):
        case, labels = f"p{number}", anatomy(rng)
        field = np.zeros((3, *GRID.shape), np.float32)
        field[0] = shift
        mr = np.array([0, 300, 900, 500])[labels] + rng.normal(0, 5, labels.shape) * (labels > 0)
        ct = np.array([-1.0, 0.05, -0.1, 0.6])[labels] + rng.normal(0, 0.01, labels.shape)
        parts = {"fixed": mr, "moving": moved(ct, shift), "fixed_mask": (labels > 0).astype(np.uint8)}
        if truth:
            organs = np.where(labels == 1, 0, labels).astype(np.uint8)
            parts |= {"true_image": ct, "fixed_labels": organs, "moving_labels": moved(organs, shift)}
            write_itk_field(folder / case / "true_field.nii.gz", field, GRID)
        for name, data in parts.items():
            data = data.astype(np.float32) if data.dtype == float else data
            write_volume(folder / case / f"{name}.nii.gz", Volume(data, GRID.affine))
        record = {"case": case, "dataset": dataset, "split": "test", "moving_intensity": HU}
        write_json(folder / case / "case.json", record | {"fixed_intensity": HU | {"unit": "a.u.", "scale": 1.0}})
        entries.append({"case": case, "split": "test", "shape": GRID.shape, "spacing_mm": [2.0, 2.0, 3.0]})
    manifest = {
        "dataset": dataset,
        "source": "phantom" if truth else "folder",
        "fixed_modality": "mr",
        "moving_modality": "ct",
        "labels": {"2": "bladder", "3": "bone"} if truth else {},
        "licence": "CC BY 4.0",
        "citation": "Example & sons",
        "recipe": "none",
        "seed": 0,
        "truth": ["true_field", "true_image"] if truth else [],
        "checksums": {"p0": {"fixed": "00", "moving": "11"}},
        "cases": entries,
    }
    write_json(folder / "cases.json", manifest)
    return CaseStore(folder)


def write_alignment(store: CaseStore, out: Path, voxels: np.ndarray | None) -> None:
    """Alignments that move case i back by ``voxels[i]`` along x; None fails all of them."""
    cases = []
    for number, case in enumerate(store.ids()):
        if voxels is None:
            cases.append({"case": case, "ok": False, "error": REASON})
            continue
        field = np.zeros((3, *GRID.shape), np.float32)
        field[0] = voxels[number]
        image = moved(store.load(case, ("fixed", "moving")).moving.data, -int(voxels[number]))
        write_volume(out / case / "image.nii.gz", Volume(image, GRID.affine))
        write_itk_field(out / case / "field.nii.gz", field, GRID)
        cases.append({"case": case, "ok": True, "seconds": 0.5, "notes": {}})
    status = {"ok": voxels is not None, "error": "" if voxels is not None else REASON, "cases": cases}
    status |= {"device": "cpu", "machine": "x86_64", "python": "3.11", "modalign": "0.1.0", "seed": 0}
    status |= {"peak_memory_mb": 100.0, "packages": {"numpy": "1.2.3", "scipy": "4.5.6"}}
    write_json(out / "run-1-of-1.json", status)


def write_results(results: Path) -> Path:
    """Everything that a run leaves, and its report; the report's path comes back."""
    shifts = {"identity": np.zeros(6), "affine-mi": np.array([2, 3, 4, 3, 2, 4]), "syn-cao": None}
    for dataset in (PHANTOM, REAL):
        store = write_store(results / "cases" / dataset, dataset, truth=dataset == PHANTOM)
        for method in METHODS:
            out = results / "aligned" / dataset / method / "seed0"
            write_alignment(store, out, shifts[method])
            tsv = results / "metrics" / dataset / method / "seed0.tsv"
            measure_job(store.folder, [out / "run-1-of-1.json"], tsv, method=method, seed=0, measures=MEASURES)
        finish(results, dataset)
    metrics = [results / "metrics" / PHANTOM / m / "seed0.tsv" for m in METHODS]
    stem = results / "papers/cao2018/table_1"
    options = {"methods": METHODS, "statistics": {"bootstrap": 200}}
    table_job("cao2018", 1, metrics, [results / "cases" / PHANTOM], stem, **options)
    benchmark = results / "benchmarks/align_cases/x.jsonl"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text(json.dumps({"s": 12.5, "cpu_time": 11.0, "max_rss": 321.0}) + "\n")
    return write_report(results)


def finish(results: Path, dataset: str) -> None:
    """Comparison and figures of a data set."""
    metrics = [results / "metrics" / dataset / m / "seed0.tsv" for m in METHODS]
    store, comparison = results / "cases" / dataset, results / "comparisons" / dataset
    compare_job(
        dataset,
        metrics,
        store,
        comparison,
        labels={m: m for m in METHODS},
        measures=MEASURES,
        proposed="identity",
        statistics={"bootstrap": 200},
    )
    runs = [(m, results / "aligned" / dataset / m / "seed0") for m in METHODS]
    ranking = comparison / "ranking.json"
    make_figures(store, runs, metrics, results / "figures" / dataset, ranking=ranking, draws=200)


def write_report(results: Path) -> Path:
    """Write plan and report."""
    plan = {
        "papers": ["cao2018"],
        "tables": [["cao2018", 1]],
        "datasets": [PHANTOM, REAL],
        "methods": {
            "identity": {"method": "identity", "dimension": None, "options": {}, "needs": {}, "seeds": [0]},
            "affine-mi": {"method": "affine", "dimension": 3, "options": {}, "needs": {}, "seeds": [0]},
            "syn-cao": {"method": "syn", "dimension": 3, "options": {"preset": "cao"}, "needs": {}, "seeds": [0]},
        },
        "cells": [[d, m] for d in (PHANTOM, REAL) for m in METHODS] + [[REAL, "demons"]],
        "config": {"seed": 0, "statistics": {"unit": "patient", "confidence": 0.95}, "note": "a <b> & c"},
    }
    write_json(results / "plan.json", plan)
    build_report(results, results / "plan.json", results / "report.html")
    return results / "report.html"
