"""Sentences that say what the numbers of a table are: whose data, how many, tested how."""

import math
from collections.abc import Mapping
from typing import Any

from modalign.cases import patients_of
from modalign.metrics import LOST
from modalign.papers import Table
from modalign.report.result import OVER_ALL, BlockResult, TableOptions

NAMES = {
    "rbg": "RbG",
    "registformer": "RegistFormer",
    "locor": "Locor",
    "imse": "IMSE",
    "cao2018": "Cao et al. 2018",
}


def heading(table: Table) -> str:
    """Paper, number and what is compared; what is compared alone where there is no paper."""
    if not table.printed_source:
        return table.title[:1].upper() + table.title[1:]
    return f"{NAMES.get(table.paper, table.paper)}, table {table.number}: {table.title}"


def data_label(dataset: str, manifest: Mapping[str, Any] | None, split: str) -> str:
    """The data of a column in few words, such as ``phantom 64 × 64 × 16, n = 4 patients``."""
    if manifest is None:
        return "no data"
    cases = [case for case in manifest["cases"] if case["split"] == split]
    shapes = {tuple(case["shape"]) for case in cases if case.get("shape")}
    size = " × ".join(map(str, shapes.pop())) if len(shapes) == 1 else "sizes vary" if shapes else ""
    kind = "phantom" if manifest.get("source") == "phantom" else ""
    what = " ".join(part for part in (kind, size) if part)
    number = len(set(patients_of(manifest, split).values()))
    people = patients(number, pairs=bool(manifest.get("between_patients")))
    return ", ".join(part for part in (what, f"n = {people}") if part)


def patients(number: int, pairs: bool = False) -> str:
    """A number of patients, or of pairs of patients, in words."""
    one, many = ("pair of patients", "pairs of patients") if pairs else ("patient", "patients")
    return f"1 {one}" if number == 1 else f"{number} {many}"


def warning(table: Table, blocks: tuple[BlockResult, ...], info: Mapping[str, Mapping[str, Any]]) -> str:
    """What must not be overlooked: phantoms, random features, a stand-in for private data; empty if nothing."""
    columns = [column for block in blocks for column in block.columns]
    present = [column for column in columns if column.column.dataset in info]
    parts = []
    if any(column.phantom for column in present):
        all_phantom = all(column.phantom for column in present)
        which = "" if all_phantom else " in the columns marked so"
        parts.append(
            f"PHANTOM DATA{which}: the reproduced numbers come from made-up anatomy, not from the paper's patients. "
            "They test the methods and the code, and can't be compared with the printed numbers."
        )
    if any(column.random_features for column in columns):
        parts.append(
            "RANDOM FEATURES: columns named so use networks with random weights. They are not the published measures."
        )
    if table.stand_in and any(column.column.dataset in table.stand_ins and not column.phantom for column in present):
        parts.append("STAND-IN DATA: " + table.stand_in)
    return " ".join(parts)


def caption(
    table: Table, blocks: tuple[BlockResult, ...], options: TableOptions, info: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    """The caption, sentence by sentence."""
    cells = [cell for block in blocks for row in block.cells for cell in row]
    unit = "patients" if options.unit == "patient" else "slices"
    first = "seeds and slices are averaged within a patient first" if unit == "patients" else "seeds are averaged first"
    below = ", and below it, smaller, what the paper prints" if table.printed_source else ""
    lines = [f"Each cell: reproduced mean ± sd over {unit} ({first}){below}."]
    if any(cell.seeds and not cell.n for cell in cells):
        lines.append("A measure of the whole set, such as FID, has one value per seed, and its sd is over seeds.")
    if any(LOST in cell.warning for cell in cells):
        lines.append(
            "Where a method lost a structure that the truth has, its surface distance is the diagonal of the fixed "
            "grid, so that losing a structure is never better than placing it badly; such values are marked."
        )
    if options.failed == "unaligned":
        lines.append("A case on which a method failed counts as if it had not been aligned.")
    lines.append(_reproduced(blocks, table, info))
    if table.printed_source:
        lines += [f"Printed: {table.printed_source}.", _printed_tests(table)]
    lines += _settings(table, options)
    if table.tunes:
        lines += _tuned(table, blocks, options)
    if table.stand_in:
        lines.append(table.stand_in)
    if table.split == "validation":
        lines.append("Validation cases, as in the paper.")
    lines.append(_marks(blocks))
    lines += _tests(table, blocks, options)
    if options.unit == "slice":
        lines.append("Slices of one patient are alike, so p values over slices are too small.")
        lines.append(_per_case(blocks))
    seeds = sorted({cell.seeds for cell in cells if cell.seeds})
    if seeds:
        lines.append("Seeds: " + (str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}") + ".")
    if table.show_beats:
        lines.append(f"b/n: the number of {unit}, of n, on which a method is better than the proposed one.")
    return tuple(line for line in lines if line)


def _per_case(blocks: tuple[BlockResult, ...]) -> str:
    """Which columns have no values of slices, where slices are the unit."""
    columns = [(c, cells) for b in blocks for c, cells in zip(b.columns, zip(*b.cells, strict=True), strict=True)]
    labels = dict.fromkeys(column.label for column, cells in columns if any(cell.unit == "patient" for cell in cells))
    return f"{', '.join(labels)}: one value per case, so that patients are the unit there." if labels else ""


def _settings(table: Table, options: TableOptions) -> list[str]:
    """What the rows of an ablation are in this run: their names are the paper's, and small networks differ from it."""
    sentences = []
    for block in table.blocks:
        proposed = options.settings.get(block.proposed_row.method or "")
        if not proposed:
            continue
        others = {row.label: options.settings.get(row.method or "", {}) for row in block.rows}
        told = [
            f"{label}: {_listed({option: value for option, value in varied.items() if value != proposed.get(option)})}"
            for label, varied in others.items()
            if varied and varied != proposed
        ]
        named = f"Rows are named as in the paper. In this run {block.proposed} has {_listed(proposed)}"
        sentences.append(f"{named}, and otherwise {'; '.join(told)}." if told else f"{named}.")
    return list(dict.fromkeys(sentences))


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{option} {value}" for option, value in options.items())


def _marks(blocks: tuple[BlockResult, ...]) -> str:
    references = list(dict.fromkeys(row.label for block in blocks for row in block.rows if row.reference))
    marks = "Best in bold, second best underlined."
    if references:
        marks += f" Not ranked: {' and '.join(references)}, where the methods start."
    cells = [cell for block in blocks for row in block.cells for cell in row]
    if any(not cell.complete and not cell.missing for cell in cells):
        marks += " Methods that lack cases which others have aren't ranked: their means may be over easier ones."
    return marks


def _reproduced(blocks: tuple[BlockResult, ...], table: Table, info: Mapping[str, Mapping[str, Any]]) -> str:
    datasets = dict.fromkeys(column.column.dataset for block in blocks for column in block.columns)
    known = [f"{name} ({data_label(name, info[name], table.split)})" for name in datasets if name in info]
    absent = [name for name in datasets if name not in info]
    text = f"Reproduced on: {', '.join(known)}." if known else "Nothing reproduced yet."
    return text + (f" Not in this run: {', '.join(absent)}." if absent else "")


def _tuned(table: Table, blocks: tuple[BlockResult, ...], options: TableOptions) -> list[str]:
    """Which of the reproduced rows are tuned as in the paper, and what that does to validation cases."""
    cells = [(row.label, cell) for b in blocks for row, of_row in zip(b.rows, b.cells, strict=True) for cell in of_row]
    shown = dict.fromkeys(label for label, cell in cells if cell.method)
    tuned = dict.fromkeys(label for label, cell in cells if cell.method in options.tuned.get(cell.dataset, ()))
    if not tuned:
        return ["No method of this table is tuned in this run: all run with the options of the configuration."]
    others = [label for label in shown if label not in tuned]
    as_configured = f"; as configured: {', '.join(others)}" if others else ""
    lines = [f"Tuned on the validation cases in this run: {', '.join(tuned)}{as_configured}."]
    if table.split == "validation":
        lines.append("Tuned rows are measured on the cases that they are tuned on, which flatters them.")
    return lines


def _printed_tests(table: Table) -> str:
    if table.significance == "none printed":
        return "The paper prints no significance in this table."
    unit = f" (over {table.unit}s)" if table.unit != "not stated" else ""
    return f"Printed marks{unit}: {table.significance}."


def _hopeless(blocks: tuple[BlockResult, ...]) -> list[str]:
    """A warning of the columns in which no difference, however large, could be significant."""
    columns = [cells for block in blocks for cells in zip(*block.cells, strict=True)]
    reached = [[cell.smallest_holm for cell in cells if not math.isnan(cell.smallest_holm)] for cells in columns]
    least = [min(found) for found in reached if found]
    vain = [p for p in least if p >= 0.05]
    if not vain:
        return []
    if len(vain) < len(least):
        return [
            f"In {len(vain)} of {len(least)} columns there are too few pairs for so many tests: no corrected p can be "
            "below 0.05, whatever the difference, and n.s. says nothing there."
        ]
    return [
        f"With so few pairs and so many tests no corrected p can be below {min(vain):.2g}, whatever the difference: "
        "n.s. says nothing here."
    ]


def _tests(table: Table, blocks: tuple[BlockResult, ...], options: TableOptions) -> list[str]:
    cells = [cell for block in blocks for row in block.cells for cell in row]
    names = " or ".join(dict.fromkeys(block.block.proposed for block in blocks))
    absent = [block.block for block in blocks if any("proposed" in column.untested for column in block.columns)]
    tested = [cell for cell in cells if cell.significance]
    lines = []
    if tested:
        over = "patients" if options.unit == "patient" else "slices"
        lines.append(
            f"Marks: Wilcoxon signed-rank test against {names} over {over}, two-sided, pairs without difference "
            f"dropped, Holm-corrected over the rows of a column: ** p < 0.001, * p < 0.05, n.s. p ≥ 0.05."
        )
        lines += _hopeless(blocks)
    if table.proposed_below is not None:
        least = math.ceil(1 - math.log2(table.proposed_below))
        lines.append(
            f"{OVER_ALL}, the paper's mark of its own method: better than every baseline that has results, each with "
            f"p < {table.proposed_below:g}, uncorrected, for which at least {least} pairs are needed."
        )
    if any(not math.isnan(cell.ci_low) for cell in cells):
        lines.append(
            f"Intervals: {options.confidence:.0%} percentile bootstrap over patients, {options.n_boot} draws; they are "
            "too narrow for fewer than ten patients."
        )
    if absent:
        lines.append(f"Nothing is tested where the proposed method ({names}) has no results.")
    return lines
