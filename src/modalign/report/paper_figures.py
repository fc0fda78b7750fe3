"""The figures of the papers that are regenerated: what each is drawn from, and by which function."""

import importlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from modalign.errors import ConfigError
from modalign.files import write_json

Choice = Literal["typical", "gas", "little metal", "much metal"]
COMPARISON = "modalign.report.figure_comparison:make_comparison"


@dataclass(frozen=True)
class FigureRow:
    """One data set in a figure.

    Attributes:
        dataset: its name.
        methods: method variants, each with what it is called in the figure.
        title: what the row is about.
        choice: how the case and the slice are chosen: a case near the median; where the reference holds most gas; the
            cases with least and most metal, of those with any.
        measures: metrics that are written on the pictures.
    """

    dataset: str
    methods: tuple[tuple[str, str], ...]
    title: str = ""
    choice: Choice = "typical"
    measures: tuple[str, ...] = ("gc", "nmi")


@dataclass(frozen=True)
class PaperFigure:
    """A figure of a paper.

    Attributes:
        paper: short name.
        number: as printed.
        title: what it shows.
        rows: what it is drawn from.
        segmented: it shows structures that a segmenter has found in the aligned images.
        function: ``module:function`` that draws it, from this description, the :class:`RowFiles` of its rows, the path
            without suffix and a seed, and returns a :class:`~modalign.report.figures_style.FigureNote`.
    """

    paper: str
    number: str
    title: str
    rows: tuple[FigureRow, ...]
    function: str = COMPARISON
    segmented: bool = False

    @property
    def cells(self) -> frozenset[tuple[str, str]]:
        """The (data set, variant) pairs that it shows."""
        return frozenset((row.dataset, method) for row in self.rows for method, _ in row.methods)


@dataclass(frozen=True)
class RowFiles:
    """Where the results of a row lie.

    Attributes:
        store: case store.
        index: folder of the data set's index, by which the scans as they came are found.
        aligned: folder of the alignments of each method, in the order of the row.
        metrics: metrics files of the methods.
        segmented: folder of the label maps of each method, in the order of the row; empty where the figure shows none.
    """

    store: Path
    index: Path
    aligned: tuple[Path, ...]
    metrics: tuple[Path, ...]
    segmented: tuple[Path, ...] = ()


_PELVIS, _BRAIN = "synthrad2023-mr-ct-pelvis", "synthrad2023-cbct-ct-brain"
_RBG, _REGISTFORMER = ("rbg", "RbG"), ("registformer", "RegistFormer")
_REGISTRATIONS = (
    ("syn-rbg", "SyN"),
    ("voxelmorph-2d-munit", "VoxelMorph 2D"),
    ("lapirn-3d-munit", "LapIRN 3D"),
    ("gradicon-2d-munit", "GradICON 2D"),
)
_REGISTRATIONS_3D = (
    ("syn-rbg", "SyN"),
    ("voxelmorph-3d-munit", "VoxelMorph 3D"),
    ("lapirn-3d-munit", "LapIRN 3D"),
    ("gradicon-3d-munit", "GradICON 3D"),
)
_TRANSLATIONS = (("sc-cyclegan", "SC-CycleGAN"), ("unit", "UNIT"), ("munit", "MUNIT"), ("reggan", "RegGAN"))
_SEGMENTED = (("identity", "CT before alignment"), ("voxelmorph-2d-munit", "VoxelMorph 2D"), ("munit", "MUNIT"))
_SEGMENTATIONS = "modalign.report.figures_segmentation:make_segmentation_figure"
_AT_GAS = (("munit", "MUNIT"), _RBG)
_AT_METAL = (("reggan", "RegGAN"), _RBG)

FIGURES = (
    PaperFigure(
        "rbg",
        "3",
        "Registration methods and RbG",
        (
            FigureRow(_PELVIS, (*_REGISTRATIONS, _RBG), measures=("nmi",)),
            FigureRow(_BRAIN, (*_REGISTRATIONS_3D, _RBG), measures=("nmi",)),
        ),
    ),
    PaperFigure(
        "rbg",
        "4",
        "Translation methods and RbG",
        tuple(FigureRow(name, (*_TRANSLATIONS, _RBG)) for name in (_PELVIS, _BRAIN)),
    ),
    PaperFigure(
        "rbg",
        "5",
        "Features of the reference, in RbG and MUNIT",
        (
            FigureRow(_PELVIS, _AT_GAS, "A typical case"),
            FigureRow(_PELVIS, _AT_GAS, "Most gas in the reference", "gas"),
        ),
    ),
    PaperFigure(
        "rbg",
        "6",
        "Structures found in the aligned images",
        (FigureRow(_PELVIS, (*_SEGMENTED, _RBG)),),
        _SEGMENTATIONS,
        segmented=True,
    ),
    PaperFigure(
        "rbg",
        "7",
        "Translation of aligned T1 and T2 images",
        (
            FigureRow(
                "ixi-t1-t2-aligned",
                (("unit", "UNIT"), ("munit", "MUNIT"), _RBG),
                measures=("psnr", "ssim"),
            ),
        ),
    ),
    PaperFigure(
        "rbg",
        "8",
        "Ablations of RbG",
        (
            FigureRow(
                _PELVIS,
                tuple((f"rbg-stage1-{n}", f"factor {n}") for n in ("global", "64", "32", "16", "8")),
                "Stage 1: the factor of PAdaIN",
            ),
            FigureRow(
                _PELVIS,
                (
                    ("rbg-mind-contextual", "MIND + contextual"),
                    ("rbg-patchnce", "PatchNCE"),
                    ("rbg-patchnce-l1", "PatchNCE + L1"),
                    ("rbg", "PatchNCE + contextual"),
                ),
                "Stage 2: the losses",
            ),
            FigureRow(
                _PELVIS,
                (
                    ("rbg-stage1-32", "stage 1"),
                    ("rbg-window-1", "window 1"),
                    ("rbg-no-field", "without field"),
                    ("rbg", "as proposed"),
                ),
                "From stage 1 to stage 2: window and field of the attention",
            ),
        ),
    ),
    PaperFigure(
        "rbg",
        "9",
        "Failures at metal",
        (
            FigureRow(_PELVIS, _AT_METAL, "Little metal", "little metal"),
            FigureRow(_PELVIS, _AT_METAL, "Much metal", "much metal"),
        ),
    ),
    PaperFigure(
        "registformer",
        "5",
        "Translation methods and RegistFormer",
        (FigureRow(_PELVIS, (*_TRANSLATIONS, _REGISTFORMER)),),
    ),
    PaperFigure(
        "registformer",
        "6",
        "Registration methods and RegistFormer",
        (FigureRow(_PELVIS, (*_REGISTRATIONS, _REGISTFORMER), measures=("nmi",)),),
    ),
    PaperFigure(
        "registformer",
        "7",
        "Structures found in the aligned images",
        (FigureRow(_PELVIS, (*_SEGMENTED, _REGISTFORMER)),),
        _SEGMENTATIONS,
        segmented=True,
    ),
    PaperFigure(
        "locor",
        "1",
        "Intensity pairs in local windows, with locally fitted functions",
        (FigureRow("cermep-t1-ct", (("locor", "Locor"),)),),
        "modalign.report.figure_locor:make_local_fits",
    ),
)


def figures_of(paper: str, cells: Collection[tuple[str, str]]) -> list[PaperFigure]:
    """The figures of a paper all of whose cells are among (data set, variant) pairs."""
    return [figure for figure in FIGURES if figure.paper == paper and figure.cells <= set(cells)]


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


def make_paper_figure(paper: str, number: str, rows: Sequence[RowFiles], stem: Path, *, seed: int = 0) -> None:
    """Draw a figure of a paper as ``stem.{png,pdf}``, with its caption in ``stem.json``, last.

    Args:
        paper: short name.
        number: as printed.
        rows: where the results of each of its rows lie.
        stem: path without suffix.
        seed: seeds everything random.

    Raises:
        ConfigError: the figure isn't regenerated, or has another number of rows.
        DataError: a store or an alignment can't be read.
    """
    described = paper_figure(paper, number)
    wanted = [len(row.methods) for row in described.rows]
    if [len(row.aligned) for row in rows] != wanted:
        raise ConfigError(f"figure {number} of {paper} shows {wanted} methods in its rows; got other alignments")
    module, function = described.function.split(":")
    note = getattr(importlib.import_module(module), function)(described, rows, stem, seed=seed)
    write_json(stem.with_suffix(".json"), asdict(note))
