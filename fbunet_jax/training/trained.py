"""A trained fold, read back from its run: network, best weights, normalisation."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from fbunet_jax.config import Config
from fbunet_jax.data.normalisation import Normalisation
from fbunet_jax.errors import RunError
from fbunet_jax.files import read_json, write_atomically
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.models.methods import abstract_variables, build_model
from fbunet_jax.runs import FoldDirectory, Run
from fbunet_jax.training.checkpoints import FoldCheckpoints
from fbunet_jax.training.state import TrainState, make_optimizer


@dataclass(frozen=True)
class TrainedFold:
    """The best checkpoint of one fold, ready to segment.

    Attributes:
      fold: its number.
      step: the step of the checkpoint with the best validation mean IoU.
      model: the network.
      variables: ``params`` and ``batch_stats``.
      normalisation: what the weights expect to see.
      class_names: in class order.
    """

    fold: int
    step: int
    model: FeedbackUNet
    variables: dict[str, Any]
    normalisation: Normalisation
    class_names: tuple[str, ...]

    def fingerprint(self) -> str:
        """Return a digest of the weights and of the normalisation: what is equal segments alike."""
        digest = hashlib.blake2b(repr(self.normalisation).encode(), digest_size=16)
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(self.variables)):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(leaf.tobytes())
        return digest.hexdigest()


def save_inputs(directory: FoldDirectory, normalisation: Normalisation) -> None:
    """Write what the weights of a fold expect to see."""
    write_atomically(directory.inputs, json.dumps({"normalisation": asdict(normalisation)}) + "\n")


def trained_folds(run: Run) -> list[int]:
    """Return the numbers of the folds that have a checkpoint."""
    config = run.read_config()
    return [fold for fold in range(config.data.folds) if best_step(run, fold) is not None]


def best_step(run: Run, fold: int) -> int | None:
    """Return the step of a fold's best checkpoint, or None without one."""
    if not run.fold(fold).checkpoints.is_dir():
        return None
    with FoldCheckpoints(run.fold(fold), read_only=True) as checkpoints:
        return checkpoints.best_step()


def load_trained_fold(run: Run, fold: int) -> TrainedFold:
    """Restore the best checkpoint of a fold.

    Raises:
      RunError: the fold has no checkpoint, or it cannot be read.
    """
    config, dataset = run.read_config(), run.read_dataset()
    classes, channels = len(dataset["class_names"]), dataset["channels"]
    model = build_model(config, classes=classes, channels=channels)
    step = best_step(run, fold)
    if step is None:
        raise RunError(
            f"Fold {fold} of {run.path} has no checkpoint. Train it first, or go on with it: "
            f"python train.py --config {run.config} --fold {fold} --out {run.path}"
        )
    with FoldCheckpoints(run.fold(fold), read_only=True) as checkpoints:
        state = checkpoints.restore(step, abstract_state(config, model, channels))
    kind = read_json(run.fold(fold).inputs)["normalisation"]
    normalisation = Normalisation(kind["kind"], tuple(kind["mean"]), tuple(kind["deviation"]))
    return TrainedFold(fold, step, model, state.variables, normalisation, tuple(dataset["class_names"]))


def abstract_state(config: Config, model: FeedbackUNet, channels: int) -> TrainState:
    """Return shapes and types of a training state on one local device, wherever it was saved."""
    here = SingleDeviceSharding(jax.local_devices()[0])
    state = state_shapes(config, model, channels)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), state)


def state_shapes(config: Config, model: FeedbackUNet, channels: int) -> TrainState:
    """Return shapes and types of a training state, on no device."""
    variables = abstract_variables(model, channels)
    # the schedule's length does not change the shape of the optimiser's state
    optimizer = make_optimizer(config.training, total_steps=2**30)
    optimizer_state = jax.eval_shape(optimizer.init, variables["params"])
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    return TrainState(step, variables["params"], variables["batch_stats"], optimizer_state)


def initial_weights(config: Config, fold: int, model: FeedbackUNet, channels: int) -> dict[str, Any] | None:
    """Return the variables that the best checkpoint of the same fold of `training.initial_weights` holds, if any.

    Raises:
      RunError: the run or the fold is missing, or the shapes differ (the first difference is named).
    """
    path = config.training.initial_weights
    if not path:
        return None
    old = load_trained_fold(Run(Path(path)), fold)
    expected = _shapes(abstract_variables(model, channels))
    found = _shapes(old.variables)
    for name in sorted(expected | found):
        if expected.get(name) != found.get(name):
            raise RunError(
                f"training.initial_weights = {path}: {name} is {found.get(name, 'absent')} there and "
                f"{expected.get(name, 'absent')} here. Use the method, widths, classes and channels of that run."
            )
    return old.variables


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
