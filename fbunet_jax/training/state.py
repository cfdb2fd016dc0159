"""What training changes: parameters, statistics, optimiser; and the optimiser itself."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import SingleDeviceSharding

from fbunet_jax.config import Config, TrainingConfig
from fbunet_jax.errors import ConfigError
from fbunet_jax.models.contract import abstract_variables, initial_variables


class TrainState(NamedTuple):
    """Everything that a step reads and writes; an ordinary pytree.

    Attributes:
      step: [] int32, steps taken.
      params: convolution kernels, biases, batch-norm scales.
      batch_stats: running mean and variance of every round.
      optimizer_state: the optimiser's, with the average of the parameters if one is taken.
    """

    step: Array
    params: Any
    batch_stats: Any
    optimizer_state: optax.OptState

    def stored(self) -> dict[str, Any]:
        """Return the parts by the names that checkpoints of every version have."""
        return {**{name: getattr(self, name) for name in self._fields[:-1]}, "optimizer": self.optimizer_state}

    @classmethod
    def from_stored(cls, parts: Mapping[str, Any]) -> Self:
        """Return the state that `stored` gave."""
        return cls(parts["step"], parts["params"], parts["batch_stats"], parts["optimizer"])

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the network is applied with.

        The parameters are the average, if one is taken; the statistics are the running ones, which are not those of the
        average.
        """
        average = optax.tree.get(self.optimizer_state, "average")
        return {"params": self.params if average is None else average, "batch_stats": self.batch_stats}


def create_state(model: nn.Module, optimizer: optax.GradientTransformation, key: Array, channels: int) -> TrainState:
    """Initialise a state from a random key; the network takes `[N, H, W, channels]`."""

    # Run once: unoptimised it compiles in a fifth of the time (5 s against 33 s on a CPU, JAX 0.10.2).
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def create(key: Array) -> TrainState:
        params, batch_stats = initial_variables(model, key, channels).values()
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))

    return create(key)


def learning_rate_schedule(config: TrainingConfig, total_steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    Raises:
      ConfigError: a warm-up that is not shorter than the run, or one with the one-cycle schedule, which has its own.
    """
    schedule = _schedule(config, total_steps)

    def learning_rate(step: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes floats and the whole number of the step
            return schedule(step)

    return learning_rate


def _schedule(config: TrainingConfig, total_steps: int) -> optax.Schedule:
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "one-cycle":
        if warmup:
            raise ConfigError(
                f"training.warmup_steps = {warmup}: the one-cycle schedule has a warm-up of its own. Set it to 0, or "
                "use the cosine schedule."
            )
        return optax.cosine_onecycle_schedule(total_steps, peak, pct_start=0.3, div_factor=25, final_div_factor=1e4)
    if warmup >= total_steps:
        raise ConfigError(
            f"training.warmup_steps = {warmup}, but the run has {total_steps} steps: expected fewer warm-up steps."
        )
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, total_steps - warmup)
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(config: TrainingConfig, total_steps: int) -> optax.GradientTransformation:
    """Return Adam with the configured schedule, weight decay (kernels only), clipping, and average of the weights."""
    schedule = learning_rate_schedule(config, total_steps)
    if config.weight_decay:
        adam = optax.adamw(
            schedule, eps=config.adam_epsilon, weight_decay=config.weight_decay, mask=_convolution_kernels
        )
    else:
        adam = optax.adam(schedule, eps=config.adam_epsilon)
    if config.gradient_clip:
        adam = optax.chain(optax.clip_by_global_norm(config.gradient_clip), adam)
    return optax.chain(adam, average_weights(config.weight_average)) if config.weight_average else adam


class AverageState(NamedTuple):
    """The state of `average_weights`.

    Attributes:
      updates: [] int32, how many there were.
      average: of the parameters.
    """

    updates: Array
    average: optax.Params


def average_weights(decay: float) -> optax.GradientTransformation:
    """Return a transformation that changes no update, and keeps an exponential average of the updated parameters.

    The last one of a chain. The average begins with the initial parameters and moves faster at first: the weight of
    the old average is at most (1 + t) / (10 + t) after t updates, as in TensorFlow's ExponentialMovingAverage.
    """

    def init(params: optax.Params) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params))

    def update(
        updates: optax.Updates, state: AverageState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AverageState]:
        assert params is not None
        step = 1 - jnp.minimum(decay, (1 + state.updates) / (10 + state.updates))
        average = optax.incremental_update(optax.apply_updates(params, updates), state.average, step)
        return updates, AverageState(state.updates + 1, average)

    return optax.GradientTransformation(init, cast(Any, update))


def _convolution_kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim == 4, params)


def abstract_state(config: Config, model: nn.Module, channels: int) -> TrainState:
    """Return shapes and types of a training state on one local device, wherever it was saved."""
    here = SingleDeviceSharding(jax.local_devices()[0])
    state = state_shapes(config, model, channels)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), state)


def state_shapes(config: Config, model: nn.Module, channels: int) -> TrainState:
    """Return shapes and types of a training state, on no device."""
    variables = abstract_variables(model, channels)
    # the schedule's length does not change the shape of the optimiser's state
    optimizer = make_optimizer(config.training, total_steps=2**30)
    optimizer_state = jax.eval_shape(optimizer.init, variables["params"])
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    return TrainState(step, variables["params"], variables["batch_stats"], optimizer_state)
