"""The paper tables against the file of printed numbers."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from modalign import papers
from modalign.errors import ConfigError
from modalign.metrics import MEASURES
from modalign.papers.base import BEATS, KEY, printed_rows

ALL = [table for paper in papers.papers() for table in papers.tables(paper).values()]


def printed(paper: str, table: int, **fields: str) -> dict[str, float]:
    """Printed means by metric."""
    found = [r for r in papers.printed(paper, table) if all(getattr(r, k) == v for k, v in fields.items())]
    return {row.metric: float(row.mean) for row in found}


def test_tables_of_each_paper() -> None:
    numbers = {paper: list(papers.tables(paper)) for paper in papers.papers()}
    assert numbers == {
        "rbg": [1, 2, 3, 4, 5, 6, 7, 8],
        "registformer": [1, 2, 3, 4],
        "locor": [1, 2],
        "imse": [2, 3, 4, 5],
        "cao2018": [1],
    }


def test_every_printed_number_has_one_cell() -> None:
    shown = Counter(
        (table.paper, table.number, *(papers.printed_key(row, column)[name] for name in KEY))
        for table in ALL
        for _, row, column in table.cells()
    )
    for line in printed_rows():
        key = (line.paper, line.table, *(getattr(line, name) for name in KEY))
        if line.metric == BEATS:
            assert sum(shown[(*key[:-1], metric)] for metric in ("dice", "mae_hu", "tre_voxel")) == 1
        else:
            assert shown[key] == 1, key


def test_cells_without_a_printed_number_are_those_of_the_papers() -> None:
    blank = Counter(
        (table.paper, table.number, row.label)
        for table in ALL
        for _, row, column in table.cells()
        if papers.printed_value(table, row, column) is None
    )
    assert blank == {
        ("rbg", 1, "Reference image"): 2,
        ("rbg", 2, "Reference image"): 2,
        ("rbg", 2, "RegGAN"): 2,
        ("rbg", 4, "Misaligned test set"): 3,
        ("registformer", 1, "Reference CT"): 1,
        ("locor", 1, "corrField"): 1,
        ("imse", 2, "Initial"): 16,
    }


def test_some_cells_by_eye() -> None:
    rbg = papers.tables("rbg")[1]
    block = rbg.blocks[0]
    munit = next(row for row in block.rows if row.label == "MUNIT")
    kid = next(column for column in block.columns if column.metric == "kid")
    assert papers.printed_value(rbg, munit, kid) == ("1.34", "0.35", "p<0.001", "")
    locor = papers.tables("locor")[1]
    srwcr = next(row for row in locor.blocks[0].rows if row.label == "SRWCR")
    assert papers.printed_value(locor, srwcr, locor.blocks[0].columns[1]) == ("64.51", "13.51", "", "1/34")


@pytest.mark.parametrize("table", ALL, ids=lambda t: f"{t.paper}-{t.number}")
def test_tables_are_consistent(table: papers.Table) -> None:
    for block in table.blocks:
        labels = [row.label for row in block.rows]
        assert len(set(labels)) == len(labels)
        assert block.proposed_row.label == block.proposed
        for column in block.columns:
            measure = MEASURES[column.metric]
            assert measure.better in (column.direction, "reference")
            methods = [row.variant(column) for row in block.rows]
            assert None not in methods
            assert len(set(methods)) == len(methods)
            assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", method or "") for method in methods)
    keys = [papers.printed_key(row, column) for other in ALL for _, row, column in other.cells()]
    for note in table.footnotes:
        for marked in note.cells:
            assert any(marked.items() <= key.items() for key in keys), marked


class TestMisprints:
    """The remarks say what the printed numbers say."""

    def test_where_they_are(self) -> None:
        assert set(papers.MISPRINTS) == {
            ("rbg", 1),
            ("rbg", 2),
            ("rbg", 5),
            ("rbg", 7),
            ("rbg", 8),
            ("registformer", 1),
            ("imse", 5),
        }

    def test_numbers_that_contradict_each_other(self) -> None:
        for method, metric, other in (
            ("RegGAN", "nmi", "RegGAN"),
            ("UNIT", "sharpness", "UNIT"),
            ("Voxelmorph (2D)", "fid", "VoxelMorph(2D)"),
        ):
            text = " ".join(note.text for note in papers.MISPRINTS["rbg", 1])
            for value in (printed("rbg", 1, method=method), printed("registformer", 1, method=other)):
                assert f"{value[metric]:g}" in text

    def test_copied_rows(self) -> None:
        ten = printed("rbg", 8, method="RbG (Proposed)", variant="train=10%")
        assert ten == printed("rbg", 8, method="RbG (Proposed)", variant="train=20%")

    def test_psnr_beside_its_ssim(self) -> None:
        values = printed("imse", 5, method="IMSE", dataset="brats2019-t1-t2")
        assert values == {"nmae": 0.029, "psnr": 91.6, "ssim": 0.96}

    def test_stand_ins_are_named(self) -> None:
        for table in ALL:
            private = {c.dataset for _, _, c in table.cells() if c.dataset.startswith(("hanseg", "goldatlas"))}
            assert private == private & set(table.stand_ins)
            assert bool(private) == bool(table.stand_in)


class TestNeeds:
    def test_cells_keep_to_what_is_configured(self) -> None:
        found = papers.cells("locor", {"syn-locor", "identity"}, {"cermep-t1-ct", "ixi-t2-pd"})
        assert found == {("cermep-t1-ct", "syn-locor"), ("ixi-t2-pd", "syn-locor")}

    def test_extra_methods_join_but_not_in_ablations(self) -> None:
        found = papers.cells("rbg", {"convexadam"}, {"synthrad2023-mr-ct-pelvis", "ixi-t1-t2-rigid"}, {"convexadam"})
        assert found == {("synthrad2023-mr-ct-pelvis", "convexadam"), ("ixi-t1-t2-rigid", "convexadam")}
        ablations = [table for table in papers.tables("rbg").values() if not table.extras]
        assert [table.number for table in ablations] == [5, 6, 7, 8]

    def test_2d_and_3d_variants_go_to_their_columns(self) -> None:
        methods = {"voxelmorph-ncc-2d", "voxelmorph-ncc-3d", "mine-2d"}
        found = papers.cells("imse", methods, {"brats2019-t1-to-t2-2d", "brats2019-t1-to-t2-3d"}, {"mine-2d"})
        assert found == {
            ("brats2019-t1-to-t2-2d", "voxelmorph-ncc-2d"),
            ("brats2019-t1-to-t2-2d", "mine-2d"),
            ("brats2019-t1-to-t2-3d", "voxelmorph-ncc-3d"),
        }

    def test_translations_use_the_data_set_that_registers_the_other_way(self) -> None:
        columns = [block.columns[0] for block in papers.tables("imse")[5].blocks]
        assert [column.dataset for column in columns] == ["brats2019-t1-to-t2-2d", "hanseg-ct-to-mr-2d"]
        assert [column.printed["group"] for column in columns] == ["T2->T1", "MR->CT"]

    def test_measures(self) -> None:
        assert papers.measures_for("ixi-t1-t2-rigid", papers.papers()) == {"psnr", "ssim", "lpips"}
        pelvis = papers.measures_for("synthrad2023-mr-ct-pelvis", ["rbg"])
        assert pelvis == {"gc", "nmi", "fid", "kid", "sharpness", "segmented_dice", "segmented_hausdorff_mm"}
        assert papers.measures_for("synthrad2023-mr-ct-pelvis", ["locor"]) == set()

    def test_splits(self) -> None:
        assert papers.splits_for("ixi-t2-pd", ["locor"]) == {"test", "validation"}
        assert papers.splits_for("synthrad2023-mr-ct-pelvis", papers.papers()) == {"test"}

    def test_unknown_names(self) -> None:
        with pytest.raises(ConfigError, match="no paper 'rgb'; the papers are: rbg"):
            papers.tables("rgb")
        with pytest.raises(ConfigError, match=r"imse has no table 1 of results; its tables are: 2, 3, 4, 5"):
            papers.printed("imse", 1)


def test_import_needs_no_heavy_library() -> None:
    code = (
        "import sys, modalign.papers as p; p.tables('rbg');"
        "print([m for m in ('pandas', 'torch', 'scipy', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    source = Path(papers.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(source)}
    )
    assert result.stdout.strip() == "[]"
