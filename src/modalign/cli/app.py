"""The Typer application, and the options that several verbs share."""

from typing import Annotated

import typer

from modalign.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Every rule of the workflow calls one of these verbs.",
)

Seed = Annotated[int, typer.Option(help="Seeds everything random.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]
Gpus = Annotated[
    int,
    typer.Option(min=0, help="How many GPUs to see, of those that no other job of yours on this machine has; 0: all."),
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads that the work may use.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes; the result doesn't depend on it.")]
Json = Annotated[str, typer.Option(help="JSON, or @file that holds it.")]


def _minutes(text: str) -> float | None:
    """A time limit in minutes, from ``90min``; None from ``none``."""
    if text == "none":
        return None
    number = text.removesuffix("min")
    try:
        minutes = float(number)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise ConfigError(f"--time-limit is {text!r}: write minutes, such as 90min, or none")
    return minutes


Minutes = Annotated[
    float | None,
    typer.Option(
        "--time-limit", parser=_minutes, metavar="TEXT", help="Past it the method counts as failed: 90min, or none."
    ),
]
