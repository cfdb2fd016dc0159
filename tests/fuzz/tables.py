"""TOML and JSON files of the program, and mutations that know their structure: keys, types, numbers, nesting, bytes."""

import copy
import json

import tomli_w

VALUES = (
    *(None, True, False, -1, 0, 1, 2, 3, 255, 2**31, 2**63, 10**30, -(10**30), 0.0, -0.0, 1.5, 1e308, 5e-324),
    *("", "0", "x" * 10_000, "a\0b", "a\nb", "\x1b[31m", "../../etc/x", "/etc/passwd", "C:\\x", "..", "~"),
    *(
        "<script>alert(1)</script>",
        "ü",
        "\u202eabc",
        "\ufeff",
        "😀",
        "e\u0301",
        "²",
        "[",
        "(",
        "(a+)+$",
        "a{99999999999}",
    ),
    *([], {}, [1], ["a"], [[]], {"a": 1}, [None], {"": 0}, {"a": {"b": []}}, list(range(300))),
)

_DEEP = 20_000
_RAW = (
    *("1" + "0" * 400, "1" + "0" * 5000, "-" + "9" * 5000, "1e400", "-1e400", "1E5", "[" * _DEEP + "]" * _DEEP),
    *("0." + "1" * 5000, '"\\u0000"', '"' + "\\u00e9" * 5000 + '"', "true", "[1, 1.5, true]", '{"a": 1, "a": 2}'),
)
_RAW_JSON = ("NaN", "Infinity", "-Infinity", '"\\ud800"', '"\\udfff\\ud800"', '{"a":' * _DEEP + "1" + "}" * _DEEP)
_RAW_TOML = (
    "nan",
    "inf",
    "-inf",
    "0x" + "f" * 5000,
    "1979-05-27T07:32:00Z",
    "07:32:00",
    "{a = " * 5000 + "1" + "}" * 5000,
)


def mutated(random, table, form):
    """Return the text of a table after one to three mutations; form is "json", "jsonl" or "toml"."""
    table = copy.deepcopy(table)
    raw = (*_RAW, *(_RAW_TOML if form == "toml" else _RAW_JSON))
    tokens = {}
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        token = f"@{len(tokens)}@"
        tokens[token] = random.choice(raw)
        table = _mutate(random, table, (*VALUES, token, token, token, token, token, token))
    text = _written(table, form)
    for token, value in tokens.items():
        text = text.replace(f'"{token}"', value)
    data = text.encode("utf-8", "surrogatepass")
    return _bytes(random, data) if random.randrange(4) == 0 else data


def _mutate(random, table, values):
    """Return a table with one entry, at any depth, changed, dropped, added, renamed or exchanged."""
    places = list(_places(table))
    if not places:
        return random.choice(values)
    parent, key = random.choice(places)
    kind = random.randrange(9)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[random.choice(("", "x", "format", "a.b", "ü", "<b>", "\0", *parent))] = random.choice(values)
    elif kind == 2 and isinstance(parent, dict):
        parent[random.choice(("x", str(key).upper(), f"{key} ", f"{key}s"))] = parent.pop(key)
    elif kind == 3:
        other, place = random.choice(places)
        value = copy.deepcopy(other[place])
        other[place] = copy.deepcopy(parent[key])
        parent[key] = value
    elif kind == 4:
        parent[key] = random.choice(([parent[key]], {"a": parent[key]}, str(parent[key])))
    elif kind == 5 and isinstance(parent, list):
        parent += copy.deepcopy(parent[: random.choice((1, 2, len(parent)))])
    elif kind == 6 and isinstance(parent[key], int | float):
        value = parent[key]
        parent[key] = random.choice((-value, value + 1, float(value), value * 10**9, bool(value), str(value)))
    else:
        parent[key] = random.choice(values)
    return table


def _places(table):
    """Yield every container and key of a nested table."""
    entries = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in entries:
        yield table, key
        yield from _places(value)


def _written(table, form):
    if form == "toml":
        return tomli_w.dumps(_without_none(table if isinstance(table, dict) else {"a": table}))
    if form == "jsonl":
        return "".join(json.dumps(line) + "\n" for line in (table if isinstance(table, list) else [table]))
    return json.dumps(table, indent=1)


def _without_none(value):
    if isinstance(value, dict):
        return {str(key): _without_none(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_none(each) for each in value if each is not None]
    return value


def _bytes(random, data):
    """Return text cut off, with bytes changed, or with a line doubled or taken out."""
    kind, lines = random.randrange(5), data.splitlines(keepends=True)
    if not data or kind == 0:
        return data[: random.randrange(len(data) + 1)]
    if kind == 1:
        lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
    elif kind == 2:
        del lines[random.randrange(len(lines))]
    elif kind == 3:
        return random.choice(
            (b"\xef\xbb\xbf" + data, data.decode("utf-8", "replace").encode("utf-16"), b"\0" * 100, b"")
        )
    else:
        changed = bytearray(data)
        for _ in range(random.choice((1, 1, 2, 5))):
            changed[random.randrange(len(changed))] = random.choice(
                (0, 34, 44, 91, 93, 123, 128, 255, random.randrange(256))
            )
        return bytes(changed)
    return b"".join(lines)
