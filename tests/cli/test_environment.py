"""What a command makes of its process before anything heavy is imported."""

import getpass
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from fbunet_jax.cli import environment, main
from fbunet_jax.errors import ConfigError
from fbunet_jax.runs.interruption import Interruption, raise_on_signals

ROOT = Path(__file__).parents[2]


def python(code, *, shell='"$@"', **variables):
    """Run Python code in a shell of its own and return what it printed."""
    given = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    command = ["/bin/sh", "-c", shell, "sh", sys.executable, "-c", code]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout


def test_no_file_gets_the_number_of_a_stream_that_is_closed():
    code = (
        "import os; from fbunet_jax.cli.environment import prepare; prepare(is_program=False);"
        "os.write(3, str(open('/dev/null').fileno() > 3).encode())"
    )
    assert python(code, shell='"$@" 3>&1 <&- >&- 2>&-') == "True"


@pytest.mark.parametrize(("given", "starts"), [("", 1), ("1", 0)])
def test_a_process_whose_names_are_not_in_utf8_starts_again_once(given, starts, monkeypatch):
    started = []
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    monkeypatch.setenv("PYTHONUTF8", given)
    environment.prepare(is_program=True)
    assert len(started) == starts  # 1 stands where the first start was in vain, as with python -X utf8=0


def test_what_decides_numbers_is_pinned_and_what_is_not_used_is_named_once(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.delitem(sys.modules, "jax")
    os.environ |= {"JAX_ENABLE_X64": "1", "JAX_DEBUG_NANS": "False", "JAX_THREEFRY_PARTITIONABLE": "true"}
    (line,) = environment.pin_settings()
    assert "JAX_ENABLE_X64=1 is not used" in line
    assert (os.environ["JAX_ENABLE_X64"], os.environ["JAX_THREEFRY_PARTITIONABLE"]) == ("0", "1")
    assert "JAX_DEBUG_NANS" not in os.environ
    assert environment.pin_settings() == []


def test_jax_is_left_as_it_is_in_a_process_that_has_imported_it(monkeypatch):
    import jax

    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    before = dict(jax.config.values)
    assert environment.pin_settings() == []
    assert os.environ["JAX_ENABLE_X64"] == "1"
    assert dict(jax.config.values) == before


def test_the_pinned_values_are_those_that_jax_has_by_itself():
    code = (
        "import os; [os.environ.pop(n) for n in list(os.environ) if n.startswith('JAX_')];"
        "from fbunet_jax.runs.numerics import current_settings as f; print(f())"
    )
    pinned = "from fbunet_jax.cli import environment as e; e.pin_settings();"
    assert python(code) == python(code.replace("from fbunet", pinned + "from fbunet"), JAX_ENABLE_X64="1")


def test_a_user_without_a_name_and_a_home_gets_both(monkeypatch):
    monkeypatch.setattr(os, "environ", {"PATH": ""})
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)

    def unknown():
        if "LOGNAME" in os.environ:
            return os.environ["LOGNAME"]
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", unknown)
    environment.prepare(is_program=False)
    assert os.environ["HOME"] == "/nonexistent"
    assert getpass.getuser() == "unknown"


def test_warnings_that_a_shell_makes_errors_are_shown(monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ | {"PYTHONWARNINGS": "error"})
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "fbunet_jax.cli"])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("error")
        environment.prepare(is_program=False)
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
    assert [str(each.message) for each in shown] == ["deprecated"]


@pytest.mark.parametrize("flags", ["--xla_force_host_platform_device_count=8", "", "  "])
def test_flags_that_only_simulate_devices_need_no_trial(flags, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    environment.check_compiler_flags()


def test_a_flag_that_xla_does_not_know_is_named(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_nonsense=1")
    monkeypatch.delitem(sys.modules, "jax")
    with pytest.raises(ConfigError, match="Unknown flag in XLA_FLAGS: --xla_nonsense=1"):
        environment.check_compiler_flags()


def test_an_error_of_the_program_is_not_taken_for_one_of_jax():
    with pytest.raises(ConfigError) as caught:
        raise ConfigError("our own")
    assert environment.fault_of_jax(caught.value) == ""


@pytest.mark.parametrize("columns", ["1", "0", "wide", "-3"])
def test_help_is_printed_in_a_terminal_of_any_width(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as ended:
        main(["report", "--help"])
    assert ended.value.code == 0
    assert "--data-root" in capsys.readouterr().out


def test_an_address_space_in_which_jax_would_abort_is_refused():
    code = "from fbunet_jax.cli.environment import check_address_space as check; check()"
    assert python(code, shell='ulimit -v 2500000; "$@"') == ""
    with pytest.raises(subprocess.CalledProcessError) as found:
        python(code, shell='ulimit -v 1900000; "$@"')
    assert "1,945,600,000 bytes of memory (ulimit -v)" in found.value.stderr


def test_variables_that_end_the_import_of_a_library_are_dropped(monkeypatch):
    monkeypatch.setenv("NUMPY_MADVISE_HUGEPAGE", "abc")
    monkeypatch.setenv("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "cpp")
    environment.prepare(is_program=False)
    assert "NUMPY_MADVISE_HUGEPAGE" not in os.environ
    assert "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION" not in os.environ


@pytest.mark.parametrize("command", [["check", ""], ["predict", "run", " "], ["train", "--fold", "0", ""]])
def test_an_empty_argument_is_an_unset_variable_of_the_shell(command, capsys):
    assert main(command) == 2
    assert f"An argument of {command[0]} is empty" in capsys.readouterr().err


def test_a_signal_that_ended_a_command_does_not_stop_what_the_process_does_next(monkeypatch, capsys):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def command(options, prog):
        raise_on_signals()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("fbunet_jax.cli.jobs.command", command)
    try:
        assert main(["jobs"]) == 130
        with Interruption() as interruption:
            assert not interruption.requested
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
