"""What is wrong with a configuration that its schema refuses: in a sentence or two, with what to write instead."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

LONGEST = 80
"""Characters of a value that a message shows."""


def explain(error: Any) -> str:
    """A message for a schema's refusal that names the key, the value and what is allowed, without the schema.

    Args:
        error: a ``jsonschema.ValidationError``, whose own text holds the whole schema and the whole configuration.
    """
    error = _innermost(error)
    where = ".".join(map(str, error.absolute_path))
    return f"The configuration is wrong{f' at {where}' if where else ''}: {_problem(error)}"


def _innermost(error: Any) -> Any:
    """Of alternatives that all fail, the failure that lies deepest: that alternative was meant."""
    while error.context:
        deepest = max(len(inner.absolute_path) for inner in error.context)
        meant = [inner for inner in error.context if len(inner.absolute_path) == deepest]
        # Where the value is of another kind than each of the alternatives, none of them was meant.
        own = [inner for inner in meant if inner.validator != "type"]
        if not own and deepest == len(error.absolute_path):
            return error
        error = (own or meant)[0]
    return error


def _problem(error: Any) -> str:
    schema, value = error.schema, error.instance
    known = list(schema.get("properties", ())) if isinstance(schema, dict) else []
    if error.validator == "additionalProperties" and known:
        unknown = [key for key in value if key not in known]
        names = ", ".join(repr(key) for key in unknown)
        return f"{names} was unexpected{_close(unknown[0], known)} The keys there are: {', '.join(known)}"
    if error.validator == "enum":
        return f"{_shown(value)} is not known{_close(value, schema['enum'])} Write one of: {_listed(schema['enum'])}"
    if error.validator == "type":
        return f"{_shown(value)} is not of type {_listed(_as_list(schema['type']))}{_meaning(schema)}"
    if error.context:
        kinds = [_kind(inner) for inner in error.schema[error.validator]]
        return f"{_shown(value)} fits none of: {', '.join(kinds)}{_meaning(schema)}"
    if error.validator == "required":
        return f"{error.message}: write it"
    return f"{_shortened(error.message)}{_meaning(schema)}"


def _close(key: Any, known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(key), [str(name) for name in known], n=1)
    return f": did you mean {close[0]!r}?" if close else "."


def _meaning(schema: dict[str, Any]) -> str:
    return f". It is: {' '.join(schema['description'].split())}" if schema.get("description") else ""


def _kind(schema: dict[str, Any]) -> str:
    return _listed(schema["enum"]) if "enum" in schema else _listed(_as_list(schema.get("type", "another value")))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _shown(value: Any) -> str:
    return _shortened(json.dumps(value, default=str))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
