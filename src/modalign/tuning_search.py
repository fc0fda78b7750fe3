"""Where a search for options looks next, and which of its trials it takes: Gaussian processes, without any running."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modalign.gaussian_process import posterior_mean
from modalign.methods import method_class
from modalign.seeds import derive_seed
from modalign.tuning_ranges import Number, Ranges

Point = Mapping[str, Number]
"""A searched number for each option."""


def as_it_is(spec: Mapping[str, Any], ranges: Ranges) -> dict[str, Number]:
    """The searched numbers that stand for the method's own options, those of its preset included.

    Options that lie outside their ranges, or that none of the searched numbers stands for, are left out.
    """
    own = method_class(spec["method"])(spec.get("options"), spec["dimension"]).options.model_dump()
    return {name: at for name, searched in ranges.items() if (at := searched.searched(own[name])) is not None}


def suggest(
    ranges: Ranges,
    known: Sequence[Mapping[str, Any]],
    better: str,
    *,
    lane: int = 0,
    own: Sequence[Mapping[str, Any]] = (),
    startup: int = 10,
    parallel: int = 1,
    first: Point | None = None,
    seed: int = 0,
    purpose: str = "",
) -> dict[str, Number]:
    """What the next trial of a batch tries, given the trials of all earlier rounds and of the batch.

    Optuna's Gaussian-process sampler with log expected improvement (Matérn 5/2, one length scale an option); the first
    trials of the batches before it in its round are asked for again, and count as running, so that batches spread out.

    Args:
        ranges: where to search.
        known: ``values`` and ``score`` of the earlier rounds' trials, in order.
        better: ``higher`` or ``lower`` scores.
        lane: number of the batch in its round.
        own: the trials that the batch has made, in order.
        startup: trials drawn at random, over all batches.
        parallel: batches in a round.
        first: what the first of all trials tries; options that it leaves out are drawn.
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
    # Each batch of the first rounds draws its part at random.
    drawn = len(known) + math.ceil((startup - len(known)) / parallel) if len(known) < startup else startup

    def sampler(lane: int, step: int) -> optuna.samplers.BaseSampler:
        words = ("round", str(len(known)), str(lane), str(step))
        return optuna.samplers.GPSampler(seed=derive_seed(seed, purpose, *words), n_startup_trials=drawn)

    def add(trial: Mapping[str, Any]) -> None:
        params, score = dict(trial["values"]), trial["score"]
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=score))

    study = optuna.create_study(direction="maximize" if better == "higher" else "minimize")
    for trial in known:
        add(trial)
    if not known and first and not (lane == 0 and own):
        study.enqueue_trial(dict(first))
    for before in range(lane):
        study.sampler = sampler(before, 0)
        study.ask(space)
    for trial in own:
        add(trial)
    study.sampler = sampler(lane, len(own))
    return study.ask(space).params


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


def _unit(searched: Any, value: Number) -> float:
    """Where a value lies in its range, from 0 to 1."""
    low, high, at = (searched.low, searched.high, value)
    if searched.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)
