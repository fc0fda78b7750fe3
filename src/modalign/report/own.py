"""Tables that are in no paper: any methods on any data set, by any measures."""

from collections.abc import Mapping, Sequence

from modalign.errors import ConfigError
from modalign.metrics import MEASURES
from modalign.papers import Block, Column, Footnote, Row, Table
from modalign.papers.base import Direction

COSTS: dict[str, tuple[str, int, str]] = {
    "seconds": ("Time (s)", 2, "Time: a method's own seconds per case, without its training, reading and writing."),
    "peak_memory_mb": (
        "Memory (MB)",
        0,
        "Memory: peak of the job that aligned the cases one after another, one value per seed: its process with all "
        "libraries, and the largest program that it started. Jobs of `make` are forks of a process that has loaded "
        "everything, which adds what a method doesn't need.",
    ),
    "gpu_memory_mb": ("GPU memory (MB)", 0, "GPU memory: peak of what the method had allocated, per case."),
}
"""What an alignment costs: heading, digits and explanation by metric. Reported beside the measures, never ranked."""


def comparison_table(
    dataset: str,
    methods: Mapping[str, str],
    measures: Sequence[str],
    proposed: str,
    number: int = 1,
    costs: Sequence[str] = (),
) -> Table:
    """A table of `methods` (variant to label) on one data set; the others are tested against `proposed`.

    The method ``identity`` counts as the unaligned reference, and is never marked as best. Measures without a better
    direction, such as TV-z, and `costs`, of :data:`COSTS`, are reported alone: neither marked nor tested.

    Raises:
        ConfigError: `proposed` is not among the methods, or a measure doesn't exist.
    """
    if proposed not in methods:
        raise ConfigError(f"the proposed method {proposed!r} is not among the methods: {', '.join(methods)}")
    columns, notes = [], []
    for name in measures:
        if name not in MEASURES:
            raise ConfigError(f"there is no measure {name!r}; the measures are: {', '.join(MEASURES)}")
        known = MEASURES[name]
        unit = f" ({known.unit})" if known.unit else ""
        if known.better == "reference":
            notes.append(f"{known.label} is best where it is closest to that of the unaligned scans: not ranked.")
        direction: Direction = "none" if known.better == "reference" else known.better
        columns.append(Column(name, known.label + unit, dataset, direction, known.digits))
    for name in costs:
        label, digits, note = COSTS[name]
        columns.append(Column(name, label, dataset, "none", digits))
        notes.append(note)
    rows = tuple(Row(label, name, reference=name == "identity") for name, label in methods.items())
    block = Block(rows, tuple(columns), methods[proposed])
    footnotes = tuple(Footnote(note) for note in notes)
    return Table("own", number, f"methods compared on {dataset}", (block,), printed_source="", footnotes=footnotes)
