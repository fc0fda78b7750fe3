"""Unpacking zip and tar archives so that no member can land outside the folder."""

import fnmatch
import io
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from modalign.errors import DataError
from modalign.files import replacing

_ZIP = (".zip",)
_TAR = (".tar", ".tar.gz", ".tgz")
_CASE_FOLDER = re.compile(r"[12][BP][A-Z]\d{3}|case_\d{2}")
"""Folders of single cases in the zip archives of SynthRAD2023 and HaN-Seg."""
_READ_AHEAD_BYTES = 1 << 20

RangeReader = Callable[[str, int, int], tuple[bytes, int]]


def is_archive(name: str, zip_only: bool = False) -> bool:
    """Whether a file of that name can be unpacked."""
    return name.lower().endswith(_ZIP if zip_only else _ZIP + _TAR)


def unpack(path: Path, folder: Path, pattern: str = "*") -> None:
    """Unpack the members of a zip or tar archive whose path matches the glob `pattern` into `folder`.

    Every file is written at once or not at all; files that are there are replaced.

    Raises:
        DataError: the archive is damaged or of another kind, nothing matches, or a member is a link or points outside.
    """
    count = 0
    try:
        if path.name.lower().endswith(_ZIP):
            with zipfile.ZipFile(path) as archive:
                count = _unpack_zip(archive, archive.infolist(), folder, pattern)
        elif path.name.lower().endswith(_TAR):
            with tarfile.open(path) as tar:
                for entry in tar:
                    if entry.isdir() or not fnmatch.fnmatch(entry.name, pattern):
                        continue
                    target = _inside(entry.name, folder)
                    source = tar.extractfile(entry) if entry.isreg() else None
                    if source is None:
                        raise DataError(f"member {entry.name} of the archive is a link or a device: it isn't unpacked")
                    _write(source, target)
                    count += 1
        else:
            raise DataError(f"{path} is neither zip nor tar ({', '.join(_ZIP + _TAR)})")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it and fetch it again") from error
    if not count:
        raise DataError(f"{path} has no member like {pattern}: it isn't the archive that was expected")


def unpack_some_cases(urls: Sequence[str], folder: Path, pattern: str, max_cases: int, read: RangeReader) -> None:
    """Unpack `max_cases` case folders, spread evenly over the archive, from a zip file that stays on its server.

    Raises:
        DataError: the archive isn't sorted into case folders, can't be read, or can't be reached.
    """
    errors = []
    for url in urls:
        try:
            with zipfile.ZipFile(io.BufferedReader(_RemoteFile(url, read), _READ_AHEAD_BYTES)) as archive:
                members = [m for m in archive.infolist() if not m.is_dir() and fnmatch.fnmatch(m.filename, pattern)]
                cases = sorted({name for m in members if (name := _case_folder(m.filename))})
                if not cases:
                    raise DataError(f"{url} isn't sorted into case folders: fetch it as a whole, without `max_cases`")
                # Ids begin with the centre: even steps bring cases of every centre.
                count = min(max_cases, len(cases))
                chosen = {cases[i * len(cases) // count] for i in range(count)}
                _unpack_zip(archive, [m for m in members if _case_folder(m.filename) in chosen], folder, pattern)
            return
        except (OSError, zipfile.BadZipFile) as error:
            errors.append(f"{url}: {error}")
    raise DataError(f"single cases can't be fetched ({'; '.join(errors)}). Run the same command again later")


def _case_folder(member: str) -> str | None:
    name = PurePosixPath(member).parent.name
    return name if _CASE_FOLDER.fullmatch(name) else None


def _unpack_zip(archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], folder: Path, pattern: str) -> int:
    count = 0
    for member in members:
        if member.is_dir() or not fnmatch.fnmatch(member.filename, pattern):
            continue
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"member {member.filename} of the archive is a link: it isn't unpacked")
        with archive.open(member) as source:
            _write(source, _inside(member.filename, folder))
        count += 1
    return count


def _inside(member: str, folder: Path) -> Path:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise DataError(
            f"member {member} of the archive points outside the folder it is unpacked to: it isn't unpacked"
        )
    target = folder.joinpath(*path.parts)
    # A link in the folder itself could lead outside, too.
    if not target.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{target} leads outside {folder} through a link: remove the link")
    return target


def _write(source: IO[bytes], target: Path) -> None:
    with replacing(target) as temporary, temporary.open("wb") as out:
        shutil.copyfileobj(source, out, _READ_AHEAD_BYTES)


class _RemoteFile(io.RawIOBase):
    """A file on a server as a seekable file object; what zipfile needs to read single members."""

    def __init__(self, url: str, read: RangeReader) -> None:
        self._url, self._read, self._position = url, read, 0
        self._length = read(url, -1, 0)[1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        stop = min(self._position + len(buffer), self._length)
        if stop <= self._position:
            return 0
        data, _ = self._read(self._url, self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
