"""Compiled programs are kept for the next start, in the user's folder, and never in the way of anything."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fbunet_jax.cli import compilation_cache

ROOT = Path(__file__).parents[2]
SMALL = ["--data.synthetic_images", "6", "--data.synthetic_size", "64", "--data.crop", "32", "--data.folds", "3"]
SMALL += [
    "--model.widths",
    "2",
    "3",
    "--training.epochs",
    "1",
    "--training.batch_size",
    "4",
    "--training.previews",
    "0",
]


def train(cwd, out, **environment):
    """Train a step with warnings as errors; compile quickly, and keep even what took no second."""
    inherited = {name: value for name, value in os.environ.items() if name != compilation_cache.FOLDER}
    settings = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-W", "error", str(ROOT / "train.py"), *SMALL, "--out", out]
    done = subprocess.run(
        command, cwd=cwd, env={**inherited, **settings, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "arning" not in done.stderr.replace("Warning: the validation IoU", "")
    return (Path(cwd) / out / "fold_0" / "metrics.jsonl").read_text()


def programs(folder):
    return {path.name for path in Path(folder).rglob("*-cache")}


def test_the_second_run_reads_what_the_first_compiled_with_the_same_result_on_any_devices(tmp_path):
    home = str(tmp_path / "home")
    first = train(tmp_path, "a", XDG_CACHE_HOME=home)
    kept = programs(home)
    assert len(kept) >= 3
    assert train(tmp_path, "b", XDG_CACHE_HOME=home) == first
    assert programs(home) == kept
    # simulated devices: other programs, not those of one device, and again the same result when they are read
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    four = train(tmp_path, "c", XDG_CACHE_HOME=home, **devices)
    assert programs(home) > kept
    assert train(tmp_path, "d", XDG_CACHE_HOME=home, **devices) == four


@pytest.fixture
def unset(monkeypatch):
    # set first, so that what the function sets is taken back too
    for name in (compilation_cache.FOLDER, compilation_cache.MAX_SIZE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_folder_that_cannot_be_written_is_not_used(unset, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file, where a folder is needed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    compilation_cache.use_compilation_cache()
    assert compilation_cache.FOLDER not in os.environ
    assert compilation_cache.MAX_SIZE not in os.environ


def test_the_folder_is_private_bounded_and_apart_for_each_kind_of_cpu(unset, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation_cache.use_compilation_cache()
    folder = Path(os.environ[compilation_cache.FOLDER])
    assert folder.parent == tmp_path / "fbunet_jax" / "compiled"
    assert folder.stat().st_mode & 0o77 == 0
    assert int(os.environ[compilation_cache.MAX_SIZE]) == 2 * 1024**3
    monkeypatch.setattr(compilation_cache, "_cpu", lambda: "another CPU")
    assert compilation_cache.default_folder() != folder


def test_what_the_user_has_set_stays(unset, tmp_path, monkeypatch):
    monkeypatch.setenv(compilation_cache.FOLDER, "/chosen")
    compilation_cache.use_compilation_cache()
    assert os.environ[compilation_cache.FOLDER] == "/chosen"
    assert compilation_cache.MAX_SIZE not in os.environ


@pytest.mark.parametrize("home", ["", "relative"])
def test_without_an_absolute_xdg_cache_home_it_is_under_the_home_directory(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compilation_cache.default_folder().is_relative_to(tmp_path / ".cache" / "fbunet_jax")


def test_importing_the_package_changes_nothing(unset):
    code = "import jax, fbunet_jax, fbunet_jax.cli; fbunet_jax.load_config; print(jax.config.jax_compilation_cache_dir)"
    environment = {name: value for name, value in os.environ.items() if name != compilation_cache.FOLDER}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "None"


def test_a_home_without_locks_keeps_no_programs(tmp_path, monkeypatch):
    assert compilation_cache.is_writable(tmp_path)

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(compilation_cache.fcntl, "flock", refuse)
    assert not compilation_cache.is_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
