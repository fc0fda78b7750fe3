"""Where every archive comes from: version, files, checksums, licence, access; and what to tell who hasn't got it."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from modalign.errors import ConfigError, DataError

TABLE = Path(__file__).with_name("registry.tsv")


@dataclass(frozen=True)
class RemoteFile:
    """One file of an archive.

    Attributes:
        name: file name.
        urls: where to get it, in the order to try; empty if it can't be had without an account.
        size_bytes: its size, if known.
        checksum: ``md5:...`` or ``sha512:...``; ``record:<url>`` if the record at that address states it; or empty.
        unpack: glob of the members to unpack; empty if the file isn't an archive.
    """

    name: str
    urls: tuple[str, ...]
    size_bytes: int | None
    checksum: str
    unpack: str


@dataclass(frozen=True)
class Archive:
    """A published data set.

    Attributes:
        dataset: its key in the registry.
        version: as its publisher counts.
        source: who holds it.
        files: what it consists of.
        licence: under which it may be used.
        access: open, registration, request or restricted; all but open have to be fetched by the user.
        home: address of the page to read, register or request at.
        citation: what to cite.
    """

    dataset: str
    version: str
    source: str
    files: tuple[RemoteFile, ...]
    licence: str
    access: str
    home: str
    citation: str


@cache
def registry() -> dict[str, Archive]:
    """All archives by key."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    archives = {}
    for key in dict.fromkeys(row["dataset"] for row in rows):
        own = [row for row in rows if row["dataset"] == key]
        files = tuple(
            RemoteFile(
                row["file"],
                tuple(row["url"].split()),
                int(row["size_bytes"]) if row["size_bytes"] else None,
                row["checksum"],
                row["unpack"],
            )
            for row in own
        )
        same = {name: own[0][name] for name in ("version", "source", "licence", "access", "home", "citation")}
        archives[key] = Archive(dataset=key, files=files, **same)
    return archives


def archive(name: str) -> Archive:
    """The archive with the key `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in registry():
        raise ConfigError(f"there is no archive {name!r}; the archives are: {', '.join(registry())}")
    return registry()[name]


def describe_missing(name: str, folder: Path) -> str:
    """What to do to have an archive's data: address, files and sizes, licence, and the line for config.yaml."""
    from modalign.phantoms.archives import ARCHIVES

    if name not in registry():
        return f"The scans of {name} are not in {folder}. Name the right folder in config.yaml: {_source(name, '...')}"
    entry = archive(name)
    lines = [f"The data of {name} (version {entry.version}, {entry.source}) is not in {folder}."]
    if entry.access == "open":
        lines += [
            f"It is open: `modalign fetch {name} --out {folder} --accept-licence` downloads it, as does this in "
            "config.yaml:",
            f"  {_source(name, 'download, accept_licence: true')}",
        ]
    else:
        how = {
            "registration": "after registration",
            "request": "on request",
            "restricted": "to those whom its owners let in, on request",
        }[entry.access]
        lines.append(f"It is given {how}: {entry.home}")
    lines.append("Files:")
    for file in entry.files:
        size = f", {size_words(file.size_bytes)}" if file.size_bytes else ""
        address = f" from {file.urls[0]}" if file.urls else ""
        lines.append(f"  {file.name}{size}{address}")
    lines += [
        f"Licence: {entry.licence}",
        f"Cite: {entry.citation}",
        "Unpack it into a folder, for example this one, and name it in config.yaml:",
        f"  {_source(name, folder)}",
    ]
    if name in ARCHIVES:
        lines += ["Or try everything without it, on the built-in phantom of the same layout:"]
        lines += [f"  {_source(name, 'phantom')}"]
    return "\n".join(lines)


def _source(name: str, source: object) -> str:
    return f"archives: {{{name}: {{source: {source}}}}}"


def size_words(size_bytes: int) -> str:
    """A size in words: ``14.5 GB`` (decimal units)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} bytes"


def fetch(name: str, folder: Path, accept_licence: bool, max_cases: int | None = None) -> None:
    """Download an archive into `folder`, check it and unpack it; what is there already is not fetched again.

    Args:
        name: key of the archive.
        folder: where it goes. Downloads are kept in ``folder/.downloads``, a killed one is continued.
        accept_licence: whether the user has read and accepted the archive's licence.
        max_cases: fetch only so many cases (folders) of a zip archive, by reading ranges of it.

    Raises:
        DataError: the data can't be had without an account, the licence isn't accepted, the server fails, or what
            came isn't what was published.
    """
    from modalign.datasets import download

    entry = archive(name)
    if entry.access != "open":
        raise DataError(describe_missing(name, folder))
    if not accept_licence:
        raise DataError(
            f"{name} is published under: {entry.licence} ({entry.home}). If you accept that, "
            f"run again with `accept_licence: true` (on the command line: --accept-licence)"
        )
    download.fetch_archive(entry, Path(folder), max_cases)
