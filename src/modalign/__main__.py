"""``python -m modalign`` is the command ``modalign``, as the workflow runs it."""

from modalign.preloaded import hand_over

hand_over()  # before anything is imported that takes time

from modalign.cli import run_job  # noqa: E402

run_job()
