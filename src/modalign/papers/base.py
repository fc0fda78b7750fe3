"""What a table of a paper is: blocks of rows that are compared on the same columns, and the numbers printed there."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

Direction = Literal["higher", "lower", "none"]
"""Which values are better; ``none``: they are reported, and neither ranked nor tested."""
Significance = Literal["p<0.001", "p<0.05", "n.s.", ""]

KEY = ("dataset", "group", "method", "variant", "metric")
"""The columns of `paper_results.csv` that, within a table, identify a number."""
BEATS = "beats_locor_cases"


@dataclass(frozen=True)
class Column:
    """One measure on one data set.

    Attributes:
        metric: name in the metrics files, such as ``hd95_mm``.
        label: heading, with the printed scale or unit.
        dataset: name of the data set in the configuration.
        direction: which values are better.
        digits: decimals shown.
        structure: the structure that is measured; empty for the mean over all structures, or where none applies.
        scale: printed unit = `scale` x measured unit, such as 100 for a Dice in percent.
        group: heading over several columns.
        arm: key into :attr:`Row.arms`, for tables whose columns need different variants of one method.
        printed: the fields of `paper_results.csv` that the column fixes.
    """

    metric: str
    label: str
    dataset: str
    direction: Direction
    digits: int
    structure: str = ""
    scale: float = 1.0
    group: str = ""
    arm: str = ""
    printed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One method, as a table names it.

    Attributes:
        label: name as printed.
        method: name of the method variant in the configuration; None where there is no counterpart.
        group: kind of method as printed.
        arms: variants that differ between columns, by :attr:`Column.arm`; they go before `method`.
        printed: the fields of `paper_results.csv` that the row fixes.
        reference: a row without alignment, which is compared but never marked as best.
        undefined: metrics and data sets on which this row has no meaning.
    """

    label: str
    method: str | None
    group: str = ""
    arms: Mapping[str, str] = field(default_factory=dict)
    printed: Mapping[str, str] = field(default_factory=dict)
    reference: bool = False
    undefined: frozenset[str] = frozenset()

    def variant(self, column: Column) -> str | None:
        """The method variant that fills this row's cell in `column`."""
        return self.arms.get(column.arm, self.method)

    def defined(self, column: Column) -> bool:
        """Whether this row's cell in `column` has a meaning; FID of the reference against itself has none."""
        return not self.undefined & {column.metric, column.dataset}


@dataclass(frozen=True)
class Block:
    """Rows that are compared with each other: best and second best are marked, and tests corrected, within a column.

    `proposed` is the label of the row that the others are tested against.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    proposed: str
    label: str = ""

    @property
    def proposed_row(self) -> Row:
        """The row that the others are tested against."""
        return next(row for row in self.rows if row.label == self.proposed)


@dataclass(frozen=True)
class Footnote:
    """A remark under a table: a number that can't be right as printed, or a definition that is open to doubt.

    `cells` lists which printed numbers carry its mark, each as fields of `paper_results.csv`.
    """

    text: str
    kind: Literal["misprint", "definition"] = "definition"
    cells: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        paper: short name.
        number: as printed, in Arabic digits.
        title: what it compares.
        blocks: one or several comparisons.
        printed_source: data and number of cases behind the printed numbers.
        significance: where the printed significance marks come from.
        unit: the statistical unit of the printed numbers.
        stand_in: says so, if a configured data set is not the paper's but a public stand-in.
        stand_ins: the configured data sets that are.
        split: which cases count.
        extras: whether methods beyond the paper may join.
        proposed_below: the paper marks its own method where its p against every baseline is below this; None without
            such a mark.
        tunes: whether the paper tunes the methods in it, on validation cases.
        ablation: whether it varies parts of the paper's own method.
        show_beats: whether cells show how many cases a method aligns better than the proposed one.
        footnotes: misprints and doubtful definitions.
    """

    paper: str
    number: int
    title: str
    blocks: tuple[Block, ...]
    printed_source: str
    significance: str = "none printed"
    unit: Literal["slice", "patient", "not stated"] = "not stated"
    stand_in: str = ""
    stand_ins: tuple[str, ...] = ()
    split: Literal["test", "validation"] = "test"
    extras: bool = True
    ablation: bool = False
    show_beats: bool = False
    proposed_below: float | None = None
    tunes: bool = False
    footnotes: tuple[Footnote, ...] = ()

    def cells(self) -> Iterator[tuple[Block, Row, Column]]:
        """Every cell, block by block, row by row."""
        for block in self.blocks:
            for row in block.rows:
                for column in block.columns:
                    yield block, row, column


class PrintedRow(NamedTuple):
    """One line of `paper_results.csv`; numbers stay text, with the digits as printed."""

    paper: str
    table: int
    dataset: str
    group: str
    method: str
    variant: str
    metric: str
    mean: str
    sd: str
    significance: Significance


class PrintedValue(NamedTuple):
    """What a paper prints in a cell: text as printed, empty where nothing is."""

    mean: str
    sd: str = ""
    significance: Significance = ""
    beats: str = ""


@cache
def printed_rows() -> tuple[PrintedRow, ...]:
    """Every number in the tables of the five papers."""
    with (Path(__file__).parent / "paper_results.csv").open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        next(lines)
        return tuple(PrintedRow(paper, int(table), *rest) for paper, table, *rest in lines)  # type: ignore[arg-type]


@cache
def _by_key() -> dict[tuple[str | int, ...], PrintedRow]:
    return {(r.paper, r.table, *(getattr(r, name) for name in KEY)): r for r in printed_rows()}


def printed_key(row: Row, column: Column) -> dict[str, str]:
    """The fields of `paper_results.csv` that identify the cell of `row` and `column` within a table."""
    return dict.fromkeys(KEY, "") | dict(row.printed) | dict(column.printed)


def printed_value(table: Table, row: Row, column: Column) -> PrintedValue | None:
    """What the paper prints in the cell of `row` and `column`, or None."""
    key = printed_key(row, column)
    found = _lookup(table, key)
    if found is None:
        return None
    beats = _lookup(table, key | {"metric": BEATS})
    return PrintedValue(found.mean, found.sd, found.significance, beats.mean if beats else "")


def _lookup(table: Table, key: Mapping[str, str]) -> PrintedRow | None:
    return _by_key().get((table.paper, table.number, *(key[name] for name in KEY)))
