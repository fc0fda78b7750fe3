"""The Typer application, and the options that several verbs share."""

from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Every rule of the workflow calls one of these verbs.",
)

Seed = Annotated[int, typer.Option(help="Seeds everything random.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads that the work may use.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes; the result doesn't depend on it.")]
Json = Annotated[str, typer.Option(help="JSON, or @file that holds it.")]
Minutes = Annotated[float | None, typer.Option(help="Time limit in minutes; past it the method counts as failed.")]
