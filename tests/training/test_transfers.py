"""What the training loop moves and compiles, counted: batch indices go in, nothing comes out or is compiled again."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.config import load_config
from fbunet_jax.inference.validation import MappedValidation
from fbunet_jax.training.fold import train
from fbunet_jax.training.measures import EpochMeasures
from fbunet_jax.training.parallel import MappedTraining

EPOCHS, STEPS = 6, 3
SETTINGS = {
    "data": {"synthetic_images": 6, "synthetic_size": 64, "crop": 32, "folds": 3},
    "model": {"widths": [2, 3]},
    # 3 training images of 4 crops in batches of 4
    "training": {"epochs": EPOCHS, "batch_size": 8, "validate_every": 2, "preview_every": 1},
}
HOST_TO_DEVICE = "jax_transfer_guard_host_to_device"


class Watch:
    """Counts what the loop moves from its first step to the end of the epoch, in every epoch.

    Reads are seen of arrays on several devices, as all of the loop's are in the tests; not of a single shard.
    """

    def __init__(self, monkeypatch):
        self.calls, self.reads, self.compiled, self.checks = 0, [], [], 0
        self._inside = False
        self._patch = monkeypatch
        self._watch_reads()
        self._guard_steps()
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _watch_reads(self):
        kind = type(jnp.zeros(()))
        value = kind._value

        def read(array):
            if self._inside:
                self.reads.append(self.calls)
            return value.fget(array)

        self._patch.setattr(kind, "_value", property(read))

    def _guard_steps(self):
        original_init = MappedTraining.__init__

        def init(mapped, *arguments, **options):
            original_init(mapped, *arguments, **options)
            original = mapped._call

            def call(state, store, items, count, constants):
                assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((state, store, constants)))
                assert items.dtype == count.dtype == np.int32
                assert items.size == SETTINGS["training"]["batch_size"]
                with jax.transfer_guard("allow"):  # the batch indices, and nothing else
                    result = original(state, store, items, count, constants)
                self.calls += 1
                self.enter()
                return result

            mapped._call = call

        self._patch.setattr(MappedTraining, "__init__", init)
        for owner, name in ((EpochMeasures, "first_not_finite"), (MappedValidation, "__call__")):
            self._leave_before(owner, name)

    def _leave_before(self, owner, name):
        original = getattr(owner, name)

        def call(*arguments, **options):
            self.leave()
            self.checks += name == "first_not_finite"
            return original(*arguments, **options)

        self._patch.setattr(owner, name, call)

    def enter(self):
        self._inside = True
        jax.config.update(HOST_TO_DEVICE, "disallow_explicit")

    def leave(self):
        self._inside = False
        jax.config.update(HOST_TO_DEVICE, "allow")

    def _on_event(self, event, *_, **__):
        if event.endswith("backend_compile_duration"):
            self.compiled.append(self.calls)

    def close(self):
        self.leave()
        jax.monitoring.unregister_event_duration_listener(self._on_event)


@pytest.fixture
def watch(monkeypatch):
    watch = Watch(monkeypatch)
    yield watch
    watch.close()


def trained(folder):
    return train(load_config("quickstart", **SETTINGS), 0, out=folder / "run", stream=io.StringIO())


def test_steps_move_nothing_but_indices_and_compile_once(watch, tmp_path):
    steps = trained(tmp_path).steps
    assert watch.calls == steps == EPOCHS * 12 // 8
    assert watch.reads == []
    assert watch.checks == EPOCHS  # it reads, and stops the watch: once an epoch, not once a step
    # the first two epochs, their validation and their picture are everything that there is to compile
    assert watch.compiled
    assert max(watch.compiled) <= 2 * 12 // 8


@pytest.mark.parametrize("read", [lambda loss: float(loss.sum()), lambda loss: loss.item(), np.asarray, jax.device_get])
def test_a_loss_that_is_read_in_every_step_is_noticed(watch, tmp_path, monkeypatch, read):
    add = EpochMeasures.add
    monkeypatch.setattr(EpochMeasures, "add", lambda self, metrics, n: (read(metrics["loss"]), add(self, metrics, n)))
    trained(tmp_path)
    assert len(watch.reads) >= watch.calls


def test_an_array_that_is_moved_to_the_device_in_every_step_is_noticed(watch, tmp_path, monkeypatch):
    add = EpochMeasures.add
    monkeypatch.setattr(EpochMeasures, "add", lambda *a: (jnp.asarray(np.ones(3)), add(*a))[1])
    with pytest.raises(jax.errors.JaxRuntimeError, match="host-to-device"):
        trained(tmp_path)
