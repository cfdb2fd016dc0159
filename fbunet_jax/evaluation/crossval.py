"""Evaluate the folds of a run on their test (or validation) parts: what `fbunet_jax.evaluate` is."""

import numbers
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flax import linen as nn

from fbunet_jax.data.datasets import Dataset
from fbunet_jax.device_errors import device_errors
from fbunet_jax.errors import ConfigError
from fbunet_jax.evaluation.places import with_results
from fbunet_jax.evaluation.scores import Evaluation, evaluate_folds
from fbunet_jax.evaluation.variants import DEFAULT, Maps, Variant
from fbunet_jax.runs.directory import Run


@device_errors("evaluation", "Evaluate one fold at a time, or images that are cut (data.cut).")
def evaluate(
    run: str | Path,
    folds: Sequence[int] | None = None,
    *,
    split: str = "test",
    root: str = "",
    tta: bool = False,
    whole: bool = False,
    crops: int = 0,
    objects: int = 0,
    maps: Maps = "own",
    offsets: bool = False,
    dataset: Dataset | None = None,
    model: nn.Module | None = None,
    report: bool = False,
    out: str | Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Segment one part of every fold with its best checkpoint and compare with the truth.

    Args:
      run: the run directory.
      folds: which folds; None for all that are trained.
      split: ``"test"`` or ``"validation"``.
      root: folder of the data set, where it is no longer where the run found it.
      tta: average the probabilities over the 8 dihedral views of each tile. Such an evaluation is kept apart from the
        others: its split, and the names of its files, end with ``-tta``.
      whole: evaluate the images as they were before `data.cut`; likewise kept apart, as ``-whole``.
      crops: evaluate crops of this side in pixels, each by itself, of images that `data.cut` leaves whole; likewise.
      objects: also count the objects of at least so many pixels that were found and that are right, see
        `fbunet_jax.evaluation.objects`; 0 does not.
      maps: of a network of several rounds, which class maps the later ones are given: the image's own, ``"zeros"``, or
        those of an ``"other"`` image of the part; likewise kept apart, as ``-maps-zeros``. All else stays.
      offsets: add offsets to the logits of the classes, which are fitted on each fold's validation part, whatever the
        split, unless the fold has them already; likewise kept apart, as ``-offsets``.
      dataset: the data set, if one was passed to `train`: the same again.
      model: the network, likewise.
      report: also write report.html, the page with the numbers and pictures; only of what is not kept apart.
      out: folder for the results; the run by default, or, where it cannot be written, a folder of the current one.
      tell: called with a line about each fold.

    Returns:
      The content of evaluation.json: the folds evaluated so far from their present best checkpoints, mean and
      deviation over folds. Also written, per fold and for the run.

    Raises:
      ConfigError: arguments that do not go together.
      RunError: nothing is trained, a fold is missing, or the data or the network are not those of the run.

    Example:
      >>> from fbunet_jax import evaluate
      >>> evaluation = evaluate("runs/quickstart/unet")
      >>> evaluation["class_names"]
      ['cytoplasm', 'membrane', 'mitochondria', 'synapse']
      >>> len(evaluation["mean"]["iou"]), [fold["fold"] for fold in evaluation["folds"]]
      (4, [0])
    """
    opened = Run(Path(run))
    opened.read_config()  # whether it is a run at all
    if folds is not None:
        wanted = list(folds) if isinstance(folds, Iterable) else []
        if not wanted or not all(isinstance(fold, numbers.Integral) for fold in wanted):
            raise ConfigError(f"folds = {folds!r}: expected a list of their numbers, such as [0].")
        folds = wanted
    if split not in ("test", "validation"):
        raise ConfigError(f"split = {split!r}: expected 'test' or 'validation'.")
    if isinstance(objects, bool) or not isinstance(objects, numbers.Integral) or objects < 0:
        raise ConfigError(f"objects = {objects!r}: expected the pixels of the smallest object, or 0 to count none.")
    variant = Variant(whole, crops, tta, offsets, maps)
    if report and variant != DEFAULT:
        raise ConfigError(
            "report: the page shows the split as predict segments it. Leave report out with what changes it."
        )
    opened = with_results(opened, out, tell)
    evaluation = evaluate_folds(
        opened,
        folds,
        split=split,
        root=root,
        variant=variant,
        objects=int(objects),
        dataset=dataset,
        model=model,
        tell=tell,
    )
    if report:
        from fbunet_jax.evaluation.report import write_report  # Matplotlib, which the numbers do without

        write_report([run], split=split, root=root, results=opened.results, dataset=dataset, model=model)
    return evaluation
