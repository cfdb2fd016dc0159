"""The trained folds of a run, read to segment images: what `fbunet_jax.load` is."""

from pathlib import Path

from flax import linen as nn

from fbunet_jax.device_errors import device_errors
from fbunet_jax.errors import RunError
from fbunet_jax.inference.predictor import Precision, Predictor
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.offsets import with_offsets
from fbunet_jax.runs.trained import TrainedFold, load_trained_fold, trained_folds


def load(
    run: str | Path,
    *,
    fold: int | None = None,
    precision: Precision | None = None,
    model: nn.Module | None = None,
    offsets: bool | str | Path = False,
) -> Predictor:
    """Return the trained folds of a run, ready to segment images.

    Args:
      run: the run directory; nothing is written into it.
      fold: the fold to use; by default all that have a checkpoint, whose probabilities are averaged.
      precision: type of the convolutions; as trained by default.
      model: the network, if one was passed to `train`: the same again.
      offsets: add each fold's offsets to its logits, which `evaluate` fits on its validation part; a folder if they
        are in the results of an evaluation elsewhere (its `out`). Probabilities, entropy and disagreement are then
        those of the shifted logits.

    Raises:
      RunError: the run or the fold is missing or has no checkpoint, or the network is not that of the run, or a fold
        has no offsets that belong to its checkpoint.

    Example:
      >>> from fbunet_jax import load
      >>> [fold.fold for fold in load("runs/quickstart/unet").folds]
      [0]
    """
    with device_errors("reading the weights", "One fold takes less than all of them."):
        opened = Run(Path(run))
        folds = _load_folds(opened, fold, model)
        if offsets:
            folds = with_offsets(opened, folds, None if offsets is True else Path(offsets))
        return Predictor(folds, opened.read_dataset()["channels"], precision)


def _load_folds(opened: Run, fold: int | None, model: nn.Module | None) -> list[TrainedFold]:
    count = opened.read_config().data.folds
    if fold is not None and not 0 <= fold < count:
        raise RunError(f"{opened.path} has no fold {fold}: expected a fold from 0 to {count - 1}.")
    chosen = trained_folds(opened) if fold is None else [fold]
    if not chosen:
        raise RunError(
            f"{opened.path} has no trained fold. Train one first, or resume its training; {opened.config} has its "
            "settings."
        )
    return [load_trained_fold(opened, each, model) for each in chosen]
