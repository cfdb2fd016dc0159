import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from fbunet_jax.errors import UserError
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.models.unet import UNet, check_size

EPSILON = 1e-3


def make_unet(widths, convlstm="", recurrent="", dtype=jnp.float32):
    norm = partial(nn.BatchNorm, use_running_average=True, epsilon=EPSILON, dtype=dtype)
    return UNet(3, widths, convlstm, recurrent, "hard_sigmoid", norm, dtype)


def abstract(model, shape):
    """Return shapes of the variables and of the output, without computing."""
    apply = partial(model.init_with_output, states={}, round_index=0)
    (logits, states), variables = jax.eval_shape(apply, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    return logits, states, variables


def random_values(tree, seed=0):
    """Fill a tree of shapes: kernels around 0, everything else (scales, variances, biases) above it."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: np.float32(
            random.normal(0, 0.4, leaf.shape) if leaf.ndim > 1 else random.uniform(0.2, 1, leaf.shape)
        ),
        tree,
    )


def test_a_pass_equals_the_network_written_out_in_numpy(convolve_by_hand):
    model = make_unet((2, 3, 4))
    images = np.random.default_rng(1).normal(size=(2, 8, 12, 5))
    variables = random_values(abstract(model, images.shape)[2])
    params, stats = variables["params"], variables["batch_stats"]

    def layer(x, name):
        conv, norm = params[name]["conv"], params[name]["norm_round_0"]
        mean, variance = (stats[name]["norm_round_0"][key] for key in ("mean", "var"))
        y = convolve_by_hand(x, conv["kernel"]) + conv["bias"]
        return np.maximum((y - mean) / np.sqrt(variance + EPSILON) * norm["scale"] + norm["bias"], 0)

    def double(x, place):
        return layer(layer(x, f"{place}_first"), f"{place}_second")

    def pool(x):
        return np.max([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)

    def deconvolve(x, name):
        kernel = params[name]["kernel"]
        n, height, width, _ = x.shape
        y = np.empty((n, 2 * height, 2 * width, kernel.shape[-1]))
        for i in range(2):
            for j in range(2):
                # Flax correlates with the spread-out input, so the kernel meets it mirrored
                y[:, i::2, j::2] = x @ kernel[1 - i, 1 - j]
        return y + params[name]["bias"]

    skip_0 = double(images, "encoder_0")
    skip_1 = double(pool(skip_0), "encoder_1")
    bottom = double(pool(skip_1), "bottleneck")
    up_1 = double(np.concatenate([deconvolve(bottom, "up_1"), skip_1], axis=-1), "decoder_1")
    up_0 = double(np.concatenate([deconvolve(up_1, "up_0"), skip_0], axis=-1), "decoder_0")
    expected = up_0 @ params["output"]["kernel"][0, 0] + params["output"]["bias"]

    logits, states = jax.jit(partial(model.apply, round_index=0))(variables, jnp.float32(images), {})

    assert states == {}
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("widths", [(1, 1), (8, 16), (3, 5, 7), (9, 4, 2), (2,) * 6])
def test_any_list_of_widths_makes_a_network_with_those_channels(widths):
    unit = 2 ** (len(widths) - 1)
    logits, _, variables = abstract(make_unet(widths), (2, unit, 3 * unit, 1))

    assert logits.shape == (2, unit, 3 * unit, 3)
    places = [f"encoder_{level}" for level in range(len(widths) - 1)] + ["bottleneck"]
    for place, width in zip(places, widths, strict=True):
        for position in ("first", "second"):
            assert variables["params"][f"{place}_{position}"]["conv"]["kernel"].shape[-1] == width


@pytest.mark.parametrize(
    ("letters", "layers"),
    [
        ("a", {"encoder_0_first"}),
        ("b", {"encoder_0_second"}),
        ("c", {"bottleneck_first", "bottleneck_second"}),
        ("d", {"decoder_0_first"}),
        ("e", {"decoder_0_second"}),
        ("abde", {"encoder_0_first", "encoder_0_second", "decoder_0_first", "decoder_0_second"}),
    ],
)
def test_letters_name_the_places_of_the_paper(letters, layers):
    shape = (1, 8, 8, 1)
    _, states, variables = abstract(make_unet((2, 3, 4), convlstm=letters), shape)
    _, _, recurrent = abstract(make_unet((2, 3, 4), recurrent=letters), shape)

    assert {name for name, layer in variables["params"].items() if "convlstm" in layer} == layers
    assert {name for name, layer in recurrent["params"].items() if "recurrent_conv" in layer} == layers
    assert set(states) == layers
    side = {"encoder": (8, 2), "decoder": (8, 2), "bottleneck": (2, 4)}
    for name, state in states.items():
        size, width = side[name.split("_")[0]]
        assert state.hidden.shape == state.cell.shape == (1, size, size, width)


def test_a_star_makes_every_3x3_layer_recurrent():
    _, _, variables = abstract(make_unet((2, 3, 4), recurrent="*"), (1, 8, 8, 1))

    layers = {name for name in variables["params"] if name.endswith(("first", "second"))}
    assert len(layers) == 2 * (3 + 2)
    assert all("recurrent_conv" in variables["params"][name] for name in layers)


def test_bfloat16_is_the_type_of_the_layers_but_not_of_parameters_or_logits(operations):
    model = make_unet((2, 3), convlstm="a", dtype=jnp.bfloat16)
    logits, states, variables = abstract(model, (1, 4, 4, 1))

    assert logits.dtype == jnp.float32
    assert states["encoder_0_first"].cell.dtype == jnp.bfloat16
    apply = partial(model.apply, states={}, round_index=0)
    jaxpr = jax.make_jaxpr(apply)(variables, jnp.zeros((1, 4, 4, 1)))
    convolutions = operations(jaxpr.jaxpr, "conv_general_dilated")
    deconvolutions = operations(jaxpr.jaxpr, "dot_general")
    assert (len(convolutions), len(deconvolutions)) == (2 * 3 + 1, 1)
    assert all(value.aval.dtype == jnp.bfloat16 for e in convolutions + deconvolutions for value in e.invars)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@given(height=st.integers(0, 300), width=st.integers(0, 300), unit=st.integers(1, 40))
def test_a_size_is_refused_exactly_when_it_is_no_multiple_and_the_sizes_named_fit(height, width, unit):
    if height and width and height % unit == 0 and width % unit == 0:
        check_size(height, width, unit)
        return
    with pytest.raises(UserError) as error:
        check_size(height, width, unit)
    side, size = re.search(r"its (height|width) (\d+)", str(error.value)).groups()
    assert int(size) == {"height": height, "width": width}[side]
    named = [int(n) for n in re.findall(r"\d+", str(error.value).split("sizes that fit are")[1])]
    neighbours = [n for n in range(unit, 400, unit) if abs(n - int(size)) < unit]
    assert named == (neighbours if int(size) else [unit])
    for fits in named:
        check_size(fits, fits, unit)


def test_a_wrong_size_is_refused_by_the_network_itself():
    model = FeedbackUNet(classes=3, widths=(2, 3, 4))
    with pytest.raises(UserError, match=r"20 x 30 pixels .* its width 30 .* multiple of 4.* are 28 or 32"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 20, 30, 1)), train=False))
