"""What users give: paths, folders, and text files. The one place that expands, lists and reads them."""

import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

from fbunet_jax.errors import ConfigError, UserError

_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}|%\w+%")
_CLUTTER = frozenset(
    (
        *(
            "thumbs.db",
            "ehthumbs.db",
            "zbthumbnail.info",
            "picasa.ini",
            "desktop.ini",
            "$recycle.bin",
            "recycler",
            "system volume information",
        ),
        *("__macosx", "icon\r", "icon\uf00d", "network trash folder", "temporary items", "desktop db", "desktop df"),
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@synoresource", "#recycle", "#snapshot"),
        *("~snapshot", "~tmp", "lost+found", "aquota.user", "aquota.group", "__pycache__"),
    )
)
"""Names, in small letters, of what Windows, macOS and network disks put into folders, besides hidden files."""
_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def expand(path: str | Path) -> Path:
    """Return a path as the user gave it, with ``~`` and ``~user`` replaced by the home folder.

    It stays relative if it is, links are not followed, and a slash at its end goes. Environment variables are not
    replaced: a name such as ``$HOME`` that does not exist is refused. ``./~`` is a folder of that name.

    Raises:
      ConfigError: there is no such home folder, an environment variable was meant, or the path holds a NUL character.
    """
    found = _with_home(path)
    if part := _meant_variable(found):
        raise ConfigError(
            f"{path} holds {part}, which does not exist; environment variables are not replaced in settings and "
            "options. Write the path in full."
        )
    return found


def expand_text(path: str | Path) -> str:
    """Return `expand` of a path as text; empty text, which means none, stays, and so does what looks like a variable.

    A run's settings may name a folder that is gone; `missing` says it where such a path is used.
    """
    return str(_with_home(path)) if os.fspath(path) else ""


def _with_home(path: str | Path) -> Path:
    text = os.fspath(path)
    if "\0" in text:
        raise ConfigError(f"The path {text!r} holds a NUL character, which no name of a file can have.")
    if not text.startswith("~"):
        found = Path(text)
        return Path.cwd() / found if str(found).startswith("~") else found
    try:
        return Path(text).expanduser()
    except RuntimeError:
        name = Path(text).parts[0]
        raise ConfigError(
            f"{text} begins with {name}, and the home folder that it stands for is not known. Write the path in full, "
            f"or ./{text} for a file or folder of that name."
        ) from None


def _meant_variable(path: Path) -> str:
    """Return the first part of a path that looks like an environment variable and does not exist, or ""."""
    for depth, part in enumerate(path.parts):
        if _VARIABLE.fullmatch(part) and not os.path.lexists(Path(*path.parts[: depth + 1])):
            return part
    return ""


def real(path: Path) -> Path:
    """Return where a path leads, links followed; a loop of links is left as it is."""
    return Path(os.path.realpath(path))


def missing(path: Path) -> str:
    """Return why a path is not a folder, or a file, that could be read, such as "does not exist"."""
    if path.exists():
        return "is a file" if path.is_file() else "is a folder"
    if path.is_symlink():
        return "is a link that leads nowhere"
    variable = _meant_variable(path)
    return "does not exist" + (variable and f" (environment variables such as {variable} are not replaced)")


def listed(folder: Path) -> list[Path]:
    """Return what lies in a folder, in the order of the names, without what systems and network disks put there."""
    return [folder / name for name in sorted(os.listdir(folder)) if not is_clutter(name)]  # noqa: PTH208 (names only)


def is_clutter(name: str) -> bool:
    """Say whether a file or folder is hidden, or what an operating system, a network disk or an editor has put there.

    Those are, among others, ``.DS_Store``, ``._a.tif``, ``Thumbs.db``, ``@eaDir``, ``lost+found``, ``~$a.tif``, and
    ``a.tif:Zone.Identifier``.
    """
    return (
        name.startswith((".", "~$"))
        or name.casefold() in _CLUTTER
        or name.endswith((":Zone.Identifier", ":encryptable", "@SynoEAStream", "@SynoResource", "~"))
        or (name.startswith("#") and name.endswith("#"))
    )


def suffix(path: Path) -> str:
    """Return the suffix of a file in small letters, such as ".tif"."""
    return path.suffix.lower()


def stem(path: Path) -> str:
    """Return the name of a file without its suffix: "07" for 07.tif, 07.ome.tif, and 07.OME.TIF."""
    return re.sub(r"\.ome$", "", path.stem, flags=re.IGNORECASE)


def composed(name: str) -> str:
    """Return a name with "ä" as one character, which macOS writes as two."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def same_name(name: str) -> str:
    """Return what two names have in common that some disk takes for the same: small and capital letters, "ä"."""
    return composed(composed(name).casefold())


def is_text(name: str) -> bool:
    """Say whether a name can be written in UTF-8; names of files may hold any bytes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_text(file: Path, error: Callable[[str], UserError] = ConfigError) -> str:
    """Read a text file that a user may have edited: UTF-8, with or without a byte order mark, lines of any system.

    Args:
      file: to be read.
      error: makes the exception of a sentence.

    Raises:
      OSError: it cannot be opened.
      UserError: it is not text in UTF-8; says what it is, and where it stops being UTF-8.
    """
    data = file.read_bytes()
    save = "Save it as UTF-8."
    for mark, name in _MARKS:
        if data.startswith(mark):
            raise error(f"{file} is text in {name}, and UTF-8 is expected. {save}")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data:
        start = data[:64]
        if len(start) > 1 and (not any(start[1::2]) or not any(start[::2])):
            raise error(f"{file} is text in UTF-16 without a byte order mark, and UTF-8 is expected. {save}")
        raise error(f"{file} holds a NUL byte ({_place(data, data.index(0))}): it is not text, or it is damaged.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        byte = data[fault.start]
        meant = bytes([byte]).decode("cp1252", "replace")
        raise error(
            f"{file} is not text in UTF-8: {_place(data, fault.start)} is 0x{byte:02x}, which is {meant!r} "
            f"in Latin-1 or Windows-1252. {save}"
        ) from fault
    return text.replace("\r\n", "\n").replace("\r", "\n")


def odd_characters(line: str) -> str:
    """Return a hint at the typographic quotes, no-break spaces and the like in a line that cannot be read, or ""."""
    found = [each for each in line if ord(each) > 127 and not each.isalnum()]
    named = dict.fromkeys(f"{unicodedata.name(each, 'a character').lower()} (U+{ord(each):04X})" for each in found)
    if not named:
        return ""
    return f" The line holds {', '.join(list(named)[:3])}: write plain quotes and spaces (\" or ', not “ ”)."


def _place(data: bytes, byte: int) -> str:
    line = data.count(b"\n", 0, byte) + 1
    column = byte - data.rfind(b"\n", 0, byte)
    return f"line {line}, byte {column}"
