"""The command line: ``modalign <verb>``. Every rule of the workflow calls one of these verbs."""

import logging
import sys

from modalign.cli import data, jobs, results, scans, tuning
from modalign.cli.app import app
from modalign.errors import ModalignError

__all__ = ["app", "data", "jobs", "main", "results", "scans", "tuning"]


def main() -> None:
    """Run the command line; an error that the user can mend is one message, without a traceback."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname).1s %(name)s: %(message)s")
    logging.getLogger("modalign").setLevel(logging.INFO)
    logging.getLogger().setLevel(logging.WARNING)
    try:
        app()
    except ModalignError as error:
        sys.exit(f"error: {error}")
