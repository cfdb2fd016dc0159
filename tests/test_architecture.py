import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from docs.architecture import ORDER, PICTURE, imported_modules, picture, room_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fbunet_jax"
PAGE = ROOT / "docs" / "architecture.md"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def name_of(path):
    return str(path.relative_to(ROOT))


def code_names(path):
    """Return every name, attribute and imported module of a file, but not what its texts and comments say."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
    for module in imported_modules(path):
        yield from module.split(".")


def imports_the_package(path):
    """Say whether a file imports the whole package, whose public names lead to any room."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return any(alias.name == "fbunet_jax" for node in nodes if isinstance(node, ast.Import) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_import_only_from_their_own_room_and_from_above(path):
    assert room_of(path) in ORDER, f"{name_of(path)} lies in no room of the design"
    place = ORDER.index(room_of(path))
    inside = [module for module in imported_modules(path) if module.split(".")[0] == "fbunet_jax"]
    rooms = {module.split(".")[1] for module in inside if module != "fbunet_jax"}
    # the public names lead to any room, unseen
    assert rooms <= set(ORDER), f"{name_of(path)} imports {rooms - set(ORDER)} from the door of the package"
    assert not imports_the_package(path), f"{name_of(path)} imports the door of the package"

    below = {room for room in rooms if ORDER.index(room) > place}
    assert not below, f"{name_of(path)} imports from {below}, which stands below it"


@pytest.mark.parametrize(
    ("word", "homes"),
    [
        ("pmap", ["inference/validation.py", "training/parallel.py"]),
        ("orbax", ["runs/sealed.py"]),
        ("matplotlib", ["figures.py"]),
    ],
)
def test_pmap_orbax_and_matplotlib_are_named_only_where_they_are_at_home(word, homes):
    assert [path.relative_to(PACKAGE).as_posix() for path in MODULES if word in code_names(path)] == homes


def test_no_file_is_a_drawer_for_everything():
    files = [path for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*.py")]
    assert not [path for path in files if path.stem in ("utils", "util", "helpers", "helper", "common", "misc")]


def test_a_name_that_says_little_is_given_once():
    names = [path.stem for path in MODULES]
    for name in ("files", "tables", "trainings", "summary", "sweep"):
        assert names.count(name) <= 1, name


def test_entry_scripts_are_a_docstring_and_a_call():
    scripts = sorted(ROOT.glob("*.py"))
    assert {"train.py", "evaluate.py"} <= {path.name for path in scripts}
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 30
        assert ast.get_docstring(ast.parse(text))
        assert "fbunet_jax.cli" in set(imported_modules(path))


def test_the_package_imports_without_jax_so_that_help_is_quick():
    modules = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    names = {alias.name for node in modules if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"importlib", "warnings"}


def test_the_picture_of_the_rooms_is_that_of_the_code():
    drawn = PICTURE.read_text(encoding="utf-8")
    assert drawn == picture(), f"{name_of(PICTURE)} shows another structure: run python docs/architecture.py"


def code_spans():
    return re.findall(r"`([^`\s]+)`", PAGE.read_text(encoding="utf-8"))


def exists_in_code(name):
    """Say whether the longest part of a dotted name that is a module defines the rest of it."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:end])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            module = ".".join(["fbunet_jax", *parts[:end]])
            found = importlib.import_module(module)
            for attribute in parts[end:]:
                if attribute in getattr(found, "__annotations__", ()):
                    return True
                found = getattr(found, attribute, None)
                is_imported = (inspect.isclass(found) or inspect.isfunction(found)) and found.__module__ != module
                if found is None or is_imported:
                    return False
            return True
    return False


def test_every_name_on_the_page_of_the_architecture_is_one_of_the_code():
    names = [span for span in code_spans() if re.fullmatch(rf"({'|'.join(ORDER)})(\.\w+)+", span)]
    names = [name for name in names if not name.endswith((".py", ".json", ".jsonl", ".html"))]
    assert len(names) > 40
    assert not [name for name in names if not exists_in_code(name)]


def test_every_path_on_the_page_of_the_architecture_exists():
    paths = [span for span in code_spans() if re.fullmatch(r"[\w/]+/[\w./]*|\w+\.py", span)]
    assert len(paths) > 20
    assert not [path for path in paths if not any((folder / path).exists() for folder in (ROOT, PACKAGE))]


def test_the_page_has_a_row_for_every_room_in_their_order():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(ORDER)
