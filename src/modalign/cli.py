"""The command line: ``modalign <verb>``. Every rule of the workflow calls one of these verbs."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from modalign.align_files import align_pair, parse_json
from modalign.errors import ModalignError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Seed = Annotated[int, typer.Option(help="Seeds everything random.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads that the work may use.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes; the result doesn't depend on it.")]
Json = Annotated[str, typer.Option(help="JSON, or @file that holds it.")]
Minutes = Annotated[float | None, typer.Option(help="Time limit in minutes; past it the method counts as failed.")]


def main() -> None:
    """Run the command line; an error that the user can mend is one message, without a traceback."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname).1s %(name)s: %(message)s")
    logging.getLogger("modalign").setLevel(logging.INFO)
    logging.getLogger().setLevel(logging.WARNING)
    try:
        app()
    except ModalignError as error:
        sys.exit(f"error: {error}")


@app.command()
def align(
    fixed: Annotated[Path, typer.Argument(help="The scan that stays as it is (NIfTI, NRRD or MetaImage).")],
    moving: Annotated[Path, typer.Argument(help="The scan to bring onto it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for image.nii.gz, field.nii.gz and run.json.")],
    method: Annotated[str, typer.Option(help="One of `modalign methods`.")] = "syn",
    preset: Annotated[str | None, typer.Option(help="Preset of the method; short for --options.")] = None,
    dimension: Annotated[int | None, typer.Option(help="2: slice by slice; 3: as a volume.")] = None,
    options: Json = "{}",
    needs: Json = "{}",
    mask_fixed: Annotated[Path | None, typer.Option(help="Mask on the fixed grid; nonzero counts.")] = None,
    mask_moving: Annotated[Path | None, typer.Option(help="Mask on the moving grid; nonzero counts.")] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="Write inverse_field.nii.gz, on the moving grid.")] = False,
    model: Annotated[Path | None, typer.Option(help="Folder of trained weights.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Align one pair of scans with any method."""
    chosen = {} if preset is None else {"preset": preset}
    align_pair(
        fixed,
        moving,
        out,
        method=method,
        dimension=dimension,
        options=chosen | parse_json(options, "--options"),
        needs=parse_json(needs, "--needs"),
        fixed_mask=mask_fixed,
        moving_mask=mask_moving,
        inverse=inverse,
        model=model,
        seed=seed,
        device=device,
        threads=threads,
    )


@app.command()
def methods() -> None:
    """List the methods with their options and defaults."""
    from modalign.methods import method_class, method_names

    for name in method_names():
        method = method_class(name)
        learns = "trained" if method.is_trained() else "no training"
        dimensions = " and ".join(f"{d}D" for d in sorted(method.dimensions))
        typer.echo(f"{name}: {method.label} ({method.kind}, {dimensions}, {learns}). {method.source}")
        for option, field in method.Options.model_fields.items():
            typer.echo(f"    {option} = {field.default!r}: {field.description}")


@app.command()
def phantom(
    archive: Annotated[str, typer.Argument(help="Archive whose published layout is written.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    patients: Annotated[int, typer.Option(min=1, help="Number of patients.")] = 8,
    size: Annotated[tuple[int, int, int], typer.Option(help="Voxels of the fixed scan; the field of view stays.")] = (
        64,
        64,
        16,
    ),
    seed: Seed = 0,
    workers: Workers = 1,
) -> None:
    """Write a phantom data set with known truth in an archive's published layout."""
    from modalign.phantoms.archives import make_archive

    make_archive(archive, out, size=size, patients=patients, seed=seed, workers=workers)


@app.command()
def fetch(
    archive: Annotated[str, typer.Argument(help="Archive of the registry.")],
    out: Annotated[Path, typer.Option(help="Folder to unpack into.")],
    accept_licence: Annotated[bool, typer.Option(help="You have read the licence and accept it.")] = False,
) -> None:
    """Download an open archive with resume and checksum; say how to get a gated one."""
    from modalign.datasets.registry import fetch as fetch_archive

    fetch_archive(archive, out, accept_licence=accept_licence)


@app.command()
def index(
    dataset: Annotated[str, typer.Argument(help="Name of the data set in the configuration.")],
    reader: Annotated[str, typer.Option(help="Reader of the folder's layout.")],
    folder: Annotated[Path, typer.Option(help="Folder in the published layout, or a CSV of own pairs.")],
    out: Annotated[Path, typer.Option(help="Folder for cases.tsv and dataset.json.")],
    options: Json = "{}",
    split: Json = "null",
    seed: Seed = 0,
    workers: Workers = 1,
) -> None:
    """Check a folder of scans and list its cases."""
    from modalign.datasets.index import index_dataset

    index_dataset(
        dataset,
        reader,
        folder,
        out,
        options=parse_json(options, "--options"),
        split=parse_json(split, "--split"),
        seed=seed,
        workers=workers,
    )


@app.command()
def prepare(
    index: Annotated[Path, typer.Argument(help="Folder with cases.tsv and dataset.json.")],
    recipe: Annotated[str, typer.Option(help="Preprocessing recipe.")],
    out: Annotated[Path, typer.Option(help="Folder for the case store.")],
    overrides: Json = "{}",
    seed: Seed = 0,
    workers: Workers = 1,
) -> None:
    """Preprocess the cases of an index into a case store."""
    from modalign.preprocess.prepare import prepare as prepare_cases

    prepare_cases(index, recipe, out, overrides=parse_json(overrides, "--overrides"), seed=seed, workers=workers)


@app.command()
def train(
    store: Annotated[Path, typer.Argument(help="Case store.")],
    spec: Json,
    model: Annotated[Path, typer.Option(help="Folder for the weights and train.json.")],
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 1,
    minutes: Minutes = None,
) -> None:
    """Train a method on the training cases of a store; continues where a killed training stopped."""
    from modalign.runs import train_job

    train_job(parse_json(spec, "--spec"), store, model, seed=seed, device=device, threads=threads, minutes=minutes)


@app.command()
def align_cases(
    store: Annotated[Path, typer.Argument(help="Case store.")],
    spec: Json,
    out: Annotated[Path, typer.Option(help="Folder for the alignments and run-*.json.")],
    model: Annotated[Path | None, typer.Option(help="Folder of trained weights.")] = None,
    tuned: Annotated[Path | None, typer.Option(help="A chosen.json, whose options go before those of --spec.")] = None,
    splits: Annotated[str, typer.Option(help="Splits to align, separated by commas.")] = "test",
    shard: Annotated[str, typer.Option(help="i-of-n: align every n-th case, from the i-th on.")] = "1-of-1",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 1,
    minutes: Minutes = None,
) -> None:
    """Align the cases of a store."""
    from modalign.runs import align_job
    from modalign.tuning_ranges import tuned_spec

    index_text, count_text = shard.split("-of-")
    chosen = parse_json(spec, "--spec")
    align_job(
        chosen if tuned is None else tuned_spec(chosen, tuned),
        store,
        out,
        seed=seed,
        model=model,
        device=device,
        threads=threads,
        splits=splits.split(","),
        shard=(int(index_text), int(count_text)),
        minutes=minutes,
    )


@app.command()
def tune_trial(
    store: Annotated[Path, typer.Argument(help="Case store; its validation cases are aligned.")],
    spec: Json,
    number: Annotated[int, typer.Option(min=0, help="Number of the trial; those before it lie beside --out.")],
    ranges: Annotated[str, typer.Option(help="JSON: where each option is searched.")],
    objective: Annotated[str, typer.Option(help="The measure to be made better.")],
    out: Annotated[Path, typer.Option(help="File to write, trial-<number>.json.")],
    startup: Annotated[int, typer.Option(min=1, help="Trials drawn at random, before a model guides the search.")] = 10,
    parallel: Annotated[int, typer.Option(min=1, help="Trials that may run side by side.")] = 1,
    options: Json = "{}",
    pseudo: Annotated[Path | None, typer.Option(help="Folder of fixed images in the moving contrast.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 1,
    minutes: Minutes = None,
) -> None:
    """Try one set of options on the validation cases of a store; --options are those of the objective."""
    from modalign.tuning import trial_job
    from modalign.tuning_ranges import read_range

    trial_job(
        parse_json(spec, "--spec"),
        store,
        out,
        {name: read_range(entry) for name, entry in parse_json(ranges, "--ranges").items()},
        number=number,
        objective=objective,
        startup=startup,
        parallel=parallel,
        measure_options=parse_json(options, "--options"),
        pseudo=pseudo,
        seed=seed,
        device=device,
        threads=threads,
        minutes=minutes,
    )


@app.command()
def choose_options(
    trials: Annotated[list[Path], typer.Argument(help="The files of all trials.")],
    ranges: Annotated[str, typer.Option(help="JSON: where each option was searched.")],
    out: Annotated[Path, typer.Option(help="File to write, chosen.json.")],
    share: Annotated[float, typer.Option(help="Of the best trials, to which the model is fitted.")] = 0.6,
    seed: Seed = 0,
) -> None:
    """Choose among trials the one that a Gaussian process fitted to the better ones takes for the best."""
    from modalign.tuning import choose_job
    from modalign.tuning_ranges import read_range

    searched = {name: read_range(entry) for name, entry in parse_json(ranges, "--ranges").items()}
    choose_job(trials, out, searched, share=share, seed=seed)


@app.command()
def measure(
    store: Annotated[Path, typer.Argument(help="Case store.")],
    runs: Annotated[list[Path], typer.Argument(help="The run-*.json of the alignments, one per shard.")],
    method: Annotated[str, typer.Option(help="Name of the method variant.")],
    measures: Annotated[str, typer.Option(help="Names of measures, separated by commas.")],
    out: Annotated[Path, typer.Option(help="TSV to write; its notes go beside it.")],
    splits: Annotated[str, typer.Option(help="Splits to measure, separated by commas.")] = "test",
    options: Json = "{}",
    features: Json = "{}",
    pseudo: Annotated[Path | None, typer.Option(help="Folder of fixed images in the moving contrast.")] = None,
    segmented: Annotated[Path | None, typer.Option(help="Folder of label maps of the aligned images.")] = None,
    seed: Seed = 0,
    workers: Workers = 1,
) -> None:
    """Measure what a method aligned."""
    from modalign.evaluate import measure_job
    from modalign.metrics.features import FeatureSource

    measure_job(
        store,
        runs,
        out,
        method=method,
        seed=seed,
        measures=measures.split(","),
        splits=splits.split(","),
        options=parse_json(options, "--options"),
        features=FeatureSource(**parse_json(features, "--features")),
        pseudo=pseudo,
        segmented=segmented,
        workers=workers,
    )


@app.command()
def train_segmenter(
    store: Annotated[Path, typer.Argument(help="Case store with labels of the moving scans.")],
    model: Annotated[Path, typer.Option(help="Folder for the weights and train.json.")],
    options: Json = "{}",
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Train a small segmenter on the unaligned moving scans of the training split."""
    from modalign.segmentation.jobs import train_job

    train_job(store, model, parse_json(options, "--options"), seed=seed, device=device, threads=threads)


@app.command()
def segment(
    store: Annotated[Path, typer.Argument(help="Case store.")],
    runs: Annotated[list[Path], typer.Argument(help="The run-*.json of the alignments, one per shard.")],
    out: Annotated[Path, typer.Option(help="Folder for the label maps.")],
    options: Json = "{}",
    model: Annotated[Path | None, typer.Option(help="Folder of the small segmenter's weights.")] = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Segment what a method aligned."""
    from modalign.segmentation.jobs import segment_job

    segment_job(store, runs, out, parse_json(options, "--options"), model=model, device=device, threads=threads)


@app.command()
def table(
    paper: Annotated[str, typer.Argument(help="Short name of the paper.")],
    number: Annotated[int, typer.Argument(help="Number of the table.")],
    out: Annotated[Path, typer.Option(help="Path without suffix.")],
    metrics: Annotated[list[Path] | None, typer.Option(help="Metrics file; repeat.")] = None,
    store: Annotated[list[Path] | None, typer.Option(help="Case store; repeat.")] = None,
    extra: Json = "{}",
    methods: Json = "[]",
    statistics: Json = "{}",
    seed: Seed = 0,
) -> None:
    """Write a table of a paper, with the printed values beside the reproduced ones."""
    from modalign.evaluate import table_job

    table_job(
        paper,
        number,
        metrics or [],
        store or [],
        out,
        extra_methods=parse_json(extra, "--extra"),
        methods=parse_json(methods, "--methods"),
        statistics=parse_json(statistics, "--statistics"),
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
        labels=parse_json(labels, "--labels"),
        measures=measures.split(","),
        proposed=proposed,
        statistics=parse_json(statistics, "--statistics"),
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
    store: Annotated[Path, typer.Argument(help="Case store of its data set.")],
    aligned: Annotated[Path, typer.Argument(help="Folder of the alignments that it shows.")],
    out: Annotated[Path, typer.Option(help="Path without suffix.")],
    seed: Seed = 0,
) -> None:
    """Draw a figure of a paper from reproduced results."""
    from modalign.report.paper_figures import make_paper_figure

    make_paper_figure(paper, number, store, aligned, out, seed=seed)


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

    found = list_failures(results)
    for failure in found:
        typer.echo(f"{failure.path}: {failure.reason}")
    if not found:
        typer.echo(f"nothing failed in {results}", err=True)
    if forget:
        forget_failures(found)
        typer.echo(f"forgot {len(found)}; run snakemake again to retry", err=True)
