"""What failed in a results folder, and how to have it tried again."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modalign.files import read_json

STATUS_FILES = {
    "train_method": "models/*/*/seed*/train.json",
    "align_cases": "aligned/*/*/seed*/run-*.json",
    "translate_validation": "tuning/*/translations/*/run-*.json",
}
"""Where the jobs that put their failure on record do so, by rule."""


@dataclass(frozen=True)
class Failure:
    """A training or a set of alignments that failed.

    Attributes:
        path: its status file.
        reason: what that says.
        rule: the workflow's rule that ran it.
        dataset: on which it failed.
        method: the variant.
        seed: its number; empty for what tuning compares with, which is made with one seed.
    """

    path: Path
    reason: str
    rule: str
    dataset: str
    method: str
    seed: str

    @property
    def wildcards(self) -> tuple[str, ...]:
        """What the job's name is made of."""
        shard = (self.path.stem.removeprefix("run-"),) if self.rule == "align_cases" else ()
        return (self.dataset, self.method, *([f"seed{self.seed}"] if self.seed else []), *shard)


def list_failures(results: Path) -> list[Failure]:
    """All status files below `results` that report a failure, in the order of their paths."""
    return sorted(_failures(results), key=lambda failure: failure.path)


def _failures(results: Path) -> Iterator[Failure]:
    for rule, pattern in STATUS_FILES.items():
        for path in results.glob(pattern):
            status = read_json(path)
            if not status["ok"]:
                _, dataset, *rest = path.relative_to(results).parts
                method, seed = (rest[1], "") if rule == "translate_validation" else rest[:2]
                yield Failure(path, status["error"], rule, dataset, method, seed.removeprefix("seed"))


def forget_failures(results: Path, failures: list[Failure]) -> None:
    """Remove the status files and all that was made from them, so that the workflow makes both again.

    A workflow doesn't make an intermediate file again whose results are there: metrics, comparison and figures of the
    data set, every table and figure of the papers, and the report go, too. They take seconds each. Of a search for
    options, which takes hours, the choice alone goes: trials that were completed knew the translations that they need.
    """
    for failure in failures:
        failure.path.unlink(missing_ok=True)
        for path in _made_from(results, failure):
            path.unlink(missing_ok=True)
    if failures:
        for path in (*results.glob("papers/*/table_*.*"), *results.glob("papers/*/figure_*.*")):
            path.unlink()
        (results / "report.html").unlink(missing_ok=True)


def _made_from(results: Path, failure: Failure) -> list[Path]:
    if failure.rule == "translate_validation":
        return list((results / "tuning" / failure.dataset).glob("*/chosen.json"))
    return [
        results / "metrics" / failure.dataset / failure.method / f"seed{failure.seed}.tsv",
        *(results / "comparisons" / failure.dataset / name for name in ("ranking.json", "table.html")),
        results / "figures" / failure.dataset / "figures.json",
    ]
