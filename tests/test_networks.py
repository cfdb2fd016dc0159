import jax.numpy as jnp
import pytest

from fbunet_jax.config import CUSTOM, Config, ModelConfig
from fbunet_jax.errors import ConfigError
from fbunet_jax.models.build import build_method
from fbunet_jax.networks import build_network


def test_every_setting_of_the_model_reaches_the_network():
    settings = ModelConfig(
        widths=(4, 6),
        rounds=3,
        feedback="concat",
        gate_activation="sigmoid",
        batch_norm_momentum=0.9,
        batch_norm_epsilon=1e-5,
        precision="bfloat16",
        rematerialise=True,
    )
    model = build_network(Config(method="feedback-convlstm-a", model=settings), classes=4, channels=2)
    assert (model.rounds, model.feedback, model.widths, model.classes) == (3, "concat", (4, 6), 4)
    assert (model.gate_activation, model.momentum, model.epsilon) == ("sigmoid", 0.9, 1e-5)
    assert (model.dtype, model.rematerialise, model.convlstm) == (jnp.bfloat16, True, "a")
    assert build_network(Config(), classes=4, channels=1) == build_method("feedback-convlstm", classes=4, channels=1)


@pytest.mark.parametrize(
    ("method", "settings", "channels", "setting"),
    [
        ("unet", ModelConfig(rounds=2), 1, "model.rounds"),
        ("ru-net", ModelConfig(feedback="concat"), 1, "model.feedback"),
        ("feedback-conv", ModelConfig(), 3, "model.feedback"),
    ],
)
def test_what_does_not_fit_is_named_with_the_setting_that_changes_it(method, settings, channels, setting):
    with pytest.raises(ConfigError, match=rf"The setting is {setting}\.$"):
        build_network(Config(method=method, model=settings), classes=4, channels=channels)


def test_a_network_that_was_passed_is_not_built_from_settings():
    with pytest.raises(ConfigError, match="pass it again as model="):
        build_network(Config(method=CUSTOM), classes=4, channels=1)
