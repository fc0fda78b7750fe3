"""The figures of the papers that are regenerated: what each is drawn from, and by which function."""

import importlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from modalign.errors import ConfigError
from modalign.files import write_json


@dataclass(frozen=True)
class PaperFigure:
    """A figure of a paper.

    Attributes:
        paper: short name.
        number: as printed.
        dataset: the data set that it shows.
        method: the method variant whose alignments it shows.
        function: ``module:function`` that draws it, from the case store, the alignments, the path without suffix and a
            seed, and returns a :class:`~modalign.report.figures_style.FigureNote`.
    """

    paper: str
    number: str
    dataset: str
    method: str
    function: str


FIGURES = (PaperFigure("locor", "1", "cermep-t1-ct", "locor", "modalign.report.figure_locor:make_local_fits"),)


def figures_of(paper: str, cells: Collection[tuple[str, str]]) -> list[PaperFigure]:
    """The figures of a paper whose data set and method are among (data set, variant) pairs."""
    return [figure for figure in FIGURES if figure.paper == paper and (figure.dataset, figure.method) in cells]


def paper_figure(paper: str, number: str) -> PaperFigure:
    """A figure by its number.

    Raises:
        ConfigError: it isn't regenerated.
    """
    for figure in FIGURES:
        if (figure.paper, figure.number) == (paper, number):
            return figure
    known = ", ".join(f"{figure.paper} {figure.number}" for figure in FIGURES)
    raise ConfigError(f"figure {number} of {paper} is not regenerated; these are: {known}")


def make_paper_figure(paper: str, number: str, store: Path, aligned: Path, stem: Path, *, seed: int = 0) -> None:
    """Draw a figure of a paper as ``stem.{png,pdf}``, with its caption in ``stem.json``, last.

    Args:
        paper: short name.
        number: as printed.
        store: case store of its data set.
        aligned: folder of the alignments that it shows.
        stem: path without suffix.
        seed: seeds everything random.

    Raises:
        ConfigError: the figure isn't regenerated.
        DataError: the store or an alignment can't be read.
    """
    module, function = paper_figure(paper, number).function.split(":")
    note = getattr(importlib.import_module(module), function)(store, aligned, stem, seed=seed)
    write_json(stem.with_suffix(".json"), asdict(note))
