"""Tuning a method's options on the validation cases, by the protocol of Locor's experiments (section 5.1).

A trial is a job of its own, and a file: what it tries follows from the files of the trials before it, so that a killed
trial is simply run again, and the outcome doesn't depend on which jobs ran side by side. Trials come in rounds of
`parallel`: those of a round know the results of all earlier rounds, and where the others of their round look.
"""

import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modalign.cases import CaseStore
from modalign.errors import DataError, ModalignError
from modalign.files import read_json, write_json
from modalign.gaussian_process import posterior_mean
from modalign.methods import method_class
from modalign.metrics import MEASURES
from modalign.metrics.measure import measure_run
from modalign.runs import align_job, build_method
from modalign.seeds import derive_seed
from modalign.supervise import supervised
from modalign.tuning_ranges import Number, Ranges

log = logging.getLogger(__name__)

VALIDATION = "validation"
Point = Mapping[str, Number]
"""A searched number for each option."""


def trial_job(
    spec: Mapping[str, Any],
    store: Path,
    out: Path,
    ranges: Ranges,
    *,
    number: int,
    objective: str,
    startup: int = 10,
    parallel: int = 1,
    measure_options: Mapping[str, Any] | None = None,
    pseudo: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    minutes: float | None = None,
) -> None:
    """Choose options, align the validation cases with them, and write ``out``, ``trial-<number>.json``.

    A case that fails counts as not aligned. The method runs with another seed in every trial, so that no lucky seed is
    taken for good options.

    Args:
        spec: see :func:`modalign.runs.build_method`; its options are those that aren't searched.
        store: the case store; only its manifest and its validation cases are read.
        out: the file to write, beside those of the earlier trials.
        ranges: where to search.
        number: of the trial, from 0; trial 0 tries the method as it is, as far as that lies in the ranges.
        objective: the measure to be made better, of which the mean over cases (and structures) counts.
        startup: trials that are drawn at random before the Gaussian process takes over.
        parallel: trials in a round.
        measure_options: options of the objective.
        pseudo: folder of the validation cases' fixed images, translated to the moving contrast.
        seed: seeds everything random.
        device: ``cpu``, ``cuda`` or ``auto``.
        threads: CPU threads that the method may use.
        minutes: time limit of the trial.

    Raises:
        ConfigError: an option that the method doesn't have, or that can't be.
        DataError: there are no validation cases, or the objective can't be measured on them.
    """
    cases = CaseStore(store)
    if not cases.ids([VALIDATION]):
        raise DataError(f"{store} has no validation cases to tune on: give the data set's split some")
    known = [read_json(out.parent / f"trial-{i}.json") for i in range(number - number % parallel)]
    first = as_it_is(spec, ranges)
    # In a child of its own, because PyTorch, which the search imports, doesn't like to be forked.
    searched = supervised(
        lambda: suggest(ranges, known, number, MEASURES[objective].better, startup, first, seed, cases.dataset)
    )
    if not searched.ok:
        raise ModalignError(f"trial {number} can't be chosen: {searched.reason}")
    values: dict[str, Number] = searched.value
    options = {name: ranges[name].option(value) for name, value in values.items()}
    tried = {**spec, "options": {**spec.get("options", {}), **options}}
    run_seed = derive_seed(seed, cases.dataset, "trial", str(number))
    build_method(tried, seed=run_seed, device=device, threads=threads)
    settings = {"options": {objective: measure_options or {}}, "pseudo": pseudo}

    run: dict[str, Any] = {"device": device, "threads": threads}
    with tempfile.TemporaryDirectory(prefix="modalign-trial-") as name:
        folder = Path(name)
        align_job(tried, store, folder / "tried", seed=run_seed, splits=[VALIDATION], minutes=minutes, **run)
        results = read_json(folder / "tried" / "run-1-of-1.json")["cases"]
        scores = _scores(cases, folder / "tried", [r["case"] for r in results if r["ok"]], objective, settings)
        if len(scores) < len(results):
            identity = {"method": "identity", "dimension": spec["dimension"]}
            align_job(identity, store, folder / "unaligned", seed=0, splits=[VALIDATION], **run)
            failed = [r["case"] for r in results if not r["ok"]]
            scores |= _scores(cases, folder / "unaligned", failed, objective, settings)
    missing = [case for case in cases.ids([VALIDATION]) if case not in scores]
    if missing:
        raise DataError(
            f"{objective} can't be measured on validation case {missing[0]} of {cases.dataset}: "
            "tune by a measure for which it has what is needed"
        )
    record = {
        "trial": number,
        "values": values,
        "options": options,
        "objective": objective,
        "score": float(np.mean(list(scores.values()))),
        "cases": [{**r, "score": scores[r["case"]]} for r in results],
        "seed": run_seed,
    }
    log.info("trial %d: %s %.4g with %s", number, objective, record["score"], options)
    write_json(out, record)


def _scores(
    store: CaseStore, aligned: Path, ids: Sequence[str], objective: str, settings: Mapping[str, Any]
) -> dict[str, float]:
    """The mean of the objective over the structures of each case; cases on which it is undefined are left out."""
    if not ids:
        return {}
    rows = measure_run(store, aligned, [objective], method="", seed=0, cases=ids, **settings).rows
    values = {case: [row.value for row in rows if row.case == case] for case in ids}
    return {case: float(np.mean(found)) for case, found in values.items() if found}


def as_it_is(spec: Mapping[str, Any], ranges: Ranges) -> dict[str, Number]:
    """The searched numbers that stand for the method's own options, those of its preset included.

    Options that lie outside their ranges, or that none of the searched numbers stands for, are left out.
    """
    own = method_class(spec["method"])(spec.get("options"), spec["dimension"]).options.model_dump()
    return {name: at for name, searched in ranges.items() if (at := searched.searched(own[name])) is not None}


def suggest(
    ranges: Ranges,
    known: Sequence[Mapping[str, Any]],
    number: int,
    better: str,
    startup: int = 10,
    first: Point | None = None,
    seed: int = 0,
    purpose: str = "",
) -> dict[str, Number]:
    """What trial `number` tries, given the trials of all earlier rounds.

    Optuna's Gaussian-process sampler with log expected improvement (Matérn 5/2, one length scale an option); the trials
    of the same round that come before are asked for again, and count as running, so that the search spreads out.

    Args:
        ranges: where to search.
        known: ``values`` and ``score`` of the earlier rounds' trials, in order.
        number: of the trial; the first of its round is ``len(known)``.
        better: ``higher`` or ``lower`` scores.
        startup: trials drawn at random.
        first: what trial 0 tries; options that it leaves out are drawn.
        seed: seeds the sampler.
        purpose: tells this search from others with the same seed.
    """
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, BaseDistribution] = {
        name: IntDistribution(round(r.low), round(r.high), log=r.log)
        if r.integer
        else FloatDistribution(r.low, r.high, log=r.log)
        for name, r in ranges.items()
    }
    round_seed = derive_seed(seed, purpose, "round", str(len(known)))
    sampler = optuna.samplers.GPSampler(seed=round_seed, n_startup_trials=startup)
    study = optuna.create_study(direction="maximize" if better == "higher" else "minimize", sampler=sampler)
    for trial in known:
        made = optuna.trial.create_trial(params=dict(trial["values"]), distributions=space, value=trial["score"])
        study.add_trial(made)
    if not known and first:
        study.enqueue_trial(dict(first))
    for _ in range(number - len(known) + 1):
        values = study.ask(space).params
    return values


def choose(trials: Sequence[Mapping[str, Any]], ranges: Ranges, better: str, share: float = 0.6, seed: int = 0) -> int:
    """The number of the best trial: by the posterior mean of a Gaussian process fitted to the best `share` of them.

    Bad trials, whose scores vary wildly, are left out of the fit; the mean tells good options from lucky ones.
    """
    sign = -1.0 if better == "higher" else 1.0
    ranked = sorted(trials, key=lambda trial: (sign * trial["score"], trial["trial"]))
    kept = ranked[: math.ceil(share * len(ranked))]
    points = np.array([[_unit(ranges[name], trial["values"][name]) for name in sorted(ranges)] for trial in kept])
    mean = posterior_mean(points, np.array([sign * trial["score"] for trial in kept]), seed)
    return int(kept[int(np.argmin(mean))]["trial"])


def choose_job(trials: Sequence[Path], out: Path, ranges: Ranges, *, share: float = 0.6, seed: int = 0) -> None:
    """Write the options of the chosen trial, with how it was chosen, as ``chosen.json``."""
    records = [read_json(path) for path in trials]
    objective = records[0]["objective"]
    better = MEASURES[objective].better
    number = choose(records, ranges, better, share, seed)
    best = (max if better == "higher" else min)(records, key=lambda trial: trial["score"])
    chosen = next(trial for trial in records if trial["trial"] == number)
    record = {
        "options": chosen["options"],
        "trial": number,
        "objective": objective,
        "score": chosen["score"],
        "best_trial": best["trial"],
        "best_score": best["score"],
        "trials": len(records),
        "failed_cases": sum(not case["ok"] for trial in records for case in trial["cases"]),
    }
    log.info("trial %d of %d is chosen: %s", number, len(records), chosen["options"])
    write_json(out, record)


def _unit(searched: Any, value: Number) -> float:
    """Where a value lies in its range, from 0 to 1."""
    low, high, at = (searched.low, searched.high, value)
    if searched.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)
