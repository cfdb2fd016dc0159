"""Looks for inputs of an image reader that fail, led by which code they reach.

    python -m tests.fuzz.coverage_guided "tiff" CORPUS -runs=20000 -seed=1

What follows the kind of file goes to libFuzzer. The mutations are those of the structure, or libFuzzer's own.
"""

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tifffile", "PIL", "fbunet_jax.data"]):
    from fbunet_jax.errors import UserError
    from tests.fuzz import images
    from tests.fuzz.outcomes import NotComparedError
    from tests.fuzz.targets import TARGETS

SEEDS = {
    "tiff": (images.tiff_seeds, images.mutate_tiff),
    "png": (images.png_seeds, images.mutate_png),
    "jpeg": (images.jpeg_seeds, images.mutate_jpeg),
}


def main():
    """Write the seeds into the corpus, and fuzz."""
    kind, corpus, *options = sys.argv[1:]
    target = TARGETS[kind]
    seeds, mutate = SEEDS[kind.partition(" ")[0]]
    Path(corpus).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
    path = target.prepare(Path(tempfile.mkdtemp()))

    def read_one(data):
        path.write_bytes(data)
        try:
            target.judge(path)
        except (UserError, NotComparedError):
            return

    def mutated(data, max_size, seed):
        chance = random.Random(seed)
        if chance.randrange(3) == 0 or not data:
            return atheris.Mutate(data, max_size)
        return mutate(chance, bytes(data), seeds())[:max_size]

    atheris.Setup([sys.argv[0], corpus, "-max_len=20000", *options], read_one, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
