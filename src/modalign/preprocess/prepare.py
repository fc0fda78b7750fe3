"""From an index to a case store: run a recipe on every case, fit on the training split alone, put all on record."""

import dataclasses
import logging
import multiprocessing
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modalign.cases import SPLITS, Case
from modalign.errors import DataError, ModalignError
from modalign.files import check_writable, read_json, replacing, write_json
from modalign.preprocess import store
from modalign.preprocess.context import StepContext
from modalign.preprocess.load import load_raw
from modalign.preprocess.overrides import resolve
from modalign.preprocess.recipes import RECIPES
from modalign.preprocess.steps import FITTED, STEPS

log = logging.getLogger(__name__)

Steps = list[dict[str, Any]]
SCRATCH = ".modalign-scratch"


@dataclasses.dataclass(frozen=True)
class Job:
    """One case's way through one phase of the recipe, ready for a worker process."""

    info: dict[str, Any]
    row: dict[str, str]
    steps: Steps
    context: StepContext
    source: Path | None
    out: Path
    next_fitted: Steps


def prepare(
    index: Path,
    recipe: str,
    out: Path,
    *,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    workers: int = 1,
    splits: Sequence[str] = SPLITS,
) -> None:
    """Prepare the cases of an index (cases.tsv and dataset.json) by a recipe, as the case store `out`.

    Whatever is fitted is fitted on the training split alone. The result doesn't depend on `workers`, and a run that
    was killed can simply be repeated: cases.json is removed first and written last.

    Args:
        index: the folder written by ``modalign index``.
        recipe: a name in :data:`modalign.preprocess.recipes.RECIPES`.
        out: the case store to write.
        overrides: changes to the recipe, see :mod:`modalign.preprocess.overrides`.
        seed: seeds the synthetic misalignment.
        workers: processes that work on cases side by side.
        splits: the splits to store; fitting reads the training split even if it isn't among them.

    Raises:
        ConfigError: unknown recipe or override.
        DataError: a case can't be read, or something is to be fitted and there are no training cases.
    """
    from modalign.datasets.index import read_index

    info, rows = read_index(index)
    prepare_rows(info, rows, recipe, out, overrides=overrides, seed=seed, workers=workers, splits=splits)


def prepare_rows(
    info: Mapping[str, Any],
    rows: Iterable[Mapping[str, str]],
    recipe: str,
    out: Path,
    *,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    workers: int = 1,
    splits: Sequence[str] = SPLITS,
) -> None:
    """:func:`prepare` for an index that is in memory."""
    steps = resolve(recipe, overrides)
    info, out = dict(info), Path(out)
    phases = split_at_fits(steps)
    wanted = [dict(row) for row in rows if row["split"] in splits or (len(phases) > 1 and row["split"] == "train")]
    stored = [row for row in wanted if row["split"] in splits]
    if not stored:
        raise DataError(f"data set {info['dataset']} has no cases in the splits {', '.join(splits)}")
    if len(phases) > 1 and not any(row["split"] == "train" for row in wanted):
        names = " and ".join(step["name"] for step in steps if step["function"] in FITTED)
        raise DataError(
            f"recipe {recipe} fits {names} on the training split, and data set {info['dataset']} has no training cases:"
            f" give some cases the split train, switch the step off ({names.split(' ')[0]}: false), or use a recipe"
            " without fitting, such as own-pairs"
        )
    out.mkdir(parents=True, exist_ok=True)
    check_writable(out)
    (out / "cases.json").unlink(missing_ok=True)
    store.remove_stale(out, [row["case"] for row in stored])
    scratch = out / SCRATCH
    context = StepContext(
        dataset=info["dataset"],
        fixed=info["fixed_modality"],
        moving=info["moving_modality"],
        archive=info.get("archive", ""),
        centred=info.get("frames") == "centred",
        between_patients=info.get("between_patients", False),
        seed=seed,
    )
    fitted: dict[str, dict[str, Any]] = {}
    with _pool(min(workers, len(wanted))) as pool:
        for number, phase in enumerate(phases):
            last = number == len(phases) - 1
            upcoming = [] if last else [s for s in phases[number + 1] if s["function"] in FITTED]
            jobs = [
                Job(
                    info=info,
                    row=row,
                    steps=phase,
                    context=dataclasses.replace(context, fitted=fitted),
                    source=None if number == 0 else scratch / f"{row['case']}.{number - 1}",
                    out=out / row["case"] if last else scratch / f"{row['case']}.{number}",
                    next_fitted=upcoming if row["split"] == "train" else [],
                )
                for row in (stored if last else wanted)
            ]
            summaries = _run_all(jobs, pool, f"preparing {info['dataset']}")
            fitted = fitted | _fit(upcoming, context, summaries)
    _finish(info, stored, steps, fitted, recipe, seed, out)
    store.remove_stale(out, [row["case"] for row in stored])


def split_at_fits(steps: Steps) -> list[Steps]:
    """The steps in phases: each phase after the first begins with steps that are fitted on what the phases before made.

    Fitted steps that follow each other directly and act on different modalities share a beginning.
    """
    phases: list[Steps] = [[]]
    taken: set[str] = set()
    for step in steps:
        is_fitted = step["function"] in FITTED
        family = step["parameters"].get("of", "all")
        if is_fitted and (not taken or family in taken or {family, *taken} - {"mr", "ct"}):
            phases.append([])
            taken = set()
        phases[-1].append(step)
        taken = taken | {family} if is_fitted else set()
    return phases


def run_case(job: Job) -> list[dict[str, Any]]:
    """Take one case through one phase; the summaries that the next phase's fits need, one per step and side."""
    case = load_raw(job.info, job.row) if job.source is None else pickle.loads(job.source.read_bytes())
    case = apply_steps(case, job.steps, job.context)
    summaries = [
        {"step": step["name"], "side": side, **FITTED[step["function"]][0](case, side, **step["parameters"])}
        for step in job.next_fitted
        for side in job.context.sides(step["parameters"]["of"])
    ]
    if job.out.parent.name == SCRATCH:
        with replacing(job.out) as temporary:
            temporary.write_bytes(pickle.dumps(case, protocol=5))
    else:
        store.write_case(job.out, case)
    return summaries


def apply_steps(case: Case, steps: Steps, context: StepContext) -> Case:
    """Apply resolved steps one after the other, and put each on record with what it returned."""
    for step in steps:
        case, outcome = STEPS[step["function"]](
            case, dataclasses.replace(context, step=step["name"]), **step["parameters"]
        )
        entry = {"name": step["name"], "function": step["function"], "parameters": step["parameters"]}
        record = {**case.record, "steps": [*case.record["steps"], {**entry, "outcome": outcome}]}
        record["background"] = context.fill(case)
        case = dataclasses.replace(case, record=record)
    return case


def _fit(steps: Steps, context: StepContext, summaries: list[list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    fitted: dict[str, dict[str, Any]] = {}
    for step in steps:
        for side in context.sides(step["parameters"]["of"]):
            own = [s for case in summaries for s in case if s["step"] == step["name"] and s["side"] == side]
            fitted.setdefault(step["name"], {})[side] = FITTED[step["function"]][1](own, **step["parameters"])
    return fitted


def _finish(
    info: dict[str, Any],
    rows: list[dict[str, str]],
    steps: Steps,
    fitted: dict[str, Any],
    recipe: str,
    seed: int,
    out: Path,
) -> None:
    fits = out / "landmarks.json"
    if fitted:
        write_json(fits, fitted)
    else:
        fits.unlink(missing_ok=True)
    for split in SPLITS:
        names = [row["case"] for row in rows if row["split"] == split]
        if names:
            store.pack_split(out, split, names)
        else:
            (out / f"{split}.h5").unlink(missing_ok=True)
    records = [read_json(out / row["case"] / "case.json") for row in rows]
    with_truth = [
        p for p in ("true_field", "true_image") if all((out / r["case"] / f"{p}.nii.gz").is_file() for r in records)
    ]
    head = store.manifest(
        info,
        recipe,
        seed,
        recipe_source=RECIPES[recipe].source,
        truth=with_truth,
        steps=steps,
        fitted=fitted,
        checksums={r["case"]: r["sha256"] for r in records},
        cases=[{key: r[key] for key in ("case", "patient", "split", "shape", "spacing_mm")} for r in records],
    )
    write_json(out / "cases.json", head)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Worker processes; None if one process does all."""
    if workers <= 1:
        yield None
        return
    # Spawned, not forked: ITK and HDF5 keep threads that a fork would lose.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run_all(jobs: list[Job], pool: ProcessPoolExecutor | None, title: str) -> list[list[dict[str, Any]]]:
    """The jobs' results in the order of the jobs, whatever the order they finish in."""
    results: dict[int, list[dict[str, Any]]] = {}
    for number, result in _progress(_run(jobs, pool), len(jobs), title):
        results[number] = result
        log.info("%s: case %s done", title, jobs[number].row["case"])
    return [results[number] for number in range(len(jobs))]


def _run(jobs: list[Job], pool: ProcessPoolExecutor | None) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    if pool is None:
        for number, job in enumerate(jobs):
            yield number, _named(job)
        return
    futures = {pool.submit(_named, job): number for number, job in enumerate(jobs)}
    for future in as_completed(futures):
        yield futures[future], future.result()


def _named(job: Job) -> list[dict[str, Any]]:
    """:func:`run_case`, with the case named in what goes wrong."""
    try:
        return run_case(job)
    except ModalignError as error:
        raise type(error)(f"case {job.row['case']} of {job.info['dataset']}: {error}") from error


def _progress(results: Iterable[Any], total: int, title: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(results, title, total=total, console=console, transient=True, disable=not sys.stderr.isatty())
