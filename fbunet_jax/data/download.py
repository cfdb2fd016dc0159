"""Published data sets, fetched file by file; each must have the SHA-256 that the registry beside this module lists."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pooch
import requests

from fbunet_jax.errors import DataError

RETRIES = 3
"""Further attempts after a transfer that broke off or gave other content."""
TIMEOUT = 30
"""Seconds without an answer after which a transfer counts as broken."""


@dataclass(frozen=True)
class PublishedSet:
    """A data set that can be downloaded.

    Attributes:
      url: folder of the files, at a fixed version.
      registry: file beside this module with a SHA-256 and a path on every line.
      megabytes: size of all files together.
      terms: licence and citation, shown before the download.
    """

    url: str
    registry: str
    megabytes: int
    terms: str


PUBLISHED = {
    "drosophila-vnc": PublishedSet(
        url="https://raw.githubusercontent.com/unidesigner/groundtruth-drosophila-vnc/"
        "4a5f051466d24d8dc1e855ab55658bb1b1dcd6bf",
        registry="drosophila_vnc.sha256",
        megabytes=44,
        terms=(
            '"Segmented anisotropic ssTEM dataset of neural tissue", Stephan Gerhard, Jan Funke, Julien Martel, '
            "Albert Cardona, Richard Fetter, https://doi.org/10.6084/m9.figshare.856713\n"
            "Licence: Creative Commons Attribution-NonCommercial-ShareAlike 3.0 (CC BY-NC-SA 3.0), "
            "https://creativecommons.org/licenses/by-nc-sa/3.0/\n"
            "Not for commercial use; cite the authors; share what you make of it under the same licence."
        ),
    )
}


def registry(name: str) -> dict[str, str]:
    """Return the path and SHA-256 of every file of a published set."""
    text = resources.files("fbunet_jax.data").joinpath(PUBLISHED[name].registry).read_text(encoding="utf-8")
    pairs = (line.split(maxsplit=1) for line in text.splitlines())
    return {path: digest for digest, path in pairs}


def fetch(
    name: str,
    directory: Path,
    url: str = "",
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> int:
    """Download the files of a published set that are not in a folder yet, or differ from what was published.

    A file appears under its name only when it is complete and its hash is right, so that the same call resumes where
    another was interrupted.

    Args:
      name: a key of `PUBLISHED`.
      directory: where to; created.
      url: another server with the same files.
      progress: wraps the paths, for a progress bar.

    Returns:
      How many files were downloaded.

    Raises:
      DataError: a file cannot be fetched, or has other content than was published.
    """
    known = registry(name)
    base = (url or PUBLISHED[name].url).rstrip("/") + "/"
    # one logger for all that pooch says; what matters is said here
    pooch.get_logger().setLevel(logging.CRITICAL)
    store = pooch.create(path=directory, base_url=base, registry=known, retry_if_failed=RETRIES)
    download = pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=2**16)
    fetched = 0
    for path in progress(known):
        target = directory / path
        present = target.is_file() and pooch.file_hash(str(target)) == known[path]
        if present:
            continue
        try:
            store.fetch(path, downloader=download)
        except requests.exceptions.RequestException as error:
            raise DataError(
                f"{base}{path} cannot be downloaded: {_reason(error)}. {_rest(directory, known)}"
            ) from error
        except ValueError as error:
            raise DataError(
                f"{base}{path} is not the file that was published: its SHA-256 differs in {RETRIES + 1} downloads. "
                f"{_rest(directory, known)} If it differs again, use another server with --url."
            ) from error
        fetched += 1
    return fetched


def _rest(directory: Path, known: Iterable[str]) -> str:
    """Return how far a download got, and how to resume it."""
    there = [(directory / path).is_file() for path in known]
    return f"{sum(there)} of {len(there)} files are there; the same command downloads the others."


def _reason(error: requests.exceptions.RequestException) -> str:
    if error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    kinds = {
        requests.exceptions.ConnectTimeout: f"no answer within {TIMEOUT} s",
        requests.exceptions.ReadTimeout: f"no answer within {TIMEOUT} s",
        requests.exceptions.ChunkedEncodingError: "the transfer broke off",
        requests.exceptions.InvalidSchema: "expected an address that begins with http:// or https://",
        requests.exceptions.MissingSchema: "expected an address that begins with http:// or https://",
        requests.exceptions.ConnectionError: "the server cannot be reached",
    }
    return next((words for kind, words in kinds.items() if isinstance(error, kind)), type(error).__name__)
