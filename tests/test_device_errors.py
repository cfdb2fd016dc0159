import subprocess
import sys

import jax
import pytest

from fbunet_jax.device_errors import device_error, device_errors
from fbunet_jax.errors import DataError, DeviceError

REMEDY = "Lower training.batch_size (10)."

# as people have reported them: text, kind, and what the sentence must have
REPORTED = [
    ("Encountered error while reading array index: Cannot allocate memory", "memory", "Out of memory"),
    (
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34365504512 bytes. [tf-allocator-allocation-error]",
        "memory",
        "34.4 GB at once do not fit",
    ),
    ("RESOURCE_EXHAUSTED: Out of memory allocating 368876334600 bytes.", "memory", "368.9 GB at once"),
    (
        "RESOURCE_EXHAUSTED: Failed to allocate request for 1.50GiB (1610612736B) on device ordinal 0",
        "memory",
        "1.50GiB at once",
    ),
    (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.34G of "
        "15.48G hbm. Exceeded hbm capacity by 4.86G.",
        "memory",
        "20.34G are needed, and it has 15.48G",
    ),
    (
        "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 3.12G. That was not possible. "
        "There are 2.10G free.; (0x0x0_HBM0)",
        "memory",
        "3.12G more are needed, and 2.10G are free",
    ),
    ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem.", "memory", "memory space vmem"),
    ("INTERNAL: Failed to load in-memory CUBIN: CUDA_ERROR_OUT_OF_MEMORY: out of memory", "memory", "CUBIN"),
    (
        "Unable to initialize backend 'cuda': INTERNAL: CUDA error: : CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "memory",
        "XLA_PYTHON_CLIENT_MEM_FRACTION",
    ),
    ("FAILED_PRECONDITION: DNN library initialization failed. Look at the errors above for more", "memory", "DNN"),
    ("INTERNAL: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "memory", "CUDNN_STATUS_ALLOC_FAILED"),
    ("INTERNAL: Could not create cudnn handle: CUDNN_STATUS_NOT_INITIALIZED", "memory", "another process"),
    ("INTERNAL: Autotuning failed for HLO: %cudnn-conv = ... no valid config found", "memory", REMEDY),
    ("INTERNAL: hipErrorOutOfMemory", "memory", REMEDY),
    ("std::bad_alloc", "memory", REMEDY),
    ("INTERNAL: CUDA driver version is insufficient for CUDA runtime version", "driver", "Update the driver"),
    (
        "INTERNAL: Failed to load PTX text as a module: CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was "
        "compiled with an unsupported toolchain.",
        "driver",
        "fbunet doctor",
    ),
    ("INTERNAL: no kernel image is available for execution on the device", "driver", "fbunet doctor"),
    ("UNKNOWN: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: system has unsupported display driver", "driver", "driver"),
    ("INTERNAL: an illegal memory access was encountered: CUDA_ERROR_ILLEGAL_ADDRESS", "lost", "nvidia-smi"),
    ("INTERNAL: CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered", "lost", "dmesg"),
    ("UNAVAILABLE: Socket closed", "lost", "same command again"),
    ("DEADLINE_EXCEEDED: Deadline Exceeded", "lost", "same command again"),
    ("INTERNAL: Core halted unexpectedly: INTERNAL: Accelerator device halted prematurely", "lost", "restart"),
    ("INTERNAL: NCCL operation ncclAllReduce failed: unhandled cuda error", "lost", "NCCL"),
    (
        "Loaded runtime CuDNN library: 8.2.1 but source was compiled with: 8.6.0. CuDNN library needs to have matching "
        "major version",
        "library",
        "LD_LIBRARY_PATH",
    ),
    ("Found cuDNN version 8600, but JAX was built against version 8904, which is newer.", "library", "8904"),
    ("INTERNAL: CUDNN_STATUS_VERSION_MISMATCH", "library", "another version"),
    ("This version of jaxlib was built using AVX instructions, which your CPU do not support.", "library", "AVX"),
    ("FAILED_PRECONDITION: No visible GPU devices.", "missing", "See fbunet doctor"),
    ("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected", "missing", "See fbunet doctor"),
    ("Unable to initialize backend 'rocm': NOT_FOUND", "missing", "See fbunet doctor"),
    (
        "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by process with pid 4711. Not "
        "attempting to load libtpu.so in this process.",
        "busy",
        "4711",
    ),
    ("UNAVAILABLE: TPU initialization failed: open(/dev/vfio/0): Device or resource busy", "busy", "one process"),
    ("CUDA_ERROR_DEVICE_UNAVAILABLE: CUDA-capable device(s) is/are busy or unavailable", "busy", "exclusive"),
    ("can't start new thread", "limit", "ulimit -u"),
]


@pytest.mark.parametrize(("text", "kind", "said"), REPORTED, ids=[text[:50] for text, *_ in REPORTED])
def test_what_devices_say_is_sorted_and_explained(text, kind, said, monkeypatch):
    gpu = type("Gpu", (), {"platform": "gpu", "device_kind": "NVIDIA A100"})()
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
    for error in (jax.errors.JaxRuntimeError(text), RuntimeError(text)):
        with pytest.raises(DeviceError) as found, device_errors("training", REMEDY):
            raise error
        assert found.value.kind == kind
        assert "(training)" in str(found.value) or kind == "missing"
        assert said in str(found.value)
        assert found.value.__cause__ is error
        if kind == "memory":
            assert "on the device gpu (NVIDIA A100)" in str(found.value)
            assert REMEDY in str(found.value)


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Argument does not match host shape"),
        # another process is gone, for which there are words of their own
        jax.errors.JaxRuntimeError("UNAVAILABLE: Gloo all-reduce failed: Connection closed by peer"),
        ValueError("out of memory"),
        KeyError("RESOURCE_EXHAUSTED"),
        DataError("a.tif: out of memory"),
        RuntimeError("dictionary changed size during iteration"),
        ImportError("No module named 'fbunet_jax.nothing'"),
    ],
    ids=repr,
)
def test_other_errors_pass_as_they_are(error):
    assert device_error(error, "training") is None
    with pytest.raises(type(error)) as found, device_errors("training"):
        raise error
    assert found.value is error


def test_memory_of_the_host_is_no_device(monkeypatch):
    message = "Unable to allocate 12.3 GiB for an array with shape (3, 4) and data type float32"
    assert "on this machine (reading): 12.3 GiB for an array of shape (3, 4)" in str(
        device_error(MemoryError(message), "reading")
    )
    assert str(device_error(MemoryError(), "reading")).startswith("Out of memory on this machine (reading). Or another")


def test_a_library_of_another_system_is_named():
    text = "/lib64/libm.so.6: version `GLIBC_2.29' not found (required by jaxlib/libjax_common.so)"
    assert device_error(ImportError(text), "train").kind == "library"


SCRIPT = """
import jax, jax.numpy as jnp, sys
from fbunet_jax.device_errors import device_errors
from fbunet_jax.errors import DeviceError
try:
    with device_errors("a test"):
        jnp.zeros((2**30, 64)).block_until_ready()
except DeviceError as error:
    print(error.kind, error)
"""


def test_xla_on_this_cpu_says_it_as_expected():
    command = ["sh", "-c", 'ulimit -v 8000000; exec "$@"', "sh", sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.startswith("memory Out of memory on the CPU (a test): 274.9 GB at once do not fit."), done.stderr


def test_a_plugin_that_a_variable_names_and_that_is_not_there_is_a_device_that_is_missing(monkeypatch):
    error = RuntimeError("Failed to open foo: /gone.so: cannot open shared object file: No such file or directory")
    assert device_error(error, "training").kind == "library"
    monkeypatch.setenv("PJRT_NAMES_AND_LIBRARY_PATHS", "foo:/gone.so")
    found = device_error(error, "training")
    assert found.kind == "missing"
    assert "PJRT_NAMES_AND_LIBRARY_PATHS=foo:/gone.so" in str(found)
