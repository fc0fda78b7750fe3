"""What a configuration picks: data sets, tables, and methods that no paper has."""

from collections.abc import Iterable, Mapping
from typing import Any

from modalign import papers as paper_tables
from modalign.errors import ConfigError
from modalign.variants import Variant, dimensions_on


def chosen_datasets(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The configured data sets without those that are left out."""
    configured = config["datasets"]
    unknown = set(config.get("extra_datasets", ())) - set(configured)
    if unknown:
        raise ConfigError(f"extra_datasets: there is no data set {min(unknown)!r}; they are: {_listed(configured)}")
    unknown = set(config.get("leave_out", ())) - set(configured) - set(config["methods"])
    if unknown:
        raise ConfigError(
            f"leave_out: there is no data set or method {min(unknown)!r}; the data sets are: {_listed(configured)}; "
            f"the methods are: {_listed(config['methods'])}"
        )
    return {name: entry for name, entry in configured.items() if name not in config.get("leave_out", ())}


def chosen_tables(config: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """The tables of the default target: those that `tables` names, and all of the papers that it doesn't name."""
    named = config.get("tables", {})
    chosen = []
    for paper in config["papers"]:
        known = paper_tables.tables(paper)
        numbers = known if named.get(paper) is None else named[paper]
        for number in numbers:
            if number not in known:
                raise ConfigError(f"tables: paper {paper} has no table {number}; its tables are: {_listed(known)}")
            chosen.append((paper, number))
    return tuple(chosen)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def chosen_extra_methods(config: Mapping[str, Any], variants: Mapping[str, Variant]) -> dict[str, tuple[str, ...]]:
    """The methods beyond the papers, by data set: those that it asks for, and own methods that fit it."""
    extra = {}
    for dataset, entry in config["datasets"].items():
        names = [*entry.get("extra_methods", ())]
        names += [n for n in config.get("own_methods", ()) if n not in names and _fits(n, entry, variants)]
        for name in names:
            if name not in variants:
                raise ConfigError(
                    f"data set {dataset} asks for method {name!r}, which is not one of: {', '.join(variants)}"
                )
        extra[dataset] = tuple(names)
    return extra


def _fits(name: str, entry: Mapping[str, Any], variants: Mapping[str, Variant]) -> bool:
    return name not in variants or bool(dimensions_on(variants[name], entry))
