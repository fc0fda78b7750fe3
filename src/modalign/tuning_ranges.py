"""Where tuning looks for the options of each method: the search ranges of Locor's experiments (section 5.1)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalign.errors import ConfigError
from modalign.files import read_json

Number = int | float


@dataclass(frozen=True)
class Range:
    """The values that an option may take.

    Attributes:
        low: smallest value.
        high: largest value.
        log: search evenly in the logarithm.
        integer: whole numbers only.
        multiples: the option is a tuple, these multiples of the searched number; whole numbers if `integer`.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False
    multiples: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.low < self.high or not math.isfinite(self.high - self.low) or (self.log and self.low <= 0):
            raise ConfigError(
                f"a search range runs from low up to high, with low above 0 if log; not {self.low}, {self.high}"
            )

    def option(self, value: Number) -> Any:
        """The option that a searched number stands for."""
        if not self.multiples:
            return round(value) if self.integer else value
        parts = tuple(factor * value for factor in self.multiples)
        return tuple(round(part) for part in parts) if self.integer else parts

    def searched(self, option: Any) -> Number | None:
        """The number in the range that stands for an option, or None if there is none."""
        if option is None:
            return None
        if self.multiples and len(option) != len(self.multiples):
            return None
        number = option[0] / self.multiples[0] if self.multiples else option
        return number if self.low <= number <= self.high else None


Ranges = Mapping[str, Range]
"""Search ranges by the name of the option."""


def ranges_of(method: str, options: Mapping[str, Any]) -> dict[str, Range]:
    """The published search ranges of a method whose resolved options are `options`; empty if there are none."""
    return _RANGES[method](options) if method in _RANGES else {}


def read_range(entry: Mapping[str, Any]) -> Range:
    """A range from the configuration: low, high and, optionally, log, integer and multiples.

    Raises:
        ConfigError: low isn't below high, or not above 0 with log.
    """
    return Range(**{**entry, "multiples": tuple(entry.get("multiples", ()))})


def tuned_spec(spec: Mapping[str, Any], chosen: Path) -> dict[str, Any]:
    """A method's specification with the options that :func:`modalign.tuning.choose_job` wrote, before its own."""
    return {**spec, "options": {**spec.get("options", {}), **read_json(chosen)["options"]}}


_WEIGHT = Range(1e-1, 1e4, log=True)
_RATE = Range(1e-3, 1e-1, log=True)
_OPTIMISER = {"smoothness_weight": _WEIGHT, "affine_learning_rate": _RATE, "learning_rate": _RATE}


def _locor(options: Mapping[str, Any]) -> dict[str, Range]:
    window = {**_OPTIMISER, "window_sigma": Range(0.35, 4.0)}
    if options["basis"] == "polynomial":
        return {**window, "degree": Range(1, 3 if options["derivative"] else 5, integer=True)}
    return {**window, "network_learning_rate": _RATE, "functions": Range(1, 5, integer=True)}


def _instance(options: Mapping[str, Any]) -> dict[str, Range]:
    """Other measures in Locor's optimiser; the learning rates are those of the first version of the experiments."""
    if options["similarity"] == "srwcr":
        return {
            **_OPTIMISER,
            "learning_rate": Range(1e-2, 5e-2, log=True),
            "stride": Range(3, 5, integer=True),
        }
    shared = {
        **_OPTIMISER,
        "affine_learning_rate": Range(1e-3, 2e-2, log=True),
        "learning_rate": Range(1e-2, 1e-1, log=True),
    }
    if options["similarity"] in ("mi", "nmi"):
        return {**shared, "bins": Range(10, 24, integer=True), "quantile": Range(0.0, 0.05)}
    return shared


def _niftyreg(options: Mapping[str, Any]) -> dict[str, Range]:
    penalties = {"bending_energy": Range(1e-4, 1e-2, log=True), "linear_energy": Range(1e-3, 1e-1, log=True)}
    return penalties if options["similarity"] == "nmi" else {**penalties, "mind_offset": Range(1, 2, integer=True)}


def _syn(options: Mapping[str, Any]) -> dict[str, Range]:
    steps = [name for name in ("rigid_step", "affine_step", "step") if options[name] is not None]
    return {
        **dict.fromkeys(steps, Range(0.1, 2.0)),
        "winsorize_quantile": Range(0.0, 0.05),
        "update_variance": Range(0.5, 8.0),
        "total_variance": Range(0.0, 2.0),
        "linear_iterations": Range(50, 200, integer=True, multiples=(10, 5, 2.5, 1)),
        "iterations": Range(20, 80, integer=True, multiples=(5, 3.5, 2.5, 1)),
    }


def _corrfield(options: Mapping[str, Any]) -> dict[str, Range]:
    ranges = {
        "alpha": Range(0.1, 100.0, log=True),
        "beta": Range(1.0, 1000.0, log=True),
        "gamma": Range(1.0, 10.0),
        "delta": Range(1, 2, integer=True),
    }
    # The published radii are those of three stages; a preset with fewer keeps its own.
    if len(options["search_radius"]) == 3:
        ranges["search_radius"] = Range(4, 16, integer=True, multiples=(2, 2, 1))
    return ranges


_RANGES: dict[str, Callable[[Mapping[str, Any]], dict[str, Range]]] = {
    "locor": _locor,
    "instance": _instance,
    "niftyreg": _niftyreg,
    "syn": _syn,
    "corrfield": _corrfield,
}
