"""``python -m modalign`` is the command ``modalign``."""

from modalign.cli import main

main()
