"""The report: one self-contained HTML page with everything that a run found."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modalign.errors import ModalignError
from modalign.files import write_text
from modalign.metrics import MEASURES, RANDOM_SUFFIX
from modalign.report import provenance
from modalign.report.captions import NAMES
from modalign.report.html import Cell, anchor, escape, link, table
from modalign.report.page_data import dataset_section, paper_section, trust_section
from modalign.report.page_plan import ReportPlan, read_plan
from modalign.report.page_script import SCRIPT
from modalign.report.page_style import STYLE
from modalign.report.page_summary import summary
from modalign.report.summary import DatasetResults, failures, read_dataset


def build_report(results: Path, plan: Path, out: Path) -> None:
    """Write the report of a run as one HTML page without any outside reference.

    Missing results are no error: the page says what is missing. Results that the plan doesn't ask for aren't shown.

    Args:
        results: the results folder, as the workflow fills it.
        plan: JSON file, see :func:`modalign.report.page_plan.describe_plan`.
        out: the page.

    Raises:
        DataError: the plan lacks an entry.
        ModalignError: a JSON file is missing or broken.
    """
    chosen = read_plan(plan)
    datasets = [read_dataset(results, name, chosen) for name in chosen.datasets]
    done = provenance.jobs(results, chosen)
    failed = failures(results, datasets, chosen)
    sections = (
        ("summary", "Summary", summary(chosen, datasets, failed, sum(job.seconds for job in done))),
        ("trust", "Which measure can you trust?", trust_section(datasets)),
        ("data", "Data sets", "\n".join(dataset_section(data, chosen.tables) for data in datasets)),
        ("papers", "Papers", "\n".join(paper_section(paper, chosen, results) for paper in chosen.papers)),
        ("reading", "How to read the numbers", _reading(chosen, datasets)),
        ("methods", "Methods", _methods(chosen)),
        ("provenance", "Provenance", _provenance(chosen, datasets, done, results)),
    )
    body = "\n".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>\n{content}</section>'
        for name, title, content in sections
    )
    lead = (
        f"{len(chosen.methods)} methods on {len(datasets)} data sets, and the tables of {len(chosen.papers)} papers, "
        "printed and reproduced side by side."
    )
    write_text(out, _document("Aligning medical images of different modalities", lead, _contents(chosen), body))


def _document(title: str, lead: str, contents: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>modalign: {escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<div class="layout">
<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>
{contents}
<main>
{body}
</main>
<footer>Written by modalign {escape(provenance.__version__)}. Click a table’s heading to sort its rows, within their
groups.</footer>
</div>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _contents(plan: ReportPlan) -> str:
    of_data = "".join(f"<li>{link(anchor('data', name), name)}</li>" for name in plan.datasets)
    of_papers = "".join(f"<li>{link(anchor('paper', name), NAMES.get(name, name))}</li>" for name in plan.papers)
    return f"""<nav aria-label="Contents"><details open><summary>Contents</summary><ul>
<li>{link("summary", "Summary")}<ul><li>{link("best", "Which method aligns best?")}</li>
<li>{link("failures", "What failed")}</li></ul></li>
<li>{link("trust", "Which measure can you trust?")}</li>
<li>{link("data", "Data sets")}<ul>{of_data}</ul></li>
<li>{link("papers", "Papers")}<ul>{of_papers}</ul></li>
<li>{link("reading", "How to read the numbers")}</li>
<li>{link("methods", "Methods")}</li>
<li>{link("provenance", "Provenance")}</li>
</ul></details></nav>"""


def _reading(plan: ReportPlan, datasets: Sequence[DatasetResults]) -> str:
    settings = plan.config.get("statistics", {})
    unit = settings.get("unit", "patient")
    confidence = float(settings.get("confidence", 0.95))
    entries = (
        ("mean ± sd, n", f"Over {unit}s. Seeds are averaged first, then structures, then slices, so that every patient "
         "counts once: slices of one patient are not independent."),
        ("[low, high]", f"{confidence:.0%} bootstrap interval of the mean, drawing patients with replacement. Too "
         "narrow for fewer than ten patients."),
        ("p", "Two-sided Wilcoxon signed-rank test against the method that the table proposes (in a data set’s own "
         "comparison: against the unaligned scans, unless the configuration names another)."),
        ("Holm", "The same p, corrected for the number of rows that are tested in the column."),
        ("**, *, n.s.", "Holm-corrected p below 0.001, below 0.05, or not. With n patients no p is below 2 to the "
         "power of 1 − n, so with five or fewer nothing can be significant."),
        ("†", "In a table of a paper that marks its own method so: p below the printed threshold, uncorrected, against "
         "every baseline that has results."),
        ("lost, counts the diagonal", "An alignment has driven a structure out of the scan, so that there is no "
         "surface to measure to: its distance is the diagonal of the fixed grid, worse than any other."),
        ("time, memory", "A method’s own seconds per case, without training, reading and writing; peak memory of the "
         "job that aligned all cases, and of the programs that it started. Reported beside measures, never ranked."),
        ("bold, underlined", "Best and second best of the column; the unaligned reference isn’t ranked there."),
        ("printed", "What the paper prints in this cell, with the paper’s own mark. Small letters refer to footnotes "
         "about misprints."),
        ("random features", "FID, KID and LPIPS with networks whose weights are random and seeded: not the published "
         "measures, and not comparable with them."),
        ("not there yet, not run, failed", "The method doesn’t exist here, exists but isn’t in this run, or failed "
         "for the reason given. No cell is ever filled from the paper."),
    )  # fmt: skip
    terms = "".join(f"<dt><strong>{escape(term)}</strong></dt><dd>{escape(text)}</dd>" for term, text in entries)
    used = {line["metric"].removesuffix(RANDOM_SUFFIX) for data in datasets for line in data.comparison}
    better = {"higher": "higher", "lower": "lower", "reference": "closest to the unaligned scan"}
    rows = [
        (f"{m.label} ({m.unit})" if m.unit else m.label, better[m.better], m.scope, Cell(escape(m.doc), kind="text"))
        for m in MEASURES.values()
        if m.name in used
    ]
    measures = table(("Measure", "Better", "One value per", "Range, and what background does"), rows) if rows else ""
    return f"<dl>{terms}</dl>\n<h3>The measures</h3>{measures}"


def _methods(plan: ReportPlan) -> str:
    from modalign.methods import method_class

    rows = []
    for name, entry in sorted(plan.methods.items()):
        try:
            method = method_class(entry["method"])
            kind, label, source = str(method.kind), method.label, method.source
        except ModalignError:
            kind, label, source = "–", entry["method"], "not installed here"
        dimension = f"{entry['dimension']}D" if entry.get("dimension") else "as the data"
        settings = {**entry.get("options", {}), **entry.get("needs", {})}
        options = ", ".join(f"{key} = {value}" for key, value in settings.items()) or "defaults"
        source_cell = Cell(escape(source), kind="text")
        rows.append((name, label, kind, dimension, Cell(f"<code>{escape(options)}</code>", kind="text"), source_cell))
    return table(("Variant", "Method", "Kind", "Works in", "Options", "Source"), rows)


def _provenance(
    plan: ReportPlan, datasets: Sequence[DatasetResults], done: Sequence[provenance.Job], results: Path
) -> str:
    machines = {key: ", ".join(sorted(values)) for key, values in provenance.machines(results, plan).items() if values}
    names = {"device": "Device of the runs", "machine": "Machine"}
    facts = [("Seed of data and splits", str(plan.config.get("seed", "–")))]
    facts += [(names[key], value) for key, value in machines.items()]
    facts += [(f"{name}, tables and figures", number) for name, number in provenance.versions().items()]
    parts = ["<h3>Software and seeds</h3>", table(("What", "Value"), facts), _software(results, plan)]
    parts += ["<h3>Data</h3>", _data(datasets)]
    if done:
        parts += ["<h3>Time and memory</h3>", _times(done)]
    if plan.config:
        parts.append(
            "<h3>Configuration</h3><details><summary>The whole configuration of the run</summary>"
            f"<pre>{escape(_as_yaml(plan.config))}</pre></details>"
        )
    return "\n".join(parts)


def _software(results: Path, plan: ReportPlan) -> str:
    """The packages that the methods were run with, as their runs recorded them."""
    found = provenance.versions_of_runs(results, plan)
    everything = {method for versions in found.values() for methods in versions.values() for method in methods}
    rows = [
        (name, number, "all" if set(methods) == everything else ", ".join(sorted(methods)))
        for name, versions in sorted(found.items(), key=lambda item: item[0].lower())
        for number, methods in sorted(versions.items())
    ]
    return table(("Software of the runs", "Version", "Methods"), rows) if rows else ""


def _data(datasets: Sequence[DatasetResults]) -> str:
    rows = [
        (
            data.name,
            str(data.manifest.get("source", "–")),
            str(data.manifest.get("recipe", "–")),
            str(data.manifest.get("seed", "–")),
            " / ".join(str(data.patients(split)) for split in ("train", "validation", "test")),
            Cell(f"<code>{provenance.data_digest(data.manifest) or '–'}</code>"),
        )
        for data in datasets
    ]
    heads = ("Data set", "Source", "Recipe", "Seed", "Train / validation / test", "Digest of the scans")
    return table(heads, rows) + (
        "<p><small>The digest covers the SHA-256 of every source scan; <code>cases.json</code> in the case store lists "
        "them one by one.</small></p>"
    )


def _times(done: Sequence[provenance.Job]) -> str:
    rows: list[list[Cell | str]] = []
    for rule, jobs in provenance.stages(done).items():
        total, longest = sum(job.seconds for job in jobs), max(job.seconds for job in jobs)
        memory = max(job.memory_mb for job in jobs)
        cpu = sum(job.cpu_seconds for job in jobs)
        numbers = ((len(jobs), 0), (total, 1), (cpu, 1), (longest, 1), (memory, 0))
        rows.append([rule, *(Cell(f"{value:,.{digits}f}", float(value)) for value, digits in numbers)])
    stage = table(("Stage", "Jobs", "Wall time (s)", "CPU time (s)", "Longest job (s)", "Peak memory (MB)"), rows)
    each: list[list[Cell | str]] = [
        [job.name, job.rule, *(Cell(f"{value:,.1f}", value) for value in (job.seconds, job.cpu_seconds, job.memory_mb))]
        for job in sorted(done, key=lambda job: -job.seconds)
    ]
    heads = ("Job", "Stage", "Wall time (s)", "CPU time (s)", "Peak memory (MB)")
    return f"{stage}<details><summary>Every job</summary>{table(heads, each)}</details>"


def _as_yaml(config: Mapping[str, Any]) -> str:
    import yaml

    # Round trip through JSON: tuples and ordered dictionaries have no plain YAML form.
    return str(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False, allow_unicode=True))
