"""A table as tidy CSV: one line per cell, with every number at full precision."""

import csv
import io
import math

from modalign.report.result import TableResult

FIELDS = (
    "paper",
    "table",
    "block",
    "group",
    "row",
    "method",
    "proposed",
    "dataset",
    "data_source",
    "metric",
    "structure",
    "direction",
    "scale",
    "unit",
    "mean",
    "sd",
    "n",
    "seeds",
    "ci_low",
    "ci_high",
    "pairs",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "smallest_p",
    "beats",
    "mark",
    "significance",
    "printed_mean",
    "printed_sd",
    "printed_significance",
    "printed_beats",
    "minus_printed",
    "note",
)


def render(result: TableResult) -> str:
    """One line per cell; numbers in the printed unit, empty where there is none.

    `minus_printed` is left out for phantoms and for stand-ins, whose numbers can't be compared with the printed ones.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    table = result.table
    for block in result.blocks:
        for row, cells in zip(block.rows, block.cells, strict=True):
            for column, cell in zip(block.columns, cells, strict=True):
                printed = cell.printed
                stand_in = column.column.dataset in table.stand_ins
                comparable = printed is not None and column.source != "no data" and not (column.phantom or stand_in)
                source = "phantom" if column.phantom else "stand-in" if stand_in else "real"
                line = {
                    "paper": table.paper,
                    "table": table.number,
                    "block": block.block.label,
                    "group": row.group,
                    "row": row.label,
                    "method": cell.method or "",
                    "proposed": "yes" if block.is_proposed(row) else "",
                    "dataset": cell.dataset,
                    "data_source": source if column.source != "no data" else "",
                    "metric": cell.metric,
                    "structure": column.column.structure,
                    "direction": column.column.direction,
                    "scale": column.column.scale,
                    "unit": cell.unit,
                    "mean": _number(cell.mean),
                    "sd": _number(cell.sd),
                    "n": cell.n or "",
                    "seeds": cell.seeds or "",
                    "ci_low": _number(cell.ci_low),
                    "ci_high": _number(cell.ci_high),
                    "pairs": cell.pairs or "",
                    "difference": _number(cell.difference),
                    "difference_low": _number(cell.difference_low),
                    "difference_high": _number(cell.difference_high),
                    "p": _number(cell.p),
                    "p_holm": _number(cell.p_holm),
                    "smallest_p": _number(cell.smallest_p),
                    "beats": cell.beats if cell.pairs else "",
                    "mark": cell.mark,
                    "significance": cell.significance or ("" if block.is_proposed(row) else column.untested),
                    "printed_mean": printed.mean if printed else "",
                    "printed_sd": printed.sd if printed else "",
                    "printed_significance": printed.significance if printed else "",
                    "printed_beats": printed.beats if printed else "",
                    "minus_printed": _number(cell.mean - float(printed.mean)) if printed and comparable else "",
                    "note": "; ".join(part for part in (cell.missing, cell.warning) if part),
                }
                writer.writerow(line)
    return text.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))
