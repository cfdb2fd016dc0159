"""One contender of the benchmark in a process of its own, told by `benchmarks/speed.py` when to run.

It writes a JSON line when it has compiled, one for each line that it reads, and a last one with its peak memory. A line
is "measure", which takes about a second where nothing else runs, or "measure SECONDS", which ends by the clock, however
many processes share the device.
"""

import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SECONDS_A_MEASUREMENT = 1.0
CLASSES = 4
CLASS_WEIGHTS = (0.3, 0.7, 1.7, 5.0)


@dataclass(frozen=True)
class Task:
    """What every contender does: steps of feedback-convlstm on random images."""

    contender: str
    task: str
    batch: int
    size: int
    precision: str
    widths: tuple[int, ...]
    rounds: int = 2


Run = Callable[[int], None]
"""Takes at least the given number of batches, and returns when the device has finished."""


def settings(task: Task) -> Any:
    """Return the `Config` of our own run."""
    from fbunet_jax.config import Config, DataConfig, ModelConfig, TrainingConfig

    precision: Any = "bfloat16" if task.precision == "mixed" else "float32"
    return Config(
        model=ModelConfig(widths=task.widths, precision=precision, rounds=task.rounds),
        training=TrainingConfig(batch_size=task.batch),
        data=DataConfig(crop=task.size),
    )


def training(task: Task) -> tuple[Any, Any, Any, Any]:
    """Return the product's mapped step, which gathers its crops, with state, images and items for a call of it."""
    import jax
    import numpy as np

    from fbunet_jax.losses import CrossEntropy
    from fbunet_jax.networks import build_network
    from fbunet_jax.pipeline.store import ImageStore
    from fbunet_jax.runs.processes import replicate
    from fbunet_jax.training.parallel import mapped_training
    from fbunet_jax.training.state import create_state, make_optimizer

    config = settings(task)
    model = build_network(config, classes=CLASSES, channels=1)
    optimizer = make_optimizer(config.training, total_steps=2**20)
    state = create_state(model, optimizer, jax.random.key(0), 1)
    random, pixels = np.random.default_rng(0), task.batch * task.size**2
    store = ImageStore(
        random.integers(0, 255, (pixels, 1), dtype=np.uint8),
        random.integers(0, CLASSES, pixels, dtype=np.uint8),
        np.arange(task.batch, dtype=np.int32) * task.size**2,
        np.full((task.batch, 2), task.size, np.int32),
        np.full((task.batch, 1), 1 / 64, np.float32),
        np.full((task.batch, 1), -2, np.float32),
    )
    mapped = mapped_training(config, model, optimizer, CrossEntropy(np.float32(CLASS_WEIGHTS)), jax.random.key(1))
    items = np.tile(np.arange(task.batch, dtype=np.int32), (mapped.steps_per_call, 1))
    return mapped, *replicate((state, store)), items


def ours(task: Task) -> tuple[Run, int, str]:
    """Return our own run, batches in a call, and the device."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fbunet_jax.networks import build_network
    from fbunet_jax.training.memory import reuse_host_memory

    device = jax.local_devices()[0].device_kind
    if task.task == "forward":
        model = build_network(settings(task), classes=CLASSES, channels=1)
        normal = np.random.default_rng(0).normal(size=(task.batch, task.size, task.size, 1))
        images = jnp.asarray(normal, jnp.float32)
        variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
        predict = jax.jit(lambda variables, x: jax.nn.softmax(model.apply(variables, x, train=False)[-1]))

        def forward(count: int) -> None:
            for _ in range(count):
                result = predict(variables, images)
            jax.block_until_ready(result)

        return forward, 1, device

    reuse_host_memory()  # as the command does
    mapped, *held, items = training(task)

    def train(count: int) -> None:
        for _ in range(-(-count // mapped.steps_per_call)):
            held[0], metrics = mapped(held[0], held[1], items)
        jax.block_until_ready((held[0], metrics))

    return train, mapped.steps_per_call, device


def torch(task: Task) -> tuple[Run, int, str]:
    """Return PyTorch's run, channels last, eager or compiled."""
    import torch as pytorch

    from benchmarks.peers import torch_unet

    device = "cuda" if pytorch.cuda.is_available() else "cpu"
    pytorch.backends.cudnn.benchmark = True
    pytorch.backends.cuda.matmul.allow_tf32 = pytorch.backends.cudnn.allow_tf32 = True
    model = torch_unet.FeedbackUNet(CLASSES, task.widths).to(device, memory_format=pytorch.channels_last)
    images = pytorch.randn(task.batch, 1, task.size, task.size, device=device)
    images = images.contiguous(memory_format=pytorch.channels_last)
    labels = pytorch.randint(0, CLASSES, (task.batch, task.size, task.size), device=device)
    weights = pytorch.tensor(CLASS_WEIGHTS, device=device)
    fused = {"fused": True} if device == "cuda" else {"foreach": True}
    optimizer = pytorch.optim.Adam(model.parameters(), lr=1e-4, eps=1e-7, **fused)
    cast = pytorch.autocast(device, pytorch.bfloat16, enabled=task.precision == "mixed")
    network: Any = pytorch.compile(model) if task.contender == "torch-compile" else model

    def finish() -> None:
        if device == "cuda":
            pytorch.cuda.synchronize()

    def train(count: int) -> None:
        model.train()
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            with cast:
                logits = network(images)
            torch_unet.loss(logits, labels, weights).backward()
            optimizer.step()
        finish()

    def forward(count: int) -> None:
        model.eval()
        with pytorch.inference_mode(), cast:
            for _ in range(count):
                pytorch.softmax(network(images)[-1], dim=1)
        finish()

    name = pytorch.cuda.get_device_name() if device == "cuda" else "cpu"
    return (train if task.task == "train" else forward), 1, name


def keras(task: Task) -> tuple[Run, int, str]:
    """Return Keras' run on its JAX backend, compiled by `Model.compile`."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras as library
    import numpy as np

    from benchmarks.peers import keras_unet

    if task.precision == "mixed":
        library.mixed_precision.set_global_policy("mixed_bfloat16")
    model = keras_unet.build(task.size, CLASSES, task.widths)
    loss = keras_unet.weighted_loss(CLASS_WEIGHTS)
    adam = library.optimizers.Adam(1e-4, epsilon=1e-7)
    model.compile(adam, loss=[loss, loss], loss_weights=[0.5, 1.0], jit_compile=True)
    random = np.random.default_rng(0)
    images = random.normal(size=(task.batch, task.size, task.size, 1)).astype(np.float32)
    labels = random.integers(0, CLASSES, (task.batch, task.size, task.size)).astype(np.int32)

    def train(count: int) -> None:
        for _ in range(count):
            model.train_on_batch(images, [labels, labels])

    def forward(count: int) -> None:
        for _ in range(count):
            model.predict_on_batch(images)

    return (train if task.task == "train" else forward), 1, jax.local_devices()[0].device_kind


CONTENDERS = {"ours": ours, "torch": torch, "torch-compile": torch, "keras": keras}


def main(text: str) -> None:
    """Run the task, a JSON object."""
    task = Task(**json.loads(text))
    run, batches_in_a_call, device = CONTENDERS[task.contender](task)
    began = time.perf_counter()
    run(1)
    first = time.perf_counter() - began
    began = time.perf_counter()
    run(1)
    second = time.perf_counter() - began
    # whole calls, and at least about a second of them
    count = batches_in_a_call * max(1, round(SECONDS_A_MEASUREMENT / max(second, 1e-6)))
    _say(compile_s=first - second, device=device, version=_version(task))
    for line in sys.stdin:
        _, *limit = line.split()
        part = batches_in_a_call * max(1, count // batches_in_a_call // 8) if limit else count
        began, done = time.perf_counter(), 0
        while not done or (limit and time.perf_counter() - began < float(limit[0])):
            run(part)
            done += part
        _say(seconds_an_image=(time.perf_counter() - began) / (done * task.batch))
    _say(peak_host_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, peak_device_gib=_device_peak(task))


def _version(task: Task) -> str:
    package = {"ours": "jax"}.get(task.contender, task.contender.removesuffix("-compile"))
    return f"{package} {importlib.metadata.version(package)}"


def _device_peak(task: Task) -> float | None:
    if task.contender.startswith("torch"):
        import torch as pytorch

        return pytorch.cuda.max_memory_allocated() / 2**30 if pytorch.cuda.is_available() else None
    import jax

    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics["peak_bytes_in_use"] / 2**30 if "peak_bytes_in_use" in statistics else None


def _say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
