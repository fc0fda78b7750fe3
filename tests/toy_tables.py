"""A table of a paper, and metrics files of eight patients to fill it, for the tests of tables."""

from pathlib import Path

import numpy as np

from modalign.papers import Block, Column, Footnote, Row, Table
from modalign.report.result import TableOptions, TableResult
from modalign.report.tables import build_table
from modalign.statistics import COLUMNS

DATA = "learn2reg-abdomen-mr-ct"
N_BOOT = 200


def write(folder: Path, method: str, values: dict[str, list[float]], seed: int = 0, dataset: str = DATA) -> Path:
    """A metrics file with one value per case and metric; metrics with a leading * have one value for the set."""
    lines = ["\t".join(COLUMNS)]
    for metric, numbers in values.items():
        for i, number in enumerate(numbers):
            case = "" if metric.startswith("*") else f"p{i:02d}"
            lines.append(
                "\t".join([dataset, method, str(seed), case, "", "", metric.lstrip("*"), repr(float(number)), ""])
            )
    path = folder / f"{dataset}-{method}-{seed}.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def manifest(n: int, source: str = "real", split: str = "test") -> dict:
    cases = [{"case": f"p{i:02d}", "split": split, "shape": [64, 64, 16]} for i in range(n)]
    return {DATA: {"source": source, "cases": cases}}


def toy(**changes: object) -> Table:
    """A table with printed numbers, borrowed from Locor's."""
    rows = (
        Row("Initial", "identity", reference=True),
        Row("ANTs & co", "syn-locor", "Tools", printed={"method": "ANTs (Mattes MI)"}),
        Row("SRWCR", "srwcr", "Tools", printed={"method": "SRWCR"}),
        Row("Locor", "locor", "Proposed", printed={"method": "Locor (ours)"}),
    )
    columns = (
        Column("dice", "Dice", DATA, "higher", 2, printed={"dataset": DATA, "metric": "dice"}),
        Column("fid", "FID", DATA, "lower", 1),
    )
    note = Footnote("Looks odd.", "misprint", ({"method": "SRWCR", "metric": "dice"},))
    options = {"footnotes": (note,)} | changes
    return Table("locor", 1, "a toy", (Block(rows, columns, "Locor"),), "4 test cases", "Wilcoxon", **options)


def cell(result: TableResult, label: str, column: int = 0, block: int = 0):
    found = result.blocks[block]
    return found.cells[[row.label for row in found.rows].index(label)][column]


def eight_patients(folder: Path) -> dict:
    """Eight patients; identity worst, Locor best, SRWCR close to it."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.6, 0.8, 8)
    values = {
        "identity": base - 0.3,
        "syn-locor": base - 0.1 + rng.normal(0, 0.01, 8),
        "srwcr": base - 0.01 + rng.normal(0, 0.02, 8),
        "locor": base,
    }
    fid = {"identity": 50, "syn-locor": 30, "srwcr": 20, "locor": 10}
    paths = [write(folder, m, {"dice": list(v), "*fid": [fid[m]]}) for m, v in values.items()]
    statuses = {(DATA, m): {"ok": True, "reason": ""} for m in values}
    return {"values": values, "paths": paths, "statuses": statuses, "info": manifest(8)}


def build(eight: dict, table: Table | None = None, info: dict | None = None, **options: object) -> TableResult:
    settings = TableOptions(n_boot=N_BOOT, **options)
    return build_table(table or toy(), eight["paths"], eight["statuses"], info or eight["info"], settings)
