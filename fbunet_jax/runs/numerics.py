"""What decides a run's numbers beside its own settings: those of JAX and XLA in the process, recorded and compared.

Nothing is changed here: a program that imports the package chooses JAX's settings itself, and the commands pin them
before JAX is imported (`fbunet_jax.cli.environment`).
"""

import contextlib
import enum
import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax

from fbunet_jax.errors import RunError
from fbunet_jax.runs.records import Setting, read_environment

_OF_JAX = (
    *("jax_enable_x64", "jax_default_dtype_bits", "jax_default_matmul_precision"),
    *("jax_default_prng_impl", "jax_enable_custom_prng", "jax_random_seed_offset", "jax_threefry_partitionable"),
    *("jax_disable_jit", "jax_disable_most_optimizations", "jax_optimization_level"),
    *("jax_exec_time_optimization_effort", "jax_softmax_custom_jvp", "jax_allow_f16_reductions"),
)
_ONLY_RAISE = ("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")
"""Stricter rules of promotion change no number, they raise an error instead: recorded, not compared."""

_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_DECIDING_FLAG = re.compile(
    r"fast_math|fast_min_max|excess_precision|optimization_level|opt_preset|hlo_passes|platform_dependent_math|_ftz|"
    r"onednn|xnn|ynn|max_isa|vector_width|denormal|reassoc|triton_gemm|cublas|bf16|tf32|scoped_vmem"
)
"""In the names of the compiler's flags that choose other instructions; the others simulate, dump or schedule."""

_OF_LIBRARIES = ("NVIDIA_TF32_OVERRIDE", "DNNL_DEFAULT_FPMATH_MODE")


def current_settings() -> dict[str, Setting]:
    """Return what this process computes with, by the name that JAX or the environment gives it."""
    found: dict[str, Setting] = {}
    for name in (*_OF_JAX, *_ONLY_RAISE):
        if name in jax.config.values:  # other versions have others
            # the attribute knows of context managers too, such as jax.enable_x64
            value = getattr(jax.config, name, jax.config.values[name])
            value = value.value if isinstance(value, enum.Enum) else value
            found[name] = value if isinstance(value, bool | int | float | str | None) else str(value)
    for name in _FLAGS:
        found[name] = " ".join(flag for flag in _flags(os.environ.get(name, "")) if _DECIDING_FLAG.search(flag))
    return found | {name: os.environ.get(name, "") for name in _OF_LIBRARIES}


def _flags(text: str) -> list[str]:
    """Return the flags of a variable, which may name a file that holds them."""
    if text.strip() and not text.lstrip().startswith("-"):
        with contextlib.suppress(OSError, ValueError):
            text = Path(text.strip()).read_text(encoding="utf-8")
    return text.split()


def differences(before: Mapping[str, Setting], now: Mapping[str, Setting]) -> list[str]:
    """Return what two records of `current_settings` that both have a setting say differently, as phrases."""
    return [
        f"{name.upper()} was {_shown(before[name])} and is now {_shown(now[name])}"
        for name in before.keys() & now.keys() - set(_ONLY_RAISE)
        if before[name] != now[name]
    ]


def check_resumed(environment: Path) -> None:
    """Raise a RunError if the fold's latest process computed with other settings than this one.

    Args:
      environment: the fold's environment.json. One that is missing, or that an earlier version wrote, is not compared.

    Raises:
      RunError: other settings, each named with the value then and now.
    """
    if found := differences(read_environment(environment).get("settings", {}), current_settings()):
        raise RunError(
            f"{environment.parent} was trained with other settings of JAX, so the rest of it would have other numbers: "
            f"{'; '.join(sorted(found))}. Resume it with those that it had (variables of the environment, or "
            "jax.config.update in a Python program; most have fixed values in the fbunet commands), or start another "
            "run (out).",
            argument="out",
        )


def _shown(value: Setting) -> str:
    return "not set" if value in ("", None) else str(value)
