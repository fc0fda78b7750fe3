"""Tuning a method's options on the validation cases, by the protocol of Locor's experiments (section 5.1).

A job makes a batch of trials, one after another, and writes a file. What it tries follows from the files of earlier
batches alone, so that a killed job is simply run again, from the trial that it died in, and the outcome doesn't depend
on which jobs ran side by side. Batches come in rounds of `parallel`: those of a round know the results of all earlier
rounds and their own, and where the batches before them in their round begin.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modalign.cases import CaseStore
from modalign.errors import DataError, ModalignError
from modalign.files import read_json, write_json
from modalign.metrics import MEASURES
from modalign.metrics.measure import measure_run
from modalign.runs import align_job, build_method
from modalign.seeds import derive_seed
from modalign.supervise import supervised
from modalign.tuning_ranges import Number, Ranges, read_range
from modalign.tuning_search import as_it_is, choose, suggest

log = logging.getLogger(__name__)

VALIDATION = "validation"


@dataclass(frozen=True)
class Search:
    """How the options of a method are searched on a data set.

    Attributes:
        spec: see :func:`modalign.runs.build_method`; its options are those that aren't searched.
        ranges: where to search.
        objective: the measure to be made better, of which the mean over cases (and structures) counts.
        measure_options: options of the objective.
        startup: trials that are drawn at random before the Gaussian process takes over.
        batch: trials that a job makes, one after another.
        parallel: batches in a round.
        share: of the best trials, to which the Gaussian process that chooses is fitted.
        code: digest of the code that trials run: those of other code are of no use to a killed batch.
    """

    spec: Mapping[str, Any]
    ranges: Ranges
    objective: str
    measure_options: Mapping[str, Any] = field(default_factory=dict)
    startup: int = 10
    batch: int = 1
    parallel: int = 1
    share: float = 0.6
    code: str = ""

    @classmethod
    def read(cls, path: Path) -> "Search":
        """As the workflow describes it in search.json."""
        described = read_json(path)
        ranges = {name: read_range(entry) for name, entry in described.pop("ranges").items()}
        return cls(**described, ranges=ranges)


def trials_job(
    search: Search,
    store: Path,
    out: Path,
    *,
    number: int,
    count: int | None = None,
    pseudo: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    minutes: float | None = None,
) -> None:
    """Make batch `number` of trials: choose options, align the validation cases with them, again; then write ``out``.

    A case that fails counts as not aligned. The method runs with another seed in every trial, so that no lucky seed is
    taken for good options. Until the batch is complete, its trials are kept in a file beside `out`; a job with the same
    settings, cases and earlier batches goes on from there.

    Args:
        search: what is searched, and how.
        store: the case store; only its manifest and its validation cases are read.
        out: the file to write, ``trials-<number>.json``, beside those of the earlier batches.
        number: of the batch, from 0; the first trial of batch 0 tries the method as it is, as far as that lies in the
            ranges.
        count: trials of this batch, where it is the last and not a whole one.
        pseudo: folder of the validation cases' fixed images, translated to the moving contrast.
        seed: seeds everything random.
        device: ``cpu``, ``cuda`` or ``auto``.
        threads: CPU threads that the method may use.
        minutes: time limit of a trial.

    Raises:
        ConfigError: an option that the method doesn't have, or that can't be.
        DataError: there are no validation cases, the objective can't be measured on them, or it compares with
            translations that failed.
    """
    cases = CaseStore(store)
    if not cases.ids([VALIDATION]):
        raise DataError(f"{store} has no validation cases to tune on: give the data set's split some")
    if pseudo is not None:
        _check_translations(pseudo, search.objective)
    lane = number % search.parallel
    files = [out.parent / f"trials-{batch}.json" for batch in range(number - lane)]
    known = [trial for file in files for trial in read_json(file)]
    kept = out.with_name(f".{out.name}.part")
    settings = [asdict(search), read_json(store / "cases.json"), known, number, seed]
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    found = read_json(kept) if kept.is_file() else {}
    made: list[dict[str, Any]] = found["trials"] if found.get("fingerprint") == fingerprint else []
    while len(made) < (count or search.batch):
        searched = _in_a_child(search, known, lane, made, seed, cases.dataset)
        trial = number * search.batch + len(made)
        how: dict[str, Any] = {"number": trial, "seed": seed, "device": device, "threads": threads, "minutes": minutes}
        made.append(_try(search, searched, cases, store, pseudo, **how))
        write_json(kept, {"fingerprint": fingerprint, "trials": made})
    write_json(out, made)
    kept.unlink(missing_ok=True)


def _check_translations(pseudo: Path, objective: str) -> None:
    """Whether all translations that the objective compares with are there: a trial without one has no score."""
    for path in sorted(pseudo.glob("run-*.json")):
        status = read_json(path)
        if not status["ok"]:
            raise DataError(
                f"{objective} compares with translations, and these failed: {status['error']} ({path}). Mend that, and "
                "have them made again with modalign failures --forget"
            )


def _in_a_child(
    search: Search, known: Sequence[Any], lane: int, made: Sequence[Any], seed: int, purpose: str
) -> dict[str, Number]:
    """What :func:`suggest` says, in a process of its own: PyTorch, which the search imports, doesn't like forks."""
    first = as_it_is(search.spec, search.ranges)
    better = MEASURES[search.objective].better
    searched = supervised(
        lambda: suggest(
            search.ranges,
            known,
            better,
            lane=lane,
            own=made,
            startup=search.startup,
            parallel=search.parallel,
            first=first,
            seed=seed,
            purpose=purpose,
        )
    )
    if not searched.ok:
        raise ModalignError(f"the next trial, after {len(known) + len(made)}, can't be chosen: {searched.reason}")
    values: dict[str, Number] = searched.value
    return values


def _try(
    search: Search,
    values: Mapping[str, Number],
    cases: CaseStore,
    store: Path,
    pseudo: Path | None,
    *,
    number: int,
    seed: int,
    device: str,
    threads: int,
    minutes: float | None,
) -> dict[str, Any]:
    """Align the validation cases with the searched values; returns the record of the trial."""
    objective, spec = search.objective, search.spec
    options = {name: search.ranges[name].option(value) for name, value in values.items()}
    tried = {**spec, "options": {**spec.get("options", {}), **options}}
    run_seed = derive_seed(seed, cases.dataset, "trial", str(number))
    build_method(tried, seed=run_seed, device=device, threads=threads)
    settings = {"options": {objective: search.measure_options}, "pseudo": pseudo}

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
        "values": dict(values),
        "options": options,
        "objective": objective,
        "score": float(np.mean(list(scores.values()))),
        "cases": [{**r, "score": scores[r["case"]]} for r in results],
        "seed": run_seed,
    }
    log.info("trial %d: %s %.4g with %s", number, objective, record["score"], options)
    return record


def _scores(
    store: CaseStore, aligned: Path, ids: Sequence[str], objective: str, settings: Mapping[str, Any]
) -> dict[str, float]:
    """The mean of the objective over the structures of each case; cases on which it is undefined are left out."""
    if not ids:
        return {}
    rows = measure_run(store, aligned, [objective], method="", seed=0, cases=ids, **settings).rows
    values = {case: [row.value for row in rows if row.case == case] for case in ids}
    return {case: float(np.mean(found)) for case, found in values.items() if found}


def choose_job(batches: Sequence[Path], out: Path, search: Search, *, seed: int = 0) -> None:
    """Write the options of the chosen trial, with how it was chosen, as ``chosen.json``."""
    records = [trial for path in batches for trial in read_json(path)]
    objective = records[0]["objective"]
    better = MEASURES[objective].better
    number = choose(records, search.ranges, better, search.share, seed)
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
