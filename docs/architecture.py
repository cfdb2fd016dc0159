"""Draw docs/images/architecture.svg from the code: the rooms in their order, and which of them import which.

    python docs/architecture.py

Run it after a change of the structure; a test compares the picture with the code.
"""

import ast
import textwrap
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fbunet_jax"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"

LAYERS = {
    "ground": ("errors", "device_errors", "user_files", "metrics", "losses", "figures", "tables"),
    "network": ("models",),
    "settings": ("toml_tables", "config_formats", "config", "networks"),
    "images": ("data", "pipeline", "check"),
    "a run": ("runs", "inference", "training", "evaluation", "experiments"),
    "machines": ("accelerators", "doctor"),
    "commands": ("cli",),
}
"""The rooms from above to below, in layers: a module imports from its own room and from those above it."""

ORDER = tuple(room for rooms in LAYERS.values() for room in rooms)

COLOURS = ("#64748b", "#7c3aed", "#b45309", "#0f766e", "#1d4ed8", "#be185d", "#334155")
ROW, GAP, CAPTION, TOP = 40, 4, 24, 124
BOX_LEFT, BOX_WIDTH, TEXT_LEFT, LINE = 16, 512, 168, 58
GRID_LEFT, CELL = 550, 19
WIDTH = GRID_LEFT + CELL * len(ORDER) + 72  # the name of the last column is slanted
SIZES = ((12, 7), (4, 5), (1, 3))
"""From how many imports on a dot has which radius: few sizes, so that a single import seldom changes the picture."""
STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1e293b }
.room { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-weight: 600 }
.small { font-size: 11px; fill: #64748b }
.note { font-size: 12px; fill: #64748b }
"""


def room_of(path: Path) -> str:
    """Return the room that a file of the package lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, anywhere in it, and every name that could be one; absolute names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                raise ValueError(f"{path.relative_to(ROOT)}: a relative import hides where it leads")
            yield node.module
            # "from package import module" imports the module too
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def count_imports() -> Counter[tuple[str, str]]:
    """Return how many modules of a room import how many of another, by (importing room, imported room)."""
    found: set[tuple[Path, str]] = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "__init__.py":
            found |= {(path, module) for module in imported_modules(path) if is_module(module)}
    pairs = ((room_of(path), module.split(".")[1]) for path, module in found)
    return Counter((importer, imported) for importer, imported in pairs if importer != imported)


def is_module(name: str) -> bool:
    """Say whether a dotted name is a module in a room."""
    path = ROOT.joinpath(*name.split("."))
    return name.startswith("fbunet_jax.") and (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file())


def file_of(room: str) -> Path:
    """Return the file whose docstring says what a room is for."""
    folder = PACKAGE / room / "__init__.py"
    return folder if folder.is_file() else PACKAGE / f"{room}.py"


def purpose(room: str) -> str:
    """Return the first sentences of a room's docstring."""
    docstring = ast.get_docstring(ast.parse(file_of(room).read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{file_of(room).relative_to(ROOT)} has no docstring that says what the room is for")
    return " ".join(docstring.split("\n\n")[0].split())


def box(room: str, top: int, colour: str) -> Iterator[str]:
    """Yield the box of a room: its name, and what it is for."""
    middle = top + ROW // 2
    size = f'x="{BOX_LEFT}" y="{top}" width="{BOX_WIDTH}" height="{ROW}" rx="5"'
    yield f'<rect {size} fill="{colour}" fill-opacity="0.08" stroke="{colour}" stroke-opacity="0.45"/>'
    yield f'<rect x="{BOX_LEFT}" y="{top}" width="5" height="{ROW}" rx="2" fill="{colour}"/>'
    name = f"{room}/" if file_of(room).stem == "__init__" else f"{room}.py"
    yield f'<text x="{BOX_LEFT + 14}" y="{middle + 5}" font-size="13" class="room">{name}</text>'
    lines = textwrap.wrap(purpose(room), LINE, max_lines=2, placeholder=" …")
    for number, line in enumerate(lines):
        base = middle + 4 - 7 * (len(lines) - 1) + 14 * number
        yield f'<text x="{TEXT_LEFT}" y="{base}" font-size="11">{escape(line)}</text>'


def picture() -> str:
    """Return the picture as SVG: the same text wherever the code is the same."""
    tops, captions, y = {}, {}, TOP
    for layer, rooms in LAYERS.items():
        captions[layer] = y + CAPTION - 8
        y += CAPTION
        for room in rooms:
            tops[room] = y
            y += ROW + GAP
    colours = {room: COLOURS[i] for i, rooms in enumerate(LAYERS.values()) for room in rooms}
    centres = {room: GRID_LEFT + CELL * i for i, room in enumerate(ORDER)}
    height = y + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        "<title>The rooms of fbunet_jax and the imports between them</title>",
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
        '<text x="16" y="34" font-size="17" font-weight="600">The rooms of fbunet_jax</text>',
        '<text x="16" y="56" class="note">A module imports from its own room and from rooms above it. A dot:</text>',
        '<text x="16" y="73" class="note">the room of the row imports that of the column; larger is more often.</text>',
    ]
    for layer, caption in captions.items():
        parts.append(f'<text x="{BOX_LEFT}" y="{caption}" class="small">{layer}</text>')
    for room, centre in centres.items():
        middle, colour = tops[room] + ROW // 2, colours[room]
        heading = f'transform="translate({centre + 4} {TOP + 10}) rotate(-60)" font-size="11"'
        parts.append(f'<text {heading} class="room">{room}</text>')
        parts.append(
            f'<path d="M{centre} {TOP + 18}V{height - 20}M{GRID_LEFT - 12} {middle}H{centre}" stroke="#e2e8f0"/>'
        )
        parts += box(room, tops[room], colour)
    for room, centre in centres.items():
        square = f'x="{centre - 6}" y="{tops[room] + ROW // 2 - 6}" width="12" height="12" rx="3"'
        parts.append(f'<rect {square} fill="{colours[room]}"/>')
    for (importer, imported), count in sorted(count_imports().items()):
        place = f'cx="{centres[imported]}" cy="{tops[importer] + ROW // 2}"'
        radius = next(radius for least, radius in SIZES if count >= least)
        label = f"<title>{importer} imports {imported}</title>"
        parts.append(f'<circle {place} r="{radius}" fill="{colours[imported]}" fill-opacity="0.75">{label}</circle>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8", newline="\n")
