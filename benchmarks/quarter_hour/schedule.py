"""Which cell of the table is started or stopped next, so that at most one is left unfinished when the time is over."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fbunet_jax.experiments.grid import Place

MARGIN = 1.05
"""A cell is late if it needs so much more than the time that is left."""


class Running(NamedTuple):
    """A cell that is being trained.

    Attributes:
      place: of the cell.
      remaining: seconds that it still takes, infinity where nothing is known.
      is_measured: by its own rate, with those that run beside it now.
    """

    place: Place
    remaining: float
    is_measured: bool


class Waiting(NamedTuple):
    """A cell that is not being trained.

    Attributes:
      place: of the cell.
      alone: seconds that its training takes with nothing beside it, infinity where nothing is known.
      fixed: seconds before its first step and after its last.
      has_begun: it has a checkpoint from which it resumes.
    """

    place: Place
    alone: float
    fixed: float
    has_begun: bool


class Decision(NamedTuple):
    """What to do with a cell."""

    place: Place
    starts: bool


def share(rates: Mapping[int, float], number: int) -> float:
    """Return how fast each of some trainings at once runs, relative to one alone.

    Args:
      rates: of all together, by their number; between two numbers it is interpolated. Without any, as many together are
        as fast as one.
      number: at once.
    """
    if not rates:
        return 1 / number
    numbers = sorted(rates)
    together = np.interp([1, number], numbers, [rates[each] for each in numbers])
    return float(together[1] / number / together[0])


def decide(
    running: Sequence[Running],
    waiting: Sequence[Waiting],
    left: float,
    start: float,
    at_once: int,
    rates: Mapping[int, float],
) -> Decision | None:
    """Return the cell to start or to stop now, or None.

    Of those that run and are late, all but one are stopped, the furthest from its end first. Where there is room, the
    first is started that will be finished; or else, if none that runs is late, the first of all: one that has begun, if
    there is one. None is started that would make another one late.

    Args:
      running: the cells under way.
      waiting: the others, in the order in which they are wanted; those that have begun come first.
      left: seconds.
      start: seconds until a cell's first step.
      at_once: how many may run.
      rates: see `share`.
    """
    late = [each for each in running if each.remaining > MARGIN * left]
    measured = [each for each in late if each.is_measured]
    if len(late) > 1 and len(measured) > 1:
        return Decision(max(measured, key=lambda each: each.remaining).place, starts=False)
    number = len(running) + 1
    if number > at_once or not waiting:
        return None
    slower = share(rates, number - 1) / share(rates, number) if running else 1.0
    if any(each.remaining <= left < slower * each.remaining for each in running):
        return None
    if waiting[0].has_begun and waiting[0].alone == math.inf and left > start and not late:
        return Decision(waiting[0].place, starts=True)
    for each in waiting:
        if each.fixed + each.alone / share(rates, number) <= left:
            return Decision(each.place, starts=True)
    if left > start and not late:
        return Decision(waiting[0].place, starts=True)
    return None
