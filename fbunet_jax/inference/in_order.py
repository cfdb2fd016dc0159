"""Several batches of tiles at the same time, and what they give one after the other."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

MOST_THREADS = 16
"""Each takes memory: some 0.15 GiB for a tile of 512 x 512 pixels."""

Key = TypeVar("Key")
Job = Callable[[], Array | NDArray[np.float32]]


def in_order(jobs: Iterable[tuple[Key, Job]]) -> Iterator[tuple[Key, NDArray[np.float32]]]:
    """Run jobs in threads, and yield what each gives, on the host, in the order of the jobs.

    XLA keeps little more than one core busy with convolutions of few channels, so a CPU runs a job a core. Elsewhere
    one batch is computed while another one goes to the device or comes back.

    Args:
      jobs: a name and a function for each; they are taken a few at a time.
    """
    threads = min(usable_cores(), MOST_THREADS) if jax.default_backend() == "cpu" else 2
    pending: collections.deque[tuple[Key, Future[NDArray[np.float32]]]] = collections.deque()
    pool = ThreadPoolExecutor(threads, "tiles")
    try:
        for key, job in jobs:
            pending.append((key, pool.submit(_on_the_host, job)))
            # one more waits, so that no thread does
            if len(pending) > threads:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_the_host(job: Job) -> NDArray[np.float32]:
    return np.asarray(job())
