"""The ways in which the checkpoint of a cell is evaluated beside the one of the table."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Literal

from fbunet_jax.config import Config
from fbunet_jax.errors import UserError
from fbunet_jax.evaluation.scores import Entry, evaluate_folds
from fbunet_jax.evaluation.variants import DEFAULT, Variant
from fbunet_jax.models.methods import METHODS
from fbunet_jax.runs.directory import Run

Further = Literal["size", "offsets", "maps", "views"]
"""Kinds of further evaluations: whole images of a data set that is cut, and crops of one that is not; with offsets
fitted on validation; of several rounds with other class maps fed back; and over the dihedral views."""

FURTHER: tuple[str, ...] = ("size", "offsets", "maps")
"""Those that are made by default: views take eight times as long."""

LEAST_PIXELS = 50
"""Of the objects that are counted. No synapse of the Drosophila set has fewer than 186, so fewer are specks."""


def variants(config: Config, kinds: Collection[str]) -> dict[str, Variant]:
    """Return the further evaluations of a cell by name, such as ``"whole"`` or ``"whole-offsets"``.

    Args:
      config: the settings of the cell.
      kinds: of `Further`; one that the cell cannot have is left out.
    """
    sizes = [DEFAULT]
    if "size" in kinds:
        sizes.append(Variant(whole=True) if config.data.cut else Variant(crops=config.data.crop))
    found = sizes[1:]
    if "views" in kinds:
        found += [replace(size, tta=True) for size in sizes]
    if "offsets" in kinds:
        found += [replace(size, offsets=True) for size in sizes]
    if "maps" in kinds and feeds_maps_back(config):
        found += [Variant(maps="zeros"), Variant(maps="other")]
    return {variant.suffix.removeprefix("-"): variant for variant in found}


def feeds_maps_back(config: Config) -> bool:
    """Say whether later rounds of a method see class maps."""
    method = METHODS[config.method]
    rounds, feedback = config.model.rounds or method.rounds, config.model.feedback or method.feedback
    return rounds > 1 and feedback != "image"


def evaluate_further(run: Run, fold: int, wanted: dict[str, Variant], tell: Callable[[str], None]) -> dict[str, Entry]:
    """Evaluate the best checkpoint of a fold in every way that is wanted and possible, with its objects.

    Crops may not cover its images, or a part have one image: what is not possible is left out, and `tell` says why.
    """
    found = {}
    for name, variant in wanted.items():
        try:
            found[name] = evaluate_once(run, fold, variant)
        except UserError as error:
            tell(f"Fold {fold} of {run.path} is not evaluated as {name}: {error}")
    return found


def evaluate_once(run: Run, fold: int, variant: Variant = DEFAULT) -> Entry:
    """Evaluate the best checkpoint of a fold in one way, with its objects."""
    evaluation = evaluate_folds(run, [fold], split="test", variant=variant, objects=LEAST_PIXELS)
    return next(entry for entry in evaluation["folds"] if entry["fold"] == fold)
