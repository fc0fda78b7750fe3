"""Figures that put methods side by side: which case and slice they choose, and what they write."""

import numpy as np
import pytest
from PIL import Image
from report_results import GRID, REAL, write_alignment, write_store

from modalign.errors import ConfigError
from modalign.files import read_json, write_json, write_text
from modalign.metrics.job import measure_job
from modalign.report import paper_figures
from modalign.report.paper_figures import FIGURES, FigureRow, PaperFigure, RowFiles, figures_of, make_paper_figure
from modalign.volumes import Volume, read_volume, write_volume

CHOICES = ("typical", "gas", "little metal", "much metal")
METAL_ML = {"p1": (2, 1), "p3": (4, 60), "p4": (1, 400)}
"""The slice in which a case has metal, and how many voxels of it; a voxel is 0.012 ml, so that p1 has too little."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A row's files; p2 has gas inside the body in slice 3, and there is metal in three cases."""
    folder = tmp_path_factory.mktemp("paper_figures")
    store = write_store(folder / "store", REAL, truth=True)
    lines = ["case\tmoving"]
    for case in store.ids():
        moving = read_volume(store.folder / case / "moving.nii.gz")
        hu = moving.data * 1000
        if case == "p2":
            hu[15:19, 12:16, 3] = -900
        slice_of, count = METAL_ML.get(case, (0, 0))
        block = hu[8:28, 4:24, slice_of].copy().reshape(-1)
        block[:count] = 2900
        hu[8:28, 4:24, slice_of] = block.reshape(20, 20)
        write_volume(folder / "archive" / f"{case}.nii.gz", Volume(hu.astype(np.int16), GRID.affine))
        lines.append(f"{case}\t{case}.nii.gz")
    write_text(folder / "index" / "cases.tsv", "\n".join(lines) + "\n")
    write_json(folder / "index" / "dataset.json", {"folder": str(folder / "archive"), "moving_modality": "ct"})
    aligned, metrics = [], []
    for method, shift in (("munit", np.array([1, 2, 3, 3, 2, 1])), ("rbg", np.full(6, 4))):
        write_alignment(store, folder / method, shift)
        tsv = folder / f"{method}.tsv"
        measure_job(store.folder, [folder / method / "run-1-of-1.json"], tsv, method=method, seed=0, measures=["gc"])
        aligned.append(folder / method)
        metrics.append(tsv)
    return RowFiles(store.folder, folder / "index", tuple(aligned), tuple(metrics))


def described(*choices):
    methods = (("munit", "MUNIT"), ("rbg", "RbG"))
    return PaperFigure("rbg", "99", "A title", tuple(FigureRow(REAL, methods, f"Row {c}", c, ("gc",)) for c in choices))


def draw(files, monkeypatch, tmp_path, *choices):
    """The note of a figure with one row for each choice."""
    monkeypatch.setattr(paper_figures, "FIGURES", (described(*choices),))
    make_paper_figure("rbg", "99", [files] * len(choices), tmp_path / "figure_99")
    return read_json(tmp_path / "figure_99.json")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("gas", "test case p2 of synthrad2023-mr-ct-pelvis, slice 4 of 6"),
        ("little metal", "test case p3 of synthrad2023-mr-ct-pelvis, slice 5 of 6"),
        ("much metal", "test case p4 of synthrad2023-mr-ct-pelvis, slice 2 of 6"),
    ],
)
def test_case_and_slice_are_those_with_what_is_to_be_seen(files, monkeypatch, tmp_path, choice, words):
    assert words in draw(files, monkeypatch, tmp_path, choice)["caption"]


def test_rows_stand_below_each_other(files, monkeypatch, tmp_path):
    one = draw(files, monkeypatch, tmp_path / "one", "typical")
    four = draw(files, monkeypatch, tmp_path / "four", *CHOICES)
    heights = [Image.open(tmp_path / n / "figure_99.png").height for n in ("one", "four")]
    assert heights[1] == pytest.approx(4 * heights[0], rel=0.1)
    assert one["title"] == "A title"
    assert four["alt"] == "Slices beside fixed and moving scan: " + "; ".join(["MUNIT, RbG"] * 4) + "."
    assert (tmp_path / "four" / "figure_99.pdf").is_file()


def test_a_row_without_a_case_says_so(files, monkeypatch, tmp_path):
    index = tmp_path / "index"
    write_text(index / "cases.tsv", "case\tmoving\n")
    write_json(index / "dataset.json", {"folder": str(tmp_path), "moving_modality": "ct"})
    without = RowFiles(files.store, index, files.aligned, files.metrics)
    note = draw(without, monkeypatch, tmp_path, "typical", "much metal")
    assert "Row much metal: no case of synthrad2023-mr-ct-pelvis." in note["caption"]
    assert "Row typical: test case" in note["caption"]


def test_a_method_that_failed_has_an_empty_place(files, monkeypatch, tmp_path):
    write_json(tmp_path / "failed" / "run-1-of-1.json", {"cases": []})
    one_failed = RowFiles(files.store, files.index, (tmp_path / "failed", files.aligned[1]), files.metrics)
    note = draw(one_failed, monkeypatch, tmp_path, "typical")
    assert "Row typical: test case" in note["caption"]
    none_left = RowFiles(files.store, files.index, (tmp_path / "failed",) * 2, files.metrics)
    assert "no case of" in draw(none_left, monkeypatch, tmp_path, "typical")["caption"]


def test_a_row_needs_the_alignments_of_all_its_methods(files, monkeypatch, tmp_path):
    monkeypatch.setattr(paper_figures, "FIGURES", (described("typical"),))
    fewer = RowFiles(files.store, files.index, files.aligned[:1], files.metrics)
    with pytest.raises(ConfigError, match=r"figure 99 of rbg shows \[2\] methods in its rows"):
        make_paper_figure("rbg", "99", [fewer], tmp_path / "figure_99")
    assert not list(tmp_path.iterdir())


def test_figures_are_drawn_where_all_of_their_methods_run():
    (metal,) = (figure for figure in FIGURES if (figure.paper, figure.number) == ("rbg", "9"))
    assert metal in figures_of("rbg", metal.cells)
    assert metal not in figures_of("rbg", metal.cells - {("synthrad2023-mr-ct-pelvis", "reggan")})
    assert metal not in figures_of("registformer", metal.cells)
