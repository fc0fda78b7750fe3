"""The search for a method's options on validation cases."""

from pathlib import Path
from typing import Annotated

import typer

from modalign.align_files import parse_json
from modalign.cli.app import Device, Json, Minutes, Seed, Threads, app


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
