"""The settings of a configuration reach the compiled training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.config import load_config
from fbunet_jax.networks import build_network
from fbunet_jax.training import parallel
from fbunet_jax.training.parallel import mapped_training
from fbunet_jax.training.state import make_optimizer


@pytest.mark.parametrize(("crop_border", "probability"), [(True, 0.0), (False, 1.0)])
def test_the_sampler_is_that_of_the_settings(crop_border, probability, monkeypatch):
    settings = {"crop_border": crop_border, "elastic_augmentation": 2.0, "elastic_probability": probability}
    config = load_config("quickstart", data={"crop": 16}, training=settings | {"augmentation": "none"})
    made = []

    def make_sampler(*arguments, **options):
        made.append((arguments, options))

    monkeypatch.setattr(parallel, "make_sampler", make_sampler)
    model = build_network(config, classes=3, channels=1)
    optimizer = make_optimizer(config.training, 10)
    mapped_training(config, model, optimizer, np.ones(3), jax.random.key(0), jax.local_devices()[:1])
    [((crop, augment), options)] = made
    assert (crop, options) == (16, {"crop_border": crop_border})
    image, label = jnp.arange(256.0).reshape(16, 16, 1), jnp.arange(256).reshape(16, 16)
    bent, _ = jax.jit(augment)(jax.random.key(1), image, label)
    assert np.array_equal(bent, image) == (probability == 0)
