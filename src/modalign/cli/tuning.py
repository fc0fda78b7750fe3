"""The search for a method's options on validation cases."""

from pathlib import Path
from typing import Annotated, Any

import typer

from modalign.cli.app import Device, Minutes, Seed, Threads, app

Search = Annotated[
    Path,
    typer.Argument(help="search.json: spec, ranges, objective, measure_options, startup, parallel, share."),
]


@app.command()
def tune_trial(
    store: Annotated[Path, typer.Argument(help="Case store; its validation cases are aligned.")],
    search: Search,
    number: Annotated[int, typer.Option(min=0, help="Number of the trial; those before it lie beside --out.")],
    out: Annotated[Path, typer.Option(help="File to write, trial-<number>.json.")],
    pseudo: Annotated[Path | None, typer.Option(help="Folder of fixed images in the moving contrast.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 1,
    minutes: Minutes = None,
) -> None:
    """Try one set of options on the validation cases of a store."""
    from modalign.tuning import trial_job

    described, ranges = _read(search)
    trial_job(
        described["spec"],
        store,
        out,
        ranges,
        number=number,
        objective=described["objective"],
        startup=described["startup"],
        parallel=described["parallel"],
        measure_options=described["measure_options"],
        pseudo=pseudo,
        seed=seed,
        device=device,
        threads=threads,
        minutes=minutes,
    )


@app.command()
def choose_options(
    search: Search,
    trials: Annotated[list[Path], typer.Argument(help="The files of all trials.")],
    out: Annotated[Path, typer.Option(help="File to write, chosen.json.")],
    seed: Seed = 0,
) -> None:
    """Choose among trials the one that a Gaussian process fitted to the better ones takes for the best."""
    from modalign.tuning import choose_job

    described, ranges = _read(search)
    choose_job(trials, out, ranges, share=described["share"], seed=seed)


def _read(search: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The description of a search, and its ranges."""
    from modalign.files import read_json
    from modalign.tuning_ranges import read_range

    described = read_json(search)
    return described, {name: read_range(entry) for name, entry in described["ranges"].items()}
