"""Writing files so that a killed job leaves nothing half-written, telling them apart by content, walking folders."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from modalign.errors import ModalignError, WriteError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffixes, that takes its place once the block ends well.

    If the block raises, `path` stays as it was and the temporary file is removed.

    Raises:
        WriteError: the folder can't be written to, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=path.name)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno in UNWRITABLE:
            message = f"can't write {path}: {error.strerror}. {UNWRITABLE[error.errno]}"
            raise WriteError(message) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


UNWRITABLE = {
    errno.ENOSPC: "Free some space and run the same command again.",
    errno.EDQUOT: "Your quota is used up: free some space and run the same command again.",
    errno.EROFS: "The file system is read-only: choose another folder.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.ENOENT: "There is no such folder, and none can be made there: choose another one.",
    errno.ENOTDIR: "A part of this path is a file: choose another folder.",
    errno.EEXIST: "A part of this path is a file: choose another folder.",
}


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def check_writable(folder: Path | str) -> None:
    """Raise :class:`WriteError` now rather than after the work, if `folder` can't be written to."""
    probe = Path(folder) / ".modalign-can-write"
    with replacing(probe):
        pass
    # Another job may ask the same of the same folder.
    probe.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` at once or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as readable JSON; NumPy scalars and arrays, paths and sets are converted."""
    write_text(path, json.dumps(content, indent=2, default=_plain, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or broken one is a :class:`ModalignError` that names it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModalignError(f"{path} does not exist") from None
    except json.JSONDecodeError as error:
        raise ModalignError(f"{path} is not valid JSON: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder below `folder`, its folders and its files, as :func:`os.walk`, in a fixed order.

    Links to folders are followed, each folder is visited once, and hidden folders are left out, as are those that
    macOS puts into zip files.
    """
    visited = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in visited:
            folders.clear()
            continue
        visited.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        yield Path(place), folders, sorted(files)
