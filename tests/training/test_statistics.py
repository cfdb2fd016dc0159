"""Statistics of batch normalisation that belong to the weights that are validated, kept and used."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.config import TrainingConfig, load_config
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.evaluation.crossval import evaluate
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.pipeline.augment import make_augmentation
from fbunet_jax.pipeline.normalisation import Normalisation
from fbunet_jax.runs.checkpoints import FoldCheckpoints
from fbunet_jax.runs.directory import FoldDirectory, Run
from fbunet_jax.runs.processes import replicate
from fbunet_jax.runs.records import ValidationRecord, read_records
from fbunet_jax.runs.trained import load_trained_fold
from fbunet_jax.training.fold import train
from fbunet_jax.training.parallel import MappedStatistics
from fbunet_jax.training.setup import make_part
from fbunet_jax.training.state import create_state, make_optimizer

ITEMS = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [0, 2, 4, 6]], np.int32)


@pytest.fixture(scope="module")
def network():
    """A network whose running statistics are far from those of its weights, and images of the size of a crop."""
    model = FeedbackUNet(2, (3, 4), convlstm="", recurrent="", rounds=1, feedback="image", momentum=0.9)
    variables = model.init(jax.random.key(2), jnp.zeros((1, 16, 16, 1)), train=False)
    variables = {
        "params": variables["params"],
        "batch_stats": jax.tree.map(lambda leaf: leaf + 7, variables["batch_stats"]),
    }
    random = np.random.default_rng(0)
    images = tuple(random.integers(0, 256, (16, 16, 1)).astype(np.uint8) for _ in range(8))
    labels = tuple(np.zeros((16, 16), np.uint8) for _ in range(8))
    names = tuple("abcdefgh")
    part = make_part(Dataset(images, labels, names, names, ("x", "y")), np.arange(8), Normalisation("scale"), 16)
    return model, variables, images, part


def estimate(network, devices, augment="none"):
    model, variables, _, part = network
    used = jax.devices()[:devices]
    statistics = MappedStatistics(
        model, crop=16, augment=make_augmentation(augment), key=jax.random.key(5), devices=used
    )
    return statistics(*replicate((variables, part.store), used), ITEMS, 40)


def test_those_of_the_first_layer_are_numpys_of_its_outputs(network):
    _, variables, images, _ = network
    kernel, bias = (np.asarray(variables["params"]["unet"]["encoder_0_first"]["conv"][n]) for n in ("kernel", "bias"))
    means, variances = [], []
    for batch in ITEMS:
        padded = np.pad(np.stack([images[i] for i in batch]) / 255, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        outputs = np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias
        means.append(outputs.mean(axis=(0, 1, 2)))
        variances.append(outputs.var(axis=(0, 1, 2)))
    found = estimate(network, 1)["unet"]["encoder_0_first"]["norm_round_0"]
    np.testing.assert_allclose(found["mean"], np.mean(means, axis=0), rtol=1e-4)
    np.testing.assert_allclose(found["var"], np.mean(variances, axis=0), rtol=1e-4)


@pytest.mark.parametrize("augment", ["none", "dihedral"])
def test_they_do_not_depend_on_the_number_of_devices_nor_on_what_was_there_before(network, augment):
    model, variables, images, part = network
    one = estimate(network, 1, augment)
    elsewhere = {**variables, "batch_stats": jax.tree.map(lambda leaf: leaf * 3, variables["batch_stats"])}
    for other in (estimate(network, 4, augment), estimate((model, elsewhere, images, part), 1, augment)):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


SETTINGS = {
    "method": "unet",
    "data": {"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3},
    "model": {"widths": [2, 3], "batch_norm_momentum": 0.99},
    "training": {"epochs": 8, "batch_size": 8, "validate_every": 8, "previews": 0, "learning_rate": 0.02},
}


def trained(out, **training):
    config = load_config("quickstart", **{**SETTINGS, "training": SETTINGS["training"] | training})
    result = train(config, 0, out=out, stream=io.StringIO())
    (record,) = read_records(result.directory.metrics, ValidationRecord)
    return load_trained_fold(Run(out), 0), record


def test_what_is_validated_is_kept_and_evaluated(tmp_path):
    lagging, _ = trained(tmp_path / "running")
    own, record = trained(tmp_path / "own", norm_batches=4)
    for a, b in zip(*(jax.tree.leaves(each.variables["params"]) for each in (lagging, own)), strict=True):
        np.testing.assert_array_equal(a, b)
    # after three steps with momentum 0.99 the running mean is hardly on its way from 0
    mean = ["unet", "bottleneck_first", "norm_round_0", "mean"]
    before, now = (_at(each.variables["batch_stats"], mean) for each in (lagging, own))
    assert np.abs(now).max() > 10 * np.abs(before).max()
    (entry,) = evaluate(tmp_path / "own", split="validation")["folds"]
    assert entry["iou"] == pytest.approx(list(record["iou"].values()), abs=1e-3)


def test_averaged_weights_have_statistics_of_their_own_by_default(tmp_path):
    assert TrainingConfig(weight_average=0.9).norm_batch_count == 24
    assert TrainingConfig().norm_batch_count == 0
    averaged, _ = trained(tmp_path / "average", weight_average=0.9, norm_batches=3)
    last, _ = trained(tmp_path / "last", norm_batches=3)
    layer = ["unet", "encoder_0_first"]
    biases, means = (
        [_at(each.variables[part], [*layer, *path]) for each in (averaged, last)]
        for part, path in (("params", ["conv", "bias"]), ("batch_stats", ["norm_round_0", "mean"]))
    )
    assert not np.array_equal(*biases)
    # the same batches: the outputs of a convolution of standardised images differ by their kernels and biases alone
    kernels = [_at(each.variables["params"], [*layer, "conv", "kernel"]) for each in (averaged, last)]
    inner = np.abs(kernels[0] - kernels[1]).sum(axis=(0, 1, 2)) * 5 + np.abs(biases[0] - biases[1])
    assert 0 < np.abs(means[0] - means[1]).max() < inner.max()


def _at(tree, path):
    for name in path:
        tree = tree[name]
    return np.asarray(tree)


def test_the_average_of_a_checkpoint_of_an_earlier_version_is_found(tmp_path):
    model = FeedbackUNet(2, (3, 4), convlstm="", recurrent="", rounds=1, feedback="image")
    optimizer = make_optimizer(TrainingConfig(weight_average=0.9, gradient_clip=1.0), 10)
    state = create_state(model, optimizer, jax.random.key(0), 1)
    moments, average = state.optimizer_state
    average = average._replace(average=jax.tree.map(lambda leaf: leaf + 1, average.average))
    state = state._replace(optimizer_state=(moments, average))
    folder = FoldDirectory(tmp_path / "fold_0")
    with FoldCheckpoints(folder) as checkpoints:
        checkpoints.save(state.stored(), 3, 0.5)
    like = {"params": state.params, "batch_stats": state.batch_stats}
    with FoldCheckpoints(folder, read_only=True) as checkpoints:
        for used, expected in ((True, average.average), (False, state.params)):
            found = checkpoints.restore_variables(3, like, average=used)
            assert jax.tree.structure(found) == jax.tree.structure(like)
            for a, b in zip(jax.tree.leaves(found["params"]), jax.tree.leaves(expected), strict=True):
                np.testing.assert_array_equal(a, b)
