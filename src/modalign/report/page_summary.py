"""The report's first part: what was run, which method is best where, what failed."""

from collections.abc import Sequence

from modalign.metrics import MEASURES, Measure
from modalign.report.html import Cell, anchor, escape, link, table, tag
from modalign.report.page_plan import ReportPlan
from modalign.report.summary import (
    DatasetResults,
    Failed,
    best_methods,
    how_sure,
    lowest_true_errors,
    spoken,
)


def source_tag(data: DatasetResults) -> str:
    """Whether the data are made up or real, as a label."""
    if not data.manifest:
        return tag("no data", "missing")
    return tag("phantom", "phantom") if data.phantom else tag("real scans", "real")


def summary(plan: ReportPlan, datasets: Sequence[DatasetResults], failed: Sequence[Failed], seconds: float) -> str:
    """Heading, warning, facts, the best methods, failures."""
    return "\n".join(
        (_banner(datasets), _facts(plan, datasets, failed, seconds), _best(datasets, failed), _failures(failed))
    )


def _banner(datasets: Sequence[DatasetResults]) -> str:
    made_up = [data for data in datasets if data.phantom]
    if not made_up:
        return ""
    which = "All data sets" if len(made_up) == len(datasets) else f"{len(made_up)} of {len(datasets)} data sets"
    return (
        f'<div class="banner" role="note"><p><strong>{which} in this report are phantoms:</strong> made-up anatomy '
        "with known truth, in the layout of the real data. Their numbers test methods and code; they say nothing about "
        "patients, and can’t be compared with the numbers that the papers print.</p></div>"
    )


def _facts(plan: ReportPlan, datasets: Sequence[DatasetResults], failed: Sequence[Failed], seconds: float) -> str:
    seeds = sorted({seed for entry in plan.methods.values() for seed in entry.get("seeds", ())})
    runs = sum(len(data.measured) for data in datasets)
    patients = sum(data.patients() for data in datasets)
    entries = (
        ("Data sets", str(len(datasets))),
        ("Test cases", str(patients)),
        ("Methods", str(len(plan.methods))),
        ("Runs measured", str(runs)),
        ("Incomplete", str(len(failed))),
        ("Seeds", f"{len(seeds)} ({', '.join(map(str, seeds))})" if seeds else "–"),
        ("Computing time", _duration(seconds)),
    )
    items = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in entries)
    return f'<dl class="facts">{items}</dl>'


def _duration(seconds: float) -> str:
    if seconds <= 0:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _best(datasets: Sequence[DatasetResults], failed: Sequence[Failed]) -> str:
    rows = []
    for data in datasets:
        ranking = data.ranking
        first = best_methods(ranking)
        what = f"{source_tag(data)} {escape(data.size())}, n = {data.patients()}"
        rank = ranking["methods"][0]["mean_rank"] if ranking and first else None
        overall = escape(", ".join(map(spoken, first))) or "–"
        if ranking and rank is not None:
            overall += f"<br><small>mean rank {rank:.2f} of {len(ranking['methods'])}</small>"
        count = sum(entry.dataset == data.name for entry in failed)
        rows.append(
            (
                Cell(link(anchor("data", data.name), data.name)),
                Cell(what, float(data.patients())),
                Cell(overall, kind="text"),
                Cell(escape(how_sure(ranking)), kind="text"),
                _true_error(data),
                Cell(f'<a class="failed" href="#failures">{count}</a>' if count else "0", float(count)),
            )
        )
    heads = ("Data set", "Data", "Best by mean rank", "How sure", "Lowest true error", "Incomplete")
    explained = (
        "<p>Mean rank: on every test case the methods are ranked by each measure that has a value per case and that "
        "all of them can have (none that needs a displacement field, where some give none), and the ranks averaged. "
        "Measures disagree, and some mislead: the lowest true error, where the truth is known, is the better guide "
        "(TRE among methods that give a displacement field, MAE among all), and "
        f"{link('trust', 'which measure can you trust?')} shows how far each measure follows it.</p>"
    )
    return '<h3 id="best">Which method aligns best?</h3>' + explained + table(heads, rows)


def _true_error(data: DatasetResults) -> Cell:
    lines = lowest_true_errors(data.comparison)
    if not lines:
        return Cell("not known", kind="missing")
    shown = []
    for line in lines:
        measure = MEASURES[line["metric"]]
        error = f"{measure.label} {_digits(line['mean'], measure)} {measure.unit}"
        text = f"{escape(spoken(line['method']))}<br><small>{error}"
        if line["ci_low"]:
            text += f" [{_digits(line['ci_low'], measure)}, {_digits(line['ci_high'], measure)}]"
        shown.append(text + "</small>")
    return Cell("<br>".join(shown), float(lines[0]["mean"]), "text")


def _digits(value: str, measure: Measure) -> str:
    return f"{float(value):.{measure.digits}f}"


def _failures(failed: Sequence[Failed]) -> str:
    head = '<h3 id="failures">What failed or is incomplete</h3>'
    if not failed:
        return head + "<p>Nothing: every planned run has results for all its cases.</p>"
    rows = [
        (
            Cell(f'<span class="failed">{escape(entry.method)}</span>'),
            Cell(link(anchor("data", entry.dataset), entry.dataset)),
            entry.seed or "–",
            entry.cases,
            Cell(escape(entry.reason), kind="text"),
        )
        for entry in failed
    ]
    explained = (
        "<p>Failed cases have no numbers and are left out of ranks, and of means unless the configuration counts them "
        "as unaligned; tables say so. "
        "<code>modalign failures --forget</code> makes the next run try them again.</p>"
    )
    return head + explained + table(("Method", "Data set", "Seed", "Cases", "Reason"), rows)
