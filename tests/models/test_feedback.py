import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from fbunet_jax.errors import ModelError
from fbunet_jax.models.feedback import feature_maps, round_inputs
from fbunet_jax.models.unet import UNet
from tests.models.small_network import CLASSES, EPSILON, MOMENTUM, abstract, make_model, random_variables, recorded


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(7).normal(size=(2, 4, 6, 1)), jnp.float32)


@pytest.fixture(scope="module")
def convlstm(images):
    model = make_model()
    return model, random_variables(model, images)


@pytest.fixture(scope="module")
def plain(images):
    """Return the model without ConvLSTMs: a round knows of the one before only what is fed back."""
    model = make_model(convlstm="")
    return model, random_variables(model, images, seed=1)


def test_two_rounds_are_one_pass_its_softmax_and_a_second_pass_with_the_states(convlstm, images):
    model, variables = convlstm
    norm = partial(nn.BatchNorm, use_running_average=True, epsilon=EPSILON)
    unet = UNet(CLASSES, (2, 3), "abcde", "", "hard_sigmoid", norm, jnp.float32)
    of_unet = {collection: tree["unet"] for collection, tree in variables.items()}

    first, states = unet.apply(of_unet, jnp.repeat(images, CLASSES, axis=-1), {}, 0)
    exponentials = np.exp(np.asarray(first, np.float64))
    maps = jnp.float32(exponentials / exponentials.sum(axis=-1, keepdims=True))
    second, _ = unet.apply(of_unet, maps, states, 1)
    forgetful, _ = unet.apply(of_unet, maps, {}, 1)

    logits = model.apply(variables, images, train=False)
    np.testing.assert_allclose(logits[0], first, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits[1], second, rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(logits[1] - forgetful).max()) > 1e-2


@pytest.mark.parametrize(("rounds", "dtype"), [(1, "float32"), (2, "float32"), (3, "float32"), (2, "bfloat16")])
def test_logits_are_r_n_h_w_k_in_float32(images, rounds, dtype):
    model = make_model(rounds=rounds, dtype=jnp.dtype(dtype))
    apply = partial(model.apply, train=False)
    logits = jax.eval_shape(apply, abstract(model, images), images)

    assert logits.shape == (rounds, 2, 4, 6, CLASSES)
    assert logits.dtype == jnp.float32


def test_bfloat16_gives_nearly_the_logits_of_float32(convlstm, images):
    model, variables = convlstm
    exact = model.apply(variables, images, train=False)
    rough = make_model(dtype=jnp.bfloat16).apply(variables, images, train=False)

    difference = float(jnp.abs(exact - rough).max())
    assert 0 < difference < 0.05 * float(jnp.abs(exact).max())


@pytest.mark.parametrize("settings", [{"convlstm": "abcde"}, {"convlstm": "", "recurrent": "abcde"}])
def test_every_further_round_adds_batch_norms_and_nothing_else(images, settings):
    def shapes(rounds):
        tree = abstract(make_model(rounds=rounds, **settings), images)
        return {"/".join(path): leaf.shape for path, leaf in flatten_dict(tree).items()}

    before = shapes(1)
    for rounds in (2, 3):
        now = shapes(rounds)
        assert {path: now[path] for path in before} == before
        added = {path: shape for path, shape in now.items() if path not in before}
        index = f"norm_round_{rounds - 1}"
        assert added == {
            path.replace("norm_round_0", index): shape for path, shape in before.items() if "norm_round_0" in path
        }
        before = now


def test_training_sets_the_statistics_of_every_norm_of_every_round_from_what_that_round_puts_in(convlstm, images):
    model, variables = convlstm
    calls, logits, updated = recorded(model, variables, images, nn.BatchNorm, train=True)

    old, new = (flatten_dict(v["batch_stats"], sep="/") for v in (variables, updated))
    assert set(new) == set(old) == {f"{path}/{key}" for path in calls for key in ("mean", "var")}
    assert len(calls) == 2 * 6
    for path, seen in calls.items():
        ((inputs,),) = seen
        values = np.asarray(inputs, np.float64).reshape(-1, inputs.shape[-1])
        # divided by the number of pixels, not by one less
        for key, of_batch in (("mean", values.mean(axis=0)), ("var", values.var(axis=0))):
            expected = MOMENTUM * np.asarray(old[f"{path}/{key}"]) + (1 - MOMENTUM) * of_batch
            np.testing.assert_allclose(new[f"{path}/{key}"], expected, rtol=1e-5, atol=1e-6)

    means = {path: np.asarray(new[f"{path}/mean"] - MOMENTUM * old[f"{path}/mean"]) for path in calls}
    for path in calls:
        if "norm_round_0" in path:
            assert np.abs(means[path] - means[path.replace("round_0", "round_1")]).max() > 1e-3
    assert logits.shape[0] == 2


def test_the_statistics_of_the_first_layer_are_those_computed_by_hand(plain, images, convolve_by_hand):
    model, variables = plain
    logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    conv = jax.tree.map(np.asarray, variables["params"]["unet"]["encoder_0_first"]["conv"])
    old = variables["batch_stats"]["unet"]["encoder_0_first"]
    new = updated["batch_stats"]["unet"]["encoder_0_first"]

    maps = [np.repeat(np.asarray(images), CLASSES, axis=-1), jax.nn.softmax(logits[0])]
    for r, inputs in enumerate(maps):
        values = convolve_by_hand(inputs, conv["kernel"]) + conv["bias"]
        mean = values.mean(axis=(0, 1, 2))
        variance = ((values - mean) ** 2).mean(axis=(0, 1, 2))
        name = f"norm_round_{r}"
        for key, of_batch in (("mean", mean), ("var", variance)):
            expected = 0.9 * np.asarray(old[name][key]) + 0.1 * of_batch
            np.testing.assert_allclose(new[name][key], expected, rtol=1e-4, atol=1e-5)


def test_evaluation_uses_the_running_statistics_of_the_round(plain, images):
    model, variables = plain
    logits = model.apply(variables, images, train=False)
    changed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 0.5 if "norm_round_1" in jax.tree_util.keystr(path) else leaf,
        variables["batch_stats"],
    )

    after = model.apply(variables | {"batch_stats": changed}, images, train=False)

    np.testing.assert_array_equal(after[0], logits[0])
    assert float(jnp.abs(after[1] - logits[1]).max()) > 1e-2


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("feedback", ["concat", "image"])
def test_round_inputs_of_any_number_of_channels(feedback, channels):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, channels)), jnp.float32)
    model = make_model(feedback=feedback, convlstm="")
    calls, logits, _ = recorded(model, random_variables(model, images), images, UNet, train=False)
    (first, *_), (second, *_) = calls["unet"]

    if feedback == "image":
        np.testing.assert_array_equal(first, images)
        np.testing.assert_array_equal(second, images)
    else:
        np.testing.assert_array_equal(first, np.concatenate([images, np.zeros((1, 2, 2, CLASSES))], axis=-1))
        np.testing.assert_array_equal(second[..., :channels], images)
        np.testing.assert_allclose(second[..., channels:], jax.nn.softmax(logits[0]), rtol=1e-6)


@pytest.mark.parametrize("channels", [1, CLASSES])
def test_replace_feeds_the_image_first_and_only_the_maps_afterwards(channels):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, channels)), jnp.float32)
    model = make_model(rounds=3, convlstm="")
    calls, logits, _ = recorded(model, random_variables(model, images), images, UNet, train=False)
    first, second, third = (args[0] for args in calls["unet"])

    np.testing.assert_array_equal(first, images if channels == CLASSES else np.repeat(images, CLASSES, axis=-1))
    np.testing.assert_allclose(second, jax.nn.softmax(logits[0]), rtol=1e-6)
    np.testing.assert_allclose(third, jax.nn.softmax(logits[1]), rtol=1e-6)
    assert [args[2] for args in calls["unet"]] == [0, 1, 2]


@pytest.mark.parametrize("channels", [2, 4])
def test_replace_with_other_channels_is_an_error_that_names_concat(channels):
    message = f"{channels} channels and there are 3 classes.*1 or 3 channels.*Use feedback 'concat'"
    with pytest.raises(ModelError, match=message):
        round_inputs(jnp.zeros((1, 2, 2, channels)), None, "replace", CLASSES)
    with pytest.raises(ModelError, match=re.compile("concat")):
        abstract(make_model(), jnp.zeros((1, 2, 2, channels)))


def test_gradients_flow_through_the_fed_back_maps(plain, images):
    """The norms of round 1 act on round 2 only by way of the maps."""

    def gradient(model, variables):
        def last_round(params):
            return (model.apply(variables | {"params": params}, images, train=False)[-1] ** 2).sum()

        gradients = flatten_dict(jax.jit(jax.grad(last_round))(variables["params"]), sep="/")
        return {path: float(jnp.abs(g).max()) for path, g in gradients.items() if "norm_round_0" in path}

    fed_back = gradient(*plain)
    assert min(fed_back.values()) > 0

    control = make_model(convlstm="", feedback="image")
    not_fed_back = gradient(control, random_variables(control, images))
    assert max(not_fed_back.values()) == 0


def test_feature_maps_are_the_summed_relu_of_the_round(plain, images, convolve_by_hand):
    model, variables = plain
    logits = model.apply(variables, images, train=False)
    layer, stats = (
        jax.tree.map(np.asarray, variables[collection]["unet"]["encoder_0_first"])
        for collection in ("params", "batch_stats")
    )
    inputs = [np.repeat(np.asarray(images), CLASSES, axis=-1), jax.nn.softmax(logits[0])]

    for r in range(2):
        y = convolve_by_hand(inputs[r], layer["conv"]["kernel"]) + layer["conv"]["bias"]
        norm, running = layer[f"norm_round_{r}"], stats[f"norm_round_{r}"]
        y = (y - running["mean"]) / np.sqrt(running["var"] + EPSILON) * norm["scale"] + norm["bias"]
        expected = np.maximum(y, 0).sum(axis=-1)
        maps = feature_maps(model, variables, images, r)
        np.testing.assert_allclose(maps["encoder_0_first"], expected, rtol=1e-4, atol=1e-4)

    last = feature_maps(model, variables, images)
    np.testing.assert_array_equal(last["encoder_0_first"], maps["encoder_0_first"])
    places = ("encoder_0", "bottleneck", "decoder_0")
    assert {name: array.shape for name, array in last.items()} == {
        f"{place}_{position}": (2, 2, 3) if place == "bottleneck" else (2, 4, 6)
        for place in places
        for position in ("first", "second")
    }
    assert all(array.dtype == jnp.float32 for array in last.values())


def test_a_pixel_reaches_107_pixels_along_a_row_in_one_round_and_203_in_two():
    """One bright pixel in each of the 16 places on the grid of the pooling, and where the logits change.

    Kernels of ones along rows cancel nothing. The first layer's bias takes 0.5 away, which is the grey of the image and
    the probability of either class: all else is exactly 0 where the pixel is not felt.
    """
    model = make_model(classes=2, widths=(1,) * 5)
    width, first = 512, 240
    images = np.full((16, 16, width, 1), 0.5, np.float32)
    images[range(16), :, range(first, first + 16)] = 1

    def weight(path, leaf):
        *place, name = (entry.key for entry in path)
        value = np.zeros(leaf.shape, np.float32)
        if name in ("scale", "var"):
            value[:] = 1
        elif place[-1] == "output":
            value[..., 0] = name == "kernel"
        elif "kernel" in name:
            candidate = slice(2, 3) if place[-1] == "convlstm" else slice(None)  # the other gates stay at one half
            value[1 if leaf.shape[0] == 3 else slice(None), :, :, candidate] = 1
        elif place[-1] == "convlstm" and "encoder_0_first" in place:
            value[2] = -0.5 * 3 * model.classes
        return jnp.asarray(value)

    variables = jax.tree_util.tree_map_with_path(weight, abstract(model, jnp.asarray(images[:1])))
    logits = np.asarray(jax.jit(partial(model.apply, train=False))(variables, images))[..., 0]

    def reach(logits):
        image, _, column = np.nonzero(logits[:, :, 32:-32])
        return int(np.abs(column + 32 - first - image).max())

    assert [reach(of_round) for of_round in logits] == [107, 203]


@pytest.mark.parametrize("method", [{"convlstm": "abcde"}, {"convlstm": "", "recurrent": "*", "rounds": 1}])
def test_rematerialisation_changes_memory_and_neither_loss_statistics_nor_gradients(method):
    images = jnp.asarray(np.random.default_rng(3).normal(size=(2, 64, 64, 1)), jnp.float32)
    plain, remat = (make_model(widths=(4, 6), **method, rematerialise=on) for on in (False, True))
    variables = random_variables(plain, images)
    assert jax.tree.structure(abstract(remat, images)) == jax.tree.structure(variables)

    def step(model):
        def loss(params):
            variables_now = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, updated = model.apply(variables_now, images, train=True, mutable=["batch_stats"])
            return jnp.square(logits).mean(), updated

        # what a gradient function holds is what is kept between the forward and the backward pass
        held = jax.eval_shape(lambda params: jax.vjp(loss, params, has_aux=True)[1], variables["params"])
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"]), size

    (expected, kept), (found, rematerialised) = step(plain), step(remat)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-3 * float(jnp.abs(b).max()))
    assert rematerialised < kept / 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"convlstm": "abx"}, "convlstm = 'abx' has x: expected letters of 'abcde'"),
        ({"recurrent": "f"}, "recurrent = 'f' has f"),
        ({"rounds": 0}, "rounds = 0"),
        ({"feedback": "replaced"}, "Did you mean 'replace'"),
        ({"feedback": 3}, "feedback = 3: expected one of replace, concat, image, or a function or module"),
    ],
)
def test_a_field_that_cannot_be_is_refused_when_the_network_is_described(fields, words):
    with pytest.raises(ModelError, match=words):
        make_model(**fields)
