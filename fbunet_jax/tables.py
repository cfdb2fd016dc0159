"""Tables of text, in columns that line up or in Markdown, and the numbers in them and in sentences."""

import math
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], align: str = "<") -> str:
    """Return the rows of a table, two spaces between columns, without spaces at the end of a line.

    Args:
      rows: the cells, the header first; equally many in each row.
      align: ``<`` for left and ``>`` for right; one character for all columns, or one for each.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = align * len(widths) if len(align) == 1 else align
    lines = [[f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; a bar in a cell does not end it."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float | None, unit: str = "") -> str:
    """Return a share, 0 to 1, in percent, such as "71.2" or with the unit " %" "71.2 %"; "n/a" for None and NaN."""
    return "n/a" if share is None or math.isnan(share) else f"{100 * share:.1f}{unit}"


def percentage_points(difference: float | None) -> str:
    """Return a difference of shares in percentage points, with its sign, such as "+1.3"; "n/a" for None and NaN."""
    # 0.0 added: a small negative number would be written as -0.0
    return "n/a" if difference is None or math.isnan(difference) else f"{round(100 * difference, 1) + 0.0:+.1f}"


def number_or_none(value: float | None) -> float | None:
    """Return a number as JSON has it: None in place of NaN."""
    return None if value is None or math.isnan(value) else float(value)


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it, such as "3 min"."""
    minutes = seconds / 60
    return f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"
