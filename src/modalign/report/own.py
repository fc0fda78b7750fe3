"""Tables that are in no paper: any methods on any data set, by any measures."""

from collections.abc import Mapping, Sequence

from modalign.errors import ConfigError
from modalign.metrics import MEASURES
from modalign.papers import Block, Column, Row, Table


def comparison_table(
    dataset: str, methods: Mapping[str, str], measures: Sequence[str], proposed: str, number: int = 1
) -> Table:
    """A table of `methods` (variant to label) on one data set; the others are tested against `proposed`.

    The method ``identity`` counts as the unaligned reference, and is never marked as best.

    Raises:
        ConfigError: `proposed` is not among the methods, a measure doesn't exist, or has no better direction.
    """
    if proposed not in methods:
        raise ConfigError(f"the proposed method {proposed!r} is not among the methods: {', '.join(methods)}")
    columns = []
    for name in measures:
        if name not in MEASURES:
            raise ConfigError(f"there is no measure {name!r}; the measures are: {', '.join(MEASURES)}")
        known = MEASURES[name]
        if known.better == "reference":
            raise ConfigError(f"measure {name} has no direction that is better: leave it out of comparisons")
        unit = f" ({known.unit})" if known.unit else ""
        columns.append(Column(name, known.label + unit, dataset, known.better, known.digits))
    rows = tuple(Row(label, name, reference=name == "identity") for name, label in methods.items())
    block = Block(rows, tuple(columns), methods[proposed])
    return Table("own", number, f"methods compared on {dataset}", (block,), printed_source="")
