"""Feedback U-Net with convolutional LSTM (Shibuya & Hotta, CVPR Workshops 2020) in JAX and Flax.

The names in ``__all__`` are the library; docs/library.md describes them. All else may change between versions.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fbunet_jax import losses, metrics
    from fbunet_jax.config import Config, load_config
    from fbunet_jax.data.datasets import Dataset, load_dataset
    from fbunet_jax.errors import UserError
    from fbunet_jax.evaluation.crossval import evaluate
    from fbunet_jax.inference.loading import load
    from fbunet_jax.inference.prediction import Prediction
    from fbunet_jax.inference.predictor import Predictor
    from fbunet_jax.models.build import build_method
    from fbunet_jax.models.feedback import FeedbackUNet
    from fbunet_jax.models.methods import METHODS
    from fbunet_jax.training.fold import TrainResult, train

__all__ = [
    "METHODS",
    "Config",
    "Dataset",
    "FeedbackUNet",
    "Prediction",
    "Predictor",
    "TrainResult",
    "UserError",
    "build_method",
    "evaluate",
    "load",
    "load_config",
    "load_dataset",
    "losses",
    "metrics",
    "train",
]

# Imported at first use, so that --help does not wait seconds for JAX.
_MODULES = {
    "METHODS": "fbunet_jax.models.methods",
    "Config": "fbunet_jax.config",
    "Dataset": "fbunet_jax.data.datasets",
    "FeedbackUNet": "fbunet_jax.models.feedback",
    "Prediction": "fbunet_jax.inference.prediction",
    "Predictor": "fbunet_jax.inference.predictor",
    "TrainResult": "fbunet_jax.training.fold",
    "UserError": "fbunet_jax.errors",
    "build_method": "fbunet_jax.models.build",
    "evaluate": "fbunet_jax.evaluation.crossval",
    "load": "fbunet_jax.inference.loading",
    "load_config": "fbunet_jax.config",
    "load_dataset": "fbunet_jax.data.datasets",
    "train": "fbunet_jax.training.fold",
}
_FORMER = {"train_fold": "train", "FoldResult": "TrainResult"}


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        warnings.warn(
            f"fbunet_jax.{name} is now fbunet_jax.{_FORMER[name]}; the old name goes with version 0.3.",
            DeprecationWarning,
            stacklevel=2,
        )
        name = _FORMER[name]
    if name in ("losses", "metrics"):
        return importlib.import_module(f"fbunet_jax.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
