"""The long table of results: one line per case, slice or structure, measure and value."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from modalign.errors import DataError
from modalign.files import write_text

COLUMNS = ("dataset", "method", "seed", "case", "slice", "structure", "metric", "value", "patient")


class Row(NamedTuple):
    """One line of the long table; `case` is empty for measures of a whole set, `slice` None where it doesn't apply.

    `patient` says whom the scans are of, where several cases may be of one person; empty if each is another.
    """

    dataset: str
    method: str
    seed: int
    case: str
    slice: int | None
    structure: str
    metric: str
    value: float
    patient: str = ""


def write_metrics(path: Path | str, rows: Iterable[Row]) -> None:
    """Write the long table as TSV, at once or not at all; values keep all their digits."""
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        z = "" if row.slice is None else str(row.slice)
        value = repr(float(row.value))
        cells = (row.dataset, row.method, str(row.seed), row.case, z, row.structure, row.metric, value, row.patient)
        lines.append("\t".join(cells))
    write_text(path, "\n".join(lines) + "\n")


def read_metrics(path: Path | str) -> list[Row]:
    """Read a long table.

    Raises:
        DataError: the file is missing, has other columns, or a line that can't be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if tuple(header.split("\t")) != COLUMNS:
        raise DataError(f"{path} has the columns {header.split(chr(9))}, not {list(COLUMNS)}: measure again")
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            dataset, method, seed, case, z, structure, metric, value, patient = line.split("\t")
            index = int(z) if z else None
            rows.append(Row(dataset, method, int(seed), case, index, structure, metric, float(value), patient))
        except ValueError as error:
            raise DataError(f"{path}, line {number} can't be read ({error}): measure again") from error
    return rows
