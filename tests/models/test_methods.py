import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fbunet_jax.errors import ModelError
from fbunet_jax.models.build import build_method
from fbunet_jax.models.contract import abstract_variables, count_parameters
from fbunet_jax.models.methods import METHODS

CLASSES = 4

# Golden counts for one image channel and four classes: (all, of which used). They differ where a ConvLSTM runs for one
# round only: its recurrent kernel and its forget gate meet nothing but zeros.
COUNTS = {
    "unet": (487_172, 487_172),
    "unet-wide": (2_354_214, 2_354_214),
    "ru-net": (980_868, 980_868),
    "feedback-recurrent": (788_380, 788_380),
    "feedback-conv": (488_860, 488_860),
    "feedback-convlstm": (2_349_916, 2_349_916),
    "feedback-convlstm-a": (492_052, 492_052),
    "feedback-convlstm-b": (492_916, 492_916),
    "feedback-convlstm-c": (2_332_828, 2_332_828),
    "feedback-convlstm-d": (494_644, 494_644),
    "feedback-convlstm-e": (492_916, 492_916),
    "feedback-convlstm-abde": (505_948, 505_948),
    "convlstm-one-round": (2_348_444, 935_516),
    "convlstm-no-feedback": (2_349_052, 2_349_052),
}


def model_of(method, channels=1, **settings):
    return build_method(method, classes=CLASSES, channels=channels, **settings)


# The arithmetic, layer by layer, for widths 8, 16, 32, 64, 128: (letter of the paper, inputs, outputs).
def layers(inputs):
    return [
        ("a", inputs, 8),
        ("b", 8, 8),
        *[("", i, o) for i, o in [(8, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]],
        ("c", 64, 128),
        ("c", 128, 128),
        # a decoder level meets the deconvolution's channels and as many from the skip connection
        *[("", i, o) for i, o in [(128, 64), (64, 64), (64, 32), (32, 32), (32, 16), (16, 16)]],
        ("d", 16, 8),
        ("e", 8, 8),
    ]


DECONVOLUTIONS = sum(2 * 2 * i * o + o for i, o in [(128, 64), (64, 32), (32, 16), (16, 8)])
OUTPUT = 8 * CLASSES + CLASSES
CHANNELS_NORMALISED = 4 * (8 + 16 + 32 + 64) + 2 * 128
"""Two layers a level in the encoder, in the decoder, and in the bottleneck; scale and bias for each channel."""


def convolutional_parameters(inputs, convlstm="", recurrent=""):
    total = DECONVOLUTIONS + OUTPUT
    for letter, i, o in layers(inputs):
        total += 9 * i * o + o
        if letter and letter in convlstm:
            # four gates instead of one, and a kernel from the hidden state to each of them
            total += 3 * (9 * i * o + o) + 4 * 9 * o * o
        if recurrent == "*" or (letter and letter in recurrent):
            total += 9 * o * o
    return total


def norm_parameters(rounds, recurrent=""):
    channels = CHANNELS_NORMALISED
    # a recurrent convolution normalises at its three time steps
    channels += sum(2 * o for letter, _, o in layers(1) if recurrent == "*" or (letter and letter in recurrent))
    return 2 * channels * rounds


@pytest.mark.parametrize(
    ("method", "convolutions", "norms"),
    [
        ("unet", convolutional_parameters(1), norm_parameters(1)),
        ("ru-net", convolutional_parameters(1, recurrent="*"), norm_parameters(1, "*")),
        ("feedback-recurrent", convolutional_parameters(4, recurrent="abcde"), norm_parameters(2, "abcde")),
        ("feedback-conv", convolutional_parameters(4), norm_parameters(2)),
        ("feedback-convlstm", convolutional_parameters(4, "abcde"), norm_parameters(2)),
        *[
            (f"feedback-convlstm-{letters}", convolutional_parameters(4, letters), norm_parameters(2))
            for letters in ("a", "b", "c", "d", "e", "abde")
        ],
        # the image of round 1 is repeated to 4 channels; the control without feedback takes its one channel as it is
        ("convlstm-one-round", convolutional_parameters(4, "abcde"), norm_parameters(1)),
        ("convlstm-no-feedback", convolutional_parameters(1, "abcde"), norm_parameters(2)),
    ],
)
def test_parameter_counts_are_the_sum_over_the_layers_written_out_by_hand(method, convolutions, norms):
    assert convolutions + norms == COUNTS[method][0]
    tree = flatten_dict(abstract_variables(model_of(method), 1)["params"], sep="/")
    in_norms = sum(math.prod(leaf.shape) for path, leaf in tree.items() if "norm_round" in path)
    assert in_norms == norms
    assert sum(math.prod(leaf.shape) for leaf in tree.values()) - in_norms == convolutions


def test_the_counts_without_batch_norm_are_those_of_the_design():
    assert convolutional_parameters(1) == 485_700
    assert convolutional_parameters(4, "abcde") == 2_346_972
    # RU-Net: U-Net's and one more 3x3 kernel, o to o, in each of the 18 layers
    widths = [8, 16, 32, 64]
    assert sum(9 * o * o for _, _, o in layers(1)) == 9 * (4 * sum(w * w for w in widths) + 2 * 128 * 128) == 490_752
    assert convolutional_parameters(1, recurrent="*") == 485_700 + 490_752 == 976_452


def unused_slices(method):
    """Return which parameters the logits of a network of two levels do not depend on: path, and gate of a ConvLSTM."""
    model = model_of(method, widths=(2, 2))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    random = np.random.default_rng(1)
    # away from the flat ends of the gates and of ReLU, where a gradient vanishes though the parameter is used
    variables = jax.tree.map(
        lambda leaf: jnp.float32(random.normal(0, 0.3, leaf.shape) + (leaf.ndim == 1)), abstract_variables(model, 1)
    )
    variables["batch_stats"] = jax.tree.map(jnp.ones_like, variables["batch_stats"])

    def loss(params):
        return (model.apply(variables | {"params": params}, images, train=False) ** 2).sum()

    gradients = flatten_dict(jax.grad(loss)(variables["params"]), sep="/")
    unused = set()
    for path, gradient in gradients.items():
        gates = ("i", "f", "c", "o") if "convlstm" in path else ("all",)
        parts = np.split(np.asarray(gradient), len(gates), axis=-1)
        unused |= {(path, gate) for gate, part in zip(gates, parts, strict=True) if not part.any()}
    return unused


@pytest.mark.parametrize("method", [method for method in COUNTS if method != "unet-wide"])
def test_used_parameters_are_those_with_a_gradient(method):
    unused = unused_slices(method)
    full = flatten_dict(abstract_variables(model_of(method), 1)["params"], sep="/")
    number = sum(math.prod(full[path].shape) // (1 if gate == "all" else 4) for path, gate in unused)

    assert (count_parameters(model_of(method), 1), count_parameters(model_of(method), 1) - number) == COUNTS[method]
    if method != "convlstm-one-round":
        assert unused == set()
    else:
        # by hand: the recurrent kernels, all four gates, and the forget gate's part of the input kernel and bias
        lstms = [(i, o) for letter, i, o in layers(CLASSES) if letter]
        assert number == sum(4 * 9 * o * o + 9 * i * o + o for i, o in lstms)


def test_unet_wide_has_the_parameters_of_the_papers_method_within_1_percent():
    model = model_of("unet-wide")
    wanted = COUNTS["feedback-convlstm"][0]

    assert model.widths == (18, 35, 70, 141, 282)
    assert count_parameters(model, 1) == COUNTS["unet-wide"][0]
    assert abs(COUNTS["unet-wide"][0] - wanted) < 0.01 * wanted
    assert model_of("unet", widths=model.widths) == model


@pytest.mark.parametrize(("widths", "channels"), [((16, 32, 64), 3), ((32, 32, 32), 1), ((12, 24), 1)])
def test_unet_wide_follows_the_configured_widths(widths, channels):
    wide = count_parameters(model_of("unet-wide", channels, widths=widths), channels)
    wanted = count_parameters(model_of("feedback-convlstm", widths=widths), 1)
    assert wide == pytest.approx(wanted, rel=0.01)


def test_every_method_of_the_table_is_counted_here_and_described_apart():
    assert set(COUNTS) == set(METHODS)
    assert len({method.description for method in METHODS.values()}) == len(METHODS)


def test_one_round_of_feedback_conv_is_the_plain_unet():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, CLASSES)), jnp.float32)
    one_round = model_of("feedback-conv", CLASSES, rounds=1, widths=(2, 3))
    plain = model_of("unet", CLASSES, widths=(2, 3))
    variables = jax.jit(lambda key: plain.init(key, images, train=False))(jax.random.key(3))

    ours, our_stats = one_round.apply(variables, images, train=True, mutable=["batch_stats"])
    theirs, their_stats = plain.apply(variables, images, train=True, mutable=["batch_stats"])

    np.testing.assert_array_equal(ours, theirs)
    jax.tree.map(np.testing.assert_array_equal, our_stats, their_stats)
    assert ours.shape[0] == 1


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.rounds == 1])
def test_rounds_cannot_be_set_for_methods_of_one_round(method):
    with pytest.raises(ModelError, match=rf"Method '{method}' has one round, and rounds = 2 was given") as error:
        model_of(method, rounds=2)
    assert error.value.field == "rounds"


@pytest.mark.parametrize("method", ["unet", "unet-wide", "ru-net"])
@pytest.mark.parametrize("feedback", ["concat", "replace"])
def test_feedback_cannot_be_set_for_methods_without(method, feedback):
    with pytest.raises(ModelError, match=rf"Method '{method}' has no feedback.*{feedback}"):
        model_of(method, feedback=feedback)


def test_fields_reach_the_network_and_override_the_method():
    model = model_of(
        "feedback-convlstm",
        2,
        rounds=3,
        feedback="concat",
        widths=(4, 6),
        gate_activation="sigmoid",
        momentum=0.9,
        epsilon=1e-5,
        dtype="bfloat16",
    )
    assert (model.rounds, model.feedback, model.widths, model.classes) == (3, "concat", (4, 6), CLASSES)
    assert (model.gate_activation, model.momentum, model.epsilon) == ("sigmoid", 0.9, 1e-5)
    assert model.dtype == jnp.bfloat16
    assert abstract_variables(model, 2)["params"]["unet"]["encoder_0_first"]["convlstm"]["kernel"].shape[2] == 2 + 4


@pytest.mark.parametrize("method", ["feedback-convlstm", "feedback-conv", "convlstm-one-round"])
def test_channels_that_do_not_fit_the_feedback_are_refused_when_the_network_is_built(method):
    with pytest.raises(ModelError, match=r"3 channels and there are 4 classes.*concat"):
        model_of(method, 3)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("feedback-convlsm", {}, "'feedback-convlsm' is not a method. Did you mean 'feedback-convlstm'?"),
        ("unet", {"width": (2, 4)}, "no field 'width'. Did you mean 'widths'?"),
        ("unet", {"convlstm": "a"}, "convlstm is what sets method 'unet' apart"),
        (
            "feedback-conv",
            {"feedback": "concatenate"},
            "feedback = 'concatenate': expected one of replace, ",
        ),
        ("feedback-conv", {"widths": (4,)}, "widths = (4,): expected at least two levels"),
        ("feedback-conv", {"rounds": 0}, "rounds = 0: expected a whole number of at least 1"),
        (
            "feedback-conv",
            {"gate_activation": "relu"},
            "gate_activation = 'relu': expected one of hard_sigmoid",
        ),
    ],
)
def test_a_mistake_in_a_name_or_field_is_a_sentence_without_words_of_the_command_line(name, fields, words):
    with pytest.raises(ModelError) as error:
        model_of(name, **fields)
    assert words in str(error.value)
    assert "--" not in str(error.value)
    assert "model." not in str(error.value)


def test_a_feedback_of_ones_own_goes_into_any_method_of_several_rounds():
    def nothing(images, probabilities):
        del probabilities
        return images

    assert model_of("feedback-conv", 3, feedback=nothing).feedback is nothing
    with pytest.raises(ModelError, match="has no feedback"):
        model_of("unet", feedback=nothing)
