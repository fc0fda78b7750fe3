"""What a report says first: per data set, which method aligns best, by which measure, and how sure that is."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalign.cases import patients_of
from modalign.failures import Failure, list_failures
from modalign.files import read_json
from modalign.report.figures_values import UNALIGNED
from modalign.report.page_plan import ReportPlan, planned

TRUE_ERRORS = ("tre_mm", "mae_hu")


@dataclass(frozen=True)
class Measured:
    """How one method went on a data set with one seed: the notes beside its metrics file."""

    method: str
    seed: int
    ok: bool
    reason: str
    device: str
    cases: int
    failed: int
    notes: Mapping[str, str]


@dataclass(frozen=True)
class DatasetResults:
    """What lies in the results folder about a data set.

    Attributes:
        name: of the data set.
        manifest: its ``cases.json``; empty if there is none.
        ranking: its entry of ``ranking.json``; None if there is none.
        comparison: the lines of its comparison's CSV file.
        measured: how every method went.
        fragment: the comparison as an HTML file, if it is there.
        figures: folder with ``figures.json``, if it is there.
    """

    name: str
    manifest: Mapping[str, Any]
    ranking: Mapping[str, Any] | None
    comparison: tuple[Mapping[str, str], ...]
    measured: tuple[Measured, ...]
    fragment: Path | None
    figures: Path | None

    @property
    def phantom(self) -> bool:
        """Whether the data are made up."""
        return self.manifest.get("source") == "phantom"

    def patients(self, split: str = "test") -> int:
        """Number of patients in a split, or of pairs where different patients are paired."""
        return len(set(patients_of(self.manifest, split).values()))

    def size(self) -> str:
        """Voxels of the fixed scans."""
        shapes = {tuple(case["shape"]) for case in self.manifest.get("cases", ()) if case.get("shape")}
        return " × ".join(map(str, shapes.pop())) if len(shapes) == 1 else "sizes vary" if shapes else ""


@dataclass(frozen=True)
class Failed:
    """Something without results: where, why, and how many of how many cases."""

    dataset: str
    method: str
    seed: str
    cases: str
    reason: str


def read_dataset(results: Path, name: str, plan: ReportPlan | None = None) -> DatasetResults:
    """Gather what the results folder has about a data set; what is missing stays empty, what isn't planned is left."""
    manifest, ranking = results / "cases" / name / "cases.json", results / "comparisons" / name / "ranking.json"
    table, fragment = (results / "comparisons" / name / f"table.{kind}" for kind in ("csv", "html"))
    folders = [results / "figures" / name, *sorted(results.glob(f"papers/*/figures/{name}"))]
    return DatasetResults(
        name,
        read_json(manifest) if manifest.is_file() else {},
        read_json(ranking).get(name) if ranking.is_file() else None,
        tuple(csv.DictReader(table.open(encoding="utf-8", newline=""))) if table.is_file() else (),
        tuple(
            _measured(path)
            for path in sorted((results / "metrics" / name).glob("*/seed*.json"))
            if planned(plan, "measure_cases", name, path.parent.name, path.stem)
        ),
        fragment if fragment.is_file() else None,
        next((folder for folder in folders if (folder / "figures.json").is_file()), None),
    )


def _measured(path: Path) -> Measured:
    record = read_json(path)
    return Measured(
        record["method"],
        record["seed"],
        record["ok"],
        record["reason"],
        record.get("device", ""),
        record["cases"],
        len(record["failed"]),
        record["notes"].get("test", {}),
    )


def how_sure(ranking: Mapping[str, Any] | None) -> str:
    """In words, whether the best-ranked method is significantly better than the others."""
    if not ranking or not ranking["methods"]:
        return ranking["note"] if ranking else "not compared"
    if len(ranking["methods"]) == 1:
        return "nothing to compare with"
    if ranking["critical_difference"] is None:
        return f"not tested ({ranking['note']})"
    if ranking["friedman_p"] >= 0.05:
        return f"no significant difference among all methods (Friedman p = {ranking['friedman_p']:.2g})"
    best = ranking["methods"][0]["method"]
    alike = next((group for group in ranking["cliques"] if best in group), ())
    others = [name for name in alike if name != best]
    if not others:
        return "significantly better than all others (Nemenyi, 0.05)"
    return f"not significantly better than {', '.join(others)} (Nemenyi, 0.05)"


def lowest_true_errors(comparison: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The lines of the methods with the lowest TRE and the lowest MAE, as far as these are known.

    Only methods that give a field have a TRE, so that MAE, which all have, can name another. Methods that lack cases
    which others have are left out: their means may be over easier ones.
    """
    lowest = []
    for metric in TRUE_ERRORS:
        lines = [line for line in comparison if line["metric"] == metric and line["mean"]]
        if lines:
            most = max(int(line["n"]) for line in lines)
            lowest.append(min((line for line in lines if int(line["n"]) == most), key=lambda line: float(line["mean"])))
    return lowest


def best_methods(ranking: Mapping[str, Any] | None) -> list[str]:
    """The methods that share the best mean rank."""
    if not ranking or not ranking["methods"]:
        return []
    best = ranking["methods"][0]["mean_rank"]
    return [entry["method"] for entry in ranking["methods"] if entry["mean_rank"] == best]


def spoken(method: str) -> str:
    """A variant's name; the unaligned reference says what it is."""
    return f"{method} (no alignment)" if method == UNALIGNED else method


def failures(results: Path, datasets: Iterable[DatasetResults], plan: ReportPlan) -> list[Failed]:
    """Everything without (complete) results: failed cases, failed trainings, translations that tuning lacks, and
    planned runs that left nothing.

    Args:
        results: the results folder.
        datasets: what it has.
        plan: what was planned: failures of other jobs are left out.
    """
    found = []
    seen = set()
    for data in datasets:
        for run in data.measured:
            seen.add((data.name, run.method))
            if not run.ok:
                share = f"{run.failed} of {run.cases}"
                found.append(Failed(data.name, run.method, str(run.seed), share, run.reason))
    for failure in list_failures(results):
        # Those of alignments are among what was measured.
        if failure.rule in _WHAT_FAILED and planned(plan, failure.rule, *failure.wildcards):
            found.append(_failed(failure))
            seen.add((failure.dataset, failure.method))
    found += [Failed(d, m, "", "all", "no results: not run yet") for d, m in sorted(plan.cells - seen)]
    return found


_WHAT_FAILED = {"train_method": "training", "translate_validation": "translation for tuning"}
"""What stands in place of the number of cases, by the rule that failed."""


def _failed(failure: Failure) -> Failed:
    return Failed(failure.dataset, failure.method, failure.seed, _WHAT_FAILED[failure.rule], failure.reason)
