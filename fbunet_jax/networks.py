"""The network that the settings of a run describe."""

from fbunet_jax.config import CUSTOM, Config
from fbunet_jax.errors import ConfigError, ModelError
from fbunet_jax.models.build import build_method
from fbunet_jax.models.feedback import FeedbackUNet

_SETTINGS = {
    "widths": "widths",
    "rounds": "rounds",
    "feedback": "feedback",
    "gate_activation": "gate_activation",
    "momentum": "batch_norm_momentum",
    "epsilon": "batch_norm_epsilon",
    "dtype": "precision",
    "rematerialise": "rematerialise",
}
"""The setting in ``[model]`` of each field of a network that has one."""


def build_network(config: Config, *, classes: int, channels: int) -> FeedbackUNet:
    """Return the network of a configuration.

    Args:
      config: its method and model settings.
      classes: number of classes K.
      channels: number of image channels C.

    Raises:
      ConfigError: rounds or feedback are set for a method of one round, the channels do not fit the feedback, or the
        method is that of a network that a program passed.
    """
    if config.method == CUSTOM:
        raise ConfigError(
            f"method = {CUSTOM!r} stands for a network that a Python program passed, so the settings alone cannot "
            "build it: pass it again as model=."
        )
    fields = {field: getattr(config.model, setting) for field, setting in _SETTINGS.items()}
    try:
        return build_method(config.method, classes=classes, channels=channels, **fields)
    except ModelError as error:
        if error.field not in _SETTINGS:
            raise ConfigError(str(error)) from error
        raise ConfigError(f"{error} The setting is model.{_SETTINGS[error.field]}.") from error
