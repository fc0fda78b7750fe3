"""The search for a method's options on validation cases."""

from pathlib import Path
from typing import Annotated

import typer

from modalign.cli.app import Device, Gpus, Minutes, Seed, Threads, app
from modalign.devices import take_gpus

SearchFile = Annotated[Path, typer.Argument(help="search.json: what is searched, and how.")]


@app.command()
def tune_trials(
    store: Annotated[Path, typer.Argument(help="Case store; its validation cases are aligned.")],
    search: SearchFile,
    batch: Annotated[int, typer.Option(min=0, help="Number of the batch; those before it lie beside --out.")],
    out: Annotated[Path, typer.Option(help="File to write, trials-<batch>.json.")],
    count: Annotated[int | None, typer.Option(min=1, help="Trials of this batch, where it isn't a whole one.")] = None,
    pseudo: Annotated[Path | None, typer.Option(help="Folder of fixed images in the moving contrast.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    gpus: Gpus = 0,
    threads: Threads = 1,
    minutes: Minutes = None,
) -> None:
    """Try sets of options on the validation cases of a store; continues where a killed batch stopped."""
    from modalign.tuning import Search, trials_job

    take_gpus(gpus)
    trials_job(
        Search.read(search),
        store,
        out,
        number=batch,
        count=count,
        pseudo=pseudo,
        seed=seed,
        device=device,
        threads=threads,
        minutes=minutes,
    )


@app.command()
def choose_options(
    search: SearchFile,
    batches: Annotated[list[Path], typer.Argument(help="The files of all batches of trials.")],
    out: Annotated[Path, typer.Option(help="File to write, chosen.json.")],
    seed: Seed = 0,
) -> None:
    """Choose among trials the one that a Gaussian process fitted to the better ones takes for the best."""
    from modalign.tuning import Search, choose_job

    choose_job(batches, out, Search.read(search), seed=seed)
