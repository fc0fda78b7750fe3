"""Whether a folder of the user's own has changed since it was indexed, without opening a scan."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from modalign.errors import ModalignError
from modalign.files import walk


def csv_of(source: Path, reader: str, options: Mapping[str, Any]) -> Path | None:
    """The CSV file that names one's own pairs, if the reader goes by one and it is there."""
    from modalign.datasets import reader as reader_called

    chosen = reader_called(reader)
    if "csv" not in chosen.options.model_fields:
        return None
    path = source if source.is_file() else source / chosen.parse(options).csv
    return path if path.is_file() else None


def folder_stamp(source: Path, reader: str, options: Mapping[str, Any]) -> str:
    """Sixteen hex digits over names, sizes and times of change of the files that a data set is read from.

    Of own pairs these are the files that the CSV names, wherever they lie; otherwise all files below `source` and
    below folders that an option names, such as contours. Only the file system is asked, so that some ten thousand
    files take well under a second.
    """
    from modalign.datasets import reader as reader_called

    csv = csv_of(source, reader, options)
    if csv is not None:
        return _digest(_entry(path, str(path)) for path in sorted(_named_in(csv, reader, options)))
    parsed = reader_called(reader).parse(options)
    folders = [source, *(value for _, value in parsed if isinstance(value, Path))]
    return _digest(entry for folder in folders for entry in _tree(folder))


def _named_in(csv: Path, reader: str, options: Mapping[str, Any]) -> list[Path]:
    from modalign.cases import PARTS
    from modalign.datasets import reader as reader_called

    chosen = reader_called(reader)
    try:
        cases = chosen.list_cases(csv.parent, chosen.parse({**options, "csv": csv.name}))
    except ModalignError:
        return []  # The index tells what is wrong with the CSV; a plan of the run need not.
    return [path for case in cases for part in PARTS if (path := getattr(case, part)) is not None]


@lru_cache
def _tree(folder: Path) -> tuple[str, ...]:
    return tuple(_entries(folder))


def _entries(folder: Path) -> Iterator[str]:
    for place, _, files in walk(folder):
        for name in files:
            path = place / name
            yield _entry(path, path.relative_to(folder).as_posix())


def _entry(path: Path, name: str) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{name}\tmissing\n"
    return f"{name}\t{status.st_size}\t{status.st_mtime_ns}\n"


def _digest(entries: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(entry.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
