"""Training mapped over the devices of all processes by `jax.pmap`; validation is in `inference.validation`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array, Device, lax
from numpy.typing import NDArray

from fbunet_jax.config import Config
from fbunet_jax.errors import ConfigError
from fbunet_jax.models.contract import segment_in_training, with_axis
from fbunet_jax.pipeline.augment import Augmentation, make_augmentation
from fbunet_jax.pipeline.sampling import make_sampler
from fbunet_jax.pipeline.store import ImageStore
from fbunet_jax.runs.processes import AXIS, all_devices, local_rows, replicate
from fbunet_jax.training.state import TrainState
from fbunet_jax.training.steps import TrainStep, make_train_step

Metrics = dict[str, Array]


def check_batch_size(batch_size: int, devices: int) -> None:
    """Raise a ConfigError unless the batch divides over the devices."""
    if batch_size % devices:
        below, above = batch_size // devices * devices, (batch_size // devices + 1) * devices
        fits = f"{below} or {above}" if below else str(above)
        raise ConfigError(
            f"training.batch_size = {batch_size} does not divide over the {devices} devices: every device takes the "
            f"same number of images. The nearest sizes that fit are {fits}."
        )


class MappedTraining:
    """The compiled training step, mapped over the devices of all processes; each feeds the images of its own.

    On accelerators one call runs up to `steps_per_call` steps, so that the host never holds them up. On a CPU it runs
    one: XLA's loops make convolutions there about four times slower (0.25 against 0.85 s a step, JAX 0.10.2).

    The arrays of the loss, such as class weights, and keys are arguments of the program: one that is kept on disk
    serves all seeds, and all folds whose images take as much room.
    """

    def __init__(
        self,
        make_step: Callable[[Any], TrainStep],
        loss: Any,
        *,
        crop: int,
        augment: Augmentation,
        crop_border: bool = True,
        batch_size: int,
        key: Array,
        devices: Sequence[Device] | None = None,
        steps_per_call: int | None = None,
    ) -> None:
        """Prepare the mapped step.

        Args:
          make_step: returns `make_train_step` for a loss.
          loss: see `fbunet_jax.losses`.
          crop: side of the crops, pixels.
          augment: changes each crop, see `make_augmentation`.
          crop_border: where crops are drawn, see `random_corner`.
          batch_size: of the global batch.
          key: from which the key of every step is folded.
          devices: those of all processes by default.
          steps_per_call: how many steps one call can run; 1 on a CPU and 16 elsewhere by default.

        Raises:
          ConfigError: the batch does not divide over the devices.
        """
        devices = devices or all_devices()
        self.devices, self._rows = len(devices), local_rows(devices)
        self._local = [devices[row] for row in self._rows]
        check_batch_size(batch_size, self.devices)
        self.batch_size = batch_size
        self.steps_per_call = steps_per_call or (1 if devices[0].platform == "cpu" else 16)
        arrays, with_arrays = _arrays_apart(loss)
        sample = make_sampler(crop, augment, crop_border=crop_border)
        step = partial(_sampled_step, lambda given: make_step(with_arrays(given)), sample)
        self._constants: tuple[Array, list[Array]] = (key, arrays)
        self._replicated = False
        self._call = jax.pmap(
            step if self.steps_per_call == 1 else partial(_many_steps, step),
            axis_name=AXIS,
            in_axes=(None, None, 0, None, None),
            out_axes=None,
            donate_argnums=0,
            devices=devices,
        )

    def __call__(self, state: TrainState, store: ImageStore, items: NDArray[np.int32]) -> tuple[TrainState, Metrics]:
        """Run `len(items)` steps, at most `steps_per_call`.

        Args:
          state: replicated on the local devices; its buffers are donated.
          store: likewise.
          items: `[steps, batch_size]` image indices of the global batch.

        Returns:
          The new state, and metrics whose first axis is the step (only the first `len(items)` entries count); all
          still on the device.
        """
        count = len(items)
        padded = np.zeros((self.steps_per_call, self.batch_size), np.int32)
        padded[:count] = items
        shares = padded.reshape(self.steps_per_call, self.devices, -1).transpose(1, 0, 2)
        if not self._replicated:  # not before, because devices that are only compiled for cannot hold them
            self._constants, self._replicated = replicate(self._constants, self._local), True
        return self._call(state, store, shares[self._rows], np.int32(count), self._constants)

    def lower(self, state: TrainState, store: ImageStore) -> jax.stages.Lowered:
        """Return the program of a call, not yet compiled, for one process that feeds all devices, present or not.

        Args:
          state: shapes and types are enough.
          store: likewise.
        """
        share = self.batch_size // self.devices
        items = jax.ShapeDtypeStruct((self.devices, self.steps_per_call, share), np.int32)
        constants = jax.tree.map(lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype), self._constants)
        count = jax.ShapeDtypeStruct((), np.int32)
        return cast(Any, self._call).lower(state, store, items, count, constants)


def _arrays_apart(loss: Any) -> tuple[list[Array], Callable[[Sequence[Array]], Any]]:
    """Return the arrays of a loss, and what puts others in their places; all else in it is part of the program."""
    structure: Any
    leaves, structure = jax.tree.flatten(loss)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Array | np.ndarray)]

    def with_arrays(arrays: Sequence[Array]) -> Any:
        given = dict(zip(places, arrays, strict=True))
        return structure.unflatten([given.get(place, leaf) for place, leaf in enumerate(leaves)])

    return [jnp.asarray(leaves[place]) for place in places], with_arrays


def _sampled_step(
    make_step: Callable[[Sequence[Array]], TrainStep],
    sample: Callable[..., dict[str, Array]],
    state: TrainState,
    store: ImageStore,
    items: Array,
    _: Array,
    constants: tuple[Array, Sequence[Array]],
) -> tuple[TrainState, Metrics]:
    """Gather, augment and train on one device's share; items `[1, share]`. The metrics get a leading axis of 1."""
    key, arrays = constants
    share = items.shape[-1]
    positions = lax.axis_index(AXIS) * share + jnp.arange(share)
    batch = sample(store, jax.random.fold_in(key, state.step), items[0], positions)
    state, metrics = make_step(arrays)(state, batch, axis_name=AXIS)
    return state, jax.tree.map(lambda value: value[None], metrics)


def _many_steps(
    step: Callable[..., tuple[TrainState, Metrics]],
    state: TrainState,
    store: ImageStore,
    items: Array,
    count: Array,
    constants: tuple[Array, Sequence[Array]],
) -> tuple[TrainState, Metrics]:
    """Run the first `count` rows of items `[S, share]`; one program serves every count."""
    shapes = jax.eval_shape(step, state, store, items[:1], count, constants)[1]
    metrics = jax.tree.map(lambda s: jnp.zeros((items.shape[0], *s.shape[1:]), s.dtype), shapes)

    def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, metrics = carry
        state, new = step(state, store, lax.dynamic_slice_in_dim(items, i, 1), count, constants)
        return state, jax.tree.map(lambda all_, one: lax.dynamic_update_slice_in_dim(all_, one, i, 0), metrics, new)

    return lax.fori_loop(0, count, body, (state, metrics))


class MappedStatistics:
    """Batch-norm statistics of some weights, estimated over training batches on the devices of all processes.

    Running statistics are those of the weights of the last steps. Weights that are averaged over many steps need their
    own, as `torch.optim.swa_utils.update_bn` estimates them: the mean over the batches of each batch's.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        crop: int,
        augment: Augmentation,
        crop_border: bool = True,
        key: Array,
        devices: Sequence[Device] | None = None,
    ) -> None:
        """Prepare the mapped step; crops and augmentation are those of training.

        Args:
          model: the network, with a field ``momentum``.
          crop: side of the crops, pixels.
          augment: changes each crop, see `make_augmentation`.
          crop_border: where crops are drawn, see `random_corner`.
          key: from which the key of every batch is folded.
          devices: those of all processes by default.
        """
        devices = devices or all_devices()
        self.devices, self._rows = len(devices), local_rows(devices)
        self._key = key
        of_batch = with_axis(model, AXIS, momentum=0.0)
        sample = make_sampler(crop, augment, crop_border=crop_border)

        def add(params: Any, total: Any, store: ImageStore, items: Array, number: Array, key: Array) -> Any:
            positions = lax.axis_index(AXIS) * items.size + jnp.arange(items.size)
            image = sample(store, jax.random.fold_in(key, number), items, positions)["image"]
            _, updated = segment_in_training(of_batch, {"params": params, "batch_stats": total}, image)
            return jax.tree.map(jnp.add, total, updated)

        axes = {"in_axes": (None, None, None, 0, None, None), "out_axes": None, "donate_argnums": 1}
        self._call = jax.pmap(add, axis_name=AXIS, devices=devices, **cast(Any, axes))

    def __call__(
        self,
        variables: Mapping[str, Any],
        store: ImageStore,
        items: NDArray[np.int32],
        first: int,
        between: Callable[[], None] = lambda: None,
    ) -> Any:
        """Return the statistics of ``params``, of the shapes of ``batch_stats``.

        Args:
          variables: ``params`` and ``batch_stats``, replicated on the local devices.
          store: the training images, likewise.
          items: `[batches, batch_size]` image indices.
          first: number of the first batch, which decides its crops.
          between: called after each batch.
        """
        total = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        for number, batch in enumerate(items.reshape(len(items), self.devices, -1), start=first):
            total = self._call(variables["params"], total, store, batch[self._rows], np.int32(number), self._key)
            jax.block_until_ready(total)
            between()
        return jax.tree.map(lambda leaf: leaf / len(items), total)


def mapped_training(
    config: Config,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Any,
    key: Array,
    devices: Sequence[Device] | None = None,
) -> MappedTraining:
    """Return the mapped training step of a configuration.

    Args:
      config: the settings.
      model: the network.
      optimizer: from `make_optimizer`.
      loss: see `fbunet_jax.losses`.
      key: from which the key of every step is folded.
      devices: those of all processes by default.

    Raises:
      ConfigError: the batch does not divide over the devices.
    """
    settings = config.training
    return MappedTraining(
        lambda given: make_train_step(model, optimizer, given, settings.round_weight),
        loss,
        crop=config.data.crop,
        augment=_augmentation(config),
        crop_border=settings.crop_border,
        batch_size=settings.batch_size,
        key=key,
        devices=devices,
    )


def mapped_statistics(config: Config, model: nn.Module, key: Array) -> MappedStatistics:
    """Return what estimates batch-norm statistics on the training crops of a configuration."""
    border = config.training.crop_border
    return MappedStatistics(model, crop=config.data.crop, augment=_augmentation(config), crop_border=border, key=key)


def _augmentation(config: Config) -> Augmentation:
    settings = config.training
    return make_augmentation(
        settings.augmentation,
        settings.elastic_augmentation,
        settings.intensity_augmentation,
        elastic_probability=settings.elastic_probability,
    )
