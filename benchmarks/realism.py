"""How close the phantoms come to real scans: the papers' measures before any alignment, and pictures to look at.

``python benchmarks/realism.py`` makes phantoms, prepares them with the papers' recipes, measures the rows without
alignment, and writes ``table.md``, ``table.json`` and the pictures of :mod:`realism_page`.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scenes import make_phantom

from modalign.files import write_json, write_text
from modalign.metrics.job import measure_job
from modalign.metrics.table import read_metrics
from modalign.papers import PrintedValue, Row, printed_value, tables
from modalign.preprocess.prepare import prepare
from modalign.runs import align_job

IDENTITY = {"method": "identity", "dimension": 3}


@dataclass(frozen=True)
class Experiment:
    """A paper's row without alignment, on a phantom.

    Attributes:
        paper: short name.
        table: number of the table that prints the row.
        dataset: as the configuration calls it.
        archive: the phantom.
        reader: of the archive.
        options: of the reader.
        recipe: of the paper.
        size: voxels of the phantom.
        prepared: voxels after preparation, None keeps an axis; None altogether lets the recipe resample as it says.
        measures: those that can be compared with the print.
        measure_options: by measure.
        variant: how the recipe is changed, in words.
        overrides: the same for the recipe.
    """

    paper: str
    table: int
    dataset: str
    archive: str
    reader: str
    options: dict[str, Any]
    recipe: str
    size: tuple[int, int, int]
    prepared: tuple[int | None, int | None, int | None] | None
    measures: tuple[str, ...]
    measure_options: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)


MILDER = (
    ("both scans misaligned", {"misalign.of": "all"}),
    (
        "both scans as in the released 3D settings",
        {
            "misalign.of": "all",
            "misalign.rotation_deg": [1.0, 1.0, 1.0],
            "misalign.translation_half_fov": [0.01, 0.01, 0.005],
            "misalign.scale": 0.01,
            "misalign.alpha_voxels": 120.0,
        },
    ),
)
"""Other readings of how much IMSE misaligned its test cases; the printed overlap tells which is the likely one."""


def experiments(in_plane: tuple[int, int], slices: int, native: bool) -> list[Experiment]:
    """What is compared: RbG's two data sets without truth, and the overlap that IMSE's experiments start from."""
    unlabelled = ("gc", "nmi", "sharpness")
    pelvis = Experiment(
        *("rbg", 1, "synthrad2023-mr-ct-pelvis", "synthrad2023-task1-pelvis", "synthrad2023"),
        {"task": 1, "region": "pelvis"},
        "rbg-pelvis",
        (480, 400, 100) if native else (*in_plane, slices),
        None if native else (*in_plane, slices),
        unlabelled,
    )
    cbct = Experiment(
        *("rbg", 2, "synthrad2023-cbct-ct-brain", "synthrad2023-task2-brain", "synthrad2023"),
        {"task": 2, "region": "brain"},
        "rbg-cbct",
        (200, 232, 200) if native else (200, 232, slices),
        None if native else (196, 196, slices),
        unlabelled,
    )
    imse = []
    for dataset, archive, reader, options, recipe in (
        ("brats2019-t1-to-t2", "brats2019", "brats", {"moving": "t1", "fixed": "t2"}, "imse-{}"),
        ("hanseg-ct-to-mr", "hanseg", "hanseg", {"moving": "ct", "fixed": "mr"}, "imse-{}-clinical"),
    ):
        small = (128, 128, 48)
        volumes = Experiment(
            "imse", 2, f"{dataset}-3d", archive, reader, options, recipe.format("3d"), small, small, ("dice",)
        )
        by_slice = {"dice": {"per_slice": True}}
        planes = replace(volumes, dataset=f"{dataset}-2d", recipe=recipe.format("2d"), measure_options=by_slice)
        for base in (planes, volumes):
            imse += [base, *[replace(base, variant=words, overrides=changes) for words, changes in MILDER]]
    return [pelvis, cbct, *imse]


@dataclass(frozen=True)
class Comparison:
    """A measure on phantoms beside the printed one; means and standard deviations over slices or cases."""

    paper: str
    dataset: str
    variant: str
    measure: str
    phantom: float
    phantom_sd: float
    n: int
    unit: str
    printed: PrintedValue

    @property
    def distance(self) -> float:
        """How many printed standard deviations lie between both means."""
        return abs(self.phantom - float(self.printed.mean)) / float(self.printed.sd)


def run(experiment: Experiment, out: Path, patients: int, seed: int, workers: int) -> list[Comparison]:
    """Make the phantom (unless it is there), index, prepare, align by doing nothing, and measure."""
    from modalign.datasets.index import index_dataset

    size = "x".join(map(str, experiment.size))
    archive = out / "archives" / f"{experiment.archive}-{size}-seed{seed}"
    make_phantom(experiment.archive, archive, experiment.size, patients, seed, workers)
    work = out / "runs" / "-".join([experiment.dataset, *experiment.variant.split()])
    # Nyul's landmarks need training cases; IMSE misaligns test cases only.
    fitted = experiment.recipe == "rbg-pelvis"
    train = max(patients - 1, 1) if fitted else 0
    split = {"train": train, "test": patients - train}
    index_dataset(
        experiment.dataset,
        experiment.reader,
        archive,
        work / "index",
        options=experiment.options,
        split=split,
        seed=seed,
    )
    overrides = {} if experiment.prepared is None else {"size": list(experiment.prepared)}
    overrides |= experiment.overrides
    prepare(work / "index", experiment.recipe, work / "cases", overrides=overrides, seed=seed, workers=workers)
    splits = list(split)
    align_job(IDENTITY, work / "cases", work / "aligned", seed=seed, device="cpu", splits=splits)
    measure_job(
        work / "cases",
        [work / "aligned" / "run-1-of-1.json"],
        work / "metrics.tsv",
        method="identity",
        seed=seed,
        measures=experiment.measures,
        splits=splits,
        options=experiment.measure_options,
    )
    return list(_compare(experiment, work / "metrics.tsv"))


def _compare(experiment: Experiment, metrics: Path) -> Iterator[Comparison]:
    rows = read_metrics(metrics)
    table = tables(experiment.paper)[experiment.table]
    for _, row, column in table.cells():
        if column.dataset != experiment.dataset or column.metric not in experiment.measures or not _unaligned(row):
            continue
        printed = printed_value(table, row, column)
        found = [r for r in rows if r.metric == column.metric]
        by_slice = found[0].slice is not None
        # A structure is one value of its slice or case, as in the papers' means.
        units = sorted({(r.case, r.slice) for r in found})
        values = [np.mean([r.value for r in found if (r.case, r.slice) == unit]) * column.scale for unit in units]
        if printed is None or not printed.sd:
            continue
        yield Comparison(
            experiment.paper,
            experiment.dataset,
            experiment.variant,
            column.metric,
            float(np.mean(values)),
            float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            len(values),
            "slices" if by_slice else "cases",
            printed,
        )


def _unaligned(row: Row) -> bool:
    return row.reference and row.method == "identity"


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as a Markdown table."""
    lines = [
        "| paper | data set | measure | phantom | n | printed | apart |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        digits = max(len(c.printed.mean.partition(".")[2]), 1)
        phantom = f"{c.phantom:.{digits}f} ± {c.phantom_sd:.{digits}f}"
        printed = f"{c.printed.mean} ± {c.printed.sd}"
        dataset = f"{c.dataset}, {c.variant}" if c.variant else c.dataset
        lines.append(
            f"| {c.paper} | {dataset} | {c.measure} | {phantom} | {c.n} {c.unit} | {printed} | {c.distance:.1f} sd |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, and draw the pictures."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    out: Path = arguments.out
    results: list[Comparison] = []
    chosen = experiments(tuple(arguments.size), arguments.slices, arguments.native)
    for experiment in chosen if not arguments.no_table else []:
        if arguments.only and arguments.only not in experiment.dataset:
            continue
        results += run(experiment, out, arguments.patients, arguments.seed, arguments.workers)
        print(markdown(results[-len(experiment.measures) :]), flush=True)
    if results:
        write_text(out / "table.md", markdown(results))
        write_json(
            out / "table.json", [{**vars(c), "printed": c.printed._asdict(), "apart": c.distance} for c in results]
        )
    if not arguments.no_page:
        from realism_page import draw_page

        real = os.environ.get("MODALIGN_REAL_SCANS")
        for path in draw_page(out, Path(real) if real else None, arguments.seed, arguments.workers):
            print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/realism"), help="folder to write")
    parser.add_argument("--size", type=int, nargs=2, default=(384, 320), metavar=("X", "Y"), help="pelvis voxels")
    parser.add_argument("--slices", type=int, default=12, help="slices of the pelvis and of the CBCT heads")
    parser.add_argument("--native", action="store_true", help="the archives' own voxels instead; minutes a patient")
    parser.add_argument("--patients", type=int, default=3, help="of every phantom")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--only", help="part of a data set's name; the others are left out")
    parser.add_argument("--no-table", action="store_true", help="pictures only")
    parser.add_argument("--no-page", action="store_true", help="table only")
    return parser


if __name__ == "__main__":
    main()
