"""Line charts as numbers for the SVG of the report, which follows the reader's light or dark mode."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 34

_LEAST = 1e-100
"""A smaller top has no round values below it."""

Points = Sequence[tuple[float, float | None]]


def line_chart(title: str, lines: Mapping[int, Points], *, unit: str, top: float | None = None) -> dict[str, Any]:
    """Return what the page draws of some lines over epochs.

    Args:
      title: of the chart.
      lines: fold to (epoch, value); a value of None interrupts nothing and is left out.
      unit: of the values.
      top: highest value of the axis; by default that of the lines. The lowest is 0.

    Returns:
      Sizes, ticks, and for each line its points in SVG coordinates.
    """
    points = {fold: [(x, y) for x, y in line if y is not None and math.isfinite(y)] for fold, line in lines.items()}
    every = [point for line in points.values() for point in line]
    last_epoch = max((x for x, _ in every), default=1)
    highest = top if top is not None else max((y for _, y in every), default=1)
    highest = highest if highest > _LEAST else 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / last_epoch
        return round(across, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(y / highest, 1)), 1)

    drawn = [
        {
            "fold": fold,
            "name": f"Fold {fold}",
            "points": " ".join(f"{x},{y}" for x, y in (place(*point) for point in line)),
            "dots": [place(*point) for point in line] if len(line) < 25 else [],
            "last": line[-1][1],
        }
        for fold, line in points.items()
        if line
    ]
    ticks = _ticks(highest)
    return {
        "title": title,
        "unit": unit,
        "size": (WIDTH, HEIGHT),
        "frame": (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        "lines": drawn,
        "rows": [(place(0, value)[1], _short(value)) for value in ticks],
        "columns": [(place(x, 0)[0], _short(x)) for x in _ticks(last_epoch) if x == int(x)],
    }


def _ticks(highest: float) -> list[float]:
    """Return round values from 0 to at most ``highest``, four to seven of them."""
    rough = highest / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [round(step * index, 10) for index in range(int(highest / step + 1e-9) + 1)]


def _short(value: float) -> str:
    return f"{value:g}"
