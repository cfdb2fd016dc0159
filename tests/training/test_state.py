"""Schedules by their closed forms, the optimiser by Optax and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fbunet_jax.config import TrainingConfig
from fbunet_jax.errors import ConfigError
from fbunet_jax.training.state import TrainState, learning_rate_schedule, make_optimizer


def test_constant_cosine_and_warmup_follow_their_formulas():
    constant = learning_rate_schedule(TrainingConfig(learning_rate=1e-3), 100)
    assert float(constant(0)) == float(constant(99)) == pytest.approx(1e-3)
    cosine = learning_rate_schedule(TrainingConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=20), 100)
    assert float(cosine(0)) == 0
    assert float(cosine(10)) == pytest.approx(5e-4)
    assert float(cosine(60)) == pytest.approx(1e-3 * 0.5 * (1 + np.cos(np.pi * 40 / 80)))
    assert float(cosine(100)) == pytest.approx(0, abs=1e-9)


def test_one_cycle_rises_for_30_percent_and_falls_to_almost_nothing():
    schedule = learning_rate_schedule(TrainingConfig(learning_rate=2e-3, schedule="one-cycle"), 100)
    rates = [float(schedule(step)) for step in range(101)]
    assert int(np.argmax(rates)) == 30
    assert max(rates) == pytest.approx(2e-3)
    assert rates[0] == pytest.approx(2e-3 / 25)
    assert rates[-1] < 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "one-cycle", "warmup_steps": 5}, "warm-up of its own"),
        ({"warmup_steps": 100}, "the run has 100 steps"),
    ],
)
def test_a_warmup_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        learning_rate_schedule(TrainingConfig(**settings), 100)


def update(optimizer, *arguments):
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes floats and the whole number of the step
        return optimizer.update(*arguments)


def first_update(config, gradients, params):
    optimizer = make_optimizer(config, 10)
    return update(optimizer, gradients, optimizer.init(params), params)[0]


def test_the_first_step_of_adam_is_the_rate_times_g_over_g_plus_epsilon():
    gradients = {"kernel": jnp.array([1e-7, -1.0, 1e-3])}
    updates = first_update(TrainingConfig(learning_rate=1e-4), gradients, {"kernel": jnp.zeros(3)})
    g = np.asarray(gradients["kernel"], np.float64)
    np.testing.assert_allclose(updates["kernel"], -1e-4 * g / (np.abs(g) + 1e-7), rtol=1e-4)


def test_weight_decay_touches_kernels_and_nothing_else():
    params = {"kernel": jnp.ones((3, 3, 2, 2)), "bias": jnp.ones(2), "scale": jnp.ones(2)}
    updates = first_update(TrainingConfig(learning_rate=1e-2, weight_decay=0.1), optax.tree.zeros_like(params), params)
    np.testing.assert_allclose(updates["kernel"], -1e-3, rtol=1e-5)
    assert not updates["bias"].any()
    assert not updates["scale"].any()


def test_clipping_scales_the_gradient_to_the_given_norm():
    params, gradients = {"kernel": jnp.zeros(2)}, {"kernel": jnp.array([30.0, 40.0])}
    optimizer = make_optimizer(TrainingConfig(gradient_clip=1.0), 10)
    _, (_, adam) = update(optimizer, gradients, optimizer.init(params), params)
    np.testing.assert_allclose(adam[0].mu["kernel"], 0.1 * np.array([0.6, 0.8]), rtol=1e-5)


def test_the_average_of_the_weights_follows_its_formula_and_is_what_is_used():
    optimizer = make_optimizer(TrainingConfig(weight_average=0.5, gradient_clip=1.0), 10)
    params = {"kernel": jnp.array([1.0, -2.0])}
    state = TrainState(jnp.int32(0), params, {"mean": jnp.zeros(1)}, optimizer.init(params))
    average = np.asarray(params["kernel"], np.float64)
    for t in range(12):
        updates, adam = update(optimizer, {"kernel": jnp.array([1.0, float(t)])}, state.optimizer_state, state.params)
        state = state._replace(params=optax.apply_updates(state.params, updates), optimizer_state=adam)
        kept = min(0.5, (1 + t) / (10 + t))
        average = kept * average + (1 - kept) * np.asarray(state.params["kernel"], np.float64)
        np.testing.assert_allclose(state.variables["params"]["kernel"], average, rtol=1e-6)
    assert state.variables["batch_stats"] is state.batch_stats


def test_without_an_average_the_weights_themselves_are_used():
    params = {"kernel": jnp.ones(2)}
    state = TrainState(jnp.int32(0), params, {}, make_optimizer(TrainingConfig(), 10).init(params))
    assert state.variables["params"] is params
