"""What a configuration says about a data set and its measures, checked before anything runs."""

from collections.abc import Mapping
from typing import Any

from modalign.errors import ConfigError


def check_dataset(name: str, entry: Mapping[str, Any]) -> None:
    """Whether reader, recipe and measures of a data set exist and understand their options."""
    from modalign.datasets import reader
    from modalign.metrics import measure_by_name
    from modalign.preprocess.overrides import resolve

    try:
        reader(entry["reader"]).parse(entry.get("options", {}))
        resolve(entry["recipe"], entry.get("overrides", {}))
        for measure in entry.get("measures", ()):
            measure_by_name(measure)
        check_measure_options("measure_options", entry.get("measure_options", {}))
    except ConfigError as error:
        raise ConfigError(f"datasets: {name}: {error}") from error


def check_measure_options(where: str, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Whether measures exist and have the options that they are given, with values that can be."""
    from modalign.metrics import measure_by_name

    for name, values in options.items():
        try:
            measure_by_name(name).resolve(values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
