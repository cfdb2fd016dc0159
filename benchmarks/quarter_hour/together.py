"""How many trainings at once a device runs fastest, all of them counted.

usage: python -m benchmarks.quarter_hour.together SIZE RESULT

They are processes of their own, as the cells of the table are, and train feedback-convlstm in float32, as the paper's
setting has it. RESULT is written anew after each number.
"""

import json
import sys
from pathlib import Path

from benchmarks.quarter_hour.sizes import SIZES
from benchmarks.speed import Contestant, killed_at_the_end
from fbunet_jax.runs.files import write_atomically

NUMBERS = (1, 2, 4)


def main() -> None:
    """Measure each number; the first one compiles, the others read its program from the cache."""
    size, path = SIZES[sys.argv[1]], Path(sys.argv[2])
    task = size.task("float32")
    found: dict[str, float] = {}
    with killed_at_the_end() as running:
        for number in NUMBERS:
            started = [Contestant(task, sys.executable) for _ in range(number - len(running))]
            running += started
            for contestant in started:
                contestant.wait()
            for contestant in running:
                contestant.ask(size.together_seconds)
            found[str(number)] = sum(1 / contestant.listen() for contestant in running)
            about = {name: running[0].about[name] for name in ("device", "version")}
            result = {**about, "batch": task.batch, "images_per_second": found}
            write_atomically(path, json.dumps(result, indent=1) + "\n")
            print(f"{number} at once: {found[str(number)]:,.0f} images/s together", flush=True)


if __name__ == "__main__":
    main()
