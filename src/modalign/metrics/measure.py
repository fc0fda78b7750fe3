"""Measure a run: every case that a method aligned, by every measure that can be computed, as one long table."""

import logging
import math
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modalign.cases import CaseStore
from modalign.errors import ConfigError, DataError
from modalign.metrics import MEASURES, RANDOM_SUFFIX, Measure, measure_by_name
from modalign.metrics.features import FeatureSource
from modalign.metrics.loading import depth_of, load_pair
from modalign.metrics.pair import Value
from modalign.metrics.table import Row, read_metrics, write_metrics
from modalign.seeds import generator

__all__ = ["Measured", "Row", "measure_run", "read_metrics", "write_metrics"]

log = logging.getLogger(__name__)

_MISSING = {
    "field": "the method gives no displacement field",
    "labels": "the case has no labels of both scans",
    "true_field": "the true field is not known",
    "true_image": "the true aligned image is not known",
    "pseudo_image": "there is no pseudo image to compare with",
    "segmentation": "the aligned image is not segmented, or the fixed scan has no labels",
}


class Measured(NamedTuple):
    """The long table, and per metric what was left out, why, and what a reader has to know."""

    rows: list[Row]
    notes: dict[str, str]


@dataclass
class _Tally:
    """What becomes the notes of one metric."""

    values: int = 0
    undefined: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)

    def note(self, undefined: str, cases: int) -> str:
        parts = [f"skipped, {reason}" + _share(n, cases, "cases") for reason, n in sorted(self.skipped.items())]
        if self.undefined:
            parts.append(f"{self.undefined} of {self.values} values left out as undefined ({undefined})")
        parts += [remark + _share(n, cases, "cases") for remark, n in sorted(self.remarks.items())]
        return "; ".join(parts)


def _share(n: int, total: int, what: str) -> str:
    return "" if n >= total else f" ({n} of {total} {what})"


class _CaseResult(NamedTuple):
    values: dict[str, list[Value]]
    skipped: dict[str, str]
    remarks: dict[str, list[str]]


def measure_run(
    store: CaseStore,
    aligned: Path,
    names: Sequence[str],
    *,
    method: str,
    seed: int,
    splits: Sequence[str] = ("test",),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    features: FeatureSource | None = None,
    cases: Sequence[str] | None = None,
    pseudo: Path | None = None,
    segmented: Path | None = None,
    workers: int = 1,
) -> Measured:
    """Compute the named measures for every aligned case.

    Args:
        store: the prepared cases.
        aligned: folder with ``<case>/image.nii.gz`` and, if the method deforms, ``<case>/field.nii.gz``.
        names: of measures, see :data:`modalign.metrics.MEASURES`; the table keeps their order.
        method: name of the method, for the table.
        seed: of the run; also draws KID's subsets, the same ones for every method.
        splits: the splits to measure.
        options: by measure, its options.
        features: where network features come from; random by default, and named so.
        cases: ids to measure instead of the splits.
        pseudo: folder with ``<case>/image.nii.gz``, the fixed images translated to the moving contrast.
        segmented: folder with ``<case>/labels.nii.gz``, label maps of the aligned images.
        workers: processes for the measures without network features; the result is the same for any number.

    Returns:
        The rows, in the order of `names`, then of the cases in the store, and the notes. A measure that can't be
        computed (no field, no labels, no truth) is noted, not an error, and so are undefined values.

    Raises:
        ConfigError: an unknown measure, option or case.
        DataError: an alignment is missing or broken.
    """
    features = features or FeatureSource()
    plan = _plan(names, options or {}, features)
    ids = _case_ids(store, splits, cases)
    missing = [case for case in ids if not (aligned / case / "image.nii.gz").is_file()]
    if missing:
        listed = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise DataError(f"{aligned} lacks the aligned images of {len(missing)} of {len(ids)} cases ({listed})")

    plain = [(m, o) for m, o in plan if not m.features]
    deep = [(m, {**o, "features": features}) for m, o in plan if m.features and m.scope != "set"]
    tallies = {m.name: _Tally() for m, _ in plan}
    found: dict[str, list[tuple[str, Value]]] = {m.name: [] for m, _ in plan}
    for chosen, processes in ((plain, workers), (deep, 1)):
        if not chosen:
            continue
        job = partial(_measure_case, store.folder, aligned, chosen, pseudo, segmented)
        for case, result in zip(ids, _map(job, ids, processes), strict=True):
            log.info("measured %s", case)
            _collect(case, result, found, tallies)
    _measure_sets(store, aligned, ids, [p for p in plan if p[0].scope == "set"], features, seed, found, tallies)

    rows = []
    for m, _ in plan:
        metric = m.name + (features.suffix if m.features else "")
        rows += [
            Row(store.dataset, method, int(seed), case, v.slice, v.structure, metric, v.value)
            for case, v in found[m.name]
        ]
    notes = {
        m.name + (features.suffix if m.features else ""): note
        for m, _ in plan
        if (note := tallies[m.name].note(m.undefined, 1 if m.scope == "set" else len(ids)))
    }
    return Measured(rows, notes)


def _plan(
    names: Iterable[str], options: Mapping[str, Mapping[str, Any]], features: FeatureSource
) -> list[tuple[Measure, dict[str, Any]]]:
    chosen = {measure_by_name(name).name.removesuffix(RANDOM_SUFFIX): settings for name, settings in options.items()}
    plan: dict[str, tuple[Measure, dict[str, Any]]] = {}
    for name in names:
        if measure_by_name(name).name.endswith(RANDOM_SUFFIX) and not features.suffix:
            raise ConfigError(f"measure {name} needs random features, but pretrained ones are configured")
        plain = MEASURES[name.removesuffix(RANDOM_SUFFIX)]
        plan[plain.name] = (plain, plain.resolve(chosen.get(plain.name)))
    return list(plan.values())


def _case_ids(store: CaseStore, splits: Sequence[str], cases: Sequence[str] | None) -> list[str]:
    if cases is not None:
        unknown = sorted(set(cases) - set(store.ids()))
        if unknown:
            raise ConfigError(f"{store.folder} has no case {unknown[0]!r}; it has: {', '.join(store.ids())}")
        return [case for case in store.ids() if case in set(cases)]
    ids = store.ids(splits)
    if not ids:
        raise DataError(f"{store.folder} has no cases in {', '.join(splits)}: nothing to measure")
    return ids


def _map(job: Callable[[str], _CaseResult], ids: Sequence[str], workers: int) -> Iterator[_CaseResult]:
    if workers <= 1 or len(ids) == 1:
        yield from map(job, ids)
        return
    # Forking a process that has started threads can hang it, so workers start afresh.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(ids)), mp_context=context) as pool:
        yield from pool.map(job, ids)


def _measure_case(
    folder: Path,
    aligned: Path,
    plan: Sequence[tuple[Measure, dict[str, Any]]],
    pseudo: Path | None,
    segmented: Path | None,
    case: str,
) -> _CaseResult:
    needs = {need for m, _ in plan for need in m.needs}
    pair = load_pair(CaseStore(folder), aligned, case, needs, pseudo, segmented)
    result = _CaseResult({}, {}, {})
    for m, options in plan:
        absent = [need for need in _MISSING if need in m.needs - pair.has]
        if absent:
            result.skipped[m.name] = _MISSING[absent[0]]
            continue
        pair.remarks.clear()
        result.values[m.name] = m.load()(pair, **options)
        result.remarks[m.name] = sorted(pair.remarks)
    return result


def _collect(
    case: str, result: _CaseResult, found: dict[str, list[tuple[str, Value]]], tallies: dict[str, _Tally]
) -> None:
    for name, reason in result.skipped.items():
        tallies[name].skipped[reason] += 1
    for name, values in result.values.items():
        defined = [(case, v) for v in values if math.isfinite(v.value)]
        found[name] += defined
        tallies[name].values += len(values)
        tallies[name].undefined += len(values) - len(defined)
        tallies[name].remarks.update(result.remarks[name])


def _measure_sets(
    store: CaseStore,
    aligned: Path,
    ids: Sequence[str],
    plan: Sequence[tuple[Measure, dict[str, Any]]],
    features: FeatureSource,
    seed: int,
    found: dict[str, list[tuple[str, Value]]],
    tallies: dict[str, _Tally],
) -> None:
    """Measures of all slices at once: features case by case, then one value."""
    if not plan:
        return
    depths = [depth_of(store.folder / case / "fixed.nii.gz") for case in ids]
    total = sum(depths)
    chosen = np.arange(total)
    if features.max_slices and features.max_slices < total:
        chosen = np.unique(np.linspace(0, total - 1, features.max_slices).round().astype(int))
    real, fake = [], []
    for case, start, depth in zip(ids, np.cumsum([0, *depths]), depths, strict=False):
        own = chosen[(chosen >= start) & (chosen < start + depth)] - start
        if own.size:
            pair = load_pair(store, aligned, case)
            real.append(features.inception(_stack(pair.reference_u8, own), keep=True))
            fake.append(features.inception(_stack(pair.image_u8, own)))
    sets = np.concatenate(real), np.concatenate(fake)
    for m, options in plan:
        value, remark = m.load()(*sets, generator(seed, store.dataset, m.name), **options)
        tallies[m.name].remarks[remark + ("" if len(chosen) == total else f", of {total}")] += 1
        _collect("", _CaseResult({m.name: [Value(value)]}, {}, {m.name: []}), found, tallies)


def _stack(volume: np.ndarray, slices: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(volume[:, :, slices].transpose(2, 0, 1))
