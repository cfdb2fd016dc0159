"""The compiled programs of one fold over its images, fixed for the whole training."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from fbunet_jax.config import Config
from fbunet_jax.device_errors import device_errors
from fbunet_jax.errors import RunError
from fbunet_jax.inference.validation import MappedValidation, TileBatches, plan_validation
from fbunet_jax.models.contract import has_field, multiple_of
from fbunet_jax.pipeline.sampling import batch_items
from fbunet_jax.runs import processes
from fbunet_jax.training.measures import EpochMeasures
from fbunet_jax.training.memory import less_memory
from fbunet_jax.training.parallel import Metrics, mapped_statistics, mapped_training
from fbunet_jax.training.plan import plan_run
from fbunet_jax.training.setup import FoldSetup
from fbunet_jax.training.state import TrainState, abstract_state, create_state, learning_rate_schedule, make_optimizer


class FoldPrograms:
    """The steps, the validation and the statistics of one fold, with its images on the devices.

    Attributes:
      config: the settings.
      fold: its number.
      setup: data, network and loss.
      plan: the stretches of steps between the ends of two epochs.
      total_steps: of the whole training.
      steps_per_call: how many steps `run` takes at most.
      validation_store: the validation images, on the devices.
    """

    def __init__(
        self, config: Config, fold: int, setup: FoldSetup, *, validation_plan: Sequence[TileBatches] | None = None
    ) -> None:
        """Prepare the programs, which compile when they are first called, and put the images on the devices.

        Args:
          config: the settings.
          fold: its number.
          setup: from `prepare_fold`.
          validation_plan: the tiles that are validated; those of the settings by default.
        """
        self.config, self.fold, self.setup = config, fold, setup
        self.plan = plan_run(config.training, len(setup.epoch))
        self.total_steps = self.plan[-1].last
        self._schedule = learning_rate_schedule(config.training, self.total_steps)
        self._optimizer = make_optimizer(config.training, self.total_steps)
        root = jax.random.fold_in(jax.random.key(config.seed), fold)
        self._init_key, step_key = jax.random.split(root)
        self._step = mapped_training(config, setup.model, self._optimizer, setup.loss, step_key)
        self.steps_per_call = self._step.steps_per_call
        if validation_plan is None:
            devices, multiple = len(processes.all_devices()), multiple_of(setup.model)
            validation_plan = plan_validation(config, setup.validation.sizes, devices, multiple)
        self._validation = MappedValidation(setup.model, len(setup.class_names), validation_plan)
        if config.training.norm_batch_count and has_field(setup.model, "momentum"):
            self._statistics = mapped_statistics(config, setup.model, jax.random.fold_in(root, 2))
        stores = (setup.train.store, setup.validation.store)
        with device_errors("putting the images on the device", "All images of a fold lie there: train on fewer."):
            self._train_store, self.validation_store = processes.replicate(stores)

    @property
    def channels(self) -> int:
        """Number of image channels C."""
        return int(self._train_store.pixels.shape[-1])

    def explaining(self, phase: str) -> contextlib.AbstractContextManager[None]:
        """Raise a DeviceError, which says what takes less memory, where a device cannot do a part of the training."""
        return device_errors(phase, less_memory(self.config))

    def first_state(self, weights: Mapping[str, Any] | None) -> TrainState:
        """Return the state before the first step, replicated: with the given variables, or random ones."""
        state = create_state(self.setup.model, self._optimizer, self._init_key, self.channels)
        if weights:
            state = state._replace(**weights, optimizer_state=self._optimizer.init(weights["params"]))
        return processes.replicate(processes.state_of_first(state))

    def abstract_state(self) -> TrainState:
        """Return shapes and types of a state."""
        return abstract_state(self.config, self.setup.model, self.channels)

    def items(self, step: int) -> NDArray[np.int32]:
        """Return the image indices of a step's batch, `[N]`."""
        config = self.config
        return batch_items(self.setup.epoch, step, config.training.batch_size, config.seed, self.fold)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return float(self._schedule(step))

    def run(self, state: TrainState, steps: range) -> tuple[TrainState, Metrics]:
        """Run some steps, whose state is donated, without waiting for them; see `MappedTraining`."""
        return self._step(state, self._train_store, np.stack([self.items(step) for step in steps]))

    def kept_variables(
        self, state: TrainState, step: int, between: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Return what is validated and kept: the weights, or their average, with statistics of their own if set so.

        They depend on nothing but the state and the step. `between` is called after each batch.
        """
        variables = state.variables
        count = self.config.training.norm_batch_count
        if count and variables["batch_stats"]:
            items = np.stack([self.items(step + number) for number in range(count)])
            variables["batch_stats"] = self._statistics(variables, self._train_store, items, step, between)
        return variables

    def validate(self, variables: Mapping[str, Any], between: Callable[[], None] = lambda: None) -> NDArray[np.int64]:
        """Return the confusion matrices of every round, `[R, K, K]`, over the validation images."""
        return self._validation(variables, self.validation_store, between)

    def check_finite(self, end: int, measures: EpochMeasures) -> None:
        """Raise a RunError at the first step before `end` that was not finite; nothing of it has been saved."""
        place = measures.first_not_finite()  # the same on every process
        if place is None:
            return
        step = end - len(measures.per_step()["loss"]) + place
        names = dict.fromkeys(self.setup.train.names[item] for item in self.items(step))
        error = RunError(
            f"The loss or its gradient was not finite at step {step} of fold {self.fold}, with learning rate "
            f"{self.learning_rate(step):.2g}. The images of this batch: {', '.join(names)}. The checkpoints from "
            "before it are kept. Look at these images and their labels, or try a lower training.learning_rate or "
            "training.gradient_clip = 1, in a new run (out).",
            argument="out",
        )
        raise processes.found_by_all(error)
