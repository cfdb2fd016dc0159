"""What an epoch measures: the metrics of its steps, and its time; kept across an interruption."""

import time
from typing import Any, Self

import jax
import numpy as np
from numpy.typing import NDArray

from fbunet_jax.training.parallel import Metrics


class EpochMeasures:
    """The metrics of every step of the epoch under way. They stay on the device until they are asked for."""

    def __init__(self) -> None:
        self._done: list[dict[str, NDArray[np.float32]]] = []
        self._on_device: list[tuple[Metrics, int]] = []
        self._seconds, self._began = 0.0, time.perf_counter()

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Self:
        """Go on with what `to_json` returned, bit for bit."""
        measures = cls()
        measures._seconds = table["seconds"]
        if table["metrics"]:
            measures._done.append({name: np.asarray(v, np.float32) for name, v in table["metrics"].items()})
        return measures

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return {"seconds": self.seconds, "metrics": {name: v.tolist() for name, v in self.per_step().items()}}

    @property
    def seconds(self) -> float:
        """Time spent on the epoch so far."""
        return self._seconds + time.perf_counter() - self._began

    def add(self, metrics: Metrics, count: int) -> None:
        """Add the metrics of one call, whose first axis is the step; only the first `count` entries count."""
        self._on_device.append((metrics, count))

    def per_step(self) -> dict[str, NDArray[np.float32]]:
        """Return every metric of all steps so far, `[S, ...]`."""
        for metrics, count in self._on_device:
            self._done.append({name: value[:count] for name, value in jax.device_get(metrics).items()})
        self._on_device.clear()
        if len(self._done) > 1:
            self._done = [jax.tree.map(lambda *values: np.concatenate(values), *self._done)]
        return self._done[0] if self._done else {}

    def mean(self) -> dict[str, Any]:
        """Return the mean of every metric over the steps, as plain numbers."""
        return {name: v.mean(axis=0, dtype=np.float64).tolist() for name, v in self.per_step().items()}

    def first_not_finite(self) -> int | None:
        """Return the place in the epoch of the first step whose loss or gradient is not finite, or None."""
        metrics = self.per_step()
        if not metrics:
            return None
        finite = np.isfinite(metrics["loss"] + metrics["gradient_norm"])
        return None if finite.all() else int(np.argmin(finite))
