"""Which method is best overall on a data set: ranks over measures and cases."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modalign import statistics
from modalign.papers.base import Direction

MIN_CASES, MIN_METHODS = 10, 3


@dataclass(frozen=True)
class Ranked:
    """A method's place on a data set.

    Attributes:
        method: its name.
        mean_rank: over cases of the rank by which it does on all measures together; 1 is best.
        ranks: mean rank over cases on every single measure.
    """

    method: str
    mean_rank: float
    ranks: Mapping[str, float]


@dataclass(frozen=True)
class Ranking:
    """The methods of a data set, best first.

    Attributes:
        dataset: its name.
        methods: those that have every measure.
        measures: what they were ranked by.
        cases: number of cases that all of them have.
        friedman_p: p of the Friedman test that all methods are alike; None with too few cases or methods.
        critical_difference: mean ranks that differ by more differ significantly (Nemenyi, 0.05); None likewise.
        cliques: groups of methods that don't differ significantly, for a critical-difference diagram.
        left_out: methods that couldn't be ranked, and why.
        note: why there is no test.
    """

    dataset: str
    methods: tuple[Ranked, ...]
    measures: tuple[str, ...]
    cases: int
    friedman_p: float | None = None
    critical_difference: float | None = None
    cliques: tuple[tuple[str, ...], ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def rank_methods(
    metrics: Iterable[Path | str],
    measures: Mapping[str, Direction],
    cases: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, Ranking]:
    """Rank the methods of every data set over measures and cases.

    Within a case, methods are ranked on each measure (ties share ranks) and the ranks averaged over measures; ranking
    these averages gives one rank per case and method, whose mean over cases is `mean_rank`. Cases, not measures of the
    same case, are what the Friedman test and Nemenyi's critical difference count (Demšar 2006): they are given from
    10 cases and 3 methods on. Values are averaged over seeds, structures and slices first. Only cases that all ranked
    methods have count; a method without a value on some measure is left out and listed. Measures of a whole set (FID,
    KID) have no value per case and must not be among `measures`.

    Args:
        metrics: metrics files.
        measures: names and which way is better; measures that no method has on a data set are ignored there.
        cases: cases that count, by data set; None for all.

    Raises:
        DataError: a metrics file is missing or broken.
    """
    rows = statistics.read_metrics(metrics)
    rows = rows[rows["metric"].isin(list(measures)) & (rows["case"] != "")]
    rankings = {}
    for dataset, of_dataset in rows.groupby("dataset", sort=True):
        if cases is not None:
            of_dataset = of_dataset[of_dataset["case"].isin(list(cases.get(str(dataset), ())))]
        values = {
            (str(method), str(metric)): _by_case(statistics.samples(group))
            for (method, metric), group in of_dataset.groupby(["method", "metric"], sort=True)
        }
        if values:
            rankings[str(dataset)] = _rank(str(dataset), values, measures)
    return rankings


def _by_case(samples: statistics.Samples) -> dict[str, float]:
    return {case: float(value) for (case, _), value in zip(samples.units, samples.values, strict=True)}


def _rank(
    dataset: str, values: Mapping[tuple[str, str], Mapping[str, float]], measures: Mapping[str, Direction]
) -> Ranking:
    from scipy.stats import rankdata

    used = [measure for measure in measures if any(metric == measure for _, metric in values)]
    names = sorted({method for method, _ in values})
    left_out = {
        name: "no " + ", ".join(lacking)
        for name in names
        if (lacking := [measure for measure in used if (name, measure) not in values])
    }
    names = [name for name in names if name not in left_out]
    common = sorted(set.intersection(*(set(values[name, m]) for name in names for m in used))) if names else []
    if not common:
        return Ranking(dataset, (), tuple(used), 0, left_out=left_out, note="no case has all measures")
    ranks = {}
    for measure in used:
        sign = -1 if measures[measure] == "higher" else 1
        scores = np.array([[sign * values[name, measure][case] for name in names] for case in common])
        ranks[measure] = rankdata(scores, axis=1)
    overall = np.mean(list(ranks.values()), axis=0)
    means = statistics.average_ranks(overall)
    order = np.argsort(means, kind="stable")
    methods = tuple(
        Ranked(names[i], float(means[i]), {measure: float(ranks[measure][:, i].mean()) for measure in used})
        for i in order
    )
    if len(common) < MIN_CASES or len(names) < MIN_METHODS:
        note = f"{len(common)} cases and {len(names)} methods: a test needs {MIN_CASES} and {MIN_METHODS}"
        return Ranking(dataset, methods, tuple(used), len(common), left_out=left_out, note=note)
    difference = statistics.nemenyi_critical_difference(len(names), len(common))
    groups = statistics.cliques(list(means), difference)
    return Ranking(
        dataset,
        methods,
        tuple(used),
        len(common),
        statistics.friedman_p(overall),
        difference,
        tuple(tuple(names[i] for i in group) for group in groups),
        left_out,
    )
