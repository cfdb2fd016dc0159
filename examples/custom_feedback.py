"""What a round sees of the round before: two functions and a learned gate in the place of the paper's feedback.

A feedback takes the images [N, H, W, C] and the class probabilities of the round before [N, H, W, K], which are None in
the first round. It returns the input of the round, with the same number of channels in every round.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fbunet_jax import FeedbackUNet, evaluate, load_config, train

CLASSES = 4


def entropy(images, probabilities):
    """The image, and where the round before was in doubt: the entropy of its class probabilities."""
    doubt = jnp.zeros_like(images[..., :1])
    if probabilities is not None:
        doubt = -(probabilities * jnp.log(probabilities + 1e-6)).sum(axis=-1, keepdims=True)
    return jnp.concatenate([images, doubt], axis=-1)


def quarter(images, probabilities):
    """The image, and the class probabilities at a quarter of the resolution."""
    maps = jnp.zeros((*images.shape[:-1], CLASSES))
    if probabilities is not None:
        coarse = nn.avg_pool(probabilities, (4, 4), strides=(4, 4))
        maps = jax.image.resize(coarse, maps.shape, method="bilinear")
    return jnp.concatenate([images, maps], axis=-1)


class Gate(nn.Module):
    """The image, and the class probabilities, weighted at every pixel by a gate that is learned."""

    @nn.compact
    def __call__(self, images, probabilities):
        """Return `[N, H, W, C + K]`."""
        maps = jnp.zeros((*images.shape[:-1], CLASSES)) if probabilities is None else probabilities
        gate = nn.sigmoid(nn.Conv(CLASSES, (3, 3))(jnp.concatenate([images, maps], axis=-1)))
        return jnp.concatenate([images, gate * maps], axis=-1)


config = load_config(
    "quickstart",
    name="custom-feedback",
    data={"synthetic_images": 10, "synthetic_size": 64, "crop": 64},
    training={"epochs": 60, "batch_size": 4, "validate_every": 20, "previews": 0},
)
for feedback in (entropy, quarter, Gate()):
    network = FeedbackUNet(classes=CLASSES, widths=(4, 8, 16), momentum=0.9, feedback=feedback)
    result = train(config, model=network)  # in a run directory of its own: runs/custom-feedback/...
    first, second = evaluate(result.run, model=network)["folds"][0]["rounds"]
    print(f"{result.run}: mean IoU {first['mean_iou']:.3f} in round 1, {second['mean_iou']:.3f} in round 2")
