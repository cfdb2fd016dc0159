"""What init finds out about the names of files, or takes from its options, and what their labels show."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fbunet_jax.cli.options import spelled
from fbunet_jax.config import Config, FilesConfig
from fbunet_jax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fbunet_jax.check.checks import Check
    from fbunet_jax.check.naming import Reading


class Names(Protocol):
    """The options that say how files are called."""

    @property
    def images(self) -> tuple[str, ...]:
        """Patterns of the images."""

    @property
    def labels(self) -> str:
        """Pattern of the labels."""

    @property
    def ignore(self) -> tuple[str, ...]:
        """Patterns of other files."""

    @property
    def first_page(self) -> int:
        """Number of the first page."""


def searches(config: Config, names: Names) -> bool:
    """Say whether it is to be found out how the files are called, which nothing says yet.

    Raises:
      ConfigError: patterns are given where they cannot be used.
    """
    from fbunet_jax.data.layouts.description import FILE_NAME

    given = [f"--{name}" for name in ("images", "labels", "ignore") if getattr(names, name)]
    given += ["--first-page"] if names.first_page else []
    described = Path(config.data.root, FILE_NAME)
    if given and config.data.layout != "folder":
        raise ConfigError(f"{given[0]}: {config.data.root} has the layout {config.data.layout}, whose names are given.")
    if given and described.exists():
        raise ConfigError(f"{given[0]}: {described} exists. Write the patterns there, below [files], or move it away.")
    if given and not (names.images and names.labels):
        raise ConfigError(f"{given[0]} is given alone: expected --images and --labels, and perhaps --ignore.")
    return config.data.layout == "folder" and not described.exists()


def found_naming(root: Path, names: Names, prog: str) -> "Reading":
    """Return how the files of a folder are called, as the user says or as is found out.

    Raises:
      DataError: nothing pairs, or several readings pair equally well.
    """
    from fbunet_jax.check.filenames import list_names
    from fbunet_jax.check.naming import lacks_pages, noted, propose_naming, read_as
    from fbunet_jax.check.naming_words import nothing_pairs, question

    if names.images:
        images = names.images if len(names.images) > 1 else names.images[0]
        files = FilesConfig(images, names.labels, names.ignore, first_page=names.first_page)
        # whose errors say what is wrong with the patterns
        files = dataclasses.replace(files, sparse=lacks_pages(root, files))
        if (given := read_as(root, files)) is None or not given.pairs:
            raise DataError(f"No image of {root} pairs with a label by these patterns: {_first_of(root, files)}")
        return noted(given, list_names(root))
    proposal = propose_naming(root)
    if not proposal.readings:
        raise nothing_pairs(root, proposal, spelled("init", prog))
    if len(proposal.readings) > 1:
        raise question(root, proposal.readings, spelled("init", prog))
    return proposal.readings[0]


def _first_of(root: Path, files: FilesConfig) -> str:
    """Return the first reason for which nothing pairs."""
    from fbunet_jax.data.layouts.folder import list_pairs
    from fbunet_jax.data.layouts.pairing import pair

    naming, listing = list_pairs(root, files)
    return str(next(iter((*listing.faults, *pair(naming, listing).faults)), "nothing fits."))


def called(config: Config, files: FilesConfig, *, has_parts: bool) -> Config:
    """Return the settings for files that are called like this."""
    data = dataclasses.replace(config.data, files=files)
    if has_parts:
        data = dataclasses.replace(data, fold_scheme="split", folds=1)
    return dataclasses.replace(config, data=data)


def shown_by_labels(config: Config, check: "Check", naming: "Reading") -> tuple[FilesConfig, str]:
    """Return what the labels show besides classes, and why they are thought to number objects, if they are."""
    from fbunet_jax.check.label_kinds import number_objects, some_pages_are_empty
    from fbunet_jax.data.datasets import open_source

    files, source, why = naming.files, open_source(config.data), ""
    if files.objects == "none" and number_objects(source, check.values, check.spread, naming.tool):
        files = dataclasses.replace(files, objects="numbered")
        why = "each value of the labels is one piece of its image, as the number of an object is."
    if not files.sparse and "{page}" not in files.labels and some_pages_are_empty(source):
        files = dataclasses.replace(files, sparse=True)
    return files, why
