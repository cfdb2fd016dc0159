"""Whatever a shell, a notebook, a scheduler or a daemon hands to a command, it does what it does undisturbed."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile

from fbunet_jax.config import load_config, to_toml
from fbunet_jax.data.layouts.synthetic import synthetic_image
from fbunet_jax.evaluation.crossval import evaluate

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "data": {"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3},
    "model": {"widths": [2, 3]},
    "training": {"epochs": 2, "batch_size": 8, "previews": 1, "augmentation": "dihedral"},
}
COMMANDS = {
    "usage": [],
    "version": ["--version"],
    "help": ["train", "--help"],
    "init": ["init", "new"],
    "check": ["check", "--config", "tiny.toml", "--out", "check-ä.html"],
    "train": ["train", "--config", "tiny.toml", "--out", "Gewebe-ä"],
    "evaluate": ["evaluate", "run"],
    "predict": ["predict", "run", "images", "--out", "Schnitt-ü"],
    "report": ["report", "run", "--out", "report-ß.html"],
    "compare": ["compare", "run", "run-2", "--out", "compare-ø.png"],
    "reproduce": ["reproduce", "--table", "1", "--table-only", "--config", "tiny.toml", "--out", "table"],
    "sweep": ["sweep", "--config", "tiny.toml", "--fold", "0", "--out", "sweep-é"],
    "queue": ["queue", "--help"],
    "jobs": ["jobs", "slurm", "--config", "tiny.toml", "--file", "jobs.sh"],
    "compile": ["compile", "--for", "nothing"],
    "download": ["download", "--help"],
    "doctor": ["doctor"],
}
NEED_DEVICES = ("train", "evaluate", "predict", "report", "sweep")


class Environment(NamedTuple):
    """What a process is given: variables (None: unset), and what a shell does before it starts a command as "$@"."""

    name: str
    variables: dict = {}  # noqa: RUF012
    shell: str = '"$@"'
    refused: tuple = ()
    """The commands that end with exit code 2 and a sentence."""
    says: str = ""
    """What stands in that sentence."""


def variables(name, **values):
    return Environment(name, values)


HARMLESS = [
    variables("a notebook's backend", MPLBACKEND="module://matplotlib_inline.backend_inline"),
    variables("a backend without a display", MPLBACKEND="TkAgg"),
    variables("a backend that does not exist", MPLBACKEND="nonsense"),
    variables("settings of Matplotlib that are no text", MATPLOTLIBRC="broken-matplotlibrc"),
    variables("Matplotlib's folder cannot be written", MPLCONFIGDIR="/dev/null/matplotlib"),
    variables("no home", HOME=None),
    variables("a home that does not exist", HOME="/nonexistent"),
    variables("a home that is a file", HOME="/dev/null"),
    variables("a cache that is a file", XDG_CACHE_HOME="/dev/null", XDG_CONFIG_HOME="/dev/null"),
    variables("no name", USER=None, LOGNAME=None, LNAME=None, USERNAME=None),
    variables("no temporary folder", TMPDIR="/nonexistent", TEMP="", TMP=""),
    variables("no program can be found", PATH=""),
    variables("a time zone that does not exist", TZ="Nowhere/Nothing"),
    variables("ASCII", PYTHONIOENCODING="ascii"),
    variables("Latin-1, strictly", PYTHONIOENCODING="latin-1:strict"),
    variables("a Windows code page", PYTHONIOENCODING="cp1252"),
    variables("UTF-16", PYTHONIOENCODING="utf-16"),
    variables("a locale that does not exist", LC_ALL="xx_YY.nonsense", LANG="xx"),
    variables("no locale", LC_ALL=None, LANG=None, LC_CTYPE=None),
    variables("the C locale", LC_ALL="C"),
    variables("POSIX without UTF-8", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
    variables("warnings are errors", PYTHONWARNINGS="error"),
    variables("no docstrings", PYTHONOPTIMIZE="2"),
    variables("no assertions", PYTHONOPTIMIZE="1"),
    variables("no bytecode", PYTHONDONTWRITEBYTECODE="1", PYTHONPYCACHEPREFIX="/dev/null/x"),
    variables("unbuffered", PYTHONUNBUFFERED="1"),
    variables("a fixed hash", PYTHONHASHSEED="0"),
    variables("no folder of the script", PYTHONSAFEPATH="1", PYTHONNOUSERSITE="1"),
    variables("no columns", COLUMNS="0", LINES="0"),
    variables("a column", COLUMNS="1"),
    variables("columns that are no number", COLUMNS="wide"),
    variables("a dumb terminal without colour", TERM="dumb", NO_COLOR="1"),
    variables("colour is forced", FORCE_COLOR="1", CLICOLOR_FORCE="1", TERM="nonsense"),
    variables("no progress bars", TQDM_DISABLE="1"),
    variables("progress bars with nonsense", TQDM_MININTERVAL="abc", TQDM_NCOLS="x", TQDM_POSITION="y"),
    variables("threads that are no number", OMP_NUM_THREADS="abc", OPENBLAS_NUM_THREADS="0", MKL_NUM_THREADS="x"),
    variables("64 bits", JAX_ENABLE_X64="1"),
    variables("64 bits, perhaps", JAX_ENABLE_X64="maybe"),
    variables("another generator", JAX_DEFAULT_PRNG_IMPL="rbg", JAX_ENABLE_CUSTOM_PRNG="1"),
    variables("a generator that does not exist", JAX_DEFAULT_PRNG_IMPL="dice"),
    variables("the old threefry", JAX_THREEFRY_PARTITIONABLE="0"),
    variables("another seed", JAX_RANDOM_SEED_OFFSET="7"),
    variables("another precision", JAX_DEFAULT_MATMUL_PRECISION="bfloat16", JAX_DEFAULT_DTYPE_BITS="64"),
    variables("strict promotion", JAX_NUMPY_DTYPE_PROMOTION="strict", JAX_NUMPY_RANK_PROMOTION="raise"),
    variables("no compilation", JAX_DISABLE_JIT="1"),
    variables("JAX looks for NaN", JAX_DEBUG_NANS="1", JAX_DEBUG_INFS="1"),
    variables("JAX checks", JAX_ENABLE_CHECKS="1", JAX_CHECK_TRACER_LEAKS="1", JAX_DEBUG_KEY_REUSE="1"),
    variables("no transfers", JAX_TRANSFER_GUARD="disallow"),
    variables("no old keys", JAX_LEGACY_PRNG_KEY="error"),
    variables("whole tracebacks", JAX_TRACEBACK_FILTERING="off"),
    variables("the CPU by name", JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="7"),
]
SLOW = [
    variables("Python's development mode", PYTHONDEVMODE="1"),
    variables("asyncio's development mode", PYTHONASYNCIODEBUG="1"),
    variables("memory is traced", PYTHONTRACEMALLOC="1"),
    variables("a debugging allocator", PYTHONMALLOC="debug"),
    variables("JAX talks", JAX_LOG_COMPILES="1", JAX_LOGGING_LEVEL="INFO", TF_CPP_MIN_LOG_LEVEL="0"),
    variables("JAX's cache is a file", JAX_COMPILATION_CACHE_DIR="/dev/null", JAX_RAISE_PERSISTENT_CACHE_ERRORS="1"),
]
"""As harmless, but they make a training slower."""
STREAMS = [
    Environment("standard input closed", shell='"$@" <&-'),
    Environment("standard output closed", shell='"$@" >&-'),
    Environment("standard error closed", shell='"$@" 2>&-'),
    Environment("all of them closed", shell='"$@" <&- >&- 2>&-'),
    Environment("standard error is full", shell='"$@" 2>/dev/full'),
    Environment("standard error is read only", shell='"$@" 2</dev/null'),
    Environment("umask 077", shell='umask 077; "$@"'),
    Environment("64 open files", shell='ulimit -n 64; "$@"'),
    Environment("no hang-up", shell='trap "" HUP TERM INT; "$@"'),
]
REFUSED = [
    Environment(f"{name}={value}", {name: value}, refused=NEED_DEVICES, says=name)
    for name, value in (
        ("JAX_PLATFORMS", "cuda"),
        ("JAX_PLATFORMS", "tpu"),
        ("JAX_PLATFORMS", "nonsense"),
        ("JAX_PLATFORM_NAME", "cuda"),
        ("PJRT_NAMES_AND_LIBRARY_PATHS", "foo:/nonexistent.so"),
        ("XLA_FLAGS", "--xla_nonsense=1"),
        ("XLA_FLAGS", "nonsense"),
    )
]
REFUSED += [
    Environment(
        "JAX cannot read a number", {"JAX_NUM_CPU_DEVICES": "abc"}, '"$@"', (*NEED_DEVICES, "check"), "JAX_NUM_"
    ),
]
GONE = Environment("the folder is gone", shell='mkdir gone; cd gone; rmdir ../gone; "$@"')


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Return a folder with settings, images, and a run that is evaluated, and its copy."""
    folder = tmp_path_factory.mktemp("work")
    config = load_config("quickstart", method="unet", **SETTINGS)
    (folder / "tiny.toml").write_text(to_toml(config), encoding="utf-8")
    (folder / "broken-matplotlibrc").write_bytes(b"backend: nonsense\nfont.family: \xe4\n")
    (folder / "images").mkdir()
    tifffile.imwrite(folder / "images" / "a.tif", synthetic_image(0, 40)[0][..., 0])
    for number in range(3):
        image, label = synthetic_image(number, 32)
        for name, pixels in (("images", image[..., 0]), ("labels", label)):
            (folder / "new" / name).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / "new" / name / f"{number}.tif", pixels.astype(np.uint8))
    check(Environment("undisturbed"), "train", folder)
    evaluate(folder / "Gewebe-ä")
    for name in ("run", "run-2"):
        shutil.copytree(folder / "Gewebe-ä", folder / name)
    return folder


def start(environment, command, folder):
    """Run a command in an environment; return exit code, and what it printed, as far as that can be seen."""
    given = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_NUMPY_", "FBUNET_"))}
    given |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment.variables}
    given = {name: value for name, value in given.items() if value is not None}
    done = subprocess.run(
        ["/bin/sh", "-c", environment.shell, "sh", sys.executable, "-m", "fbunet_jax.cli", *COMMANDS[command]],
        cwd=folder,
        env=given,
        capture_output=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def check(environment, command, folder, expected=0):
    code, text = start(environment, command, folder)
    refused = command in environment.refused
    assert code == (2 if refused else expected), (environment.name, command, text)
    assert "Traceback" not in text, (environment.name, command, text)
    assert environment.says in text or not refused, (environment.name, command, text)
    return text


def together(environments):
    """Return environments of which each has the variables of as many of the given ones as do not exclude each other."""
    groups = []
    for each in environments:
        group = next((group for group in groups if not group.variables.keys() & each.variables.keys()), None)
        if group is None:
            groups.append(group := Environment("", {}))
        groups[groups.index(group)] = Environment(f"{group.name}; {each.name}", group.variables | each.variables)
    return groups


TOGETHER = [*together(HARMLESS), *together(SLOW)]


@pytest.fixture(scope="module")
def undisturbed(work):
    """Return what a training records without any of it."""
    return (work / "run/fold_0/metrics.jsonl").read_bytes()


def test_a_training_among_all_these_variables_records_the_same_bytes(work, undisturbed, tmp_path):
    shutil.copy(work / "tiny.toml", tmp_path)
    shutil.copy(work / "broken-matplotlibrc", tmp_path / "matplotlibrc")
    text = check(TOGETHER[0], "train", tmp_path)
    assert (tmp_path / "Gewebe-ä/fold_0/metrics.jsonl").read_bytes() == undisturbed
    assert "JAX_ENABLE_X64=1" in text
    settings = json.loads((tmp_path / "Gewebe-ä/fold_0/environment.json").read_text("utf-8"))["settings"]
    assert settings["jax_enable_x64"] is False
    assert settings["jax_default_prng_impl"] == "threefry2x32"


@pytest.mark.parametrize("number", range(1, len(TOGETHER)))
def test_a_command_among_variables_of_a_shell_ends_as_without_them(number, work):
    check(TOGETHER[number], "check" if number == 2 else "compare", work)


@pytest.mark.parametrize("environment", STREAMS, ids=lambda each: each.name)
def test_a_command_ends_the_same_whatever_becomes_of_its_streams(environment, work):
    (work / "compare-ø.png").unlink(missing_ok=True)
    check(environment, "compare", work)
    assert (work / "compare-ø.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("environment", REFUSED, ids=lambda each: each.name)
def test_what_keeps_jax_from_starting_is_named_in_a_sentence(environment, work):
    check(environment, "report", work)


def test_a_folder_that_is_gone_is_named_as_that(work):
    assert "current folder is gone" in check(GONE._replace(refused=("compare",), says="folder"), "compare", work)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("environment", [*HARMLESS, *SLOW, *STREAMS, *REFUSED], ids=lambda each: each.name)
def test_every_command_ends_in_every_environment_as_undisturbed(environment, work, undisturbed, tmp_path):
    shutil.copytree(
        work, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*-ä*", "*-ü*", "sweep*", "table")
    )
    for command in COMMANDS:
        expected, _ = ENDINGS.setdefault(command, start(Environment("undisturbed"), command, work))
        check(environment, command, tmp_path, expected)
    for metrics in (tmp_path / "Gewebe-ä/fold_0/metrics.jsonl", tmp_path / "sweep-é/unet/fold_0/metrics.jsonl"):
        assert "train" in environment.refused or metrics.read_bytes() == undisturbed


ENDINGS = {}


def test_the_table_has_at_least_forty_environments_and_every_command():
    from fbunet_jax.cli import COMMANDS as ALL

    assert len({each.name for each in itertools.chain(HARMLESS, SLOW, STREAMS, REFUSED)}) >= 40
    assert {words[0] for words in COMMANDS.values() if words} >= set(ALL)
