"""What failed in a results folder, and how to have it tried again."""

from dataclasses import dataclass
from pathlib import Path

from modalign.files import read_json


@dataclass(frozen=True)
class Failure:
    """A training or a set of alignments that failed: its status file and the reason."""

    path: Path
    reason: str


def list_failures(results: Path) -> list[Failure]:
    """All status files below `results` that report a failure, in the order of their paths."""
    paths = [*results.glob("models/*/*/seed*/train.json"), *results.glob("aligned/*/*/seed*/run-*.json")]
    found = [(path, read_json(path)) for path in sorted(paths)]
    return [Failure(path, status["error"]) for path, status in found if not status["ok"]]


def forget_failures(results: Path, failures: list[Failure]) -> None:
    """Remove the status files and all that was made from them, so that the workflow makes both again.

    A workflow doesn't make an intermediate file again whose results are there: metrics, comparison and figures of the
    data set, every table and figure of the papers, and the report go, too. They take seconds each.
    """
    for failure in failures:
        failure.path.unlink(missing_ok=True)
        dataset, method, seed = failure.path.relative_to(results).parts[1:4]
        made = [results / "metrics" / dataset / method / f"{seed}.tsv"]
        made += [results / "comparisons" / dataset / name for name in ("ranking.json", "table.html")]
        made.append(results / "figures" / dataset / "figures.json")
        for path in made:
            path.unlink(missing_ok=True)
    if failures:
        for path in (*results.glob("papers/*/table_*.*"), *results.glob("papers/*/figure_*.*")):
            path.unlink()
        (results / "report.html").unlink(missing_ok=True)
