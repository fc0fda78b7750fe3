"""The methods: every module in this folder that defines a :class:`~modalign.methods.base.Method` is one."""

import importlib
import pkgutil
from functools import cache

from modalign.errors import ConfigError
from modalign.methods.base import Context, Method

__all__ = ["Context", "Method", "method_class", "method_names"]


def method_names() -> list[str]:
    """The names that a configuration may use: one per module, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and not m.name.startswith("_"))


@cache
def method_class(name: str) -> type[Method]:
    """The method that the module `name` defines.

    Raises:
        ConfigError: there is no such module, or it doesn't define exactly one method.
    """
    if name not in method_names():
        raise ConfigError(f"there is no method {name!r}; the methods are: {', '.join(method_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(f"{module.__file__} has to define one subclass of Method, and defines {len(found)}")
    return found[0]
