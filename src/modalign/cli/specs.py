"""What the verbs of jobs are told on the command line, checked before a job starts: there, it would be the method's
failure."""

from collections.abc import Mapping
from typing import Any

from modalign.align_files import parse_json
from modalign.cases import SPLITS
from modalign.errors import ConfigError

ENTRIES = ("method", "dimension", "options", "needs")
NEEDED = (*ENTRIES, "model")
"""A needed method may leave its dimension open, and names the folder of its weights."""
EXAMPLE = '{"method": "syn", "dimension": 3, "options": {}}'


def read_spec(text: str) -> dict[str, Any]:
    """A method as :func:`modalign.runs.build_method` takes it, from `--spec`.

    Raises:
        ConfigError: an entry is missing, unknown or of the wrong kind. What only the method knows isn't checked.
    """
    spec: dict[str, Any] = parse_json(text, "--spec", dict)
    if spec.get("dimension") not in (2, 3):
        has = f"its dimension is {spec['dimension']!r}" if "dimension" in spec else "it has no dimension"
        raise ConfigError(f"--spec: {has}: write 2 or 3, as in {EXAMPLE}")
    _check(spec, "--spec", ENTRIES)
    return spec


def read_needs(text: str) -> dict[str, Any]:
    """The methods that one builds on, by role, from `--needs`.

    Raises:
        ConfigError: one isn't described as :func:`read_spec` wants it; it may leave its dimension open.
    """
    needs: dict[str, Any] = parse_json(text, "--needs", dict)
    for role, needed in needs.items():
        _check(needed, f"--needs: {role}", NEEDED)
    return needs


def _check(spec: Any, where: str, entries: tuple[str, ...]) -> None:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("method"), str):
        raise ConfigError(f"{where}: {spec!r} names no method: write {EXAMPLE}")
    unknown = [key for key in spec if key not in entries]
    if unknown:
        raise ConfigError(f"{where}: there is no entry {unknown[0]!r}; the entries are: {', '.join(entries)}")
    for key in ("options", "needs"):
        if not isinstance(spec.get(key, {}), Mapping):
            raise ConfigError(f"{where}: {key} is {spec[key]!r}: write names and values, as in {EXAMPLE}")
    for role, needed in spec.get("needs", {}).items():
        _check(needed, f"{where}: needs: {role}", NEEDED)


def read_splits(text: str) -> list[str]:
    """The splits that `--splits` names.

    Raises:
        ConfigError: there is no such split.
    """
    names = text.split(",")
    unknown = [name for name in names if name not in SPLITS]
    if unknown:
        raise ConfigError(f"--splits: there is no split {unknown[0]!r}: write {', '.join(SPLITS)}, separated by commas")
    return names
