"""The command line: ``modalign <verb>``. Every rule of the workflow calls one of these verbs."""

import atexit
import logging
import sys

from modalign.cli import data, jobs, results, scans, tuning
from modalign.cli.app import app
from modalign.errors import ModalignError
from modalign.memory import largest_process_mb, processor_seconds

__all__ = ["app", "data", "jobs", "main", "results", "run_job", "scans", "tuning"]

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command line; an error that the user can mend is one message, without a traceback."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname).1s %(name)s: %(message)s")
    logging.getLogger("modalign").setLevel(logging.INFO)
    logging.getLogger().setLevel(logging.WARNING)
    try:
        app()
    except ModalignError as error:
        sys.exit(f"error: {error}")


USED = "used %.2f s of processor time, %.0f MB in the largest process"
"""What the log of a job says at its end."""


def run_job() -> None:
    """Run the command line as a job of the workflow, which logs what it has used."""
    atexit.register(lambda: log.info(USED, processor_seconds(), largest_process_mb()))
    main()
