"""What a training shows and hears while it runs: its CSV log, its progress bar, and signals that ask it to stop."""

import csv
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modalign.files import replacing

FIRST_COLUMNS = ("step", "seconds", "learning_rate")


@contextmanager
def csv_log(path: Path, step: int, active: bool = True) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that appends a row to `path`; rows after `step`, where training continues, are cut off first.

    Every row goes to the disk at once. A row with new columns rewrites the file with them.
    """
    if not active:
        yield lambda row: None
        return
    rows: list[dict[str, Any]] = []
    if step and path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if _whole(row) and int(row["step"]) <= step]
    columns = list(rows[0] if rows else FIRST_COLUMNS)
    _rewrite(path, columns, rows)

    def write(row: dict[str, Any]) -> None:
        rows.append(row)
        added = [column for column in row if column not in columns]
        if added:
            columns.extend(added)
            _rewrite(path, columns, rows)
            return
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(columns, row))

    yield write


def _rewrite(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(",".join(columns) + "\n" + "".join(_line(columns, row) for row in rows), encoding="utf-8")


def _line(columns: Iterable[str], row: Mapping[str, Any]) -> str:
    values = (row.get(column, "") for column in columns)
    return ",".join(f"{value:.9g}" if isinstance(value, float) else str(value) for value in values) + "\n"


def _whole(row: Mapping[str, Any]) -> bool:
    """Whether a row has all its columns: a kill may have cut the last line short."""
    return str(row.get("step", "")).isdigit() and None not in row.values() and None not in row


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """A function that gives the number of the signal (SIGTERM, SIGINT) that asked to stop, 0 for none.

    A second signal acts at once, as it would have without this.
    """
    received = [0]
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {int(number): signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def receive(number: int, _: object) -> None:
        received[0] = number
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, receive)
    try:
        yield lambda: received[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar(
    total: int, step: int, active: bool = True, label: str = "training"
) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    """A function ``show(step, row)`` that moves a bar with the time left, on stderr, if that is a terminal."""
    if not (active and sys.stderr.isatty()):
        yield lambda step, row: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[losses]}"))
    with Progress(TextColumn(label), *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=step, losses="")

        def show(step: int, row: Mapping[str, Any]) -> None:
            shown = " ".join(f"{name} {value:.3g}" for name, value in row.items() if name not in FIRST_COLUMNS)
            bar.update(task, completed=step)
            if shown:
                bar.update(task, losses=shown)

        yield show
