"""Feedback U-Net with convolutional LSTM (Shibuya & Hotta, CVPR Workshops 2020) in JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fbunet_jax.config import Config, load_config
    from fbunet_jax.errors import UserError
    from fbunet_jax.evaluation.crossval import evaluate
    from fbunet_jax.inference.predictor import Prediction, Predictor, load
    from fbunet_jax.training.loop import FoldResult, train_fold

__all__ = [
    "Config",
    "FoldResult",
    "Prediction",
    "Predictor",
    "UserError",
    "evaluate",
    "load",
    "load_config",
    "train_fold",
]

# Imported at first use, so that --help does not wait seconds for JAX.
_MODULES = {
    "Config": "fbunet_jax.config",
    "load_config": "fbunet_jax.config",
    "UserError": "fbunet_jax.errors",
    "evaluate": "fbunet_jax.evaluation.crossval",
    "Prediction": "fbunet_jax.inference.predictor",
    "Predictor": "fbunet_jax.inference.predictor",
    "load": "fbunet_jax.inference.predictor",
    "FoldResult": "fbunet_jax.training.loop",
    "train_fold": "fbunet_jax.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
