"""``fbunet compare``: paired differences between runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fbunet_jax.errors import ConfigError
from fbunet_jax.user_files import expand, real


@dataclass(frozen=True)
class Arguments:
    """Compare evaluated runs fold by fold: differences in IoU to the first run, printed and drawn."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run directories of the same data and folds; the first is what the others are compared with."""
    split: Literal["test", "validation"] = "test"
    """Which evaluation of each run."""
    offsets: bool = False
    """Compare the evaluations that evaluate --offsets made."""
    out: str = "compare.png"
    """Where the picture goes."""
    debug: bool = False
    """Show the traceback of an error."""


def command(options: Sequence[str], prog: str) -> int:
    """Compare runs, print the table and draw the picture."""
    arguments = tyro.cli(Arguments, args=options, prog=prog)
    out = expand(arguments.out)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: the picture is a PNG. Give a name that ends in .png.")
    seen: set[Path] = set()
    for run in arguments.runs:
        path = real(expand(run))
        if path in seen:
            raise ConfigError(f"{run} is given twice. Give each run once; the first is compared with the others.")
        seen.add(path)
    from fbunet_jax.evaluation.compare import compare, comparison_table
    from fbunet_jax.figures import draw_differences

    comparison = compare(arguments.runs, split=arguments.split, offsets=arguments.offsets)
    print(comparison_table(comparison))
    columns = [
        (d.name, 100 * d.folds, 100 * d.summed, [(100 * i[0], 100 * i[1]) if i else None for i in d.intervals])
        for d in comparison.differences
    ]
    draw_differences(out, comparison.rows, columns, comparison.names[0])
    print(f"Written: {out}")
    return 0
