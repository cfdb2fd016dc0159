"""What a function, class, network, loss or array is, in words that are the same in every process."""

import ast
import dataclasses
import enum
import functools
import hashlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, ModuleType
from typing import Any

_MOST_VALUES = 16
_LONGEST = 2000
_LIBRARIES = {"fbunet_jax", "flax", "jax", "jaxlib", "numpy", "optax", *sys.stdlib_module_names}
"""Top-level packages whose private paths, defaults and code may change between versions without a change of meaning."""
# of a network: where it is, what it is mapped over, and what does not change a number
_NOT_DESCRIBED = {"parent", "name", "axis_name", "rematerialise"}


def described(value: Any) -> str:
    """Return what a value is, the same in every process: names as ``module:name#code``, and the fields of objects.

    Equal arrays, tuples and numbers are described alike. Objects of the libraries have their public package and their
    fields that are not the defaults; those of a program have all fields, and a digest of their code, which follows the
    functions, classes and constants of the same package that it uses.
    """
    text = _described(value, ())
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}...:{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _described(value: Any, around: tuple[int, ...]) -> str:
    if id(value) in around:
        return "..."  # an object that holds itself
    inner = functools.partial(_described, around=(*around, id(value)))
    if isinstance(value, ModuleType):
        return value.__name__
    plain = _plain(value, inner)
    if plain is not None:
        return plain
    if isinstance(value, functools.partial):
        given = {str(place): each for place, each in enumerate(value.args)} | value.keywords
        return f"{inner(value.func)}({_fields(given, inner)})"
    if inspect.ismethod(value):
        return f"{inner(value.__self__)}.{value.__name__}"
    if callable(value) and hasattr(value, "__wrapped__"):  # as jax.jit makes
        return inner(value.__wrapped__)
    if isinstance(value, type) or inspect.isroutine(value):
        around_it = _closure(value)
        return f"{_name(value)}({_fields(around_it, inner)})" if around_it else _name(value)
    attributes = _attributes(value)
    if not attributes and type(value).__repr__ is not object.__repr__ and not _is_described_by_fields(value):
        text = repr(value)
        return text if " at 0x" not in text else _name(type(value))
    return f"{_name(type(value))}({_fields(attributes, inner)})"


def _plain(value: Any, inner: Callable[[Any], str]) -> str | None:
    """Describe numbers, texts, types of numbers, arrays and collections; return None for anything else."""
    import numpy as np  # here, so that a command's --help does not wait for it

    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if value is None or (
        isinstance(value, bool | int | float | complex | str | bytes) and not isinstance(value, np.generic)
    ):
        return repr(value)
    dtype = value if isinstance(value, np.dtype) else getattr(value, "dtype", None)
    if isinstance(value, np.dtype) or (isinstance(value, type) and isinstance(dtype, np.dtype)):
        return np.dtype(value).name
    if isinstance(value, type) and issubclass(value, np.generic):
        return np.dtype(value).name
    if dtype is not None and hasattr(value, "shape") and not isinstance(value, type):
        return _array(value)
    if isinstance(value, Mapping):
        return f"{{{_fields({repr(key): each for key, each in value.items()}, inner)}}}"
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return f"[{', '.join(map(inner, value))}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(inner, value)))}}}"
    return None


def _is_described_by_fields(value: Any) -> bool:
    return dataclasses.is_dataclass(value) or hasattr(value, "_fields")


def _attributes(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        fields: tuple[Any, ...] = dataclasses.fields(value)
        if _root(type(value)) in _LIBRARIES:
            fields = tuple(each for each in fields if not _is_default(each, getattr(value, each.name, None)))
        found = {each.name: getattr(value, each.name) for each in fields if hasattr(value, each.name)}
        is_module = any(base.__module__ == "flax.linen.module" for base in inspect.getmro(type(value)))
        return {name: each for name, each in found.items() if not is_module or name not in _NOT_DESCRIBED}
    if hasattr(value, "_fields"):
        return dict(value._asdict())
    slots = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
    return {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})


def _is_default(field: dataclasses.Field, value: Any) -> bool:
    try:
        return field.default is not dataclasses.MISSING and bool(field.default == value)
    except (TypeError, ValueError):  # arrays
        return False


def _closure(value: Any) -> dict[str, Any]:
    """Return what a function has from the functions around it, and its default arguments."""
    if not inspect.isfunction(value):
        return {}
    found = dict(zip(value.__code__.co_freevars, map(_content, value.__closure__ or ()), strict=True))
    if _root(value) not in _LIBRARIES:
        names = [name for name, each in inspect.signature(value).parameters.items() if each.default is not each.empty]
        found |= {name: inspect.signature(value).parameters[name].default for name in names}
    return {name: each for name, each in found.items() if each is not value}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _name(value: Any) -> str:
    """Return ``module:name`` of a function or class, of a library's the package alone, of a program's with its code."""
    module = getattr(value, "__module__", None) or "builtins"
    name = getattr(value, "__qualname__", type(value).__name__)
    if _root(value) in _LIBRARIES:
        return f"{_root(value)}:{name}"
    return f"{module}:{name}#{_code(value, {})}"


def _root(value: Any) -> str:
    return (getattr(value, "__module__", None) or "builtins").partition(".")[0]


def _code(value: Any, seen: dict[int, str]) -> str:
    """Return a digest of the code of a function or of the methods of a class, and of what it uses of its own package.

    Comments, docstrings and layout do not count. Where there is no source, as at a prompt, it is that of the bytecode.

    Args:
      value: the function or class.
      seen: the digests that are known already, by id; empty for what is under way.
    """
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = ""
    digest = hashlib.blake2b(digest_size=4)
    for function in _functions(value):
        digest.update(_source(function) or _bytecode(function.__code__))
        for name in sorted(_global_names(function.__code__)):
            used = function.__globals__.get(name)
            if inspect.isfunction(used) or isinstance(used, type):
                # another package has versions of its own
                text = _code(used, seen) if _root(used) == _root(function) else ""
            else:
                text = "" if isinstance(used, ModuleType) else _plain(used, described) or ""
            digest.update(f"{name}={text}".encode())
    seen[id(value)] = digest.hexdigest()
    return seen[id(value)]


def _source(function: Any) -> bytes:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # a lambda in the middle of a line is no whole statement
        return b""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree).encode()


def _bytecode(code: CodeType) -> bytes:
    inner = [_bytecode(each) if isinstance(each, CodeType) else repr(each).encode() for each in code.co_consts]
    return b" ".join([code.co_code, repr(code.co_names).encode(), *inner])


def _global_names(code: CodeType) -> set[str]:
    """Return the names that a function may look up in its module, those of the functions in it included."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*map(_global_names, inner))


def _functions(value: Any) -> Iterator[Any]:
    if not isinstance(value, type):
        yield value
        return
    for base in value.__mro__:
        if _root(base) not in _LIBRARIES:
            for name, member in sorted(vars(base).items()):
                function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
                is_here = getattr(function, "__qualname__", "") == f"{base.__qualname__}.{name}"
                # dataclasses and Flax add methods that have no source
                if inspect.isfunction(function) and is_here and function.__code__.co_filename != "<string>":
                    yield function


def _fields(values: Mapping[str, Any], inner: Callable[[Any], str]) -> str:
    return ", ".join(f"{name}={inner(value)}" for name, value in values.items())


def _array(value: Any) -> str:
    """Describe an array like a list of its numbers if it is small, or by shape, type and a digest."""
    import numpy as np

    try:
        array = np.asarray(value)
    except TypeError:  # a key of random numbers
        import jax

        array = np.asarray(jax.random.key_data(value))
    if array.size <= _MOST_VALUES:
        # the shortest text of a number is the same in every type that holds it
        numbers = np.array([str(each) for each in array.ravel()], object).reshape(array.shape)
        return str(numbers.tolist()).replace("'", "")
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()
    return f"{array.dtype.name}{list(array.shape)}:{digest}"


def names_with_code(text: str) -> set[str]:
    """Return the names of a program's own functions and classes in a description, each with its code."""
    return set(re.findall(r"[\w.]+:[^\s(),=#]+#[0-9a-f]{8}", text))


def without_code(text: str) -> str:
    """Return a description of names and fields alone."""
    return re.sub(r"#[0-9a-f]{8}", "", text)


def is_same(one: str, other: str) -> bool:
    """Say whether two are of the same; what a script defines as __main__ is imported from a module elsewhere."""
    # texts in quotes as they are, and what stands before a name apart
    parts = [
        re.findall(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[\w.]+:(?=[A-Za-z_<])|.""", text) for text in (one, other)
    ]
    return len(parts[0]) == len(parts[1]) and all(
        left == right or (right[-1:] == left[-1:] == ":" and "__main__:" in (left, right))
        for left, right in zip(*parts, strict=True)
    )
