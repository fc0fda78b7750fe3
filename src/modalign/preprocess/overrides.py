"""Changing a recipe by name, and spelling out every parameter of the result.

``{"n4": true}`` switches a step, ``{"n4.shrink": 2}`` or ``{"n4": {"shrink": 2}}`` sets a parameter, and
``{"size": [64, 64, 16]}`` sets the target size of every step that has one.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from modalign.errors import ConfigError
from modalign.preprocess.recipes import RECIPES
from modalign.preprocess.steps import STEPS


def resolve(recipe: str, overrides: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """A recipe's steps that are on, each as ``{"name", "function", "parameters"}`` with every parameter spelled out.

    Raises:
        ConfigError: there is no such recipe, or an override names no step, no parameter, or has the wrong form.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}; the recipes are: {', '.join(RECIPES)}")
    steps: list[dict[str, Any]] = [
        {
            "name": step.name,
            "function": step.function,
            "on": step.on,
            "parameters": defaults(STEPS[step.function]) | dict(step.parameters),
        }
        for step in RECIPES[recipe].steps
    ]
    by_name = {step["name"]: step for step in steps}
    for key, value in _flat(overrides or {}, recipe).items():
        if key == "size":
            _set_size(steps, recipe, value)
            continue
        name, _, parameter = key.partition(".")
        if name not in by_name or (parameter and parameter not in by_name[name]["parameters"]):
            raise ConfigError(f"recipe {recipe} has nothing called {key!r} to override; it has: {known(recipe)}")
        if parameter:
            by_name[name]["parameters"][parameter] = _checked(recipe, key, value, by_name[name]["parameters"])
        elif isinstance(value, bool):
            by_name[name]["on"] = value
        else:
            raise ConfigError(
                f"recipe {recipe}: {key} is a step; write true or false, or its parameters, not {value!r}"
            )
    chosen = [{key: step[key] for key in ("name", "function", "parameters")} for step in steps if step["on"]]
    _refuse_sheared_grids(recipe, chosen)
    return chosen


def _refuse_sheared_grids(recipe: str, steps: Sequence[Mapping[str, Any]]) -> None:
    """An affine registration shears the moving scan's grid, and files have no grids but with right angles."""
    functions = [step["function"] for step in steps]
    for number, step in enumerate(steps):
        affine = step["function"] == "register" and step["parameters"].get("transform") == "affine"
        if affine and "one_grid" not in functions[number:]:
            raise ConfigError(
                f"recipe {recipe}: after {step['name']}.transform: affine the moving scan has to be resampled to the "
                "fixed grid, by the step one_grid, which this recipe hasn't or has switched off: register rigidly"
            )


def defaults(function: Any) -> dict[str, Any]:
    """A step's parameters: its keyword-only arguments with their defaults (None where the recipe has to say)."""
    return {
        name: None if parameter.default is inspect.Parameter.empty else parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def known(recipe: str) -> str:
    """What can be overridden in a recipe, as one line."""
    names = []
    for step in RECIPES[recipe].steps:
        names.append(step.name)
        names.extend(f"{step.name}.{parameter}" for parameter in defaults(STEPS[step.function]))
    return ", ".join(["size", *names])


def _flat(overrides: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping) and "." not in key:
            if key not in {step.name for step in RECIPES[recipe].steps}:
                raise ConfigError(f"recipe {recipe} has no step {key!r} to override; it has: {known(recipe)}")
            flat |= {f"{key}.{parameter}": inner for parameter, inner in value.items()}
        else:
            flat[key] = value
    return flat


def _set_size(steps: list[dict[str, Any]], recipe: str, value: Any) -> None:
    fine = isinstance(value, list | tuple) and len(value) == 3
    if not fine or not all(n is None or (isinstance(n, int) and n > 0) for n in value):
        raise ConfigError(f"recipe {recipe}: size is {value!r}; write three voxel counts, such as [64, 64, 16]")
    for step in steps:
        if "size" in step["parameters"]:
            step["parameters"]["size"] = list(value)


def _checked(recipe: str, key: str, value: Any, parameters: Mapping[str, Any]) -> Any:
    """Refuse a value of another kind than the default: text for a number, a number for a list."""
    default = parameters[key.partition(".")[2]]
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "text"),
        ((list, tuple), "a list"),
    ]
    for kind, words in kinds:
        if isinstance(default, kind):
            if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
                raise ConfigError(f"recipe {recipe}: {key} is {value!r}; write {words}, such as {default!r}")
            break
    return value
