"""``fbunet download``: fetch a published data set."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from fbunet_jax.cli.options import spelled
from fbunet_jax.errors import ConfigError
from fbunet_jax.user_files import expand


@dataclass(frozen=True)
class Arguments:
    """Download a published data set, after showing its licence. The same command again resumes."""

    dataset: Annotated[Literal["drosophila-vnc"], tyro.conf.Positional]
    """Which data set."""
    directory: Annotated[str, tyro.conf.Positional]
    """Folder for it; files that are there already are kept."""
    yes: bool = False
    """Accept the licence without being asked."""
    url: str = ""
    """Another server that has the same files."""
    debug: bool = False
    """Show the traceback of an error."""


def command(options: Sequence[str], prog: str) -> int:
    """Fetch a published data set."""
    arguments = tyro.cli(Arguments, args=options, prog=prog)
    from tqdm import tqdm

    from fbunet_jax.data.download import PUBLISHED, fetch, registry

    published, count = PUBLISHED[arguments.dataset], len(registry(arguments.dataset))
    print(published.terms, flush=True)
    if not arguments.yes and not _accepted(f"Download {count} files, {published.megabytes} MB?"):
        print("Nothing was downloaded.")
        return 0
    directory = expand(arguments.directory)
    fetched = fetch(
        arguments.dataset, directory, arguments.url, lambda paths: tqdm(paths, "Downloading", unit="file", delay=1)
    )
    print(f"{count} files are in {directory}: {fetched} downloaded, {count - fetched} were there.")
    print(f"Next: {spelled('check', prog)} --config drosophila --data.root {shlex.quote(str(directory))}")
    return 0


def _accepted(question: str) -> bool:
    """Ask at the terminal.

    Raises:
      ConfigError: there is no terminal to ask at.
    """
    if not sys.stdin.isatty():
        raise ConfigError("There is no terminal to ask whether you accept this licence. Add --yes if you do.")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
