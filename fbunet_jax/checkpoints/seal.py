"""The seal of a folder: the size and checksum of every file, so that damage is found before anything is read."""

import hashlib
import json
from collections.abc import Container
from pathlib import Path

from fbunet_jax.errors import RunError
from fbunet_jax.files import write_atomically

SEAL = "checksums.json"


def seal(folder: Path, leave_out: Container[str] = ()) -> None:
    """Write the size and the BLAKE2 checksum of every file below a folder into its ``checksums.json``.

    Args:
      folder: whose files are complete.
      leave_out: paths in the folder that may still change, or be missing.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: _facts(path) for name, path in paths.items() if name not in leave_out}
    write_atomically(folder / SEAL, json.dumps(files, indent=1) + "\n")


def damage(folder: Path) -> str | None:
    """Return what is wrong with a sealed folder, the first file that differs, or None if it is whole.

    Raises:
      RunError: a file cannot be read now, which says nothing about what is in it.
    """
    try:
        files = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        expected = {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
    except FileNotFoundError:
        return f"{SEAL} is missing"
    except OSError as error:
        raise _unreadable(folder / SEAL, error) from error
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{SEAL} cannot be read"
    for name, (size, digest) in expected.items():
        try:
            found = _facts(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except (IsADirectoryError, NotADirectoryError):
            return f"{name} is no file"
        except OSError as error:
            raise _unreadable(folder / name, error) from error
        if found[0] != size:
            return f"{name} has {found[0]} of {size} bytes"
        if found[1] != digest:
            return f"the bytes of {name} have changed"
    return None


def _unreadable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path} cannot be read: {error.strerror}. Nothing was changed. Mend that (disk, network, permissions), and "
        "give the same command again."
    )


def _facts(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))  # type: ignore[arg-type]
    return path.stat().st_size, digest.hexdigest()
