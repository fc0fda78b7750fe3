"""The report: everything that a run found, or why it didn't, on one page that needs nothing else."""

import base64
import html
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_results import MEASURES, METHODS, PHANTOM, REAL, REASON, finish, write_report, write_results

from modalign.errors import DataError
from modalign.files import read_json, write_json
from modalign.metrics.job import measure_job
from modalign.plan import make_plan
from modalign.report import provenance
from modalign.report.html import Cell, embed_fragment, table
from modalign.report.page import build_report
from modalign.report.page_plan import describe_plan, read_plan
from modalign.report.summary import best_methods, how_sure, lowest_true_errors, read_dataset

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """Collects ids, links, images and headings; fails on tags that don't match."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.levels, self.scopeless = [], [], [], [], [], 0

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        self.scopeless += tag == "th" and "scope" not in attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def outline(text):
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


def visible(text):
    """The text of a page without tags."""
    text = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "results"
    write_results(folder)
    return folder


@pytest.fixture(scope="module")
def page(results):
    return (results / "report.html").read_text()


def test_page_is_sound_html(page):
    found = outline(page)
    assert len(found.ids) == len(set(found.ids))
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert found.levels[0] == 1
    assert found.levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(found.levels, found.levels[1:], strict=False))
    assert found.scopeless == 0
    assert '<html lang="en">' in page


def test_page_needs_nothing_from_outside(page):
    assert re.findall(r'(?:src|href|action)\s*=\s*"(?!#|data:)', page) == []
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|//cdn", page)
    assert len(page) < 20_000_000


def test_images_decode_and_have_alternatives(page):
    images = outline(page).images
    assert len(images) == 5  # panels and distributions of both, proxy of the phantom
    for attributes in images:
        content = base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))
        image = Image.open(io.BytesIO(content))
        assert image.size == (int(attributes["width"]), int(attributes["height"]))
        assert len(attributes["alt"]) > 20


def test_page_holds_every_table(results, page):
    text = visible(page)
    for fragment in (*results.glob("comparisons/*/table.html"), *results.glob("papers/*/table_*.html")):
        assert visible(fragment.read_text()) in text
    assert page.count('<table class="result') == 3
    assert 'id="cao2018-table-1"' in page
    assert f'id="comparison-{PHANTOM}"' in page


def test_failures_are_listed_with_reasons(page):
    section = page[page.index('id="failures"') : page.index('id="trust"')]
    text = visible(section)
    assert text.count(REASON) == 2
    assert "6 of 6" in text
    assert "demons" in text
    assert "no results: not run yet" in text
    assert "<registration>" not in page


def test_phantoms_and_real_scans_are_told_apart(page):
    assert "1 of 2 data sets in this report are phantoms" in visible(page)
    assert re.search(rf'id="data-{PHANTOM}">[^<]*<span class="tag phantom">', page)
    assert re.search(rf'id="data-{REAL}">[^<]*<span class="tag real">', page)


def test_summary_names_the_best_method_and_its_error(results, page):
    data = read_dataset(results, PHANTOM)
    assert best_methods(data.ranking) == ["affine-mi"]
    line, *others = lowest_true_errors(data.comparison)
    assert [other["metric"] for other in others] in ([], ["mae_hu"])
    assert line["method"] == "affine-mi"
    # Shifts of 2, 3, 4, 3, 2, 4 voxels of 2 mm, where 4 would be right.
    assert float(line["mean"]) == pytest.approx(np.mean([4, 2, 0, 2, 4, 0]), abs=1e-4)
    row = page[page.index(f'<a href="#data-{PHANTOM}">{PHANTOM}</a></th>') :]
    row = visible(row[: row.index("</tr>")])
    assert "affine-mi mean rank 1.00 of 2" in row
    assert "TRE 2.00 mm" in row
    assert lowest_true_errors(read_dataset(results, REAL).comparison) == []


def test_methods_without_a_field_are_ranked_by_the_measures_of_images(results, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    for case in ("p0", "p1", "p2", "p3", "p4", "p5"):
        (folder / "aligned" / PHANTOM / "affine-mi" / "seed0" / case / "field.nii.gz").unlink()
    run = folder / "aligned" / PHANTOM / "affine-mi" / "seed0" / "run-1-of-1.json"
    store, tsv = folder / "cases" / PHANTOM, folder / "metrics" / PHANTOM / "affine-mi" / "seed0.tsv"
    measure_job(store, [run], tsv, method="affine-mi", seed=0, measures=MEASURES)
    finish(folder, PHANTOM)
    ranking = read_json(folder / "comparisons" / PHANTOM / "ranking.json")[PHANTOM]
    assert set(ranking["measures"]) == {"mae_hu", "gc", "nmi"}
    assert [entry["method"] for entry in ranking["methods"]] == ["affine-mi", "identity"]
    assert [entry["method"] for entry in ranking["of_fields"]["methods"]] == ["identity"]
    assert set(ranking["of_fields"]["measures"]) == set(MEASURES)
    text = visible(write_report(folder).read_text())
    assert "All methods, by the measures that need no displacement field. Those that give one:" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "not significantly better than b (Nemenyi, 0.05)"),
        ({"cliques": [["b", "c"]]}, "significantly better than all others (Nemenyi, 0.05)"),
        ({"friedman_p": 0.2}, "no significant difference among all methods (Friedman p = 0.2)"),
        ({"critical_difference": None, "note": "too few"}, "not tested (too few)"),
        ({"methods": [{"method": "a", "mean_rank": 1.0}]}, "nothing to compare with"),
    ],
)
def test_how_sure_a_ranking_is(change, words):
    methods = [{"method": m, "mean_rank": r} for m, r in (("a", 1.1), ("b", 1.5), ("c", 3.0))]
    ranking = {"methods": methods, "critical_difference": 0.9, "cliques": [["a", "b"]], "note": "", "friedman_p": 0.01}
    assert how_sure(ranking | change) == words


def test_trust_table_follows_the_figures(results, page):
    section = page[page.index('id="trust"') : page.index('id="data"')]
    lines = (results / "figures" / PHANTOM / "proxy.csv").read_text().splitlines()
    dice = dict(zip(lines[0].split(","), next(x for x in lines if ",dice," in x).split(","), strict=True))
    first, second = re.search(r'<th scope="row">Dice</th><td([^>]*)>[^<]*</td><td([^>]*)>', section).groups()
    known = {"within_case": first, "agreement": second}
    for column, attributes in known.items():
        value = re.search(r'data-value="([^"]+)"', attributes)
        assert (float(value.group(1)) if value else None) == (
            pytest.approx(float(dice[column])) if dice[column] else None
        )
    assert "Sharpness" not in visible(section)


def test_provenance_names_versions_time_and_configuration(page):
    text = visible(page[page.index('id="provenance"') :])
    for word in ("modalign", "numpy", "scipy", "4.5.6", "align_cases", "12.5", "321", "note: a <b> & c", "statistics:"):
        assert word in text
    assert provenance.data_digest({"checksums": {"p0": {"fixed": "00", "moving": "11"}}}) in text
    assert provenance.data_digest({}) == ""


def test_versions_are_those_of_the_runs_and_say_whose(tmp_path):
    for stage, method, packages in (
        ("aligned", "locor", {"torch": "2.1"}),
        ("aligned", "syn-cao", {"antspyx": "0.5", "torch": "2.2"}),
        ("models", "locor", {"torch": "2.1"}),
    ):
        name = "train.json" if stage == "models" else "run-1-of-1.json"
        status = {"modalign": "0.1", "python": "3.11.7", "packages": packages}
        write_json(tmp_path / stage / "toy" / method / "seed0" / name, status)
    found = provenance.versions_of_runs(tmp_path)
    assert found["torch"] == {"2.1": ["locor"], "2.2": ["syn-cao"]}
    assert found["antspyx"] == {"0.5": ["syn-cao"]}
    assert found["Python"] == {"3.11.7": ["locor", "syn-cao"]}
    assert "matplotlib" not in found


def test_repeated_jobs_add_up(tmp_path):
    file = tmp_path / "benchmarks" / "train_method" / "d.m.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text('{"s": 2.5, "cpu_time": 2.0, "max_rss": "NA"}\n{"s": 1.5, "cpu_time": 1.0, "max_rss": 9.0}\n\n')
    (job,) = provenance.jobs(tmp_path)
    assert (job.rule, job.name, job.seconds, job.cpu_seconds, job.memory_mb) == ("train_method", "d.m", 4.0, 3.0, 9.0)


def test_what_a_job_used_is_what_its_log_says(tmp_path):
    for name, text in (
        ("benchmarks/measure_cases/d.m.jsonl", '{"s": 2.5, "cpu_time": 0.1, "max_rss": 5.0}\n'),
        (
            "logs/measure_cases/d.m.log",
            "I modalign.cli: used 2.25 s of processor time, 480 MB in the largest process\n",
        ),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    (job,) = provenance.jobs(tmp_path)
    assert (job.seconds, job.cpu_seconds, job.memory_mb) == (2.5, 2.25, 480.0)


def test_same_results_same_page(results, page):
    assert write_report(results).read_text() == page


def test_missing_results_are_said_not_raised(results, tmp_path):
    shutil.copy(results / "plan.json", tmp_path / "plan.json")
    build_report(tmp_path, tmp_path / "plan.json", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    outline(text)
    words = visible(text)
    assert "Table 1 has not been made." in words
    assert words.count("no results: not run yet") == len(METHODS) * 2 + 1
    assert "The true error isn’t known for any data set" in words


def test_a_failed_training_is_listed(results, tmp_path):
    shutil.copy(results / "plan.json", tmp_path / "plan.json")
    status = {"ok": False, "error": "out of memory", "machine": "m"}
    write_json(tmp_path / "models" / REAL / "affine-mi" / "seed0" / "train.json", status)
    build_report(tmp_path, tmp_path / "plan.json", tmp_path / "report.html")
    assert f"affine-mi {REAL} 0 training out of memory" in visible((tmp_path / "report.html").read_text())


def test_plan_must_be_complete(tmp_path):
    write_json(tmp_path / "plan.json", {"papers": [], "tables": []})
    with pytest.raises(DataError, match=r"plan.json lacks datasets, methods, cells, config"):
        read_plan(tmp_path / "plan.json")


def test_plan_of_a_configuration_round_trips(tmp_path):
    import yaml

    from modalign.digest import PACKAGE

    config = yaml.safe_load((PACKAGE.parents[1] / "config.yaml").read_text())
    config["papers"] = ["cao2018"]
    plan = make_plan(config)
    write_json(tmp_path / "plan.json", describe_plan(plan, config))
    found = read_plan(tmp_path / "plan.json")
    assert found.cells == plan.cells
    assert found.datasets == tuple(plan.datasets)
    assert found.tables == plan.tables
    assert found.config == read_json(tmp_path / "plan.json")["config"]
    assert found.methods["syn-cao"]["options"] == {"preset": "cao"}


def test_tables_escape_text_and_carry_values():
    made = table(("A", "B <b>"), [("x < y", Cell("<em>1</em>", 1.25, "rank"))], "A & B")
    outline(made)
    assert "B &lt;b&gt;" in made
    assert '<th scope="row">x &lt; y</th><td class="rank" data-value="1.25"><em>1</em></td>' in made


def test_fragments_scroll_and_get_an_id():
    fragment = (
        '<figure class="result" id="own-table-1"><table class="result phantom"><caption>C</caption></table></figure>'
    )
    made = embed_fragment(fragment, "comparison-x")
    outline(made)
    assert 'id="comparison-x"' in made
    assert '<div class="scroll" tabindex="0" role="region" aria-label="table"><table class="result phantom">' in made
    assert "<caption><span>C</span></caption>" in made
