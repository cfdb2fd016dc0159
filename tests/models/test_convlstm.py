import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import linen as nn

from fbunet_jax.models.convlstm import ConvLSTM, LSTMState, convlstm_step, hard_sigmoid

CHANNELS, FEATURES = 3, 4


@pytest.fixture(scope="module")
def params():
    # large enough that the gates saturate at some pixels, where a slope of 0.2 and one of 1/6 differ most
    random = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, CHANNELS, 4 * FEATURES), "recurrent_kernel": (3, 3, FEATURES, 4 * FEATURES)}
    kernels = {name: random.normal(0, 0.4, shape) for name, shape in shapes.items()}
    return {
        name: jnp.asarray(value, jnp.float32)
        for name, value in (kernels | {"bias": random.normal(0, 1, 4 * FEATURES)}).items()
    }


@pytest.fixture(scope="module")
def sequence():
    """Return `[N, T, H, W, C]`, neither square nor with C = F."""
    return jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 5, 6, CHANNELS)), jnp.float32)


def run(params, sequence, **options):
    state, outputs = None, []
    for time in range(sequence.shape[1]):
        state, hidden = convlstm_step(params, state, sequence[:, time], **options)
        outputs.append(hidden)
    return state, outputs


def keras_layer(**options):
    return keras.layers.ConvLSTM2D(
        FEATURES,
        3,
        strides=1,
        padding="same",
        recurrent_activation=lambda x: keras.ops.clip(0.2 * x + 0.5, 0, 1),
        **options,
    )


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_steps_equal_keras(params, sequence, steps):
    # Keras broadcasts over ranks
    with jax.numpy_rank_promotion("allow"):
        layer = keras_layer(return_sequences=True, return_state=True)
        layer.build((None, steps, *sequence.shape[2:]))
        layer.set_weights([params["kernel"], params["recurrent_kernel"], params["bias"]])
        outputs, hidden, cell = layer(sequence[:, :steps])

    state, ours = run(params, sequence[:, :steps])

    np.testing.assert_allclose(jnp.stack(ours, axis=1), outputs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(state.hidden, hidden, rtol=0, atol=1e-5)
    np.testing.assert_allclose(state.cell, cell, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_sigmoid_gates_equal_the_cell_of_flax_after_reordering(params, sequence, steps):
    def gates_of_flax(array, forget_shift=0.0):
        i, f, c, o = np.split(np.asarray(array), 4, axis=-1)
        return jnp.asarray(np.concatenate([i, c, f - forget_shift, o], axis=-1))

    cell = nn.ConvLSTMCell(FEATURES, (3, 3))
    # the cell of flax adds 1 to the forget gate itself
    theirs = {
        "ih": {"kernel": gates_of_flax(params["kernel"]), "bias": gates_of_flax(params["bias"], forget_shift=1)},
        "hh": {"kernel": gates_of_flax(params["recurrent_kernel"]), "bias": jnp.zeros(4 * FEATURES)},
    }
    carry = 2 * (jnp.zeros((*sequence[:, 0].shape[:-1], FEATURES)),)
    for time in range(steps):
        carry, _ = cell.apply({"params": theirs}, carry, sequence[:, time])

    state, _ = run(params, sequence[:, :steps], gate=jax.nn.sigmoid)

    np.testing.assert_allclose(state.cell, carry[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(state.hidden, carry[1], rtol=0, atol=1e-5)


def test_no_state_equals_a_state_of_zeros_and_computes_three_gates_without_recurrence(params, sequence, operations):
    inputs = sequence[:, 0]
    zeros = jnp.zeros((*inputs.shape[:-1], FEATURES))

    without, _ = convlstm_step(params, None, inputs)
    with_zeros, _ = convlstm_step(params, LSTMState(zeros, zeros), inputs)

    np.testing.assert_allclose(without.hidden, with_zeros.hidden, rtol=0, atol=1e-6)
    np.testing.assert_allclose(without.cell, with_zeros.cell, rtol=0, atol=1e-6)
    jaxpr = jax.make_jaxpr(lambda p, x: convlstm_step(p, None, x))(params, inputs)
    convolutions = operations(jaxpr.jaxpr, "conv_general_dilated")
    assert [e.invars[1].aval.shape for e in convolutions] == [(3, 3, CHANNELS, 3 * FEATURES)]


def test_the_output_is_the_new_hidden_state(params, sequence):
    state, hidden = convlstm_step(params, None, sequence[:, 0])
    np.testing.assert_array_equal(state.hidden, hidden)


def test_bfloat16_inputs_give_bfloat16_states_near_the_float32_ones(params, sequence):
    exact, _ = run(params, sequence[:, :2])
    rough, _ = run(params, sequence[:, :2].astype(jnp.bfloat16))

    assert rough.hidden.dtype == rough.cell.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.hidden.astype(jnp.float32), exact.hidden, atol=0.1)


def test_hard_sigmoid_is_the_one_of_keras_2():
    x = jnp.array([-3.0, -2.5, -1.0, 0.0, 1.0, 2.5, 3.0])
    np.testing.assert_allclose(hard_sigmoid(x), [0, 0, 0.3, 0.5, 0.7, 1, 1], atol=1e-7)


def test_parameters_start_as_those_of_keras():
    channels, features = 3, 8
    inputs = jnp.zeros((1, 4, 4, channels))
    ours = ConvLSTM(features).init(jax.random.key(0), None, inputs)["params"]

    limit = np.sqrt(6 / (9 * channels + 9 * 4 * features))
    largest = float(jnp.abs(ours["kernel"]).max())
    assert 0.98 * limit < largest <= limit
    # a uniform distribution, so its deviation is its half width over the square root of 3
    assert np.asarray(ours["kernel"]).std() == pytest.approx(limit / np.sqrt(3), rel=0.1)

    columns = np.asarray(ours["recurrent_kernel"]).reshape(9 * features, 4 * features)
    np.testing.assert_allclose(columns.T @ columns, np.eye(4 * features), atol=1e-5)

    with jax.numpy_rank_promotion("allow"):
        layer = keras_layer()
        layer.build((None, 1, 4, 4, channels))
    assert {name: array.shape[:3] for name, array in ours.items()} == {
        "kernel": (3, 3, channels),
        "recurrent_kernel": (3, 3, features),
        "bias": (4 * features,),
    }
    theirs = np.asarray(layer.cell.bias).reshape(4, FEATURES)
    np.testing.assert_array_equal(np.asarray(ours["bias"]).reshape(4, features)[:, 0], theirs[:, 0])
    np.testing.assert_array_equal(ours["bias"], np.repeat([0, 1, 0, 0], features))
