"""The five papers: which tables they have, which methods and measures fill them, and what is printed there."""

from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module

from modalign.errors import ConfigError
from modalign.papers.base import (
    Block,
    Column,
    Footnote,
    PrintedRow,
    PrintedValue,
    Row,
    Table,
    printed_key,
    printed_rows,
    printed_value,
)

__all__ = [
    "MISPRINTS",
    "TITLES",
    "Block",
    "Column",
    "Footnote",
    "PrintedRow",
    "PrintedValue",
    "Row",
    "Table",
    "cells",
    "fits",
    "measures_for",
    "papers",
    "printed",
    "printed_key",
    "printed_value",
    "splits_for",
    "tables",
]

TITLES = {
    "rbg": "Cross-Modality Image Registration via Generating Aligned Image using Reference-Augmented Framework",
    "registformer": "Improving Pelvic MR-CT Image Alignment with Self-supervised Reference-Augmented Pseudo-CT "
    "Generation Framework",
    "locor": "New Multimodal Similarity Measure for Image Registration via Modeling Local Functional Dependence with "
    "Linear Combination of Learned Basis Functions",
    "imse": "Indescribable Multi-modal Spatial Evaluator",
    "cao2018": "Deep Learning based Inter-Modality Image Registration Supervised by Intra-Modality Similarity",
}


def papers() -> tuple[str, ...]:
    """Short names of the papers."""
    return tuple(TITLES)


@cache
def tables(paper: str) -> dict[int, Table]:
    """The tables of a paper by number.

    Raises:
        ConfigError: there is no such paper.
    """
    if paper not in TITLES:
        raise ConfigError(f"there is no paper {paper!r}; the papers are: {', '.join(TITLES)}")
    return {table.number: table for table in import_module(f"{__name__}.{paper}").TABLES}


def printed(paper: str, table: int) -> tuple[PrintedRow, ...]:
    """The numbers printed in a table.

    Raises:
        ConfigError: the paper has no such table.
    """
    if table not in tables(paper):
        known = ", ".join(map(str, tables(paper)))
        raise ConfigError(f"paper {paper} has no table {table} of results; its tables are: {known}")
    return tuple(row for row in printed_rows() if (row.paper, row.table) == (paper, table))


def fits(method: str, column: Column) -> bool:
    """Whether a method beyond the paper belongs in a column: one named -2d or -3d stays out of the other's columns."""
    other = {"2d": "-3d", "3d": "-2d"}.get(column.arm)
    return other is None or not method.endswith(other)


def cells(
    paper: str,
    methods: Iterable[str],
    datasets: Iterable[str],
    extra_methods: Iterable[str] = (),
    numbers: Iterable[int] | None = None,
) -> set[tuple[str, str]]:
    """The (data set, method variant) pairs that a paper's tables need, as far as both are configured.

    Args:
        paper: short name.
        methods: method variants of the configuration.
        datasets: data sets of the configuration.
        extra_methods: variants of `methods` that join the tables beyond the paper.
        numbers: the tables that count; None for all.
    """
    methods, datasets, extra_methods = set(methods), set(datasets), set(extra_methods)
    needed = set()
    wanted = tables(paper) if numbers is None else set(numbers)
    for table in (tables(paper)[number] for number in wanted):
        for _, row, column in table.cells():
            method = row.variant(column)
            if method is not None:
                needed.add((column.dataset, method))
            if table.extras:
                needed |= {(column.dataset, extra) for extra in extra_methods if fits(extra, column)}
    return {(dataset, method) for dataset, method in needed if dataset in datasets and method in methods}


def measures_for(dataset: str, papers: Iterable[str]) -> set[str]:
    """Names of the measures that the papers' tables show for a data set."""
    return {column.metric for _, column in _columns(papers) if column.dataset == dataset}


def splits_for(dataset: str, papers: Iterable[str]) -> set[str]:
    """The splits of a data set that the papers' tables report on."""
    return {table.split for table, column in _columns(papers) if column.dataset == dataset}


def _columns(papers: Iterable[str]) -> Iterator[tuple[Table, Column]]:
    for paper in papers:
        for table in tables(paper).values():
            for block in table.blocks:
                for column in block.columns:
                    yield table, column


MISPRINTS: dict[tuple[str, int], tuple[Footnote, ...]] = {
    (paper, number): notes
    for paper in TITLES
    for number, table in tables(paper).items()
    if (notes := tuple(note for note in table.footnotes if note.kind == "misprint"))
}
"""Printed numbers that can't be right, by paper and table; each is a footnote under its table."""
