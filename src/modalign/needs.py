"""What a method builds on, as a job or a command line describes it."""

from collections.abc import Mapping
from typing import Any

from modalign.errors import ConfigError
from modalign.methods import Method, method_class


def check_needs(spec: Mapping[str, Any], kind: type[Method]) -> None:
    """Whether the methods that one builds on are given, each as a mapping with a method of the right kind.

    Raises:
        ConfigError: one is missing, not described as :func:`modalign.runs.build_method` wants it, or of another kind.
    """
    given, name = spec.get("needs", {}), spec["method"]
    wanted = ", ".join(f'"{role}": {{"method": <a {of} method>}}' for role, of in kind.needs.items())
    missing = sorted(set(kind.needs) - set(given))
    if missing:
        raise ConfigError(f"method {name} builds on other methods: it needs {{{wanted}}}")
    for role, needed in given.items():
        if not isinstance(needed, Mapping) or "method" not in needed:
            raise ConfigError(f'the {role} of method {name} is {needed!r}; write {{"method": its name}}')
        found = method_class(needed["method"]).kind
        if found != kind.needs.get(role, found):
            raise ConfigError(
                f"the {role} of method {name} has to be a {kind.needs[role]} method, and {needed['method']} is a "
                f"{found}"
            )


def shared_dimension(spec: Mapping[str, Any], needed: Mapping[str, Any]) -> int:
    """The dimension of a needed method that states none: that of the one that builds on it, where it can work so."""
    able = method_class(needed["method"]).dimensions
    return spec["dimension"] if spec["dimension"] in able else max(able)
