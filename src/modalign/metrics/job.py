"""What a job of the workflow does that measures a method: from alignments and their status files to a table.

It is apart from :mod:`modalign.evaluate`, whose tables import the report, so that an edit there repeats no measuring.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modalign.cases import CaseStore, patients_of
from modalign.files import read_json, write_json
from modalign.metrics import measure_by_name
from modalign.metrics.features import FeatureSource
from modalign.metrics.measure import measure_run
from modalign.metrics.table import Row, write_metrics


def measure_job(
    store: Path,
    runs: Sequence[Path],
    out: Path,
    *,
    method: str,
    seed: int,
    measures: Sequence[str],
    splits: Sequence[str] = ("test",),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    features: FeatureSource | None = None,
    pseudo: Path | None = None,
    segmented: Path | None = None,
    workers: int = 1,
) -> None:
    """Measure what a method aligned; write the long table `out` and, beside it, a JSON file of notes.

    Seconds and memory come from the status files `runs` (one per shard): seconds and, on a GPU, its peak memory per
    case, the peak memory of the process per job. Measures of a whole set, such as FID, are those of the test split.
    Cases that failed have no rows; the notes say how many failed, and why. `pseudo` is the folder of fixed images
    translated to the moving contrast, `segmented` that of the label maps of the aligned images.
    """
    statuses = [read_json(path) for path in runs]
    cases = [case for status in statuses for case in status["cases"]]
    good = [case for case in cases if case["ok"]]
    cases_of = CaseStore(store)
    rows: list[Row] = []
    notes: dict[str, dict[str, str]] = {}
    # Split by split, as tables are of one split each: what happened on validation cases is no remark on the test.
    for split in splits:
        order = [case for case in cases_of.ids([split]) if case in {c["case"] for c in good}]
        if not order:
            continue
        measured = measure_run(
            cases_of,
            runs[0].parent,
            [name for name in measures if split == "test" or measure_by_name(name).scope != "set"],
            method=method,
            seed=seed,
            options=options,
            features=features,
            cases=order,
            pseudo=pseudo,
            segmented=segmented,
            workers=workers,
        )
        rows += measured.rows
        notes[split] = dict(measured.notes)
    for name in ("seconds", "gpu_memory_mb"):
        rows += [
            Row(cases_of.dataset, method, seed, case["case"], None, "", name, float(case[name]))
            for case in good
            if case.get(name) is not None
        ]
    if good:
        peak = max(float(status["peak_memory_mb"]) for status in statuses)
        rows.append(Row(cases_of.dataset, method, seed, "", None, "", "peak_memory_mb", peak))
    failed = [case for case in cases if not case["ok"]]
    reason = ""
    if failed:
        reason = failed[0]["error"]
        if good:
            reason = f"{len(failed)} of {len(cases)} cases failed; {failed[0]['case']}: {reason}"
    record = {
        "dataset": cases_of.dataset,
        "method": method,
        "seed": seed,
        "ok": not failed,
        "reason": reason,
        "device": statuses[0]["device"],
        "cases": len(cases),
        "failed": [case["case"] for case in failed],
        "notes": notes,
    }
    patients = patients_of(cases_of.manifest)
    write_json(out.with_suffix(".json"), record)
    write_metrics(out, [row._replace(patient=patients.get(row.case, "")) for row in rows])
