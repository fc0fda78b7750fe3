"""Tables compare like with like: lost structures, failed cases, columns that only report, the paper's own mark."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from toy_tables import DATA, N_BOOT, cell, manifest, toy, write

from modalign.cases import CaseStore
from modalign.errors import ConfigError
from modalign.evaluate import compare_job, read_statuses
from modalign.files import read_json, write_json
from modalign.metrics import LOST
from modalign.metrics.table import Row as Line
from modalign.metrics.table import write_metrics
from modalign.papers import Block, Column, Row, Table, tables
from modalign.plan import make_plan
from modalign.report import render_html, render_latex, render_markdown
from modalign.report.own import comparison_table
from modalign.report.result import OVER_ALL, TableOptions, TableResult
from modalign.report.summary import lowest_true_errors
from modalign.report.tables import build_table

GOOD = {"ok": True, "reason": ""}
ORGANS = (Row("Unaligned", "identity", reference=True), Row("A", "a"), Row("B", "b"))


def organs(*structures: str) -> Table:
    """HD95 of methods a and b: over all structures, or of one each."""
    columns = [Column("hd95_mm", "HD95", DATA, "lower", 1, structure) for structure in structures or ("",)]
    return Table("own", 1, "a toy", (Block(ORGANS, tuple(columns), "A"),), "")


def distances(folder: Path, method: str, values: dict[tuple[str, str], float]) -> Path:
    """A metrics file of HD95 by case and structure."""
    path = folder / f"{method}.tsv"
    write_metrics(path, [Line(DATA, method, 0, case, None, organ, "hd95_mm", v) for (case, organ), v in values.items()])
    return path


class TestLostStructures:
    NOTE = f"rectum {LOST} (1 of 2 cases)"

    def build(self, folder: Path, *structures: str) -> TableResult:
        paths = [
            distances(folder, "a", {("p00", "rectum"): 3, ("p00", "bladder"): 2, ("p01", "rectum"): 4}),
            distances(folder, "b", {("p00", "rectum"): 100, ("p00", "bladder"): 2, ("p01", "rectum"): 4}),
        ]
        statuses = {(DATA, "a"): GOOD, (DATA, "b"): GOOD | {"notes": {"test": {"hd95_mm": [self.NOTE]}}}}
        return build_table(organs(*structures), paths, statuses, manifest(2), TableOptions(n_boot=N_BOOT))

    def test_cell_and_caption_say_so(self, tmp_path: Path) -> None:
        result = self.build(tmp_path)
        assert (cell(result, "A").warning, cell(result, "B").warning) == ("", self.NOTE)
        assert cell(result, "A").mark == "best"
        assert "its surface distance is the diagonal" in " ".join(result.caption)
        assert self.NOTE[:30] in render_html.render(result)

    def test_only_in_columns_of_that_structure(self, tmp_path: Path) -> None:
        result = self.build(tmp_path, "rectum", "bladder")
        assert [cell(result, "B", column).warning for column in (0, 1)] == [self.NOTE, "1 of 2 patients"]

    def test_what_is_lost_in_another_split_is_no_remark(self, tmp_path: Path) -> None:
        paths = [distances(tmp_path, m, {("p00", "rectum"): v}) for m, v in (("a", 3), ("b", 2))]
        statuses = {(DATA, "a"): GOOD, (DATA, "b"): GOOD | {"notes": {"validation": {"hd95_mm": [self.NOTE]}}}}
        result = build_table(organs(), paths, statuses, manifest(1), TableOptions(n_boot=N_BOOT))
        assert cell(result, "B").warning == ""

    def test_dropped_values_are_counted(self, tmp_path: Path) -> None:
        paths = [
            distances(tmp_path, "a", {("p00", "rectum"): 3, ("p00", "bladder"): 2}),
            distances(tmp_path, "b", {("p00", "bladder"): 2}),
        ]
        statuses = {(DATA, m): GOOD for m in ("a", "b")}
        result = build_table(organs(), paths, statuses, manifest(1), TableOptions(n_boot=N_BOOT))
        assert cell(result, "B").warning == "1 of 2 values of structures"
        assert cell(result, "A").warning == ""
        assert "diagonal" not in " ".join(result.caption)

    def test_so_are_slices(self, tmp_path: Path) -> None:
        """GC has no value where an image has no edges: half of a blank volume must not pass for a good one."""
        paths = []
        for method, slices in (("a", 4), ("b", 1)):
            paths.append(tmp_path / f"{method}.tsv")
            write_metrics(paths[-1], [Line(DATA, method, 0, "p00", z, "", "gc", 0.5 + z / 10) for z in range(slices)])
        table = Table("own", 1, "a toy", (Block(ORGANS, (Column("gc", "GC", DATA, "higher", 2),), "A"),), "")
        result = build_table(table, paths, {}, manifest(1), TableOptions(n_boot=N_BOOT))
        assert cell(result, "B").warning == "1 of 4 slices"
        assert cell(result, "A").warning == ""


class TestFailedCases:
    def build(self, folder: Path, **options: str) -> TableResult:
        paths = [
            write(folder, "identity", {"dice": [0.2, 0.3, 0.4]}),
            write(folder, "syn-locor", {"dice": [0.5, 0.6, 0.7]}),
            write(folder, "locor", {"dice": [0.8, 0.8, 0.8]}),
            write(folder, "srwcr", {"dice": [0.9, 0.9], "*fid": [3.0]}),
        ]
        statuses = {(DATA, m): GOOD for m in ("identity", "syn-locor", "locor")}
        statuses[DATA, "srwcr"] = {"ok": False, "reason": "p02: crashed", "failed": {"0": ["p02"]}}
        return build_table(toy(), paths, statuses, manifest(3), TableOptions(n_boot=N_BOOT, **options))

    def test_are_dropped_by_default(self, tmp_path: Path) -> None:
        found = cell(self.build(tmp_path), "SRWCR")
        assert (found.mean, found.n) == (pytest.approx(0.9), 2)
        assert found.warning == "incomplete: p02: crashed"

    def test_leave_a_mean_that_is_not_the_best(self, tmp_path: Path) -> None:
        """The cases on which a method didn't fail may have been the easy ones."""
        result = self.build(tmp_path)
        marks = [cell(result, row).mark for row in ("SRWCR", "Locor", "ANTs & co")]
        assert marks == ["", "best", "second"]
        assert cell(result, "SRWCR", 1).mark == ""
        assert not cell(result, "SRWCR", 1).complete
        assert "Methods that lack cases which others have aren't ranked" in " ".join(result.caption)
        lines = [
            {"metric": "tre_mm", "method": method, "mean": mean, "n": n}
            for method, mean, n in (("few", "1.0", "2"), ("all", "2.0", "3"), ("worse", "3.0", "3"))
        ]
        assert [line["method"] for line in lowest_true_errors(lines)] == ["all"]

    def test_in_another_split_take_no_mark_away(self, tmp_path: Path) -> None:
        info = manifest(3)
        info[DATA]["cases"].append({"case": "v00", "split": "validation", "shape": [64, 64, 16]})
        paths = [write(tmp_path, m, {"dice": [v] * 3}) for m, v in (("locor", 0.8), ("srwcr", 0.9))]
        statuses = {(DATA, "locor"): GOOD, (DATA, "srwcr"): {"ok": False, "reason": "v00: crashed"}}
        statuses[DATA, "srwcr"]["failed"] = {"0": ["v00"]}
        result = build_table(toy(), paths, statuses, info, TableOptions(n_boot=N_BOOT))
        assert (cell(result, "SRWCR").mark, cell(result, "SRWCR").warning) == ("best", "")

    def test_count_as_unaligned(self, tmp_path: Path) -> None:
        result = self.build(tmp_path, failed="unaligned")
        found = cell(result, "SRWCR")
        assert (found.mean, found.n, found.pairs) == (pytest.approx((0.9 + 0.9 + 0.4) / 3), 3, 3)
        assert found.warning == "failed cases count as unaligned: p02: crashed"
        assert cell(result, "Locor").mark == "best"
        assert "counts as if it had not been aligned" in " ".join(result.caption)

    def test_otherwise(self) -> None:
        unknown: Any = "zero"
        with pytest.raises(ConfigError, match="count as 'zero': write drop or unaligned"):
            TableOptions(failed=unknown)

    def test_statuses_of_all_seeds(self, tmp_path: Path) -> None:
        paths = []
        for seed, failed in ((0, []), (1, ["p1"]), (2, ["p1", "p2"])):
            paths.append(tmp_path / f"seed{seed}.tsv")
            record = {"dataset": "d", "method": "m", "seed": seed, "ok": not failed, "reason": f"seed {seed}"}
            write_json(
                paths[-1].with_suffix(".json"), record | {"failed": failed, "notes": {"test": {"dice": f"note {seed}"}}}
            )
        status = read_statuses(paths)["d", "m"]
        assert (status["ok"], status["reason"]) == (False, "seed 1")
        assert status["failed"] == {"1": ["p1"], "2": ["p1", "p2"]}
        assert status["notes"] == {"test": {"dice": ["note 0", "note 1", "note 2"]}}


class TestColumnsThatOnlyReport:
    @pytest.fixture
    def result(self, tmp_path: Path) -> TableResult:
        values = {"identity": (1.0, 0.02), "locor": (9.0, 0.03), "srwcr": (5.0, 0.01)}
        paths = [
            write(
                tmp_path, m, {"seconds": [s] * 8, "*peak_memory_mb": [100 * s], "tv_z": [tv] * 8, "dice": [s / 10] * 8}
            )
            for m, (s, tv) in values.items()
        ]
        costs = ["seconds", "peak_memory_mb"]
        table = comparison_table(DATA, {m: m for m in values}, ["dice", "tv_z"], "identity", costs=costs)
        statuses = {(DATA, m): GOOD for m in values}
        return build_table(table, paths, statuses, manifest(8), TableOptions(n_boot=N_BOOT))

    def test_have_values_and_no_marks(self, result: TableResult) -> None:
        assert [c.mean for c in (cell(result, "srwcr", i) for i in range(4))] == [0.5, 0.01, 5.0, 500.0]
        assert [cell(result, "locor", column).mark for column in range(4)] == ["best", "", "", ""]
        assert all(np.isnan(cell(result, "locor", column).p) for column in (1, 2, 3))
        assert cell(result, "locor", 0).significance

    def test_are_explained(self, result: TableResult) -> None:
        notes = " ".join(note for _, note in result.footnotes)
        for words in (
            "TV-z is best where it is closest to that of the unaligned",
            "Time: a method's own seconds",
            "peak",
        ):
            assert words in notes

    def test_have_no_arrow(self, result: TableResult) -> None:
        for render in (render_markdown.render, render_latex.render, render_html.render):
            text = render(result)
            assert "Time (s)" in text
            assert "Time (s) ↓" not in text
            assert "none is better" not in text


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """A comparison by TRE in both units, HD95 and TV-z of two methods on two cases; its folder."""
    store = tmp_path / "store"
    write_json(store / "cases.json", manifest(2)[DATA] | {"dataset": DATA, "labels": {}})
    assert CaseStore(store).ids(["test"]) == ["p00", "p01"]
    paths = []
    for method, tre in (("identity", 4.0), ("a", 1.0)):
        values = {"tre_mm": [tre, tre], "tre_voxel": [tre, tre], "hd95_mm": [5 - tre] * 2, "tv_z": [0.1, 0.2]}
        paths.append(write(tmp_path, method, values | {"seconds": [1.0, 2.0]}))
        notes = {"dataset": DATA, "method": method, "seed": 0, "ok": True, "reason": "", "failed": [], "notes": {}}
        write_json(paths[-1].with_suffix(".json"), notes)
    measures = ["tre_mm", "tre_voxel", "hd95_mm", "tv_z"]
    labels, settings = {"identity": "identity", "a": "a"}, {"bootstrap": N_BOOT}
    out = tmp_path / "out"
    compare_job(DATA, paths, store, out, labels=labels, measures=measures, proposed="identity", statistics=settings)
    return out


def test_tre_counts_once_in_ranks_and_what_has_no_direction_never(compared: Path) -> None:
    ranking = read_json(compared / "ranking.json")[DATA]
    assert ranking["measures"] == ["tre_mm", "hd95_mm"]
    # One measure prefers each method: with TRE twice, a would be ahead.
    assert [entry["mean_rank"] for entry in ranking["methods"]] == [1.5, 1.5]


def test_a_comparison_shows_what_it_does_not_rank(compared: Path) -> None:
    with (compared / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    directions = {line["metric"]: line["direction"] for line in lines}
    assert directions == {"tre_mm": "lower", "hd95_mm": "lower", "tv_z": "none", "seconds": "none"}
    assert {float(line["mean"]) for line in lines if line["metric"] == "seconds"} == {1.5}


class TestTheMarkOfThePaper:
    def build(self, folder: Path, n: int, srwcr: float) -> TableResult:
        base = np.linspace(0.6, 0.7, n)
        noise = np.linspace(0.01, 0.02, n)
        values = {"locor": base, "syn-locor": base - noise, "srwcr": base + srwcr * noise, "identity": base - 0.3}
        paths = [write(folder, m, {"dice": list(v)}) for m, v in values.items()]
        statuses = {(DATA, m): GOOD for m in values}
        return build_table(toy(proposed_below=0.005), paths, statuses, manifest(n), TableOptions(n_boot=N_BOOT))

    def test_is_set_where_every_baseline_is_beaten(self, tmp_path: Path) -> None:
        result = self.build(tmp_path, 9, -2.0)
        assert cell(result, "Locor").significance == OVER_ALL
        assert "p < 0.005, uncorrected, for which at least 9 pairs are needed" in " ".join(result.caption)
        assert r"$\dagger$" in render_latex.render(result)

    @pytest.mark.parametrize(("n", "srwcr"), [(8, -2.0), (9, 2.0)])
    def test_is_not_with_too_few_pairs_or_one_baseline_ahead(self, tmp_path: Path, n: int, srwcr: float) -> None:
        assert cell(self.build(tmp_path, n, srwcr), "Locor").significance == ""

    def test_no_other_table_has_it(self, tmp_path: Path) -> None:
        from modalign.papers import papers

        marked = [(p, n) for p in papers() for n, table in tables(p).items() if table.proposed_below is not None]
        assert marked == [("locor", 1)]


class TestTuning:
    def caption(self, folder: Path, tuned: dict[str, frozenset[str]], **changes: object) -> str:
        paths = [write(folder, m, {"dice": [0.5, 0.6]}) for m in ("locor", "srwcr")]
        options = TableOptions(n_boot=N_BOOT, tuned=tuned)
        split = str(changes.get("split", "test"))
        return " ".join(build_table(toy(tunes=True, **changes), paths, {}, manifest(2, split=split), options).caption)

    def test_says_which_rows_are_tuned(self, tmp_path: Path) -> None:
        words = self.caption(tmp_path, {DATA: frozenset({"locor"}), "another": frozenset({"srwcr"})})
        assert "Tuned on the validation cases in this run: Locor; as configured: Initial, ANTs & co, SRWCR." in words
        assert "flatters" not in words

    def test_says_that_none_is(self, tmp_path: Path) -> None:
        assert "No method of this table is tuned in this run" in self.caption(tmp_path, {})

    def test_warns_where_the_cases_are_those_of_the_tuning(self, tmp_path: Path) -> None:
        words = self.caption(tmp_path, {DATA: frozenset({"locor"})}, split="validation")
        assert "on the cases that they are tuned on, which flatters them" in words

    def test_locor_speaks_of_what_its_configuration_tunes(self) -> None:
        root = Path(__file__).parents[1]
        config = yaml.safe_load((root / "config.yaml").read_text())
        tuning = yaml.safe_load((root / "config" / "locor.yaml").read_text())["tuning"]
        for methods in (tuning["methods"], ["locor"], []):
            plan = make_plan(config | {"papers": ["locor"], "tuning": tuning | {"methods": methods}})
            for number, table in tables("locor").items():
                pairs = plan.tuning.cells(plan.table_cells("locor", number))
                tuned = {name: frozenset(m for d, m in pairs if d == name) for name, _ in pairs}
                found = build_table(table, [], {}, {}, TableOptions(n_boot=N_BOOT, tuned=tuned)).caption
                (words,) = (line for line in found if line.startswith(("Tuned on the", "No method of this")))
                rows = {row.method: row.label for row in table.blocks[0].rows}
                named = words.removesuffix(".").partition(": ")[2].split("; as configured: ")[0].split(", ")
                labels = [label for method, label in rows.items() if method in methods]
                assert named == ", ".join(labels).split(", ") if labels else words.startswith("No method")
