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


def forget_failures(failures: list[Failure]) -> None:
    """Remove the status files, so that the workflow runs those jobs again."""
    for failure in failures:
        failure.path.unlink(missing_ok=True)
