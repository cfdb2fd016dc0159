"""The peers of the benchmark are the same network: same weights, same logits and loss in every round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbunet_jax.config import Config, ModelConfig
from fbunet_jax.losses import CrossEntropy, round_weights
from fbunet_jax.networks import build_network

WIDTHS = (2, 3, 4)
SIZE, CLASSES = 32, 4
WEIGHTS = np.array([0.5, 1.0, 2.0, 8.0], np.float32)


@pytest.fixture(scope="module")
def ours():
    """Return variables with random statistics, images, labels, and our logits and loss in evaluation mode."""
    model = build_network(Config(model=ModelConfig(widths=WIDTHS)), classes=CLASSES, channels=1)
    random = np.random.default_rng(0)
    images = random.normal(size=(2, SIZE, SIZE, 1)).astype(np.float32)
    labels = random.integers(0, CLASSES, (2, SIZE, SIZE)).astype(np.int32)
    variables = jax.jit(lambda key: model.init(key, jnp.asarray(images), train=False))(jax.random.key(0))
    variables = jax.tree.map(lambda leaf: np.asarray(leaf) + random.uniform(0, 0.5, leaf.shape), variables)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    losses = CrossEntropy(WEIGHTS)(logits, jnp.asarray(labels))
    return variables, images, labels, np.asarray(logits), float((losses * round_weights(2, 0.5)).sum())


def test_keras_has_our_logits_and_loss(ours):
    from benchmarks.peers import keras_unet

    variables, images, labels, logits, loss = ours
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as Keras is written
        model = keras_unet.build(SIZE, CLASSES, WIDTHS)
        keras_unet.load(model, variables)
        found = [np.asarray(each) for each in model(images, training=False)]
        losses = [float(np.mean(keras_unet.weighted_loss(WEIGHTS.tolist())(labels, each))) for each in found]
    np.testing.assert_allclose(found, logits, atol=1e-4)
    assert 0.5 * losses[0] + losses[1] == pytest.approx(loss, abs=1e-4)


@pytest.mark.long
def test_torch_has_our_logits_and_loss(ours):
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_unet

    variables, images, labels, logits, loss = ours
    model = torch_unet.FeedbackUNet(CLASSES, WIDTHS).eval()
    torch_unet.load(model, variables)
    with torch.no_grad():
        found = model(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(found.permute(0, 1, 3, 4, 2).numpy(), logits, atol=1e-4)
    labels = torch.from_numpy(labels.astype(np.int64))
    assert float(torch_unet.loss(found, labels, torch.from_numpy(WEIGHTS))) == pytest.approx(loss, abs=1e-4)
