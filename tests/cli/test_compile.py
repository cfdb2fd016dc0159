"""fbunet compile: mistakes are sentences, found before anything is compiled; and real compilers of TPUs and GPUs.

The compilers are those of this environment, or of the interpreters that FBUNET_TPU_PYTHON and FBUNET_CUDA_PYTHON name.
"""

import importlib.util
import json
import os
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fbunet_jax.accelerators import compiling
from fbunet_jax.cli import main

ROOT = Path(__file__).parents[2]


def run(capsys, *options):
    code = main(["compile", *options])
    captured = capsys.readouterr()
    assert "Internal error" not in captured.err
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], "--for is missing"),
        (["--for", "v5x:4x4"], "'v5x' is not a known device"),
        (["--for", "v5e:64x64"], "the largest slice of v5e has 256"),
        (["--for", "h100", "--for", "h10"], "Did you mean 'h100'?"),
        (["--for", "v5e:4x4", "--config", "drosophila", "--training.batch-size", "24"], "are 16 or 32"),
        (["--for", "h100", "--config", "drosophila", "--data.layout", "folder"], "--classes, --channels"),
        (["--for", "h100", "--config", "drosophila", "--data.crop", "100"], "data.crop = 100"),
        (["--for", "h100", "--config", "drosophila", "--channels", "3"], "3 channels and there are 4 classes"),
        (["--for", "h100", "--config", "drosophila", "--fold", "5"], "--fold 5"),
        (["--for", "h100", "--fold", "all"], "expected one fold"),
        (["--for", "h100", "--batches", "0"], "at least 1"),
        (["--for", "h100", "--tile", "100"], "tile = 100"),
        (
            ["--for", "h100:8", "--batches", "999999999", "--training.batch-size", "8"],
            "A batch of 7,999,999,992 crops",
        ),
        (["--for", "h100", "--out", "no/such/folder/file.json"], "a folder that exists"),
        (["--for", "h100", "--out", os.devnull], "expected a file"),
    ],
)
def test_a_mistake_is_a_sentence_before_anything_is_compiled(capsys, monkeypatch, options, part):
    monkeypatch.setattr(compiling, "find_plugin", lambda device: None)
    monkeypatch.setattr(compiling, "_ask", lambda *arguments: pytest.fail("it asks a compiler"))
    code, _, err = run(capsys, *options)
    assert code == 2
    assert part in err


@pytest.mark.parametrize(("target", "extra"), [("v6e:2x2", "tpu"), ("b200", "cuda13")])
def test_without_its_compiler_the_command_that_installs_it_is_told(capsys, monkeypatch, target, extra):
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    code, _, err = run(capsys, "--for", target, "--training.batch-size", "4")
    assert code == 2
    version = importlib.metadata.version("jax")
    assert f'{sys.executable} -m pip install "jax[{extra}]=={version}"' in err


def test_settings_of_jax_in_the_shell_do_not_reach_the_compiler(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/somewhere")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    environment = compiling.compiler_environment()
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert not {"JAX_ENABLE_X64", "JAX_COMPILATION_CACHE_DIR"} & set(environment)
    assert environment["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=true"


@pytest.mark.parametrize(
    ("script", "part"),
    [
        ("echo 'F0000 check failed: chips' >&2; kill -ABRT $$", "was ended by signal 6: F0000 check failed: chips"),
        (
            "echo 'XlaRuntimeError: INTERNAL: no such thing.' >&2; echo learning/45eac/init_utils.cc:327 >&2; exit 1",
            "exit code 1: XlaRuntimeError: INTERNAL: no such thing. --debug",
        ),
        ("kill -KILL $$", "was killed, as Linux does when memory is short"),
        ("exit 3", "failed with exit code 3: it says no more"),
        ("""echo '{"error": "No such slice."}'""", "No such slice."),
    ],
)
def test_a_compiler_that_breaks_is_a_sentence(capsys, monkeypatch, tmp_path, script, part):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(compiling, "find_plugin", lambda device: None)
    monkeypatch.setattr(compiling.sys, "executable", str(program))
    code, _, err = run(capsys, "--for", "h100")
    assert code == 2
    assert part in err


ANSWERS = {
    "devices": {"count": 4, "hosts": 1, "kind": "TPU v5 lite"},
    "training": [
        {
            **{"share": share, "seconds": 2.5, "memory": memory, "traffic": traffic},
            "arithmetic": {"flops": flops, "bytes": 1},
        }
        for share, flops, memory, traffic in [
            (
                4,
                197 * 10**9,
                {"arguments": 10**9, "temporaries": 2 * 10**9, "code": 10**8, "total": 31 * 10**8},
                {"bytes_moved": 819 * 10**7, "kernels": 900, "all_reduced_bytes": 10**6},
            ),
            (
                64,
                3152 * 10**9,
                {"arguments": 10**9, "temporaries": 3 * 10**9, "code": 10**8, "total": 41 * 10**8},
                {"bytes_moved": 1638 * 10**7, "kernels": 900, "all_reduced_bytes": 10**6},
            ),
            (128, 6304 * 10**9, {"arguments": None, "temporaries": None, "code": None, "total": 30 * 10**9}, None),
        ]
    ],
    "prediction": {
        "seconds": 1.5,
        "memory": {"arguments": 10**6, "temporaries": 10**9, "code": None, "total": 10**9 + 10**6},
        "traffic": {"bytes_moved": 819 * 10**6, "kernels": 200, "all_reduced_bytes": 0},
        "arithmetic": {"flops": 197 * 10**10, "bytes": 1},
    },
}  # fmt: skip


def test_times_at_the_public_figures_by_hand(capsys, monkeypatch, tmp_path):
    answers = {**ANSWERS, "devices": [ANSWERS["devices"]], "prediction": [ANSWERS["prediction"]], "largest": [96]}
    monkeypatch.setattr(compiling, "find_plugin", lambda device: None)
    monkeypatch.setattr(compiling, "_ask", lambda *arguments: answers)
    out = tmp_path / "figures.json"
    options = ["--config", "drosophila", "--model.precision", "bfloat16", "--training.batch-size", "16"]
    code, text, _ = run(capsys, "--for", "v5e:2x2", *options, "--out", str(out))
    assert code == 0
    (target,) = json.loads(out.read_text(encoding="utf-8"))["targets"]
    training, prediction = target["training"], target["prediction"]
    assert (target["device"], target["devices"], target["hosts"]) == ("v5e", 4, 1)
    assert training["seconds_at_peak"]["bytes"] == pytest.approx(0.01)  # 8.19 GB at 819 GB/s
    assert training["seconds_at_peak"]["flops"] == pytest.approx(0.001)  # 197 GFLOP at 197 TFLOP/s
    assert training["seconds_at_peak"]["links"] == pytest.approx(2 * 0.75 * 1e6 / 200e9)
    assert training["seconds_at_peak"]["launches"] is None
    assert training["crops_per_second_at_most"] == pytest.approx(400)  # 4 crops in 10 ms
    assert training["fold_seconds_at_least"] == pytest.approx(180)  # 18,000 steps
    assert training["bytes_per_crop"] == {"4": 819e7 / 4, "64": 1638e7 / 64, "128": None}
    assert (training["recommended_batch"], training["largest_batch"], training["kernels"]) == (64, 96, None)
    assert training["fits"]
    assert prediction["seconds_at_peak"]["flops"] == pytest.approx(0.01)
    assert prediction["megapixels_per_second_at_most"] == pytest.approx(8 * 512**2 / 0.01 / 1e6)
    assert "64 crops a device: --training.batch-size 256" in text
    assert "400 crops/s a device, 1,600 by all 4" in text
    assert "128: does not fit" in text


def test_what_does_not_fit_ends_with_1_and_promises_no_speed(capsys, monkeypatch, tmp_path):
    too_large = {**ANSWERS["training"][2], "share": 4}
    answers = {"devices": [ANSWERS["devices"]], "training": [too_large], "prediction": [ANSWERS["prediction"]]}
    monkeypatch.setattr(compiling, "find_plugin", lambda device: None)
    monkeypatch.setattr(compiling, "_ask", lambda *arguments: answers)
    out = tmp_path / "figures.json"
    code, text, _ = run(
        capsys, "--for", "v5e:2x2", "--config", "drosophila", "--training.batch-size", "16", "--out", str(out)
    )
    assert code == 1
    assert "DOES NOT FIT" in text
    training = json.loads(out.read_text(encoding="utf-8"))["targets"][0]["training"]
    assert not training["fits"]
    assert training["crops_per_second_at_most"] is training["fold_seconds_at_least"] is training["bytes_moved"] is None


def test_a_gpu_program_that_is_too_large_promises_no_speed_either(capsys, monkeypatch, tmp_path):
    too_large = {
        **ANSWERS["training"][0],
        "share": 16,
        "memory": {"arguments": 10**9, "temporaries": 200 * 10**9, "code": None, "total": 201 * 10**9},
    }
    answers = {"devices": [{"count": 1, "hosts": 1}], "training": [too_large], "prediction": [ANSWERS["prediction"]]}
    monkeypatch.setattr(compiling, "find_plugin", lambda device: None)
    monkeypatch.setattr(compiling, "_ask", lambda *arguments: answers)
    out = tmp_path / "figures.json"
    code, text, _ = run(capsys, "--for", "h100", "--config", "drosophila", "--out", str(out))
    assert code == 1
    assert "DOES NOT FIT" in text
    training = json.loads(out.read_text(encoding="utf-8"))["targets"][0]["training"]
    assert training["crops_per_second_at_most"] is training["fold_seconds_at_least"] is None
    assert training["bytes_per_crop"] == {"16": None}


STOPPED = """
import sys
from fbunet_jax.accelerators import compiling
from fbunet_jax.cli import main
compiling.find_plugin = lambda device: None
compiling.sys.executable = sys.argv[1]
sys.exit(main(["compile", "--for", "h100"]))
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux tells when a process that is no child ends")
def test_the_compiler_ends_with_the_command(tmp_path):
    program, started = tmp_path / "python", tmp_path / "started"
    os.mkfifo(started)
    # as the real one, it ends with its standard input: the signal may come while it is being started
    program.write_text(f"#!/bin/sh\necho $$ > {started}\nexec cat\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", STOPPED, str(program)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        worker = os.pidfd_open(int(started.read_text(encoding="utf-8")))  # waits until it is written
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert select.select([worker], [], [], 60)[0], "the compiler still runs"
    os.close(worker)
    assert not list(tmp_path.glob("fbunet-compile-*"))


# --- real compilers ---

SMALL = [
    *("--config", "drosophila", "--method", "unet", "--model.widths", "4", "8"),
    *("--data.cut", "32", "--data.crop", "32", "--tile", "64", "--tiles", "1"),
]


def compiler(variable, *modules):
    if variable in os.environ:
        return os.environ[variable]
    if not any(importlib.util.find_spec(module) for module in modules):
        pytest.skip(f"no compiler: {' or '.join(modules)} is not installed, and {variable} names no Python that has it")
    return sys.executable


def compile_small(python, tmp_path, *options):
    out = tmp_path / "figures.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [python, "-m", "fbunet_jax.cli", "compile", *SMALL, *options, "--out", str(out)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    content = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"targets": []}
    return done, content["targets"]


def parameters():
    """Count the weights and statistics of the plain U-Net of widths 4 and 8, 1 channel and 4 classes, by hand."""
    three_by_three = [(1, 4), (4, 4), (4, 8), (8, 8), (8, 4), (4, 4)]
    convolutions = sum(9 * fan_in * fan_out + fan_out for fan_in, fan_out in three_by_three)
    features = sum(fan_out for _, fan_out in three_by_three)
    weights = convolutions + (4 * 8 * 4 + 4) + (4 * 4 + 4) + 2 * features
    return weights, 2 * features


def flops(crops):
    full, half = 32**2, 16**2
    first = 9 * full * 1 * 4
    others = full * (9 * (4 * 4 + 8 * 4 + 4 * 4) + 8 * 4 + 4 * 4) + half * 9 * (4 * 8 + 8 * 8)
    # forward, gradient of the weights, and gradient of the inputs, which the image does not need
    return 2 * crops * (2 * first + 3 * others)


def check(training, share):
    weights, statistics = parameters()
    assert training["flops"] == pytest.approx(flops(share), rel=1e-4)
    images = (20 * 3 // 5) * 1024**2 * 2  # a pixel and its label, of 12 sections
    state = 4 * (3 * weights + statistics)
    assert training["memory"]["arguments"] > images + state
    assert training["fits"]
    assert training["bytes_moved"] > 0
    return 4 * (weights + 2 * statistics + 1 + 1)


def test_a_slice_of_four_hosts_compiled_by_the_real_compiler(tmp_path):
    python = compiler("FBUNET_TPU_PYTHON", "libtpu")
    options = ("--for", "v5e:4x4", "--training.batch-size", "32", "--batches", "2")
    done, (target,) = compile_small(python, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("compiled: ") for line in done.stderr.splitlines()), done.stderr
    assert (target["devices"], target["hosts"]) == (16, 4)
    expected = check(target["training"], 2)
    assert target["training"]["all_reduced_bytes"] == expected
    assert target["training"]["kernels"] is None
    assert target["training"]["memory"]["code"] > 0
    assert target["prediction"]["fits"]


def test_a_batch_that_does_not_fit_on_a_tpu_and_a_slice_that_does_not_exist(tmp_path):
    python = compiler("FBUNET_TPU_PYTHON", "libtpu")
    large = ("--data.cut", "512", "--data.crop", "512", "--training.batch-size", "1024", "--batches", "1024")
    done, (target,) = compile_small(python, tmp_path, "--for", "v5e:1x1", *large)
    assert done.returncode == 1, done.stderr
    assert not target["training"]["fits"]
    assert target["training"]["memory"]["total"] > target["training"]["memory"]["capacity"]
    done, _ = compile_small(python, tmp_path, "--for", "v5e:3x3", "--training.batch-size", "9")
    assert done.returncode == 2
    assert "knows no such devices" in done.stderr


@pytest.mark.long
def test_gpus_compiled_by_the_real_compiler(tmp_path):
    python = compiler("FBUNET_CUDA_PYTHON", "jax_cuda13_plugin")
    options = ("--training.batch-size", "64", "--batches", "128", "--model.precision", "bfloat16")
    done, (target,) = compile_small(python, tmp_path, "--for", "h100", *options)
    assert done.returncode == 0, done.stderr
    check(target["training"], 64)
    per_crop = target["training"]["bytes_per_crop"]
    assert per_crop["128"] == pytest.approx(per_crop["64"], rel=0.1)  # twice the batch, twice the bytes
    assert target["training"]["kernels"] > 100
    done, targets = compile_small(python, tmp_path, "--for", "a100-80gb:2", "--for", "b200:2x4", *options)
    assert [(target["devices"], target["hosts"]) for target in targets] == [(2, 1), (8, 2)]
    for target in targets:
        assert target["training"]["all_reduced_bytes"] == check(target["training"], 64 // target["devices"])
