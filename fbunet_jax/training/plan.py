"""What a run will do, known before it begins: its epochs, their steps, and where it validates."""

from collections.abc import Iterator
from typing import NamedTuple

from fbunet_jax.config import TrainingConfig
from fbunet_jax.pipeline.sampling import steps_until_epoch


class Stretch(NamedTuple):
    """The steps between the ends of two epochs.

    Attributes:
      epoch: at whose end it stops, from 1 on.
      first: its first step, from 0 on.
      last: the step before which it stops.
      validates: whether a validation, which saves, follows it.
    """

    epoch: int
    first: int
    last: int
    validates: bool


def plan_run(config: TrainingConfig, items: int) -> list[Stretch]:
    """Divide a run into stretches; few images and a large batch share one stretch among several epochs.

    Args:
      config: epochs, batch size, and how often to validate.
      items: number of crops in an epoch.
    """
    plan: list[Stretch] = []
    previous, first = 0, 0
    for epoch in range(1, config.epochs + 1):
        last = steps_until_epoch(epoch, items, config.batch_size)
        if last > first:
            due = epoch // config.validate_every > previous // config.validate_every
            plan.append(Stretch(epoch, first, last, due))
            previous, first = epoch, last
    plan[-1] = plan[-1]._replace(validates=True)
    return plan


def calls(first: int, last: int, size: int) -> Iterator[range]:
    """Yield the steps of each call of the compiled program, at most `size` of them.

    Calls end at multiples of `size` of the global step, wherever the first begins: a run that is resumed makes the same
    calls as one that was never stopped.
    """
    while first < last:
        end = min((first // size + 1) * size, last)
        yield range(first, end)
        first = end
