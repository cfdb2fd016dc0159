"""What a program passed in the place of what the settings would have built: a data set, a network, a loss.

A run keeps a description of each, by qualified name, fields and code, and of a data set its fingerprint. Who resumes,
evaluates or loads the run passes the same again.
"""

import dataclasses
import re
import warnings
from typing import Any

from fbunet_jax.config import CUSTOM, Config, DataConfig, ModelConfig
from fbunet_jax.errors import RunError
from fbunet_jax.runs.descriptions import described, is_same, names_with_code, without_code


@dataclasses.dataclass(frozen=True)
class Passed:
    """Descriptions of what was passed; empty where nothing was.

    Attributes:
      dataset: fingerprint of the data set, its groups included.
      model: the network, see `described`.
      loss: the loss, likewise.
      label: a short name of the network.
    """

    dataset: str = ""
    model: str = ""
    loss: str = ""
    label: str = ""

    def __bool__(self) -> bool:
        """Say whether anything was passed."""
        return bool(self.dataset or self.model or self.loss)

    def check(self, name: str, given: str, where: str, *, resumes: bool = True) -> None:
        """Check that what is given now is what was passed to the run.

        Args:
          name: dataset, model or loss.
          given: its description; empty for nothing.
          where: the run, for the message.
          resumes: whether the training is to be resumed; for other uses, changed code under the same name is a warning.

        Raises:
          RunError: it is something else; names both.
        """
        before = getattr(self, name)
        if is_same(before, given):
            return
        if is_same(without_code(before), without_code(given)):
            names = ", ".join(
                sorted({each.partition("#")[0] for each in names_with_code(before) ^ names_with_code(given)})
            )
            changed = (
                f"The run {where} was trained with {name}={without_code(before)}, and the code of {names} has changed "
                "since"
            )
            if resumes:
                raise RunError(f"{changed}. Restore it, or train in another run directory (out).", argument="out")
            warnings.warn(f"{changed}: what it computes may differ from what was trained.", stacklevel=4)
        elif not before:
            raise RunError(
                f"The run {where} was trained without a custom {name}, so {name}={given} does not belong to it. Leave "
                f"{name} out, or use another run directory (out).",
                argument="out",
            )
        else:
            now = f"and {name}={given} is passed now" if given else "and none is passed now"
            again = "train, or use another run directory (out)" if resumes else "evaluate and load"
            raise RunError(
                f"The run {where} was trained with {name}={before} that a Python program passed, {now}. From Python, "
                f"pass the same {name} to {again}.",
                argument="out" if resumes else "",
            )


NOTHING = Passed()


def passed_with(dataset: str, model: Any, loss: Any) -> Passed:
    """Return the descriptions of what is passed: the fingerprint of a data set, a network and a loss, or nothing."""
    return Passed(
        dataset,
        "" if model is None else described(model),
        "" if loss is None else described(loss),
        "" if model is None else label_of(model),
    )


def recorded(config: Config, passed: Passed) -> Config:
    """Return the settings that a run records: those that do not apply to what was passed have no value of their own."""
    if passed.dataset:
        kept = ("crop", "normalisation", "folds", "fold_scheme", "validation_groups")
        data = DataConfig(layout="arrays", **{name: getattr(config.data, name) for name in kept})
        config = dataclasses.replace(config, data=data)
    if passed.model:
        config = dataclasses.replace(config, method=CUSTOM, model=ModelConfig())
    if passed.loss:
        training = dataclasses.replace(config.training, class_weights="custom", dice_weight=0.0)
        config = dataclasses.replace(config, training=training)
    return config


def label_of(model: Any) -> str:
    """Return a short name of a network: its class, and what it feeds back if that is custom."""
    name, feedback = type(model).__name__, getattr(model, "feedback", None)
    if feedback is None or isinstance(feedback, str):
        return name
    own = getattr(feedback, "__name__", type(feedback).__name__)
    return f"{name}-{re.sub(r'[^A-Za-z0-9_]+', '', own)}"
