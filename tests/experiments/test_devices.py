"""One device a process: what the variables of CUDA and of TPUs say of it, and shares of cores that do not overlap."""

import os

import pytest

from fbunet_jax.experiments.devices import find_devices


def test_gpus_are_counted_from_0_or_are_those_that_were_chosen(hardware, monkeypatch):
    hardware("gpu", "Imaginary", 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [device.environment["CUDA_VISIBLE_DEVICES"] for device in find_devices()] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8932f937, 7")
    assert [device.environment["CUDA_VISIBLE_DEVICES"] for device in find_devices()] == ["5", "GPU-8932f937", "7"]
    assert len(find_devices(2)) == 2


@pytest.mark.parametrize(("kind", "devices", "chips"), [("TPU v5 lite", 8, 8), ("TPU v3", 8, 4), ("TPU v4", 4, 4)])
def test_a_tpu_has_a_process_a_chip(kind, devices, chips, hardware):
    hardware("tpu", kind, devices)
    found = find_devices()
    assert [device.environment["TPU_VISIBLE_CHIPS"] for device in found] == [str(chip) for chip in range(chips)]
    assert {device.environment["TPU_PROCESS_BOUNDS"] for device in found} == {"1,1,1"}


@pytest.mark.parametrize(
    ("cores", "workers", "shares"),
    [
        ({0, 1, 2, 3}, 2, [{0, 1}, {2, 3}]),
        ({2, 3, 8, 9, 10}, 3, [{2}, {3, 8}, {9, 10}]),
        ({4}, 2, [{4}, {4}]),
        ({0, 1}, None, [{0, 1}]),
    ],
)
def test_the_cores_of_this_process_are_divided(cores, workers, shares, hardware, monkeypatch):
    hardware("cpu", "cpu", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores)
    assert [device.cores for device in find_devices(workers)] == shares


def test_a_queue_has_a_process_a_core_on_a_cpu_and_one_a_device_elsewhere(hardware, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    hardware("cpu", "cpu", 1)
    assert [device.cores for device in find_devices(shares=3)] == [{0}, {1}, {2}]
    assert len(find_devices(2, shares=3)) == 2
    hardware("gpu", "Imaginary", 1)
    assert len(find_devices(shares=3)) == 1
