"""The training loop of one fold: from the latest checkpoint, through every epoch, to the last one."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, TextIO

import jax

from fbunet_jax.runs import processes
from fbunet_jax.runs.directory import FoldDirectory
from fbunet_jax.runs.records import ValidationRecord, read_records
from fbunet_jax.training import notes
from fbunet_jax.training.keeper import Keeper
from fbunet_jax.training.logs import FoldLog, open_log, write_environment
from fbunet_jax.training.measures import EpochMeasures
from fbunet_jax.training.parallel import Metrics
from fbunet_jax.training.plan import Stretch, calls
from fbunet_jax.training.previews import FoldPictures
from fbunet_jax.training.programs import FoldPrograms
from fbunet_jax.training.state import TrainState


def train_epochs(
    programs: FoldPrograms,
    directory: FoldDirectory,
    keeper: Keeper,
    weights: Mapping[str, Any] | None,
    stream: TextIO,
) -> None:
    """Train to the last epoch, from the latest checkpoint, the given weights, or random ones."""
    state, step, measures = keeper.restore(weights)
    processes.first(lambda: write_environment(directory, sys.argv))
    # an epoch that is not over has no records yet, or has them again
    recorded_step = step - (measures is not None)
    with open_log(
        directory,
        total_steps=programs.total_steps,
        first_step=step,
        recorded_step=recorded_step,
        batch_size=programs.config.training.batch_size,
        stream=stream,
        still_held=keeper.still_held,
    ) as log:
        log.lines(notes.at_the_start(programs, directory, step, is_between_epochs=measures is None))
        keeper.check_signal()
        pictures = FoldPictures(programs, directory)
        for stretch in programs.plan:
            if stretch.last <= recorded_step:
                continue
            measures = measures or EpochMeasures()
            start = max(step, stretch.first)
            state = train_and_record(programs, stretch, state, measures, start=start, log=log, keeper=keeper)
            if stretch.validates:
                variables, record = validate_and_record(programs, stretch, state, measures, log=log, keeper=keeper)
                if processes.is_first():
                    validations = read_records(directory.metrics, ValidationRecord)
                    pictures.draw_when_due(variables, validations, is_last=stretch.last == programs.total_steps)
                # last: a checkpoint means that everything before it is done
                keeper.save(state, record, variables)
                if processes.is_first():
                    log.lines(notes.on_validation(programs, directory, validations))
            measures = None
        keeper.finish()


def train_and_record(
    programs: FoldPrograms,
    stretch: Stretch,
    state: TrainState,
    measures: EpochMeasures,
    *,
    start: int,
    log: FoldLog,
    keeper: Keeper,
) -> TrainState:
    """Run the steps from `start` to the end of a stretch, record the means of their metrics, and return the state.

    Raises:
      RunError: the loss or its gradient was not finite.
      DeviceError: the device has too little memory, or failed.
      KeyboardInterrupt: a signal has come, and everything is saved.
    """
    # one call ahead of an accelerator: never idle, never far from what the bar shows; a CPU would only be further from
    # stopping when a signal has come
    ahead = 0 if programs.steps_per_call == 1 else 1
    running: deque[Metrics] = deque()
    for steps in calls(start, stretch.last, programs.steps_per_call):
        with programs.explaining(f"training, at step {steps.stop} of {programs.total_steps}"):
            state, metrics = programs.run(state, steps)
            measures.add(metrics, len(steps))
            running.append(metrics)
            if len(running) > ahead:
                jax.block_until_ready(running.popleft())
        log.progress(len(steps), stretch.epoch)
        keeper.pause(state, steps.stop, measures)
    with programs.explaining(f"training, at step {stretch.last} of {programs.total_steps}"):
        programs.check_finite(stretch.last, measures)
        mean, seconds = measures.mean(), measures.seconds
    images = (stretch.last - stretch.first) * programs.config.training.batch_size
    log.record(
        {
            **{"kind": "train", "epoch": stretch.epoch, "step": stretch.last, **mean},
            "learning_rate": programs.learning_rate(stretch.last - 1),
        },
        {"seconds": seconds, "images_per_second": images / seconds},
    )
    return state


def validate_and_record(
    programs: FoldPrograms,
    stretch: Stretch,
    state: TrainState,
    measures: EpochMeasures,
    *,
    log: FoldLog,
    keeper: Keeper,
) -> tuple[dict[str, Any], ValidationRecord]:
    """Validate the state at the end of a stretch, and record it; return what was validated, and the record.

    Raises:
      KeyboardInterrupt: a signal has come, and everything is saved.
    """
    began, between = time.perf_counter(), partial(keeper.pause, state, stretch.last, measures)
    with programs.explaining(f"validation, after step {stretch.last} of {programs.total_steps}"):
        variables = programs.kept_variables(state, stretch.last, between)
        confusion = programs.validate(variables, between)
    record = notes.validation_record(programs.setup.class_names, stretch.epoch, stretch.last, confusion)
    # only one validation may be recorded whose checkpoint is not on disk, however slow the disk is
    keeper.wait()
    log.record(record, {"seconds": time.perf_counter() - began})
    return variables, record
