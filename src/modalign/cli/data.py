"""Data sets: phantoms, downloads, indices, preprocessing."""

from pathlib import Path
from typing import Annotated

import typer

from modalign.align_files import parse_json
from modalign.cli.app import Json, Seed, Workers, app


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
        options=parse_json(options, "--options", dict),
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

    prepare_cases(index, recipe, out, overrides=parse_json(overrides, "--overrides", dict), seed=seed, workers=workers)
