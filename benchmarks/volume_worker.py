"""One process of the volume benchmark: `fbunet predict`, with the time of every chunk taken."""

import json
import sys
import time
from collections.abc import Sequence

from fbunet_jax.cli import main
from fbunet_jax.inference.volumes import Chunk, Volume
from fbunet_jax.training.memory import peak_host_bytes


def work(arguments: Sequence[str]) -> None:
    """Run the command, and print chunks, seconds, pixels a second after the first chunk, and peak bytes as JSON."""
    ends: list[float] = []
    pixels: list[int] = []
    segment = Volume.segment

    def timed(self: Volume, chunk: Chunk) -> str:
        warning = segment(self, chunk)
        ends.append(time.monotonic())
        pixels.append(chunk.pixels)
        return warning

    Volume.segment = timed  # type: ignore[method-assign]
    began = time.monotonic()
    if code := main(arguments):
        sys.exit(code)
    seconds = time.monotonic() - began
    rate = sum(pixels[1:]) / (ends[-1] - ends[0]) if len(ends) > 1 else 0.0
    print(json.dumps({"chunks": len(ends), "seconds": seconds, "rate": rate, "peak": peak_host_bytes()}))
