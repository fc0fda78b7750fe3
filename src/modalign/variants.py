"""The method variants of a configuration: what they are, and whether they can be."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalign.errors import ConfigError
from modalign.methods import Context, method_class

TRAINED_VGG_WIDTH = 64
"""Channels of VGG-19 that trained weights fit; methods whose losses take fewer use random ones."""


@dataclass(frozen=True)
class Variant:
    """A named method of the configuration: which method, in which dimension, with which options.

    Without a dimension it takes the highest that the method and the data set have in common.
    """

    name: str
    method: str
    dimension: int | None
    options: Mapping[str, Any]
    needs: Mapping[str, str]
    seeds: tuple[int, ...]
    shards: int
    minutes: float | None
    threads: int

    @property
    def trained(self) -> bool:
        """Whether it learns from training cases."""
        return method_class(self.method).is_trained()

    @property
    def accelerated(self) -> bool:
        """Whether a GPU makes it faster."""
        return self.trained or method_class(self.method).accelerated


def read_variant(name: str, entry: Mapping[str, Any], config: Mapping[str, Any]) -> Variant:
    """A variant from its entry in the configuration.

    Raises:
        ConfigError: there is no such method, or its options aren't right.
    """
    kind = _with_name(name, lambda: method_class(entry["method"]))
    dimension = entry.get("dimension")
    # null in an overlay takes back what the configuration below it sets.
    options = {key: value for key, value in entry.get("options", {}).items() if value is not None}
    # As the job will make it, so that options that don't go with its needs are refused now.
    stand_ins: Any = dict.fromkeys(entry.get("needs", {}))
    context = Context(model=Path(), needs=stand_ins)
    made = _with_name(name, lambda: kind(options, dimension or max(kind.dimensions), context))
    files = config.get("features", {}).get("files", {})
    if files.get("vgg19") and getattr(made.options, "vgg_width", None) == TRAINED_VGG_WIDTH:
        options.setdefault("vgg19", files["vgg19"])
    if files.get("inception") and "inception" in type(made.options).model_fields:
        options.setdefault("inception", files["inception"])
    # Tuned methods are judged over several runs, as trained ones are (Locor, section 5.1).
    repeated = kind.is_trained() or name in config.get("tuning", {}).get("methods", ())
    seeds = entry.get("seeds") or (config["seeds"] if repeated else config["seeds"][:1])
    return Variant(
        name=name,
        method=entry["method"],
        dimension=dimension,
        options=options,
        needs=entry.get("needs", {}),
        seeds=tuple(seeds),
        shards=entry.get("shards", 1),
        minutes=entry.get("minutes", config.get("minutes")),
        threads=entry.get("threads", 1),
    )


def _with_name(name: str, make: Any) -> Any:
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"methods: {name}: {error}") from error


def check_needs(variant: Variant, variants: Mapping[str, Variant]) -> None:
    """Whether the methods on which a variant builds are named, exist and are of the right kind."""
    kind = method_class(variant.method)
    missing = sorted(set(kind.needs) - set(variant.needs))
    if missing:
        roles = ", ".join(f"{role}: <a {kind.needs[role]} method>" for role in missing)
        raise ConfigError(f"methods: {variant.name}: {variant.method} builds on other methods; add needs: {{{roles}}}")
    for role, name in variant.needs.items():
        if name not in variants:
            raise ConfigError(
                f"methods: {variant.name}: its {role} {name!r} is not one of the methods: {', '.join(variants)}"
            )
        found = method_class(variants[name].method).kind
        if role in kind.needs and found != kind.needs[role]:
            raise ConfigError(
                f"methods: {variant.name}: its {role} has to be a {kind.needs[role]} method, and {name!r} is a {found}"
            )


def dimensions_of(variant: Variant) -> set[int]:
    """The dimensions in which a variant can run."""
    return {variant.dimension} if variant.dimension else set(method_class(variant.method).dimensions)


def dimensions_on(variant: Variant, entry: Mapping[str, Any]) -> set[int]:
    """The dimensions in which a variant can run on a data set."""
    return dimensions_of(variant) & set(entry.get("dimensions", (2, 3)))


def check_dimensions(dataset: str, datasets: Mapping[str, Any], variant: Variant) -> None:
    """Whether a variant and a data set have a dimension in common."""
    if dimensions_on(variant, datasets[dataset]):
        return
    words = " or ".join(f"{d}D" for d in datasets[dataset]["dimensions"])
    own = f"{variant.dimension}D" if variant.dimension else f"{min(method_class(variant.method).dimensions)}D"
    raise ConfigError(
        f"data set {dataset} takes {words} methods, and {variant.name} is {own}: "
        f"set its dimension, or take it off that data set"
    )


def differing_options(variants: Iterable[Variant]) -> dict[str, dict[str, Any]]:
    """The options in which variants of the same method differ, defaults of their presets included, by variant."""
    found: dict[str, dict[str, Any]] = {}
    by_method: dict[str, dict[str, dict[str, Any]]] = {}
    for variant in variants:
        kind = method_class(variant.method)
        dimension = max(kind.dimensions) if variant.dimension is None else variant.dimension
        options = kind(variant.options, dimension).options.model_dump(mode="json")
        by_method.setdefault(variant.method, {})[variant.name] = options
    for alike in by_method.values():
        first = next(iter(alike.values()))
        varied = [option for option in first if any(options[option] != first[option] for options in alike.values())]
        found |= {name: {option: options[option] for option in varied} for name, options in alike.items()}
    return found
