"""``fbunet report``: one page with the numbers and pictures of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Arguments:
    """Write one self-contained HTML page about a run; further runs are shown beside it."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run directories of the same data and folds; the page is about the first."""
    split: Literal["test", "validation"] = "test"
    """Which part of each fold."""
    data_root: str = ""
    """Folder of the data set, where it is no longer where the run found it."""
    out: str = ""
    """Where the page goes; report.html in the first run directory by default."""
    debug: bool = False
    """Show the traceback of an error."""


def command(options: Sequence[str], prog: str) -> int:
    """Write the report of one run or several."""
    arguments = tyro.cli(Arguments, args=options, prog=prog)
    from fbunet_jax.errors import ConfigError
    from fbunet_jax.evaluation.report import write_report

    if not arguments.runs:
        raise ConfigError(f"{prog} needs a run directory, such as runs/quickstart/feedback-convlstm.")
    file = write_report(
        arguments.runs,
        split=arguments.split,
        root=arguments.data_root,
        out=arguments.out or None,
        tell=lambda line: print(line, flush=True),
    )
    print(f"Written: {file} ({file.stat().st_size / 1e6:.1f} MB)")
    return 0
