"""What JAX, XLA and the operating system say of a device that is full, lost, taken or too old, as a `DeviceError`.

The texts are those of XLA on CPUs, NVIDIA and AMD GPUs and TPUs, as people have reported them.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fbunet_jax.errors import DeviceError, UserError

_MOST = 240
"""Characters of JAX's own words that are quoted."""

ASKING = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "PJRT_NAMES_AND_LIBRARY_PATHS")
"""Environment variables that ask for devices, which need not be there."""

_OF_OTHER_PROCESSES = ("Gloo ", "gloo/transport", "oordination service", "CoordinationService", "_complete barrier")
"""In texts about a process of the same training that is gone, which is no fault of a device."""

_MEMORY = (
    r"RESOURCE_EXHAUSTED|[Oo]ut of memory|OUT_OF_MEMORY|hipErrorOutOfMemory|bad_alloc|ALLOC_FAILED|"
    r"Unable to allocate|[Ff]ailed to allocate|Cannot allocate memory"
)


class _Kind(NamedTuple):
    name: str
    pattern: str
    what: str
    remedy: str


_KINDS = (
    # of an ImportError, which names a library that is whole
    _Kind("memory", r"failed to map segment|[Cc]annot allocate memory", "", ""),
    _Kind(
        "driver",
        r"driver version is insufficient|INSUFFICIENT_DRIVER|unsupported toolchain|UNSUPPORTED_PTX_VERSION|"
        r"SYSTEM_DRIVER_MISMATCH|COMPAT_NOT_SUPPORTED|no kernel image is available|NO_BINARY_FOR_GPU|"
        r"ptxas (does not support|version)|requires (a )?(newer )?ptxas|[Dd]river/library version mismatch",
        "The driver of the device and the installed JAX do not fit each other",
        "Update the driver, or install the JAX that fits it: fbunet doctor says which.",
    ),
    _Kind(
        "busy",
        r"TPU is already in use|libtpu.so is already in use|[Dd]evice or resource busy|DEVICE_UNAVAILABLE|"
        r"devices? (is|are|is/are) busy|libtpu_lockfile|device is already (in use|open)",
        "The device is in use by another process",
        "End that process, or wait for it: a TPU, and a GPU in exclusive mode, serve one process at a time.",
    ),
    _Kind(
        "missing",
        r"No visible GPU|no CUDA-capable device|CUDA_ERROR_NO_DEVICE|hipErrorNoDevice|NO_DEVICE|"
        r"[Nn]o (TPU|GPU) devices? (were |was )?found|INVALID_DEVICE|invalid device ordinal|no TPU driver|"
        r"no supported devices found",
        "",
        "",
    ),
    _Kind(
        "library",
        r"GLIBC(XX)?_[\d.]+|VERSION_MISMATCH|Outdated cuDNN|Could not load library|shared object file|"
        r"(cuDNN|CuDNN|cuBLAS|cuSOLVER|cuSPARSE|CUDA) (version|library|installation)|"
        r"lib(cudnn|cublas|cusparse|cusolver|cufft|cupti|nvrtc|nvJitLink|cudart|nccl|tpu)\S*: |"
        r"Unable to load (cuDNN|cuBLAS|cuSOLVER|cuSPARSE|cuPTI|cuFFT|CUDA)|built using (AVX|SSE|FMA)|"
        r"incompatible with jax|is newer than and incompatible",
        "A library that JAX needs is missing here, or is of another version than JAX was built for",
        "Install JAX in an environment of its own, without LD_LIBRARY_PATH: fbunet doctor prints the command.",
    ),
    _Kind("memory", _MEMORY, "", ""),
    # what cuDNN and cuBLAS say where another process has left them no room; after the versions, which have other words
    _Kind(
        "memory",
        r"CUDNN_STATUS_NOT_INITIALIZED|CUDNN_STATUS_INTERNAL_ERROR|DNN library initialization failed|"
        r"CUBLAS_STATUS_NOT_INITIALIZED|[Cc]ould not create (cudnn|cublas)|[Ff]ailed to create (cuDNN|cuBLAS|cuSolver)|"
        r"[Ff]ailed to (get|find) (a )?(convolution|conv) algorithm|Autotuning failed|All algorithms tried",
        "",
        "",
    ),
    _Kind(
        "limit",
        r"can't start new thread|pthread_create|Resource temporarily unavailable",
        "The system gives this process no more threads",
        "Raise the limits (ulimit -u and -v, or those of the container or batch job), or give the job more cores and "
        "memory.",
    ),
    # JAX's words around all the others
    _Kind("missing", r"Unable to initialize backend|not in the list of known backends", "", ""),
    _Kind(
        "lost",
        r"ILLEGAL_ADDRESS|illegal memory access|ECC_UNCORRECTABLE|uncorrectable ECC|LAUNCH_FAILED|unspecified launch|"
        r"LAUNCH_TIMEOUT|MISALIGNED_ADDRESS|HARDWARE_STACK|ILLEGAL_INSTRUCTION|NVLINK|CUDA_ERROR|CUDNN_STATUS|"
        r"CUBLAS_STATUS|hipError|NCCL|[Dd]evice (is|was) lost|GPU is lost|fallen off the bus|[Ss]ocket closed|"
        r"[Cc]ore halted|TPU worker|(UNAVAILABLE|DEADLINE_EXCEEDED|DATA_LOSS|ABORTED|CANCELLED): ",
        "The device failed, or is not reached any more",
        "Look at it (nvidia-smi, dmesg, the log of the batch system), restart it or take another one, and give the "
        "same command again.",
    ),
)


@contextlib.contextmanager
def device_errors(phase: str, remedy: str = "") -> Iterator[None]:
    """Turn what a device, or the memory of this machine, refuses into a sentence.

    Args:
      phase: what was done, such as ``"training"``.
      remedy: what takes less memory, as whole sentences.

    Raises:
      DeviceError: says what did not fit or failed, where, and what to do; other errors pass.
    """
    try:
        yield
    except Exception as error:
        if found := device_error(error, phase, remedy):
            raise found from error
        raise


def device_error(error: BaseException, phase: str, remedy: str = "") -> DeviceError | None:
    """Return the `DeviceError` that an error stands for, or None if it is another's; see `device_errors`."""
    text = str(error)
    if not _is_of_a_device(error) or any(sign in text for sign in _OF_OTHER_PROCESSES):
        return None
    on_host = isinstance(error, MemoryError | OSError)
    for kind in _KINDS:
        if re.search(kind.pattern, text) or (kind.name == "memory" and isinstance(error, MemoryError)):
            if kind.name == "memory":
                return DeviceError(_of_memory(text, phase, remedy, on_host=on_host), kind.name)
            if kind.name == "missing" or (kind.name == "library" and _is_named_plugin(text)):
                what, remedy = no_device("JAX", os.environ, _quoted(text), "see fbunet doctor")
                return DeviceError(f"{what}. {remedy[0].upper()}{remedy[1:]}.", "missing")
            return DeviceError(f"{kind.what} ({phase}): {_quoted(text)}. {kind.remedy}", kind.name)
    return None


def no_device(jax: str, environment: Mapping[str, str], said: str, install: str) -> tuple[str, str]:
    """Say that JAX finds no device, and what to do; for the doctor and for every command that needs one.

    Args:
      jax: what JAX is called, such as "jax 0.10.2".
      environment: of the process that JAX did not start in.
      said: what it said.
      install: what to do if such a device is here.
    """
    if said in ("", "AssertionError"):  # as JAX says it
        said = "it is not installed for such a device"
    asked = [name for name in ASKING if environment.get(name)]
    if not asked:
        return f"{jax} finds no device: {said}", install
    setting = " and ".join(f"{name}={environment[name]}" for name in asked)
    return (
        f"{jax} finds no device of {setting}: {said}",
        f"unset {' and '.join(asked)}; if such a device is here: {install}",
    )


def _is_named_plugin(text: str) -> bool:
    """Say whether a library that is missing is that of a device which a variable of the environment names."""
    plugins = os.environ.get("PJRT_NAMES_AND_LIBRARY_PATHS", "").split(",")
    return any(path and path in text for _, _, path in (each.partition(":") for each in plugins))


def _is_of_a_device(error: BaseException) -> bool:
    """Say whether an error can be one of a device; an own mistake of the same text must stay one."""
    if isinstance(error, UserError):
        return False
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, ImportError):
        return "jax" in str(error) or "GLIBC" in str(error) or "shared object" in str(error)
    if isinstance(error, OSError):
        return error.errno is None and "lib" in str(error)
    # of a plain Exception, what TensorStore says in Orbax; of a RuntimeError, jax.errors.JaxRuntimeError too
    return isinstance(error, RuntimeError) or type(error) is Exception


def _of_memory(text: str, phase: str, remedy: str, *, on_host: bool) -> str:
    """Return the sentences about memory: how much of what, where, and what takes less."""
    platform, place = ("", "") if on_host else _device()
    is_here = on_host or platform in ("", "cpu")
    where = f"on {place or 'this machine'}" if is_here else f"on the device {place}"
    others = (
        "Or another process on this device holds memory, or a limit is set (ulimit, a container, a batch job)."
        if is_here
        else "Or another process on this device holds memory (nvidia-smi lists those of a GPU): end it. Of a GPU, JAX "
        "takes the share XLA_PYTHON_CLIENT_MEM_FRACTION, 0.75 if it is not set."
    )
    amount = _amount(text)
    return " ".join(filter(None, [f"Out of memory {where} ({phase}){amount and f': {amount}'}.", remedy, others]))


def _device() -> tuple[str, str]:
    """Return platform and name of the devices of this process, or two empty texts before JAX has started any."""
    with contextlib.suppress(Exception):
        devices = sys.modules["jax"].local_devices()
        platform, kind, number = devices[0].platform, devices[0].device_kind, len(devices)
        if platform == "cpu":
            return platform, "the CPU"
        return platform, f"{platform} ({kind}){f', one of {number}' if number > 1 else ''}"
    return "", ""


def _amount(text: str) -> str:
    """Return how much did not fit, as far as a message says so; JAX's own words if it does not."""
    unit = r"(\d[\d.,]* ?[KMGT]i?B?)\b"
    if found := re.search(rf"Used {unit} of {unit}", text):
        return f"{found[1]} are needed, and it has {found[2]}"
    if found := re.search(rf"[Aa]ttempting to (?:reserve|allocate) {unit}", text):
        free = re.search(rf"There (?:is|are) {unit} free", text)
        return f"{found[1]} more are needed{f', and {free[1]} are free' if free else ''}"
    if found := re.search(rf"[Uu]nable to allocate {unit} for an array with shape (\(.*?\))", text):
        return f"{found[1]} for an array of shape {found[2]} do not fit"
    if found := re.search(r"allocat\w*(?: request for)? (\d+) ?(?:bytes|B)\b", text):
        return f"{_size(int(found[1]))} at once do not fit"
    if found := re.search(rf"allocat\w*(?: request for)? {unit}", text):
        return f"{found[1]} at once do not fit"
    if found := re.search(rf"memory required for [\w ]+\({unit}\) exceeds", text):
        return f"{found[1]} are needed"
    return "" if text == "std::bad_alloc" else _quoted(text)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _quoted(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return (f"{line[:_MOST]}…" if len(line) > _MOST else line).rstrip(". :")
