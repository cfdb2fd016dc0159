"""A trained fold, read back from its run: network, best weights, normalisation."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from fbunet_jax.errors import RunError
from fbunet_jax.models.contract import abstract_variables, check_network, count_rounds, with_axis
from fbunet_jax.networks import build_network
from fbunet_jax.pipeline.normalisation import ImageKind, Normalisation
from fbunet_jax.runs.checkpoints import FoldCheckpoints
from fbunet_jax.runs.descriptions import described
from fbunet_jax.runs.directory import FoldDirectory, Run
from fbunet_jax.runs.files import read_json, write_atomically

_LARGEST = float(np.finfo(np.float32).max)


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
      channels: number of image channels C.
      images: what the training images were; None where a run of an earlier version does not say.
      offsets: added to the logits of each class, see `fbunet_jax.runs.offsets`; None where nothing is added.
    """

    fold: int
    step: int
    model: nn.Module
    variables: dict[str, Any]
    normalisation: Normalisation
    class_names: tuple[str, ...]
    channels: int
    images: ImageKind | None = None
    offsets: tuple[float, ...] | None = None

    @cached_property
    def rounds(self) -> int:
        """Number of rounds R."""
        return count_rounds(self.model, self.variables, self.channels)

    def fingerprint(self) -> str:
        """Return a digest of the weights, of the normalisation and of offsets: what is equal segments alike."""
        digest = hashlib.blake2b(repr(self.normalisation).encode(), digest_size=16)
        if self.offsets is not None:
            digest.update(repr(self.offsets).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(self.variables)):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(leaf.tobytes())
        return digest.hexdigest()


def save_inputs(directory: FoldDirectory, normalisation: Normalisation, images: ImageKind | None = None) -> None:
    """Write what the weights of a fold expect to see."""
    content = {"normalisation": asdict(normalisation)} | ({"images": asdict(images)} if images else {})
    write_atomically(directory.inputs, json.dumps(content) + "\n")


class _Normalisation(TypedDict):
    kind: Literal["standardise", "scale", "percentile"]
    mean: list[float]
    deviation: list[float]


class _Images(TypedDict):
    dtype: str
    lowest: float
    highest: float


class _Inputs(TypedDict):
    normalisation: _Normalisation
    images: NotRequired[_Images]


def read_normalisation(path: Path, channels: int) -> Normalisation:
    """Read what a fold's weights expect to see, from its ``inputs.json``.

    Args:
      path: of the file.
      channels: of the images.

    Raises:
      RunError: the file is missing or damaged, or does not fit the channels.
    """
    found = read_json(path, _Inputs)["normalisation"]
    mean, deviation = found["mean"], found["deviation"]
    expected = channels if found["kind"] == "standardise" else 0
    fits = len(mean) == len(deviation) == expected and min(deviation, default=0) >= 0
    # scale and shift are numbers too
    largest = [max(1, abs(low)) / min(span or 1, 1) for low, span in zip(mean, deviation, strict=False)]
    if not fits or any(abs(value) > _LARGEST for value in (*mean, *deviation, *largest)):
        raise RunError(
            f"{path} is damaged: expected mean and deviation of {expected} channels for {found['kind']!r}. Copy it "
            "again if the run is a copy, or train the fold again (fresh).",
            argument="fresh",
        )
    return Normalisation(found["kind"], tuple(mean), tuple(deviation))


def read_image_kind(path: Path) -> ImageKind | None:
    """Read what a fold's training images were, from its ``inputs.json``; None where it does not say.

    Raises:
      RunError: the file is missing or damaged.
    """
    found = read_json(path, _Inputs).get("images")
    return ImageKind(**found) if found else None


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


def load_trained_fold(run: Run, fold: int, model: nn.Module | None = None, *, is_same: bool = True) -> TrainedFold:
    """Restore the best checkpoint of a fold.

    Args:
      run: the run.
      fold: its number.
      model: the network, if a program passed one to the training.
      is_same: whether it has to be the one that was passed, and not only one with the same weights.

    Raises:
      RunError: the fold has no checkpoint, or it cannot be read, or the network is not that of the run.
    """
    config, dataset = run.read_config(), run.read_dataset()
    classes, channels = len(dataset["class_names"]), dataset["channels"]
    if is_same:
        run.read_passed().check("model", "" if model is None else described(model), str(run.path), resumes=False)
    if model is None:
        model = build_network(config, classes=classes, channels=channels)
    else:
        check_network(model, classes=classes, channels=channels)
        model = with_axis(model, None)
    step = best_step(run, fold)
    if step is None:
        raise RunError(
            f"Fold {fold} of {run.path} has no checkpoint. Train it first, or resume its training; "
            f"{run.config} has its settings."
        )
    with FoldCheckpoints(run.fold(fold), read_only=True) as checkpoints:
        average = config.training.weight_average > 0
        variables = checkpoints.restore_variables(step, _abstract_variables(model, channels), average=average)
    normalisation = read_normalisation(run.fold(fold).inputs, channels)
    images = read_image_kind(run.fold(fold).inputs)
    return TrainedFold(fold, step, model, variables, normalisation, tuple(dataset["class_names"]), channels, images)


def _abstract_variables(model: nn.Module, channels: int) -> dict[str, Any]:
    """Return shapes and types of the variables on one local device, wherever they were saved."""
    here = SingleDeviceSharding(jax.local_devices()[0])
    variables = dict(abstract_variables(model, channels))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), variables)
