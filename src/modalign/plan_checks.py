"""What a configuration says about data sets, measures and tables, checked before anything runs."""

from collections.abc import Collection, Mapping
from pathlib import Path
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


def check_split(name: str, entry: Mapping[str, Any], source: str) -> None:
    """Whether a split that is named is a paper's, the published one, or a file; `source` is that of the archive."""
    from modalign.datasets.splits import PRESETS

    split = entry.get("split")
    if not isinstance(split, str) or split in PRESETS or split == "published":
        return
    archive = (
        Path("results/archives") / source / entry["archive"] if source in ("phantom", "download") else Path(source)
    )
    # As for the index: a relative path starts here, or where the scans lie.
    starts = (Path(), archive.parent if archive.is_file() else archive)
    if not any((start / split).is_file() for start in starts):
        raise ConfigError(
            f"datasets: {name}: split {split!r} is no file, and no known name: the names are {', '.join(PRESETS)} and "
            "published; a file has lines of case, tab, split; counts are written as {train: 8, validation: 2, test: 4}"
        )


def check_proposed(name: str, entry: Mapping[str, Any], compared: Collection[str]) -> None:
    """Whether the method that the others are tested against is one of those that are compared on a data set."""
    proposed = entry.get("proposed")
    if proposed is not None and proposed not in compared:
        raise ConfigError(
            f"datasets: {name}: proposed: {proposed!r} is not compared on this data set; write one of those that are: "
            f"{', '.join(sorted(compared))}"
        )


def check_tables(tables: Mapping[str, Any], papers: Collection[str]) -> None:
    """Whether the keys of `tables` are papers; those that the run doesn't regenerate have no effect."""
    for paper in tables:
        if paper not in papers:
            raise ConfigError(f"tables: there is no paper {paper!r}; the papers are: {', '.join(papers)}")


def check_segmentation(options: Mapping[str, Any]) -> None:
    """Whether segmentation has the options that it is given, with values that can be."""
    from modalign.segmentation import parse_options

    parse_options(options)


def check_measure_options(where: str, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Whether measures exist and have the options that they are given, with values that can be."""
    from modalign.metrics import measure_by_name

    for name, values in options.items():
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: {name} is {values!r}: write its options by name, such as {{region: mask}}")
        try:
            measure_by_name(name).resolve(values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
