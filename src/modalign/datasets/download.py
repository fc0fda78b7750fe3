"""Fetching archives over HTTP: continued after a cut, verified by checksum, unpacked without leaving the folder."""

import contextlib
import hashlib
import json
import logging
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from modalign.datasets.registry import Archive, RemoteFile, size_words
from modalign.datasets.unpack import is_archive, unpack, unpack_some_cases
from modalign.errors import DataError
from modalign.files import read_json, write_json, write_text

DOWNLOADS = ".downloads"
STAMP = "modalign-download.json"
ATTEMPTS = 5
"""How often in a row a transfer may fail without bringing a byte."""
PAUSE_S = 2.0
TIMEOUT_S = 60.0
_CHUNK_BYTES = 1 << 20
_LOGGED_BYTES = 100_000_000
_LASTING = (400, 401, 403, 404, 410)
"""HTTP statuses that asking again doesn't change."""
# Some servers (Nextcloud) answer only what looks like a browser.
_AGENT = "Mozilla/5.0 (compatible; modalign)"

logger = logging.getLogger(__name__)


def fetch_archive(archive: Archive, folder: Path, max_cases: int | None = None) -> None:
    """Download, verify and unpack all files of an archive into `folder`, then put a stamp there.

    Downloads are kept in ``folder/.downloads``, from where a killed run continues.

    Raises:
        DataError: the server fails, the disk is too small, or what came isn't what was published.
    """
    wanted = {"dataset": archive.dataset, "version": archive.version, "max_cases": max_cases}
    if (folder / STAMP).is_file():
        stamp = read_json(folder / STAMP)
        if stamp in (wanted, {**wanted, "max_cases": None}):
            logger.info("%s is in %s already", archive.dataset, folder)
            return
        if stamp["dataset"] != archive.dataset:
            raise DataError(f"{folder} holds {stamp['dataset']}: choose another folder for {archive.dataset}")
    if max_cases is not None:
        for file in archive.files:
            _check_can_be_cut(archive, file)
    (folder / DOWNLOADS).mkdir(parents=True, exist_ok=True)
    (folder / STAMP).unlink(missing_ok=True)
    for file in archive.files:
        if max_cases is not None:
            unpack_some_cases(file.urls, folder, file.unpack, max_cases, open_range)
            continue
        path = download(file, folder / (DOWNLOADS if file.unpack else "."))
        if file.unpack:
            logger.info("unpacking %s into %s", path.name, folder)
            unpack(path, folder, file.unpack)
    write_json(folder / STAMP, wanted)


def unfinished(folder: Path) -> bool:
    """Whether a download into `folder` was begun and not ended."""
    return (folder / DOWNLOADS).is_dir() and not (folder / STAMP).is_file()


def download(file: RemoteFile, folder: Path) -> Path:
    """Download one file into `folder`, unless it is there; it appears under its name once it is complete and verified.

    Raises:
        DataError: no address works, the disk is too small, or size or checksum differ from those published.
    """
    target = folder / file.name
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{file.name}.part"
    have = part.stat().st_size if part.is_file() else 0
    if file.size_bytes and (need := file.size_bytes - have) > (free := shutil.disk_usage(folder).free):
        raise DataError(f"{file.name} needs {size_words(need)} more in {folder}, and {size_words(free)} are free")
    _transfer_with_retries(file, part)
    _verify(file, part)
    part.replace(target)
    _validator_of(part).unlink(missing_ok=True)
    return target


def _transfer_with_retries(file: RemoteFile, part: Path) -> None:
    failures = 0
    errors: list[str] = []
    logger.info("downloading %s", file.name + (f" ({size_words(file.size_bytes)})" if file.size_bytes else ""))
    while True:
        lasting = True
        before = part.stat().st_size if part.is_file() else 0
        for url in file.urls:
            try:
                _transfer(url, part, file)
                return
            except (OSError, HTTPException) as error:
                errors.append(f"{url}: {error}")
                lasting = lasting and isinstance(error, urllib.error.HTTPError) and error.code in _LASTING
        after = part.stat().st_size if part.is_file() else 0
        failures = 0 if after > before else failures + 1
        if failures >= ATTEMPTS or lasting:
            raise DataError(
                f"{file.name} can't be downloaded ({errors[-1]}). Run the same command again later, it continues where "
                f"it stopped; or get the file with a browser and put it at {part.with_name(file.name)}"
            )
        logger.warning("%s; trying again from byte %d", errors[-1], after)
        time.sleep(PAUSE_S * 2**failures)


def _transfer(url: str, part: Path, file: RemoteFile) -> None:
    """Append what is missing to `part`; from the start if the server doesn't do ranges or has another file by now."""
    start = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and _validator_of(part).is_file():
        headers["If-Range"] = _validator_of(part).read_text()
    try:
        response = _open(url, headers)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416:
                raise
            if error.headers.get("Content-Range", "").endswith(f"/{start}"):
                return  # All bytes had come before the run was killed.
        part.unlink()
        raise OSError("the file on the server is shorter than what was downloaded of it") from error
    with response:
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0
        _remember_validator(part, response)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("ab" if start else "wb") as out, progress(file.name, total or file.size_bytes) as advance:
            advance(start)
            while chunk := response.read(_CHUNK_BYTES):
                out.write(chunk)
                advance(len(chunk))
            arrived = out.tell()
    if total is not None and arrived < total:
        raise OSError(f"the connection broke after {arrived} of {total} bytes")


def _validator_of(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _remember_validator(part: Path, response: HTTPResponse) -> None:
    etag = response.headers.get("ETag", "")
    # A weak ETag can't be used to continue (RFC 9110, 13.1.5).
    validator = "" if etag.startswith("W/") else etag
    validator = validator or response.headers.get("Last-Modified", "")
    if validator:
        write_text(_validator_of(part), validator)
    else:
        _validator_of(part).unlink(missing_ok=True)


def _open(url: str, headers: dict[str, str]) -> HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT, **headers})
    response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    return response


def open_range(url: str, start: int, stop: int) -> tuple[bytes, int]:
    """Bytes `start` to `stop` (exclusive; counted from the end if `start` is negative) of a file, and its length.

    Raises:
        DataError: the server doesn't do ranges.
    """
    wanted = f"bytes={start}" if start < 0 else f"bytes={start}-{stop - 1}"
    with _open(url, {"Range": wanted}) as response:
        if response.status != 206:
            raise DataError(f"{url} can't be read in parts: download it as a whole, without `max_cases`")
        total = int(response.headers["Content-Range"].rpartition("/")[2])
        return response.read(), total


def _verify(file: RemoteFile, part: Path) -> None:
    size = part.stat().st_size
    checksum = _checksum_of_record(file) if file.checksum.startswith("record:") else file.checksum
    if checksum:
        algorithm, _, published = checksum.partition(":")
        found = _digest(part, algorithm)
        if found == published.lower():
            return
        what = f"{algorithm} {found}, and {published} was published"
    elif file.size_bytes and size != file.size_bytes:
        what = f"{size} bytes, and {file.size_bytes} were published"
    else:
        return
    part.unlink()
    _validator_of(part).unlink(missing_ok=True)
    raise DataError(
        f"{file.name} from {file.urls[0]} has {what}. It was removed: run the same command again. "
        "If that doesn't help, its publisher has changed it; get the right version and put it where this one was"
    )


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as source, progress(f"checking {path.name}", path.stat().st_size) as advance:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def _checksum_of_record(file: RemoteFile) -> str:
    """The checksum that the publisher's record (Zenodo's API) states; empty, with a warning, if it can't be had."""
    address = file.checksum.removeprefix("record:")
    with contextlib.suppress(OSError, HTTPException, json.JSONDecodeError):
        with _open(address, {}) as response:
            record: dict[str, Any] = json.load(response)
        for entry in record.get("files", []):
            if entry.get("key") == file.name and entry.get("checksum"):
                return str(entry["checksum"])
    logger.warning("%s states no checksum of %s: only its size is checked", address, file.name)
    return ""


def _check_can_be_cut(archive: Archive, file: RemoteFile) -> None:
    if not is_archive(file.name, zip_only=True):
        raise DataError(
            f"{archive.dataset} comes as {file.name}, of which no single cases can be fetched: fetch it all"
        )


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar in bytes on stderr; lines in the log, for what is large, when that isn't a terminal."""
    if not sys.stderr.isatty():
        yield _logged(title, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def _logged(title: str, total: int | None) -> Callable[[int], None]:
    done = tenths = 0

    def advance(count: int) -> None:
        nonlocal done, tenths
        done += count
        if total and total > _LOGGED_BYTES and done * 10 // total > tenths:
            tenths = done * 10 // total
            logger.info("%s: %d %% of %s", title, 10 * tenths, size_words(total))

    return advance
