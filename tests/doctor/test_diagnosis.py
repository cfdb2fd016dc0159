"""Every broken machine that we can imagine gets its own finding and remedy, and a sound one none."""

import dataclasses

import pytest

from fbunet_jax.doctor.diagnosis import diagnose, extra, pip_line
from fbunet_jax.doctor.machine import Gpu, Machine
from fbunet_jax.experiments.probe import Answer

CPU = {"platform": "cpu", "kind": "cpu", "bytes": None}
H200 = {"platform": "gpu", "kind": "NVIDIA H200", "bytes": 140 * 10**9}

SOUND = Machine(
    python="3.12.1",
    interpreter="/usr/bin/python3",
    package="0.1.0",
    source="fbunet-jax",
    editable=False,
    versions={
        "jax": "0.10.2",
        "jaxlib": "0.10.2",
        "flax": "0.12",
        "optax": "0.2",
        "orbax-checkpoint": "1",
        "numpy": "2",
    },
    conflicts=(),
    environment={},
    driver="",
    gpus=(),
    nvidia_hardware=False,
    tpu_hardware=False,
    devices=Answer({"devices": [CPU]}),
    memory=32 * 10**9,
    available=20 * 10**9,
    folder="/work",
    free=10**12,
    writable=True,
    step=Answer({"seconds": 3.0}),
)

GPU = dataclasses.replace(SOUND, driver="580.65.06", gpus=(Gpu("NVIDIA H200", 9.0),), nvidia_hardware=True)
PLUGIN = GPU.versions | {"jax-cuda13-plugin": "0.10.2"}
TPU = dataclasses.replace(SOUND, tpu_hardware=True)
CUDA_13, CUDA_12 = "'fbunet-jax[cuda13]'", "'fbunet-jax[cuda12]'"


def change(machine, **changes):
    return dataclasses.replace(machine, **changes)


def troubles(machine):
    return [finding for finding in diagnose(machine) if finding.status != "ok"]


@pytest.mark.parametrize(
    "machine",
    [
        SOUND,
        change(GPU, versions=PLUGIN, devices=Answer({"devices": [H200, H200]})),
        change(TPU, devices=Answer({"devices": [{"platform": "tpu", "kind": "TPU v5", "bytes": 16 * 10**9}]})),
        change(SOUND, memory=None, available=None),
    ],
    ids=["cpu", "gpu", "tpu", "unknown-memory"],
)
def test_a_sound_machine_has_no_trouble(machine):
    assert not troubles(machine)
    assert {"python", "packages", "jax", "devices", "memory", "disk", "training", "install"} == {
        finding.topic for finding in diagnose(machine)
    }


@pytest.mark.parametrize(
    ("machine", "status", "topic", "text", "remedy"),
    [
        (change(SOUND, python="3.10.4"), "problem", "python", "older than 3.11", "newer Python"),
        (change(SOUND, package=None, source="/x"), "warning", "packages", "not installed", "install /x"),
        (
            change(SOUND, conflicts=("fbunet-jax 0.1.0 requires optax, which is not installed.",)),
            *("problem", "packages", "requires optax", "pip install"),
        ),
        (
            GPU,
            "problem",
            "gpu",
            "1 x NVIDIA H200 (driver 580.65.06) is here but not used: JAX is installed for",
            CUDA_13,
        ),
        (change(GPU, driver="535.104.05"), "problem", "gpu", "for the CPU only", CUDA_12),
        (change(GPU, gpus=(Gpu("Tesla V100", 7.0),)), "problem", "gpu", "for the CPU only", CUDA_12),
        (change(GPU, gpus=()), "problem", "gpu", "an NVIDIA GPU (driver 580", CUDA_13),
        (change(GPU, driver="470.57.02"), "problem", "gpu", "needs driver 525", "update the driver"),
        (change(GPU, gpus=(Gpu("Tesla K80", 3.7),)), "problem", "gpu", "compute capability 5.2", "older GPU"),
        (change(GPU, driver="", gpus=()), "warning", "gpu", "no driver", "install NVIDIA's driver"),
        (change(GPU, environment={"JAX_PLATFORMS": "cpu"}), "warning", "gpu", "JAX_PLATFORMS=cpu is set", "unset"),
        (change(GPU, environment={"CUDA_VISIBLE_DEVICES": ""}), "warning", "gpu", "CUDA_VISIBLE_DEVICES= is", "unset"),
        (change(GPU, driver="550.54.14", versions=PLUGIN), "problem", "gpu", "cuda13-plugin does not fit", CUDA_12),
        (
            change(GPU, versions=PLUGIN | {"jax-cuda13-plugin": "0.10.0"}),
            *("problem", "gpu", "jax-cuda13-plugin 0.10.0 and jaxlib 0.10.2 differ", CUDA_13),
        ),
        (
            change(GPU, versions=PLUGIN, devices=Answer({"devices": [CPU]}, "", "CUDA_ERROR_OUT_OF_MEMORY")),
            *("problem", "gpu", "CUDA_ERROR_OUT_OF_MEMORY", "end other programs"),
        ),
        (TPU, "problem", "tpu", "libtpu is not installed", "'fbunet-jax[tpu]'"),
        (change(TPU, environment={"JAX_PLATFORMS": "cpu"}), "warning", "tpu", "JAX_PLATFORMS=cpu is set", "unset"),
        (
            change(TPU, versions=SOUND.versions | {"libtpu": "0.0.2"}),
            *("problem", "tpu", "JAX does not say why", "end other programs"),
        ),
        (
            change(SOUND, environment={"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}),
            *("warning", "devices", "simulated", "unset XLA_FLAGS"),
        ),
        (change(SOUND, available=10**9), "warning", "memory", "1.0 GB of it free: less than 4.0 GB", "batch-size"),
        (change(SOUND, free=10**8), "warning", "disk", "100 MB free in /work", "free space"),
        (change(SOUND, writable=False), "problem", "disk", "/work cannot be written", "--out"),
        (
            change(SOUND, step=Answer({}, "no answer within 300 seconds")),
            "problem",
            "training",
            "no answer",
            "pip install",
        ),
    ],
)
def test_each_trouble_is_found_alone_with_its_remedy(machine, status, topic, text, remedy):
    (finding,) = troubles(machine)
    assert (finding.status, finding.topic) == (status, topic)
    assert text in finding.text
    assert remedy in finding.remedy


def test_a_jax_that_does_not_start_is_a_problem_and_nothing_is_trained():
    broken = Answer({}, "RuntimeError: jaxlib is version 0.9, but this version of jax requires 0.10")
    jax, training = troubles(change(SOUND, devices=broken, step=broken))
    assert (jax.status, jax.topic) == (training.status, "jax") == ("problem", "jax")
    assert "jaxlib is version 0.9" in jax.text
    assert "pip install" in jax.remedy
    assert "not tried" in training.text


def test_a_platform_that_is_asked_for_and_not_there_is_named():
    jax, _ = troubles(change(SOUND, environment={"JAX_PLATFORMS": "cuda"}, devices=Answer({}, "AssertionError")))
    assert "no device of JAX_PLATFORMS=cuda" in jax.text
    assert jax.remedy.startswith("unset JAX_PLATFORMS")


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (SOUND, "/usr/bin/python3 -m pip install fbunet-jax"),
        (GPU, "/usr/bin/python3 -m pip install 'fbunet-jax[cuda13]'"),
        (change(GPU, source="/my code", editable=True), "/usr/bin/python3 -m pip install -e '/my code[cuda13]'"),
        (
            change(GPU, source="git+https://example.org/x.git"),
            "/usr/bin/python3 -m pip install 'fbunet-jax[cuda13] @ git+https://example.org/x.git'",
        ),
    ],
)
def test_the_pip_line_names_this_interpreter_the_origin_and_the_extra(machine, expected):
    assert pip_line(machine) == expected


def test_the_weakest_gpu_decides_on_the_build():
    assert extra(change(GPU, gpus=(Gpu("NVIDIA H200", 9.0), Gpu("Tesla P100", 6.0)))) == "cuda12"
