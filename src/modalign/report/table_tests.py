"""Averages, tests and marks of the cells of a table's column."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from modalign import statistics
from modalign.papers import Block, Column, Row, Table
from modalign.report.result import BEYOND, OVER_ALL, Cell, TableOptions
from modalign.seeds import generator
from modalign.statistics import Samples


def summarise(cell: Cell, rows: pd.DataFrame, column: Column, options: TableOptions) -> Samples | None:
    """Write mean, spread and interval into `cell`; the values per unit come back, None for a measure of a whole set."""
    if (rows["case"] == "").all():
        per_seed = rows.groupby("seed")["value"].mean().to_numpy() * column.scale
        cell.mean, cell.seeds = float(per_seed.mean()), len(per_seed)
        cell.sd = float(per_seed.std(ddof=1)) if len(per_seed) > 1 else math.nan
        return None
    measured = statistics.samples(rows, options.unit)
    sample = replace(measured, values=measured.values * column.scale)
    cell.mean, cell.n, cell.seeds = float(sample.values.mean()), len(sample.values), sample.seeds
    cell.sd = float(sample.values.std(ddof=1)) if cell.n > 1 else math.nan
    cell.unit = "slice" if any(index for _, index in sample.units) else "patient"
    rng = _generator(cell, column, options, "mean")
    cell.ci_low, cell.ci_high = statistics.bootstrap_interval(
        sample.values, sample.patients, rng, options.n_boot, options.confidence
    )
    return sample


def compare(
    cells: list[Cell], values: list[Samples | None], proposed: int, column: Column, options: TableOptions
) -> None:
    """Test every method against the proposed one, in row `proposed`; columns without direction aren't tested."""
    reference = values[proposed]
    if reference is None or column.direction == "none":
        return
    for index, (cell, sample) in enumerate(zip(cells, values, strict=True)):
        if index == proposed or sample is None:
            continue
        mine, theirs, patients = statistics.paired(sample, reference)
        cell.pairs = len(mine)
        if not cell.pairs:
            continue
        cell.p = statistics.wilcoxon_p(mine, theirs)
        cell.smallest_p = statistics.smallest_p(int((mine != theirs).sum()))
        cell.beats, _ = statistics.beats(mine, theirs, column.direction)
        cell.difference = float((mine - theirs).mean())
        rng = _generator(cell, column, options, "difference")
        cell.difference_low, cell.difference_high = statistics.bootstrap_interval(
            mine - theirs, patients, rng, options.n_boot, options.confidence
        )
    # By the pairs, not by those that differ: ties may be the methods' doing.
    tested = [statistics.smallest_p(cell.pairs) for cell in cells if not math.isnan(cell.p)]
    for cell, p in zip(cells, statistics.holm([cell.p for cell in cells]), strict=True):
        cell.p_holm = float(p)
        if not math.isnan(p):
            cell.smallest_holm = min(1.0, len(tested) * min(tested))
            cell.significance = "**" if p < 0.001 else "*" if p < 0.05 else "n.s."


def mark_best(rows: tuple[Row, ...], cells: list[Cell], column: Column) -> None:
    """Mark best and second best; equal means share a mark, unaligned references get none.

    In a column without direction nothing is better, so nothing is marked. A mean over fewer cases than other methods
    have may be one over easier ones: it is neither marked nor in the way of a mark.
    """
    if column.direction == "none":
        return
    sign = -1 if column.direction == "higher" else 1
    ranked = [
        cell
        for row, cell in zip(rows, cells, strict=True)
        if not row.reference and cell.complete and not math.isnan(cell.mean)
    ]
    means = sorted({sign * cell.mean for cell in ranked})
    for cell in ranked:
        place = means.index(sign * cell.mean)
        if place < 2 and len(means) > 1:
            cell.mark = ("best", "second")[place]


def mark_proposed(table: Table, block: Block, rows: tuple[Row, ...], cells: list[Cell], column: Column) -> None:
    """Mark the proposed method where the paper's own claim holds: better than every baseline by the table's p.

    Baselines are the paper's rows outside the proposed method's group, as far as they have results. As in the paper,
    the p of each test stands for itself, without a correction.
    """
    if table.proposed_below is None:
        return
    baselines = [
        cell
        for row, cell in zip(rows, cells, strict=True)
        if row.group not in (block.proposed_row.group, BEYOND) and not row.reference and not math.isnan(cell.mean)
    ]
    sign = -1 if column.direction == "higher" else 1
    if baselines and all(cell.p < table.proposed_below and sign * cell.difference > 0 for cell in baselines):
        cells[rows.index(block.proposed_row)].significance = OVER_ALL


def _generator(cell: Cell, column: Column, options: TableOptions, purpose: str) -> np.random.Generator:
    return generator(options.seed, cell.dataset, cell.method or "", cell.metric, column.structure, purpose)
