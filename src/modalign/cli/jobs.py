"""Methods on the cases of a store: training, aligning, measuring, segmenting."""

import re
from pathlib import Path
from typing import Annotated

import typer

from modalign.align_files import parse_json
from modalign.cli.app import Device, Gpus, Json, Minutes, Seed, Threads, Workers, app
from modalign.cli.specs import read_spec, read_splits
from modalign.devices import take_gpus
from modalign.errors import ConfigError


@app.command()
def train(
    store: Annotated[Path, typer.Argument(help="Case store.")],
    spec: Json,
    model: Annotated[Path, typer.Option(help="Folder for the weights and train.json.")],
    seed: Seed = 0,
    device: Device = "auto",
    gpus: Gpus = 0,
    threads: Threads = 1,
    minutes: Minutes = None,
) -> None:
    """Train a method on the training cases of a store; continues where a killed training stopped."""
    from modalign.runs import train_job

    take_gpus(gpus)
    train_job(read_spec(spec), store, model, seed=seed, device=device, threads=threads, minutes=minutes)


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)-of-(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard is {text!r}: write i-of-n with i from 1 to n, such as 2-of-8")
    return int(found[1]), int(found[2])


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
    gpus: Gpus = 0,
    threads: Threads = 1,
    minutes: Minutes = None,
) -> None:
    """Align the cases of a store."""
    from modalign.runs import align_job
    from modalign.tuning_ranges import tuned_spec

    index, count = _shard(shard)
    chosen = read_spec(spec)
    take_gpus(gpus)
    align_job(
        chosen if tuned is None else tuned_spec(chosen, tuned),
        store,
        out,
        seed=seed,
        model=model,
        device=device,
        threads=threads,
        splits=read_splits(splits),
        shard=(index, count),
        minutes=minutes,
    )


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
    from modalign.metrics.features import FeatureSource
    from modalign.metrics.job import measure_job
    from modalign.plan_checks import check_measure_options

    chosen = parse_json(options, "--options", dict)
    check_measure_options("--options", chosen)
    measure_job(
        store,
        runs,
        out,
        method=method,
        seed=seed,
        measures=measures.split(","),
        splits=read_splits(splits),
        options=chosen,
        features=FeatureSource.parse(parse_json(features, "--features", dict)),
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
    gpus: Gpus = 0,
    threads: Threads = 1,
) -> None:
    """Train a small segmenter on the unaligned moving scans of the training split."""
    from modalign.segmentation.jobs import train_job

    take_gpus(gpus)
    train_job(store, model, parse_json(options, "--options", dict), seed=seed, device=device, threads=threads)


@app.command()
def segment(
    store: Annotated[Path, typer.Argument(help="Case store.")],
    runs: Annotated[list[Path], typer.Argument(help="The run-*.json of the alignments, one per shard.")],
    out: Annotated[Path, typer.Option(help="Folder for the label maps.")],
    options: Json = "{}",
    model: Annotated[Path | None, typer.Option(help="Folder of the small segmenter's weights.")] = None,
    device: Device = "auto",
    gpus: Gpus = 0,
    threads: Threads = 1,
) -> None:
    """Segment what a method aligned."""
    from modalign.segmentation.jobs import segment_job

    take_gpus(gpus)
    segment_job(store, runs, out, parse_json(options, "--options", dict), model=model, device=device, threads=threads)
