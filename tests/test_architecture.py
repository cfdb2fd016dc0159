import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fbunet_jax"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")

ORDER = [
    "errors",
    "toml_tables",
    "metrics",
    "losses",
    "models",
    "config",
    "networks",
    "descriptions",
    "passed",
    "files",
    "runs",
    "locks",
    "figures",
    "data",
    "interruption",
    "processes",
    "checkpoints",
    "inference",
    "training",
    "evaluation",
    "reproduction",
    "dry_run",
    "doctor",
    "accelerators",
    "jobs",
    "cli",
]
"""The rooms from above to below: a module imports from its own room and from those above it."""


def name_of(path):
    return str(path.relative_to(ROOT))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    """Return every module that a file imports, anywhere in it, absolute names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: a relative import hides where it leads"
            yield node.module
            # "from package import module" imports the module too
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def code_names(path):
    """Return every name, attribute and imported module of a file, but not what its texts and comments say."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
    for module in imported_modules(path):
        yield from module.split(".")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_import_only_from_their_own_room_and_from_above(path):
    assert room_of(path) in ORDER, f"{name_of(path)} lies in no room of the design"
    place = ORDER.index(room_of(path))
    rooms = {module.split(".")[1] for module in imported_modules(path) if module.startswith("fbunet_jax.")}

    below = {room for room in rooms if room in ORDER and ORDER.index(room) > place}
    assert not below, f"{name_of(path)} imports from {below}, which stands below it"


@pytest.mark.parametrize(
    ("word", "home"),
    [("pmap", "training/parallel.py"), ("orbax", "checkpoints/fold.py"), ("matplotlib", "figures.py")],
)
def test_only_one_file_names_pmap_orbax_and_matplotlib(word, home):
    assert [path.relative_to(PACKAGE).as_posix() for path in MODULES if word in code_names(path)] == [home]


def test_no_file_is_a_drawer_for_everything():
    files = [path for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*.py")]
    assert not [path for path in files if path.stem in ("utils", "util", "helpers", "helper", "common", "misc")]


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
