"""Tables, comparisons, figures, the report, and what failed."""

from pathlib import Path
from typing import Annotated

import typer

from modalign.align_files import parse_json
from modalign.cli.app import Json, Seed, app
from modalign.errors import DataError


@app.command()
def table(
    paper: Annotated[str, typer.Argument(help="Short name of the paper.")],
    number: Annotated[int, typer.Argument(help="Number of the table.")],
    out: Annotated[Path, typer.Option(help="Path without suffix.")],
    metrics: Annotated[list[Path] | None, typer.Option(help="Metrics file; repeat.")] = None,
    store: Annotated[list[Path] | None, typer.Option(help="Case store; repeat.")] = None,
    extra: Json = "{}",
    methods: Json = "[]",
    settings: Json = "{}",
    tuned: Json = "[]",
    statistics: Json = "{}",
    seed: Seed = 0,
) -> None:
    """Write a table of a paper, with the printed values beside the reproduced ones; --settings has the options in which
    methods differ, --tuned lists pairs of data set and method whose options were tuned."""
    from modalign.evaluate import table_job

    table_job(
        paper,
        number,
        metrics or [],
        store or [],
        out,
        extra_methods=parse_json(extra, "--extra", dict),
        methods=parse_json(methods, "--methods"),
        settings=parse_json(settings, "--settings", dict),
        tuned=parse_json(tuned, "--tuned"),
        statistics=parse_json(statistics, "--statistics", dict),
        seed=seed,
    )


@app.command()
def compare(
    dataset: Annotated[str, typer.Argument(help="Name of the data set.")],
    store: Annotated[Path, typer.Argument(help="Case store.")],
    metrics: Annotated[list[Path], typer.Argument(help="Metrics files.")],
    out: Annotated[Path, typer.Option(help="Folder for table.* and ranking.json.")],
    labels: Json,
    measures: Annotated[str, typer.Option(help="Names of measures, separated by commas.")],
    proposed: Annotated[str, typer.Option(help="The method that all others are tested against.")],
    statistics: Json = "{}",
    seed: Seed = 0,
) -> None:
    """Compare and rank all methods of a data set."""
    from modalign.evaluate import compare_job

    compare_job(
        dataset,
        metrics,
        store,
        out,
        labels=parse_json(labels, "--labels", dict),
        measures=measures.split(","),
        proposed=proposed,
        statistics=parse_json(statistics, "--statistics", dict),
        seed=seed,
    )


@app.command()
def figures(
    store: Annotated[Path, typer.Argument(help="Case store.")],
    metrics: Annotated[list[Path], typer.Argument(help="Metrics files.")],
    runs: Json,
    out: Annotated[Path, typer.Option(help="Folder for the figures and figures.json.")],
    ranking: Annotated[Path | None, typer.Option(help="The ranking.json of the comparison.")] = None,
    segmented: Json = "[]",
    seed: Seed = 0,
) -> None:
    """Draw the figures of a data set; --runs lists pairs of method and folder of its alignments, --segmented those of
    method and folder of label maps."""
    from modalign.report.figures import make_figures

    pairs = [(name, Path(folder)) for name, folder in parse_json(runs, "--runs")]
    found = [(name, Path(folder)) for name, folder in parse_json(segmented, "--segmented")]
    make_figures(store, pairs, metrics, out, ranking=ranking, segmented=found, seed=seed)


@app.command()
def paper_figure(
    paper: Annotated[str, typer.Argument(help="Short name of the paper.")],
    number: Annotated[str, typer.Argument(help="Number of the figure.")],
    rows: Json,
    out: Annotated[Path, typer.Option(help="Path without suffix.")],
    seed: Seed = 0,
) -> None:
    """Draw a figure of a paper from reproduced results; --rows says where those of each row lie: its store, index,
    aligned (folders, one per method) and metrics (files)."""
    from modalign.report.paper_figures import RowFiles, make_paper_figure

    files = [
        RowFiles(
            Path(row["store"]),
            Path(row["index"]),
            *(tuple(map(Path, row.get(part, ()))) for part in ("aligned", "metrics", "segmented")),
        )
        for row in parse_json(rows, "--rows")
    ]
    make_paper_figure(paper, number, files, out, seed=seed)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="Results folder.")],
    plan: Annotated[Path, typer.Option(help="What the run makes, as the workflow writes it.")],
    out: Annotated[Path, typer.Option(help="The page.")],
) -> None:
    """Write the report of a run as one page."""
    from modalign.report.page import build_report

    build_report(results, plan, out)


@app.command()
def failures(
    results: Annotated[Path, typer.Argument(help="Results folder.")] = Path("results"),
    forget: Annotated[
        bool, typer.Option(help="Remove them, so that the next run of the workflow tries again.")
    ] = False,
) -> None:
    """List what failed and why; with --forget, make the workflow try it again."""
    from modalign.failures import forget_failures, list_failures

    if not results.is_dir():
        raise DataError(f"{results} is not a folder: name the results folder of a run, such as results")
    found = list_failures(results)
    for failure in found:
        typer.echo(f"{failure.path}: {failure.reason}")
    if not found:
        typer.echo(f"nothing failed in {results}", err=True)
    if forget:
        forget_failures(results, found)
        typer.echo(f"forgot {len(found)}; run snakemake again to retry", err=True)
