"""How tables are written: Markdown, HTML, LaTeX, CSV, and where they come from."""

import csv
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
from toy_tables import DATA, N_BOOT, build, cell, eight_patients, manifest, toy

from modalign import papers
from modalign.report import render_csv, render_html, render_latex, render_markdown
from modalign.report.result import TableOptions
from modalign.report.tables import build_table, write_table


@pytest.fixture
def eight(tmp_path: Path) -> dict:
    return eight_patients(tmp_path)


class Checker(HTMLParser):
    """Fails on tags that don't close in order; counts cells per row."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[int] = []
        self.values: list[float] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            return
        self.open.append(tag)
        named = dict(attrs)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(named.get("colspan") or 1)
            if "data-value" in named:
                self.values.append(float(named["data-value"] or "nan"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class TestFormats:
    def test_html_is_well_formed(self, eight: dict) -> None:
        checker = Checker()
        result = build(eight, toy(show_beats=True), manifest(8, "phantom"), extra_methods={"a<b": "A<B & co"})
        checker.feed(render_html.render(result))
        assert checker.open == []
        assert set(checker.rows) == {3}
        assert sorted(checker.values) == sorted(
            c.mean for row in result.blocks[0].cells for c in row if not math.isnan(c.mean)
        )

    @pytest.mark.parametrize("paper", papers.papers())
    def test_every_table_renders_without_results(self, paper: str) -> None:
        for table in papers.tables(paper).values():
            result = build_table(table, [], {}, {}, TableOptions(n_boot=N_BOOT, extra_methods={"mine-2d": "Mine"}))
            checker = Checker()
            checker.feed(render_html.render(result))
            assert checker.open == []
            lines = list(csv.DictReader(io.StringIO(render_csv.render(result))))
            extra = sum(len(block.columns) for block in table.blocks) if table.extras else 0
            assert len(lines) == sum(1 for _ in table.cells()) + extra
            assert all(line["note"] and not line["mean"] for line in lines)
            latex = render_latex.render(result)
            assert latex.isascii()
            for begin, end in (("{", "}"), (r"\begin", r"\end")):
                plain = latex.replace(r"\{", "").replace(r"\}", "")
                assert plain.count(begin) == plain.count(end)
            for line in render_markdown.render(result).splitlines():
                if line.startswith("| "):
                    width = len(table.blocks[0].columns)
                    assert line.replace(r"\|", "").count("|") == width + 2

    def test_markdown(self, eight: dict) -> None:
        text = render_markdown.render(build(eight))
        value = f"{eight['values']['locor'].mean():.2f} ± {eight['values']['locor'].std(ddof=1):.2f}"
        assert (
            f"| **Locor** | **{value}**<br><sub>printed 0.88 ± 0.04</sub> | **10.0**<br><sub>printed –</sub> |" in text
        )
        assert "printed 0.84 ± 0.09<sup>a</sup>" in text
        assert "- <sup>a</sup> Looks odd." in text

    def test_latex(self, eight: dict) -> None:
        text = render_latex.render(build(eight))
        value = f"{eight['values']['locor'].mean():.2f} $\\pm$ {eight['values']['locor'].std(ddof=1):.2f}"
        grey = r"{\scriptsize\color{gray}"
        assert rf"\textbf{{Locor}} & \textbf{{{value}}} & \textbf{{10.0}} \\" in text
        assert rf"{grey}printed}} & {grey}0.88 $\pm$ 0.04}} & {grey}--}} \\" in text
        assert r"ANTs \& co & " in text
        assert rf"{grey}0.84 $\pm$ 0.09\textsuperscript{{a}}}}" in text
        assert r"\begin{tabular}{lcc}" in text

    def test_beats_beside_the_printed_ratio(self, eight: dict) -> None:
        found = cell(build(eight), "SRWCR")
        text = render_markdown.render(build(eight, toy(show_beats=True)))
        assert f"({found.beats}/8)" in text
        assert "(1/4)" in text

    def test_missing_reason_is_escaped_and_shortened(self, eight: dict) -> None:
        eight["paths"] = eight["paths"][1:]
        eight["statuses"][DATA, "identity"] = {"ok": False, "reason": "<b>50% | of_all</b> " + "x" * 100}
        result = build(eight)
        assert r"failed: &lt;b>50% \| of\_all" in render_markdown.render(result)
        assert r"failed: $<$b$>$50\% | of\_all" in render_latex.render(result)
        assert "&lt;b&gt;50%" in render_html.render(result)
        assert "x" * 100 in render_csv.render(result)
        assert "x" * 100 not in render_latex.render(result)

    def test_files_and_provenance(self, eight: dict, tmp_path: Path) -> None:
        stem = tmp_path / "out" / "table_1"
        for _ in range(2):
            write_table(build(eight), stem, {"commit": "abc"})
            files = {path.suffix: path.read_bytes() for path in stem.parent.iterdir()}
            if _ == 0:
                first = files
        assert files == first
        assert set(files) == {".md", ".tex", ".html", ".csv", ".json"}
        record = json.loads((tmp_path / "out" / "table_1.provenance.json").read_text())
        assert record["commit"] == "abc"
        assert record["options"]["unit"] == "patient"
        assert record["data"] == {DATA: "real"}
        assert sorted(record["inputs"]) == sorted(map(str, eight["paths"]))
        assert all(len(digest) == 64 for digest in record["inputs"].values())
