"""The programs of training and prediction, compiled for devices that need not be here, and what each takes."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from fbunet_jax.accelerators.arithmetic import Arithmetic, count_arithmetic
from fbunet_jax.accelerators.hlo import Program, Traffic
from fbunet_jax.config import Config
from fbunet_jax.inference.ensemble import combine, segment_view
from fbunet_jax.networks import build_network
from fbunet_jax.pipeline.store import ImageStore
from fbunet_jax.training.parallel import mapped_training
from fbunet_jax.training.setup import loss_with
from fbunet_jax.training.state import make_optimizer, state_shapes
from fbunet_jax.training.steps import make_train_step

TOTAL_STEPS = 2**20
"""Of the learning rate's schedule, which changes no shape."""


@dataclass(frozen=True)
class StoredImages:
    """The images that lie on each device while training.

    Attributes:
      classes: K.
      channels: C.
      image_type: of the stored pixels.
      images: how many.
      pixels: of all of them together.
    """

    classes: int
    channels: int
    image_type: str
    images: int
    pixels: int

    def shapes(self) -> ImageStore:
        """Return the shapes and types of the `ImageStore`."""
        shape: Any = jax.ShapeDtypeStruct
        return ImageStore(
            shape((self.pixels, self.channels), np.dtype(self.image_type)),
            shape((self.pixels,), np.uint8),
            shape((self.images,), np.int32),
            shape((self.images, 2), np.int32),
            shape((self.images, self.channels), np.float32),
            shape((self.images, self.channels), np.float32),
        )


@dataclass(frozen=True)
class Memory:
    """Bytes of one device that a program takes; None for what the compiler does not report.

    Attributes:
      arguments: weights, optimiser and images, with the padding of their layout.
      temporaries: what lives during the program.
      code: the program itself, on a TPU.
      total: all of it, with results that do not take the place of an argument.
    """

    arguments: int | None
    temporaries: int | None
    code: int | None
    total: int


@dataclass(frozen=True)
class Compiled:
    """A compiled program: one step of training, or the prediction of one batch of tiles, on one device.

    Attributes:
      seconds: that compiling took.
      memory: of a device.
      traffic: None if the program does not fit, so that the compiler gave up.
      arithmetic: of the network.
    """

    seconds: float
    memory: Memory
    traffic: Traffic | None
    arithmetic: Arithmetic


def compile_training(config: Config, data: StoredImages, devices: Sequence[jax.Device], share: int) -> Compiled:
    """Compile the mapped training step as training runs it, with `share` crops on each device.

    Args:
      config: the settings; `training.batch_size` is replaced.
      data: the images that the devices hold.
      devices: of one kind, from `find_devices`.
      share: crops a device.

    Raises:
      UserError: the settings do not fit each other or the data.
    """
    config = replace(config, training=replace(config.training, batch_size=share * len(devices)))
    model = build_network(config, classes=data.classes, channels=data.channels)
    optimizer = make_optimizer(config.training, TOTAL_STEPS)
    weights = np.linspace(0.5, 2, data.classes, dtype=np.float32)  # ones would be compiled away
    loss = loss_with(config, weights)
    mapped = mapped_training(config, model, optimizer, loss, jax.random.key(0), devices)
    state = state_shapes(config, model, data.channels)
    step = make_train_step(model, optimizer, loss, config.training.round_weight)
    crops = (share, config.data.crop, config.data.crop)
    batch = {
        "image": jax.ShapeDtypeStruct((*crops, data.channels), jnp.float32),
        "label": jax.ShapeDtypeStruct(crops, jnp.int32),
    }
    arithmetic = count_arithmetic(step, state, batch)
    return _compile([lambda: mapped.lower(state, data.shapes())], Program.step, arithmetic, devices[0])


def compile_prediction(config: Config, data: StoredImages, device: jax.Device, tile: int, batch: int) -> Compiled:
    """Compile the prediction of a batch of tiles by one fold, as `Predictor` runs it on one device.

    Args:
      config: the settings.
      data: whose classes, channels and type of pixels count.
      device: from `find_devices`.
      tile: side in pixels.
      batch: tiles at once.
    """
    here = SingleDeviceSharding(device)

    def on_device(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), tree)

    model = build_network(config, classes=data.classes, channels=data.channels)
    shape = jax.ShapeDtypeStruct
    affine = shape((data.channels,), jnp.float32)
    arguments = on_device(
        (
            state_shapes(config, model, data.channels).variables,
            shape((batch, tile, tile, data.channels), np.dtype(data.image_type)),
            affine,
            affine,
            shape((), jnp.int32),
        )
    )
    segment = partial(segment_view, model)
    members, weights = on_device(([[jax.eval_shape(segment, *arguments)]], shape((tile,), jnp.float32)))
    lowerings = [lambda: jax.jit(segment).lower(*arguments), lambda: jax.jit(combine).lower(members, weights)]
    return _compile(lowerings, Program.whole, count_arithmetic(segment, *arguments), device)


def _compile(
    lowerings: Sequence[Callable[[], jax.stages.Lowered]],
    count: Callable[[Program], Traffic],
    arithmetic: Arithmetic,
    device: jax.Device,
) -> Compiled:
    """Compile programs that run one after the other; the first takes the most memory."""
    began = time.perf_counter()
    memories, traffic = [], Traffic(0, 0, 0)
    for lower in lowerings:
        lowered = lower()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if needed := bytes_that_do_not_fit(str(error)):
                memory = Memory(None, None, None, needed)
                return Compiled(time.perf_counter() - began, memory, None, arithmetic)
            raise
        # what NVIDIA's collectives use is main memory too
        memory_spaces = frozenset({0}) if device.platform == "tpu" else frozenset({0, 1})
        traffic += count(Program(compiled.as_text() or "", memory_spaces))
        memories.append(_memory(compiled.memory_analysis()))
    return Compiled(time.perf_counter() - began, max(memories, key=lambda m: m.total), traffic, arithmetic)


def _memory(reported: Any) -> Memory:
    arguments, temporaries = reported.argument_size_in_bytes, reported.temp_size_in_bytes
    code = reported.generated_code_size_in_bytes
    results = max(0, reported.output_size_in_bytes - reported.alias_size_in_bytes)
    return Memory(arguments, temporaries, code or None, arguments + temporaries + code + results)


_TOO_LARGE = (r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", r"\(([\d.]+)([KMGT]?)\) exceeds available HBM")


def bytes_that_do_not_fit(message: str) -> int | None:
    """Return how many bytes of memory a program would take, where XLA's error says that it has fewer; else None."""
    for pattern in _TOO_LARGE:
        if found := re.search(pattern, message):
            return int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))
    return None
