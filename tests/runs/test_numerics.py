"""JAX's settings that decide a run's numbers are recorded, and a fold is resumed under the same ones only."""

import json

import jax
import pytest

from fbunet_jax.config import load_config
from fbunet_jax.errors import RunError
from fbunet_jax.runs.numerics import check_resumed, current_settings, differences
from fbunet_jax.training.fold import train

SETTINGS = {
    "data": {"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3},
    "model": {"widths": [2, 3]},
}


def training(epochs):
    return {"training": {"epochs": epochs, "batch_size": 8, "previews": 0, "schedule": "constant"}}


def test_a_fold_is_not_resumed_under_other_settings_of_jax_and_nothing_of_jax_is_changed(tmp_path):
    before = dict(jax.config.values)
    first = train(load_config("quickstart", method="unet", **SETTINGS, **training(2)), out=tmp_path / "run")
    more = load_config("quickstart", method="unet", **SETTINGS, **training(4))
    metrics = first.directory.metrics.read_bytes()
    with jax.enable_x64(True), pytest.raises(RunError, match="JAX_ENABLE_X64 was False and is now True"):
        train(more, out=tmp_path / "run")
    assert first.directory.metrics.read_bytes() == metrics
    environment = json.loads(first.directory.environment.read_text("utf-8"))
    assert environment["settings"]["jax_threefry_partitionable"] is True
    # a run of an earlier version has no record
    del environment["settings"]
    first.directory.environment.write_text(json.dumps(environment), "utf-8")
    with jax.default_matmul_precision("float32"):
        assert train(more, out=tmp_path / "run").steps == 2
    assert json.loads(first.directory.environment.read_text("utf-8"))["settings"]["jax_default_matmul_precision"]
    assert dict(jax.config.values) == before


@pytest.mark.parametrize(
    ("context", "name"),
    [
        (lambda: jax.enable_x64(True), "JAX_ENABLE_X64"),
        (lambda: jax.threefry_partitionable(False), "JAX_THREEFRY_PARTITIONABLE"),
        (lambda: jax.default_prng_impl("rbg"), "JAX_DEFAULT_PRNG_IMPL"),
        (lambda: jax.default_matmul_precision("bfloat16"), "JAX_DEFAULT_MATMUL_PRECISION"),
        (jax.disable_jit, "JAX_DISABLE_JIT"),
    ],
)
def test_what_changes_numbers_is_compared_in_both_directions(context, name, tmp_path):
    plain, path = current_settings(), tmp_path / "environment.json"
    with context():
        path.write_text(json.dumps({"settings": current_settings()}), "utf-8")
        check_resumed(path)
    with pytest.raises(RunError, match=name):
        check_resumed(path)
    path.write_text(json.dumps({"settings": plain}), "utf-8")
    check_resumed(path)
    with context(), pytest.raises(RunError, match=name):
        check_resumed(path)


def test_what_changes_no_number_is_not_compared(monkeypatch, tmp_path):
    plain = current_settings()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert differences(plain, current_settings()) == []
    flags = "--xla_force_host_platform_device_count=4 --xla_dump_to=/tmp --xla_gpu_deterministic_ops=true"
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert differences(plain, current_settings()) == []
    assert differences({}, plain) == []  # a version that recorded none
    check_resumed(tmp_path / "environment.json")  # nor does one have to be there


def test_flags_of_the_compiler_that_change_numbers_are_compared(monkeypatch):
    plain = current_settings()
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp --xla_cpu_enable_fast_math=true")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    found = differences(plain, current_settings())
    assert sorted(found) == [
        "NVIDIA_TF32_OVERRIDE was not set and is now 0",
        "XLA_FLAGS was not set and is now --xla_cpu_enable_fast_math=true",
    ]


def test_flags_in_a_file_are_those_of_the_variable(tmp_path, monkeypatch):
    (tmp_path / "flags").write_text("--xla_cpu_enable_fast_math=true\n--xla_dump_to=x\n")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    assert current_settings()["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=true"
