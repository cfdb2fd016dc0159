"""Training and prediction compiled for a target, by a process of `worker`."""

import importlib.metadata
import importlib.util
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fbunet_jax.accelerators.bounds import Report, prediction_needs, training_needs
from fbunet_jax.accelerators.devices import LANES, Device, Target, parse_target
from fbunet_jax.accelerators.estimate import count_work
from fbunet_jax.accelerators.worker import Request
from fbunet_jax.accelerators.workload import Workload
from fbunet_jax.config import Config, to_toml
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.experiments.probe import child_environment
from fbunet_jax.inference.tiling import Tiling

FORMAT = 1
"""Version of the file that `--out` writes."""

DEFAULT_TILES = 8
"""Tiles that `predict` computes at once on an accelerator."""

MOST_CROPS = 2**31
"""In a batch, as in the settings."""

Tell = Callable[[str], None]


def find_plugin(device: Device) -> None:
    """Check that the compiler of a device is installed.

    Raises:
      ConfigError: it is not; the sentence has the command that installs it.
    """
    if not importlib.util.find_spec("libtpu" if device.plugin == "tpu" else "jax_cuda13_plugin"):
        version = importlib.metadata.version("jax")
        raise ConfigError(
            f"The compiler for {device.description} is not installed; the device itself is not needed. Install it: "
            f'{sys.executable} -m pip install "jax[{device.plugin}]=={version}"'
        )


def check_target(config: Config, target: Target, shares: Sequence[int] = ()) -> None:
    """Check that a target can be compiled for, and that its devices can share a batch.

    Args:
      config: the settings.
      target: the devices.
      shares: other numbers of crops a device.

    Raises:
      ConfigError: a compiler is missing, or a batch does not fit.
    """
    # imports JAX
    from fbunet_jax.training.parallel import check_batch_size

    find_plugin(target.device)
    check_batch_size(config.training.batch_size, target.count)
    if (largest := target.count * max(shares, default=0)) >= MOST_CROPS:
        raise ConfigError(f"A batch of {largest:,} crops on {target.text}: expected fewer than {MOST_CROPS:,}.")


def find_tile(config: Config, tile: int | None) -> int:
    """Return the side of the tiles of a prediction, as `Predictor` chooses it.

    Raises:
      ConfigError: it does not fit the network.
    """
    return Tiling.fitting(config.model.multiple, tile).tile


def compile_for(
    config: Config,
    workload: Workload,
    target: Target,
    *,
    shares: Sequence[int] = (),
    largest: bool = False,
    tile: int | None = None,
    tiles: int = DEFAULT_TILES,
    tell: Tell = lambda line: None,
    log: Callable[[str], None] = lambda text: None,
) -> Report:
    """Compile the training step and the prediction of a batch of tiles for a target; nothing runs on it.

    Args:
      config: the settings.
      workload: what a fold trains on.
      target: the devices.
      shares: crops a device with which to compile too; on a TPU 64 and 128 by default, if these are more.
      largest: also find the most crops a device that fit.
      tile: side of the tiles of the prediction in pixels, 512 by default.
      tiles: at once.
      tell: called with a line about each program.
      log: called with what the compilers printed.

    Raises:
      UserError: settings, data and target do not fit, there is no such target, or its compiler is missing or fails.
    """
    check_target(config, target, shares)
    share = config.training.batch_size // target.count
    if not shares and not target.device.is_gpu:
        shares = [each for each in (LANES // 2, LANES) if each > share]
    side = find_tile(config, tile)
    pixels = sum(height * width for height, width in workload.train)
    request = Request(
        target=target.text,
        data={
            **{name: getattr(workload, name) for name in ("classes", "channels", "image_type")},
            **{"images": len(workload.train), "pixels": pixels},
        },
        shares=[share, *(each for each in dict.fromkeys(shares) if each != share)],
        largest=largest,
        tile=side,
        tiles=tiles,
    )
    answers = _ask(config, request, tell, log)
    programs = {each["share"]: each for each in answers["training"]}
    steps = count_work(config, workload.train, workload.validation, target.count).steps
    return {
        "device": target.name,
        "devices": target.count,
        "hosts": answers["devices"][0]["hosts"],
        "training": training_needs(config, target, share, programs, steps, answers.get("largest", [None])[0]),
        "prediction": prediction_needs(config, target, answers["prediction"][0], side, tiles),
    }


def compiler_environment() -> dict[str, str]:
    """Return the environment of a process that compiles for devices that are not here.

    Settings of JAX from the user's shell are left out: its platforms, because a chip that is here belongs to somebody
    else, its cache, because a program for another machine is not read back, and what would change the program.
    """
    kept = {name: value for name, value in child_environment().items() if not name.startswith("JAX_")}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # no driver is needed
        "TPU_SKIP_MDS_QUERY": "1",  # nor the metadata server of a TPU VM
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing runs, so nothing has to be locked
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _ask(config: Config, request: Request, tell: Tell, log: Callable[[str], None]) -> dict[str, list[Any]]:
    """Let a process of `worker` compile, and return its answers by their key."""
    answers: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory(prefix="fbunet-compile-") as name:
        folder = Path(name)
        (folder / "config.toml").write_text(to_toml(replace(config, data=replace(config.data, root=""))), "utf-8")
        (folder / "request.json").write_text(json.dumps(asdict(request)), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "fbunet_jax.accelerators.worker", name]
        with (
            (folder / "log").open("wb") as errors,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=compiler_environment()
            ) as process,
        ):
            try:
                assert process.stdout
                for line in process.stdout:
                    for key, value in json.loads(line).items():
                        answers.setdefault(key, []).append(value)
                        if key in ("training", "prediction"):
                            what = f"a step of {value['share']} crops a device" if key == "training" else "a prediction"
                            done = "compiled" if value["traffic"] else "found too large"
                            tell(f"{done}: {what} for {request.target}, in {value['seconds']:.0f} s")
                process.wait()  # before its standard input is closed, with which it would end at once
            except BaseException:
                process.kill()
                raise
        code = process.returncode
        text = (folder / "log").read_text(encoding="utf-8", errors="replace")
    log(text)
    if "error" in answers:
        raise ConfigError(answers["error"][0])
    if code:
        raise RunError(f"The compiler for {request.target} {_ending(code, text)}")
    if answers["devices"][0]["count"] != parse_target(request.target).count:
        raise RunError(
            f"The compiler describes {answers['devices'][0]['count']} devices for {request.target}, which has "
            f"{parse_target(request.target).count}. Another version of JAX may do better."
        )
    return answers


def _ending(code: int, text: str) -> str:
    """Return how a process of `worker` ended, as the rest of a sentence.

    Args:
      code: its exit code, negative for a signal.
      text: what it printed, in which the compiler's last words are followed by those of others.
    """
    if code == -signal.SIGKILL:
        return "was killed, as Linux does when memory is short: compiling takes several GB on this machine."
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"^F\d{4}|Error: |[Cc]heck fail", line)]
    last = (telling or lines or ["it says no more"])[-1][:300]
    how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    return f"{how}: {last}. --debug shows all that it printed."
