"""The most crops that fit on a device: extrapolated from two programs, and verified with a third."""

from collections.abc import Callable

from fbunet_jax.accelerators.devices import LANES, Device


def find_largest(memory: Callable[[int], int], device: Device, share: int, most: int = 2**20) -> int | None:
    """Return the most crops a device whose training fits; None if not even one does.

    Memory grows with the crops along a line, but for the rounding of layouts and what a compiler saves when memory is
    short: the result is that of a program that was compiled and fits, and not always the very largest.

    Args:
      memory: bytes that a program with so many crops a device takes; each call compiles one.
      device: for which.
      share: crops a device of the configuration.
      most: crops a device that are tried at the most.
    """
    # on a TPU a batch below the lanes takes as much memory as one that fills them
    first = share if device.is_gpu else max(share, LANES)
    while memory(first) > device.memory:
        if first == 1:
            return None
        first = max(1, first // 2)
    second = 2 * first
    slope = (memory(second) - memory(first)) / (second - first)
    verified = second if memory(second) <= device.memory else first
    if slope <= 0:
        return verified
    largest = min(int((device.memory - memory(first)) / slope) + first, most)
    for _ in range(4):
        if not device.is_gpu and largest > LANES:
            largest = largest // LANES * LANES
        if largest <= verified:
            break
        if memory(largest) <= device.memory:
            return largest
        # programs of other sizes are not quite on the line
        largest = int(0.98 * largest * min(1, device.memory / memory(largest)))
    return verified
