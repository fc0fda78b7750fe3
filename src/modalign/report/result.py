"""A finished table: what was reproduced in every cell, and what the paper prints there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from modalign.errors import ConfigError
from modalign.papers import Block, Column, PrintedValue, Row, Table
from modalign.statistics import Unit

BEYOND = "Beyond the paper"
OVER_ALL = "†"
"""The mark of a proposed method that is better than every baseline, see :attr:`Table.proposed_below`."""


@dataclass(frozen=True)
class TableOptions:
    """How a table is made.

    Attributes:
        unit: what is counted as one observation, ``patient`` or ``slice``.
        n_boot: bootstrap draws for an interval.
        seed: seeds the bootstrap.
        confidence: of the intervals.
        extra_methods: method variants that join beyond the paper, with their labels.
        methods: every configured method variant; tells "not run" from "not there yet". None: those with a status.
        tuned: variants whose options this run tunes on validation cases, by data set.
        settings: options in which the rows of an ablation differ, by variant.
        failed: what a case counts on which a method failed: ``drop``, nothing, the mean is over the others; or
            ``unaligned``, the value of the unaligned scans, as a crash counted in Locor's experiments.
    """

    unit: Unit = "patient"
    n_boot: int = 10_000
    seed: int = 0
    confidence: float = 0.95
    extra_methods: Mapping[str, str] = field(default_factory=dict)
    methods: frozenset[str] | None = None
    tuned: Mapping[str, frozenset[str]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failed: Literal["drop", "unaligned"] = "drop"

    def __post_init__(self) -> None:
        if self.unit not in ("patient", "slice"):
            raise ConfigError(f"the statistical unit is {self.unit!r}: write patient or slice")
        if self.failed not in ("drop", "unaligned"):
            raise ConfigError(f"failed cases are to count as {self.failed!r}: write drop or unaligned")
        if self.n_boot < 100:
            raise ConfigError(f"{self.n_boot} bootstrap draws are too few for an interval: write 100 or more")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"the confidence is {self.confidence}: write a number between 0 and 1, such as 0.95")


@dataclass
class Cell:
    """One method on one measure.

    Numbers are in the printed unit (:attr:`Column.scale`); nan where there is none.

    Attributes:
        dataset: as configured.
        method: as configured; None if the method has no counterpart.
        metric: as measured, such as ``fid_random``.
        mean: over units.
        sd: sample standard deviation over units (over seeds for measures of a whole set).
        n: units; 0 for measures of a whole set.
        unit: what was counted: ``slice`` where slices are the unit and the measure has values of them, or ``patient``.
        seeds: runs that were averaged.
        ci_low: lower bound of the interval of the mean.
        ci_high: its upper bound.
        pairs: units that the proposed method has, too.
        difference: mean of this method minus the proposed one over these pairs.
        difference_low: lower bound of its interval.
        difference_high: its upper bound.
        p: of the Wilcoxon signed-rank test against the proposed method.
        p_holm: corrected for the tests in this column.
        smallest_p: the smallest p that so many pairs that differ can give.
        smallest_holm: the smallest corrected p that the column can give, of so many tests.
        beats: pairs on which this method is better.
        mark: ``best`` or ``second`` of the column.
        significance: mark by `p_holm`; on the proposed method :data:`OVER_ALL`, or nothing.
        printed: what the paper prints.
        printed_notes: footnote marks at the printed number.
        missing: why there is no value: never empty if there is none.
        warning: what is wrong with the value, such as cases that failed.
        complete: whether no case is left out that other methods have.
        beyond: whether the row isn't in the paper.
    """

    dataset: str
    method: str | None
    metric: str
    mean: float = math.nan
    sd: float = math.nan
    n: int = 0
    unit: str = ""
    seeds: int = 0
    ci_low: float = math.nan
    ci_high: float = math.nan
    pairs: int = 0
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    smallest_p: float = math.nan
    smallest_holm: float = math.nan
    beats: int = 0
    mark: Literal["", "best", "second"] = ""
    significance: str = ""
    printed: PrintedValue | None = None
    printed_notes: str = ""
    missing: str = ""
    warning: str = ""
    complete: bool = True
    beyond: bool = False


@dataclass(frozen=True)
class ColumnResult:
    """A column with its data.

    Attributes:
        column: as the paper has it.
        label: heading; names random features.
        source: data and number of patients.
        phantom: whether the data are made up.
        random_features: whether the measure uses random weights.
        untested: why no row is tested; empty if they are.
    """

    column: Column
    label: str
    source: str
    phantom: bool
    random_features: bool
    untested: str


@dataclass(frozen=True)
class BlockResult:
    """A block with its rows, those beyond the paper included, and `cells` by row and column."""

    block: Block
    rows: tuple[Row, ...]
    columns: tuple[ColumnResult, ...]
    cells: tuple[tuple[Cell, ...], ...]

    def is_proposed(self, row: Row) -> bool:
        """Whether the others are tested against this row."""
        return row is self.block.proposed_row


@dataclass(frozen=True)
class TableResult:
    """A table, ready to be written.

    Attributes:
        table: what the paper has.
        blocks: what was reproduced.
        options: how.
        warning: set if a reader could take the numbers for something that they are not; shown before anything else.
        caption: sentences.
        footnotes: (mark, text); an empty mark belongs to the whole table.
        provenance: inputs with checksums, options, versions.
    """

    table: Table
    blocks: tuple[BlockResult, ...]
    options: TableOptions
    warning: str
    caption: tuple[str, ...]
    footnotes: tuple[tuple[str, str], ...]
    provenance: Mapping[str, object]
