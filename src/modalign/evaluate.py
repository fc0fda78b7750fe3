"""From alignments to numbers and tables: what the workflow's evaluation jobs do."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modalign.cases import CaseStore
from modalign.errors import ConfigError
from modalign.files import read_json, write_json
from modalign.metrics import MEASURES
from modalign.metrics.table import read_metrics


def read_statuses(metrics: Iterable[Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """How each (data set, method) went over all its seeds, from the notes beside its metrics files.

    ``ok`` and ``reason`` are those of the first seed that failed; ``failed`` lists the failed cases by seed, ``notes``
    the remarks of all seeds by split and measure.
    """
    statuses: dict[tuple[str, str], dict[str, Any]] = {}
    for path in metrics:
        record = read_json(path.with_suffix(".json"))
        key = record["dataset"], record["method"]
        status = statuses.setdefault(key, {"ok": True, "reason": "", "failed": {}, "notes": {}})
        if status["ok"]:
            status |= {"ok": record["ok"], "reason": record["reason"]}
        if record["failed"]:
            status["failed"][str(record["seed"])] = list(record["failed"])
        for split, remarks in record["notes"].items():
            for metric, note in remarks.items():
                status["notes"].setdefault(split, {}).setdefault(metric, []).append(note)
    return statuses


def read_manifests(stores: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The manifests of case stores by data set."""
    manifests = [CaseStore(store).manifest for store in stores]
    return {manifest["dataset"]: manifest for manifest in manifests}


def table_job(
    paper: str,
    number: int,
    metrics: Sequence[Path],
    stores: Sequence[Path],
    stem: Path,
    *,
    extra_methods: Mapping[str, str] | None = None,
    methods: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    tuned: Sequence[tuple[str, str]] = (),
    statistics: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Write a paper's table as ``stem.{md,tex,html,csv}`` with its provenance.

    Args:
        paper: short name.
        number: of the table.
        metrics: metrics files of the methods in it.
        stores: case stores of its data sets.
        stem: path without suffix.
        extra_methods: variants that join beyond the paper, with their labels.
        methods: all configured variants; tells "not run" from "not there yet".
        settings: options in which the rows of an ablation differ, by variant.
        tuned: the (data set, variant) pairs whose options the run tunes.
        statistics: ``unit``, ``bootstrap``, ``confidence``, ``failed``.
        seed: seeds the bootstrap.
    """
    from modalign.papers import tables
    from modalign.report.tables import build_table, write_table

    if number not in tables(paper):
        known = ", ".join(map(str, tables(paper)))
        raise ConfigError(f"paper {paper} has no table {number} of results; its tables are: {known}")
    options = _table_options(statistics, seed, extra_methods or {}, methods, tuned, settings)
    result = build_table(tables(paper)[number], metrics, read_statuses(metrics), read_manifests(stores), options)
    write_table(result, stem)


def compare_job(
    dataset: str,
    metrics: Sequence[Path],
    store: Path,
    out: Path,
    *,
    labels: Mapping[str, str],
    measures: Sequence[str],
    proposed: str,
    statistics: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Compare all methods of a data set by all its measures; write ``out/table.*`` and ``out/ranking.json``.

    Time and memory stand beside the measures; they and measures without a better direction aren't ranked.

    Where some methods give no displacement field, all are ranked by the measures that don't need one, and those with a
    field once more by every measure (``of_fields`` in the JSON file). `labels` maps the variants to their names in the
    table; every other one is tested against `proposed`.
    """
    from dataclasses import asdict

    from modalign.report.own import COSTS, comparison_table
    from modalign.report.ranking import rank_methods
    from modalign.report.tables import build_table, write_table

    # In voxels, TRE tells nothing that it doesn't tell in mm, and would count twice.
    shown = [name for name in measures if name != "tre_voxel" or "tre_mm" not in measures]
    known = {row.metric for path in metrics for row in read_metrics(path)}
    table = comparison_table(dataset, labels, shown, proposed, costs=[name for name in COSTS if name in known])
    options = _table_options(statistics, seed, {}, list(labels))
    result = build_table(table, metrics, read_statuses(metrics), read_manifests([store]), options)
    write_table(result, out / "table")
    # Only the methods of some tables are segmented; a ranking takes methods that have every measure.
    per_case: Any = {
        name: MEASURES[name].better
        for name in shown
        if MEASURES[name].scope != "set"
        and MEASURES[name].better != "reference"
        and "segmentation" not in MEASURES[name].needs
    }
    of_images = {name: better for name, better in per_case.items() if "field" not in MEASURES[name].needs}
    tested = {dataset: CaseStore(store).ids(["test"])}
    by_all, by_images = (rank_methods(metrics, names, tested).get(dataset) for names in (per_case, of_images))
    written: dict[str, Any] = {} if by_all is None else asdict(by_all)
    # A translation has no field, and would be ranked nowhere.
    if by_all is not None and by_images is not None and len(by_images.methods) > len(by_all.methods):
        written = asdict(by_images) | {"of_fields": written if by_all.methods else None}
    write_json(out / "ranking.json", {dataset: written} if written else {})


def _table_options(
    statistics: Mapping[str, Any] | None,
    seed: int,
    extra: Mapping[str, str],
    methods: Sequence[str],
    tuned: Sequence[tuple[str, str]] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    from modalign.report.result import TableOptions

    chosen = dict(statistics or {})
    return TableOptions(
        unit=chosen.get("unit", "patient"),
        n_boot=chosen.get("bootstrap", 10_000),
        confidence=chosen.get("confidence", 0.95),
        failed=chosen.get("failed", "drop"),
        seed=seed,
        extra_methods=extra,
        methods=frozenset(methods),
        tuned={name: frozenset(m for d, m in tuned if d == name) for name, _ in tuned},
        settings=settings or {},
    )
