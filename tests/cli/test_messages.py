"""What the commands make of the library's messages."""

import ast
import re
from pathlib import Path

import fbunet_jax
from fbunet_jax.cli import _with_option
from fbunet_jax.errors import DataError, RunError


def test_the_library_s_argument_becomes_the_option_and_a_path_stays_as_it_is():
    error = RunError("The run my (out) began before. Use another run directory (out).", argument="out")
    assert _with_option(error) == "The run my (out) began before. Use another run directory (--out)."
    assert _with_option(DataError("Give its folder (root).", argument="root")) == "Give its folder (--data-root)."
    assert _with_option(RunError("my (out) is not a run, nor is (fresh).")) == "my (out) is not a run, nor is (fresh)."


def text(node):
    """Return the text of a message, whatever the number of strings that it is put together from."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(map(text, ast.iter_child_nodes(node)))


def unnamed(source):
    """Return the lines of errors whose text names an argument that they do not have as such.

    Text that stands elsewhere in a function, in a variable, counts where no error in it has an argument.
    """
    lacking = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and "Error" in ast.unparse(node.func):
            parts, told = node.args, node.keywords
        elif isinstance(node, ast.FunctionDef):
            parts = node.body[1:] if ast.get_docstring(node) else node.body
            told = [each for each in ast.walk(node) if isinstance(each, ast.keyword)]
        else:
            continue
        named = re.search(r"(?<=\s)\((out|fresh|root)\)", "".join(map(text, parts)))
        if named and not any(each.arg == "argument" and named[1] in text(each.value) for each in told):
            lacking.add(node.lineno)
    return sorted(lacking)


def test_every_message_that_names_an_argument_says_which():
    files = sorted(Path(fbunet_jax.__file__).parent.rglob("*.py"))
    found = {file.name: unnamed(file.read_text(encoding="utf-8")) for file in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_message_in_parts_is_found():
    assert unnamed("raise RunError('Choose another ' + '(out).')") == [1]
    assert unnamed("raise RunError(f'{path}: choose another ' f'(out){more}.')") == [1]
    assert unnamed("def check():\n  kept = 'a new run (out)'\n  raise RunError(f'Take {kept}.')") == [1]
    assert unnamed("raise RunError('Another ' + '(out).', argument='out')") == []
    assert unnamed("raise RunError('Another (out).', argument='root')") == [1]
