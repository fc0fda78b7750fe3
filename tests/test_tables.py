"""Tables: what fills them, and what is said where nothing does."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon
from statsmodels.stats.multitest import multipletests
from toy_tables import DATA, N_BOOT, build, cell, eight_patients, manifest, toy, write

from modalign import papers
from modalign.errors import ConfigError, DataError
from modalign.papers import Block, Column, Table
from modalign.report import render_csv, render_html, render_latex, render_markdown
from modalign.report.own import comparison_table
from modalign.report.result import BEYOND, TableOptions
from modalign.report.tables import build_table
from modalign.statistics import COLUMNS


@pytest.fixture
def eight(tmp_path: Path) -> dict:
    return eight_patients(tmp_path)


class TestNumbers:
    def test_mean_sd_n(self, eight: dict) -> None:
        found = cell(build(eight), "SRWCR")
        values = eight["values"]["srwcr"]
        assert (found.mean, found.sd) == pytest.approx((values.mean(), values.std(ddof=1)))
        assert (found.n, found.seeds) == (8, 1)
        assert found.ci_low < found.mean < found.ci_high

    def test_tests_as_scipy_and_statsmodels(self, eight: dict) -> None:
        result = build(eight)
        labels = {"Initial": "identity", "ANTs & co": "syn-locor", "SRWCR": "srwcr"}
        p = [wilcoxon(eight["values"][m], eight["values"]["locor"]).pvalue for m in labels.values()]
        assert [cell(result, label).p for label in labels] == pytest.approx(p)
        corrected = multipletests(p, method="holm")[1]
        assert [cell(result, label).p_holm for label in labels] == pytest.approx(corrected)
        assert cell(result, "ANTs & co").significance == "*"
        assert math.isnan(cell(result, "Locor").p)

    def test_beats_and_difference(self, eight: dict) -> None:
        found = cell(build(eight), "SRWCR")
        difference = eight["values"]["srwcr"] - eight["values"]["locor"]
        assert (found.beats, found.pairs) == ((difference > 0).sum(), 8)
        assert found.difference == pytest.approx(difference.mean())
        assert found.difference_low < difference.mean() < found.difference_high

    def test_marks_follow_the_direction_and_skip_the_reference(self, eight: dict) -> None:
        eight["paths"].append(write(eight["paths"][0].parent, "better", {"dice": [0.99] * 8}))
        result = build(eight, extra_methods={"better": "Mine"})
        marks = {row.label: c[0].mark for row, c in zip(result.blocks[0].rows, result.blocks[0].cells, strict=True)}
        assert marks == {"Initial": "", "ANTs & co": "", "SRWCR": "", "Locor": "second", "Mine": "best"}
        assert [cell(result, label, 1).mark for label in ("Locor", "SRWCR")] == ["best", "second"]

    def test_a_reference_is_never_best(self, tmp_path: Path, eight: dict) -> None:
        eight["paths"][0] = write(tmp_path, "identity", {"dice": [1.0] * 8})
        assert cell(build(eight), "Initial").mark == ""
        assert cell(build(eight), "Locor").mark == "best"

    def test_measures_of_a_set_are_not_tested(self, eight: dict) -> None:
        eight["paths"].append(write(eight["paths"][0].parent, "srwcr", {"*fid": [24]}, seed=1))
        result = build(eight)
        found = cell(result, "SRWCR", 1)
        assert (found.mean, found.sd) == pytest.approx((22, np.std([20, 24], ddof=1)))
        assert math.isnan(found.p)
        assert math.isnan(found.ci_low)
        assert result.blocks[0].columns[1].untested == "no value per patient"

    def test_scale_of_the_printed_unit(self, eight: dict) -> None:
        column = Column("dice", "Dice (%)", DATA, "higher", 1, scale=100.0)
        result = build(eight, Table("locor", 1, "", (Block(toy().blocks[0].rows, (column,), "Locor"),), "x"))
        assert cell(result, "Locor").mean == pytest.approx(100 * eight["values"]["locor"].mean())

    def test_seed_decides_the_interval(self, eight: dict) -> None:
        low = [cell(build(eight, seed=seed), "SRWCR").ci_low for seed in (0, 0, 1)]
        assert low[0] == low[1] != low[2]

    def test_only_the_split_of_the_table_counts(self, eight: dict) -> None:
        info = manifest(8)
        for case in info[DATA]["cases"][:3]:
            case["split"] = "validation"
        assert cell(build(eight, info=info), "Locor").n == 5
        on_validation = build(eight, toy(split="validation"), info)
        assert cell(on_validation, "Locor").n == 3
        assert cell(on_validation, "Locor", 1).missing == "not measured"

    def test_slices_as_unit(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        paths = []
        for method in ("srwcr", "locor"):
            lines = ["\t".join(COLUMNS)]
            for i in range(3):
                lines += [f"{DATA}\t{method}\t0\tp{i:02d}\t{z}\t\tdice\t{rng.uniform()!r}" for z in range(10)]
            paths.append(tmp_path / f"{method}.tsv")
            paths[-1].write_text("\n".join(lines) + "\n")
        by_slice = build_table(toy(), paths, {}, manifest(3), TableOptions("slice", N_BOOT))
        by_patient = build_table(toy(), paths, {}, manifest(3), TableOptions("patient", N_BOOT))
        assert (cell(by_slice, "SRWCR").n, cell(by_patient, "SRWCR").n) == (30, 3)
        assert cell(by_slice, "SRWCR").ci_low == pytest.approx(cell(by_patient, "SRWCR").ci_low)
        assert "Slices of one patient are alike" in " ".join(by_slice.caption)
        assert "no corrected p can be below 0.25" in " ".join(by_patient.caption)

    def test_measures_of_cases_keep_patients_as_unit(self, tmp_path: Path) -> None:
        paths = [write(tmp_path, method, {"dice": [0.1, 0.2, 0.4]}) for method in ("srwcr", "locor")]
        result = build_table(toy(), paths, {}, manifest(3), TableOptions("slice", N_BOOT))
        assert cell(result, "SRWCR").unit == "patient"
        assert "Dice: one value per case, so that patients are the unit there." in result.caption

    def test_ties_are_not_taken_for_too_few_pairs(self, tmp_path: Path) -> None:
        paths = [write(tmp_path, method, {"dice": [0.5] * 35}) for method in ("srwcr", "locor", "syn-locor")]
        result = build_table(toy(), paths, {}, manifest(35), TableOptions(n_boot=N_BOOT))
        assert cell(result, "SRWCR").p == 1
        assert "n.s. says nothing" not in " ".join(result.caption)

    def test_a_patient_with_several_cases_counts_once(self, tmp_path: Path) -> None:
        info = manifest(4)
        for case, patient in zip(info[DATA]["cases"], "aabb", strict=True):
            case["patient"] = patient
        paths = [write(tmp_path, method, {"dice": [0.1, 0.3, 0.5, 0.9]}) for method in ("srwcr", "locor")]
        for path in paths:
            head, *lines = path.read_text().splitlines()
            named = [line + patient for line, patient in zip(lines, "aabb", strict=True)]
            path.write_text("\n".join([head, *named]) + "\n")
        result = build_table(toy(), paths, {}, info, TableOptions(n_boot=N_BOOT))
        found = cell(result, "SRWCR")
        assert (found.n, found.sd, found.warning) == (2, pytest.approx(np.std([0.2, 0.7], ddof=1)), "")
        assert "n = 2 patients" in result.blocks[0].columns[0].source

    def test_says_where_no_difference_could_be_significant(self, tmp_path: Path) -> None:
        """Six pairs reach p = 0.031, but not after a correction for two tests."""
        rng = np.random.default_rng(0)
        paths = [
            write(tmp_path, method, {"dice": list(best - rng.uniform(0, 0.1, 6)), "gc": list(rng.uniform(0, 1, 12))})
            for method, best in (("locor", 0.9), ("srwcr", 0.7), ("syn-locor", 0.5))
        ]
        table = toy()
        columns = [Column(name, name, DATA, "higher", 2) for name in ("dice", "gc")]
        for shown, words in (
            (columns[:1], "no corrected p can be below 0.062, whatever the difference: n.s. says nothing here"),
            (columns, "In 1 of 2 columns there are too few pairs for so many tests"),
        ):
            result = build_table(
                replace(table, blocks=(replace(table.blocks[0], columns=tuple(shown)),)),
                paths,
                {},
                manifest(12),
                TableOptions(n_boot=N_BOOT),
            )
            assert words in " ".join(result.caption)
        assert cell(result, "SRWCR").p_holm == pytest.approx(0.0625)


class TestWhatIsMissing:
    def test_every_reason(self, eight: dict) -> None:
        eight["paths"] = eight["paths"][:1]
        eight["statuses"] = {
            (DATA, "identity"): {"ok": True, "reason": ""},
            (DATA, "syn-locor"): {"ok": False, "reason": "out of memory"},
        }
        result = build(eight, methods=frozenset({"srwcr"}))
        missing = [cell(result, label).missing for label in ("ANTs & co", "SRWCR", "Locor")]
        assert missing == ["failed: out of memory", "not run", "not there yet"]
        assert result.blocks[0].columns[0].untested == "no proposed method yet"
        assert "Nothing is tested where the proposed method (Locor) has no results." in result.caption
        assert all(math.isnan(c.p) for row in result.blocks[0].cells for c in row)

    def test_printed_numbers_never_fill_a_gap(self, eight: dict) -> None:
        eight["paths"], eight["statuses"] = [], {}
        result = build(eight)
        assert all(math.isnan(c.mean) and c.missing for row in result.blocks[0].cells for c in row)
        assert cell(result, "SRWCR").printed == ("0.84", "0.09", "", "1/4")

    def test_measured_otherwise_but_not_this(self, eight: dict) -> None:
        eight["paths"][3] = write(eight["paths"][0].parent, "locor", {"dice": [0.5] * 8})
        assert cell(build(eight), "Locor", 1).missing == "not measured"

    def test_data_set_not_in_the_run(self, eight: dict) -> None:
        eight["paths"] = []
        result = build_table(toy(), [], {}, {}, TableOptions(n_boot=N_BOOT))
        assert cell(result, "Locor").missing == "data set not in this run"
        assert result.blocks[0].columns[0].source == "no data"

    def test_some_cases_failed(self, eight: dict, tmp_path: Path) -> None:
        eight["paths"][2] = write(tmp_path, "srwcr", {"dice": [0.5] * 6})
        found = cell(build(eight), "SRWCR")
        assert (found.n, found.pairs, found.warning) == (6, 6, "6 of 8 patients")
        eight["statuses"][DATA, "srwcr"] = {"ok": False, "reason": "2 of 8 cases failed"}
        assert cell(build(eight), "SRWCR").warning == "incomplete: 2 of 8 cases failed"

    def test_undefined_cells(self) -> None:
        result = build_table(papers.tables("rbg")[1], [], {}, {}, TableOptions(n_boot=N_BOOT))
        assert [c.missing for c in result.blocks[0].cells[0]][2:4] == ["not defined", "not defined"]

    def test_options_that_make_no_sense(self) -> None:
        with pytest.raises(ConfigError, match="'slices': write patient or slice"):
            TableOptions(unit="slices")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="10 bootstrap draws are too few"):
            TableOptions(n_boot=10)

    def test_missing_metrics_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"gone\.tsv does not exist"):
            build_table(toy(), [tmp_path / "gone.tsv"], {}, {})


class TestHonesty:
    def test_phantoms_are_named_first(self, eight: dict) -> None:
        result = build(eight, info=manifest(8, "phantom"))
        assert result.warning.startswith("PHANTOM DATA: ")
        assert result.blocks[0].columns[0].source == "phantom 64 × 64 × 16, n = 8 patients"
        for render in (render_markdown.render, render_html.render, render_latex.render):
            text = render(result)
            assert 0 < text.index("PHANTOM DATA") < text.index("0.84")
        lines = list(csv.DictReader(io.StringIO(render_csv.render(result))))
        assert {line["data_source"] for line in lines} == {"phantom"}
        assert {line["minus_printed"] for line in lines} == {""}

    def test_real_data_are_compared_with_the_printed_numbers(self, eight: dict) -> None:
        result = build(eight)
        assert result.warning == ""
        lines = list(csv.DictReader(io.StringIO(render_csv.render(result))))
        line = next(x for x in lines if x["row"] == "SRWCR" and x["metric"] == "dice")
        assert float(line["minus_printed"]) == pytest.approx(eight["values"]["srwcr"].mean() - 0.84)

    def test_stand_ins_are_not(self, eight: dict) -> None:
        result = build(eight, toy(stand_in="Other patients.", stand_ins=(DATA,)))
        assert result.warning == "STAND-IN DATA: Other patients."
        lines = list(csv.DictReader(io.StringIO(render_csv.render(result))))
        assert {line["data_source"] for line in lines} == {"stand-in"}
        assert {line["minus_printed"] for line in lines} == {""}

    def test_random_features_are_named(self, eight: dict, tmp_path: Path) -> None:
        eight["paths"] = [write(tmp_path, m, {"*fid_random": [10]}) for m in ("locor", "srwcr")]
        result = build(eight)
        assert result.blocks[0].columns[1].label == "FID (random features)"
        assert "RANDOM FEATURES" in result.warning
        assert cell(result, "SRWCR", 1).metric == "fid_random"

    def test_random_and_published_features_never_share_a_column(self, eight: dict, tmp_path: Path) -> None:
        eight["paths"][2] = write(tmp_path, "srwcr", {"*fid_random": [10]})
        result = build(eight)
        assert result.blocks[0].columns[1].label == "FID"
        assert cell(result, "SRWCR", 1).missing == "not measured"

    def test_extra_methods_have_their_own_group_and_join_the_correction(self, eight: dict, tmp_path: Path) -> None:
        before = cell(build(eight), "SRWCR").p_holm
        eight["paths"].append(write(tmp_path, "mine", {"dice": [0.7, 0.5] * 4}))
        result = build(eight, extra_methods={"mine": "Mine", "srwcr": "SRWCR again"})
        assert [row.label for row in result.blocks[0].rows if row.group == BEYOND] == ["Mine"]
        assert cell(result, "Mine").printed is None
        assert cell(result, "SRWCR").p_holm >= before

    def test_no_extras_in_an_ablation(self, eight: dict) -> None:
        assert len(build(eight, toy(extras=False), extra_methods={"mine": "Mine"}).blocks[0].rows) == 4


class TestOwnComparison:
    def test_table_without_a_paper(self, eight: dict) -> None:
        methods = {"identity": "Unaligned", "srwcr": "SRWCR", "locor": "Locor"}
        table = comparison_table(DATA, methods, ["dice", "fid"], "locor")
        result = build(eight, table)
        assert cell(result, "Locor").mark == "best"
        assert cell(result, "Unaligned").mark == ""
        for render in (render_markdown.render, render_html.render, render_latex.render):
            assert "rinted" not in render(result)

    def test_errors(self) -> None:
        with pytest.raises(ConfigError, match="'mine' is not among the methods: a"):
            comparison_table(DATA, {"a": "A"}, ["dice"], "mine")
        with pytest.raises(ConfigError, match="no measure 'dise'"):
            comparison_table(DATA, {"a": "A"}, ["dise"], "a")
