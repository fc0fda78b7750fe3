"""The report's sections on data sets, on papers, and on which measure can be trusted."""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modalign.files import read_json
from modalign.metrics import MEASURES
from modalign.papers import TITLES
from modalign.papers import tables as paper_tables
from modalign.report.captions import NAMES
from modalign.report.figures_style import signed
from modalign.report.figures_values import known_measure
from modalign.report.html import Cell, anchor, embed_fragment, escape, image, link, table
from modalign.report.page_plan import ReportPlan, planned
from modalign.report.page_summary import source_tag
from modalign.report.summary import DatasetResults, how_sure, spoken


def dataset_section(data: DatasetResults, tables: Iterable[tuple[str, int]]) -> str:
    """One data set: what it is, ranks, comparison, figures."""
    parts = [f'<h3 id="{anchor("data", data.name)}">{escape(data.name)} {source_tag(data)}</h3>', _about(data)]
    used = [
        link(f"{paper}-table-{number}", f"{NAMES.get(paper, paper)}, table {number}")
        for paper, number in tables
        if any(column.dataset == data.name for _, _, column in paper_tables(paper)[number].cells())
    ]
    if used:
        parts.append(f"<p>In the tables of the papers: {'; '.join(used)}.</p>")
    if data.ranking:
        parts += ["<h4>Ranks</h4>", _ranks(data.ranking)]
        if data.ranking.get("of_fields"):
            parts.append("<p>All methods, by the measures that need no displacement field. Those that give one:</p>")
            parts.append(_ranks(data.ranking["of_fields"], explain=False))
        parts += _figures(data, ("ranks",), heading=False)
    if data.fragment is not None:
        parts.append("<h4>All measures</h4>")
        parts.append(embed_fragment(data.fragment.read_text(encoding="utf-8"), anchor("comparison", data.name)))
    elif not data.measured:
        parts.append('<p class="failed">No results yet.</p>')
    parts += _figures(data, ("distributions", "panels"))
    parts.append(_notes(data))
    return "\n".join(part for part in parts if part)


def _about(data: DatasetResults) -> str:
    manifest = data.manifest
    if not manifest:
        return '<p class="failed">Not prepared yet.</p>'
    splits = ", ".join(f"{data.patients(s)} {s}" for s in ("train", "validation", "test"))
    spacings = {tuple(case["spacing_mm"]) for case in manifest["cases"] if case.get("spacing_mm")}
    spacing = " × ".join(f"{mm:.3g}" for mm in spacings.pop()) + " mm" if len(spacings) == 1 else ""
    fixed, moving = (str(manifest.get(f"{k}_modality", k)).upper() for k in ("fixed", "moving"))
    truth = ", ".join(name.replace("_", " ") for name in manifest.get("truth", ())) or "not known"
    facts = (
        f"{moving} is aligned with {fixed}",
        f"cases: {splits}",
        f"voxels: {', '.join(part for part in (data.size(), spacing) if part)}",
        f"truth: {truth}",
        f"recipe: {manifest.get('recipe', '–')}",
        f"licence: {manifest.get('licence', '–')}",
    )
    return f"<p>{escape('; '.join(facts))}.</p><p><small>{escape(manifest.get('citation', ''))}</small></p>"


def _ranks(ranking: Mapping[str, Any], *, explain: bool = True) -> str:
    entries = ranking["methods"]
    count = len(entries)

    def shade(rank: float) -> Cell:
        share = 1 - (rank - 1) / (count - 1) if count > 1 else 0.0
        return Cell(f"{rank:.2f}", rank, "rank", f"--share: {share:.3f}")

    rows: list[list[Cell | str]] = [
        [spoken(entry["method"]), shade(entry["mean_rank"]), *(shade(entry["ranks"][m]) for m in ranking["measures"])]
        for entry in entries
    ]
    labels = [f"{MEASURES[m].label}{_arrow(m)}" if m in MEASURES else m for m in ranking["measures"]]
    caption = f"Mean ranks over {ranking['cases']} cases; 1 is best, darker is better"
    text = (
        f"<p>The method with the best mean rank: {escape(how_sure(ranking))}.</p>"
        if ranking["critical_difference"]
        else ""
    )
    if ranking["critical_difference"] is None and ranking["note"]:
        text = f"<p>Differences between ranks are not tested: {escape(ranking['note'])}.</p>"
    left_out = "; ".join(f"{method}: {why}" for method, why in ranking["left_out"].items())
    text += f"<p>Not ranked: {escape(left_out)}.</p>" if left_out and explain else ""
    return (table(("Method", "All measures", *labels), rows, caption) if rows else "") + text


def _arrow(metric: str) -> str:
    return {"higher": " ↑", "lower": " ↓"}.get(MEASURES[metric].better, "")


def _figures(data: DatasetResults, names: Sequence[str], *, heading: bool = True) -> list[str]:
    if data.figures is None:
        return []
    listed = {entry["name"]: entry for entry in read_json(data.figures / "figures.json")["figures"]}
    parts = []
    for name in names:
        if name in listed:
            entry = listed[name]
            if heading:
                parts.append(f"<h4>{escape(entry['title'])}</h4>")
            path = data.figures / entry["file"]
            parts.append(image(path, entry["alt"], entry["caption"], entry.get("min_width", 0)))
    return parts


def _notes(data: DatasetResults) -> str:
    notes: dict[tuple[str, str], list[str]] = {}
    for run in data.measured:
        for metric, note in run.notes.items():
            notes.setdefault((metric, note), []).append(run.method)
    if not notes:
        return ""
    items = []
    for (metric, note), methods in sorted(notes.items()):
        measure = known_measure(metric)
        who = ", ".join(dict.fromkeys(methods))
        items.append(
            f"<li>{escape(measure.label if measure else metric)}: {escape(note)} <small>({escape(who)})</small></li>"
        )
    return f"<details><summary>Notes on the measures</summary><ul>{''.join(items)}</ul></details>"


def paper_section(paper: str, plan: ReportPlan, results: Path) -> str:
    """One paper: all its tables and figures."""
    name = NAMES.get(paper, paper)
    parts = [f'<h3 id="{anchor("paper", paper)}">{escape(name)}</h3>', f"<p>{escape(TITLES.get(paper, ''))}</p>"]
    for number in [number for of, number in plan.tables if of == paper]:
        fragment = results / "papers" / paper / f"table_{number}.html"
        if fragment.is_file():
            parts.append(embed_fragment(fragment.read_text(encoding="utf-8")))
        else:
            parts.append(f'<p id="{paper}-table-{number}" class="failed">Table {number} has not been made.</p>')
    made = {number for of, number in plan.tables if of == paper}
    absent = sorted(set(paper_tables(paper)) - made) if paper in TITLES else []
    if absent:
        which = "Table " if len(absent) == 1 else "Tables "
        which += ", ".join(map(str, absent))
        parts.append(f"<p>{which}: not part of this run; <code>snakemake {paper}</code> makes every table.</p>")
    for path in sorted((results / "papers" / paper).glob("figure_*.json")):
        figure = path.stem.removeprefix("figure_")
        if not planned(plan, "make_paper_figure", paper, figure):
            continue
        note = read_json(path)
        parts.append(f"<h4>Figure {figure}: {escape(note['title'])}</h4>")
        parts.append(image(path.with_name(note["file"]), note["alt"], note["caption"], note["min_width"]))
    return "\n".join(parts)


def trust_section(datasets: Sequence[DatasetResults]) -> str:
    """Each measure against the true error, over all data sets where that is known."""
    lines = [line for data in datasets if data.figures for line in _proxy_lines(data.figures / "proxy.csv")]
    lines = [line for line in lines if line["agreement"]]
    if not lines:
        return "<p>The true error isn’t known for any data set of this run, or there are too few results.</p>"
    parts = [
        "<p>On real scans nobody knows the true displacement, so papers compare methods by stand-ins: edge "
        "correlation, mutual information, overlap of outlined organs, feature distances. Where the truth is known, "
        "such a measure can be checked: does it prefer the results that are really better? The table shows "
        "Spearman’s rank correlation between measure and true error, with its sign turned so that <strong>+1 is full "
        "agreement, 0 no relation, and a negative value misleads</strong>.</p>",
        _trust_table(lines),
        _trust_details(lines),
    ]
    for data in datasets:
        figure = _figures(data, ("proxy",), heading=False)
        if figure:
            parts.append(f"<h3>{escape(data.name)}</h3>")
            parts += figure
    return "\n".join(parts)


def _proxy_lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8", newline=""))) if path.is_file() else []


def _trust_table(lines: Sequence[Mapping[str, str]]) -> str:
    first = {
        dataset: next(line["truth"] for line in lines if line["dataset"] == dataset)
        for dataset in dict.fromkeys(line["dataset"] for line in lines)
    }
    by_proxy: dict[str, list[Mapping[str, str]]] = {}
    for line in lines:
        if line["truth"] == first[line["dataset"]]:
            by_proxy.setdefault(line["label"], []).append(line)
    rows = []
    for label, entries in sorted(by_proxy.items(), key=lambda item: -_within(item[1])):
        values = [float(entry["agreement"]) for entry in entries]
        within = _within(entries)
        sure = sum(bool(entry["low"]) and float(entry["low"]) > 0 for entry in entries)
        wrong = sum(bool(entry["high"]) and float(entry["high"]) < 0 for entry in entries)
        middle = statistics.median(values)
        rows.append(
            (
                label,
                Cell(signed(within), within) if math.isfinite(within) else Cell("–", kind="missing"),
                Cell(signed(middle), middle),
                Cell(f"{signed(min(values))} to {signed(max(values))}", min(values)),
                Cell(str(len(values)), float(len(values))),
                Cell(str(sure), float(sure)),
                Cell(str(wrong), float(wrong)),
            )
        )
    heads = (
        "Measure",
        "Within a case",
        "Over all cases",
        "Range",
        "Data sets",
        "Interval above 0",
        "Interval below 0",
    )
    caption = "How far each measure follows the true error"
    return table(heads, rows, caption) + (
        "<p><small>Agreement with TRE (MAE where no TRE is known), its median over data sets. Within a case: among the "
        "methods of one case, averaged over cases; it says whether a measure picks the better method for a patient. "
        "The table is in its order. Over all cases: among all cases and methods together, with its range over data "
        "sets; there, patients that are hard to align count as well as methods that align badly. Interval above, below "
        "0: on how many data sets the 95 % bootstrap interval over cases of the latter says that the measure agrees, "
        "or misleads; there is none below five cases. Not all data sets have all measures: below, each data set’s own "
        "figures compare like with like.</small></p>"
    )


def _within(entries: Sequence[Mapping[str, str]]) -> float:
    """The median over data sets of the agreement within a case; below any correlation where none is known."""
    known = [float(entry["within_case"]) for entry in entries if entry["within_case"]]
    return statistics.median(known) if known else -math.inf


def _trust_details(lines: Sequence[Mapping[str, str]]) -> str:
    rows = []
    for line in lines:
        interval = f" [{signed(float(line['low']))}, {signed(float(line['high']))}]" if line["low"] else ""
        value = float(line["agreement"])
        rows.append(
            (
                line["label"],
                line["dataset"],
                MEASURES[line["truth"]].label,
                Cell(f"{signed(value)}{interval}", value),
                Cell(signed(float(line["within_case"])), float(line["within_case"]))
                if line["within_case"]
                else Cell("–", kind="missing"),
                Cell(line["n"], float(line["n"])),
                line["unit"],
            )
        )
    heads = ("Measure", "Data set", "True error", "Agreement", "Within a case", "n", "Points are")
    return f"<details><summary>Every data set</summary>{table(heads, rows)}</details>"
