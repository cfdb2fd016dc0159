"""A network of your own, trained on arrays in memory with folds, checkpoints, evaluation and report.

Any Flax Linen module will do whose ``apply(variables, images, train=...)`` returns logits: [N, H, W, K] for one round,
[R, N, H, W, K] for several.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fbunet_jax import Dataset, evaluate, load, load_config, train


class Dilated(nn.Module):
    """Convolutions at full resolution whose taps lie further and further apart (Yu and Koltun 2016)."""

    classes: int
    features: int = 8
    momentum: float = 0.9
    axis_name: str | None = None  # set in training: batch statistics over all devices
    multiple: int = 1  # height and width of the images can be anything

    @nn.compact
    def __call__(self, images, *, train):
        """Return logits `[N, H, W, K]` of images `[N, H, W, C]`."""
        x = images
        for dilation in (1, 2, 4, 8):
            x = nn.Conv(self.features, (3, 3), kernel_dilation=dilation)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum, axis_name=self.axis_name)(x)
            x = nn.relu(x)
        return nn.Conv(self.classes, (1, 1))(x).astype(jnp.float32)


random = np.random.default_rng(0)
rows, columns = np.mgrid[:60, :60]
images, labels = [], []
for _ in range(12):  # discs on a noisy background
    centres, radii = random.uniform(0, 60, (5, 2)), random.uniform(4, 9, 5)
    discs = [np.hypot(rows - y, columns - x) < radius for (y, x), radius in zip(centres, radii, strict=True)]
    labels.append(np.any(discs, axis=0).astype(np.uint8))
    images.append(np.clip(80 + 60 * labels[-1] + random.normal(0, 30, (60, 60)), 0, 255).astype(np.uint8))
data = Dataset.from_arrays(images, labels, class_names=("background", "disc"))

config = load_config(
    "quickstart",
    name="discs",
    data={"crop": 48, "folds": 3},
    training={"epochs": 20, "batch_size": 4, "validate_every": 5, "previews": 2},
)
network = Dilated(classes=2)
for fold in range(config.data.folds):
    result = train(config, fold, dataset=data, model=network)
evaluation = evaluate(result.run, dataset=data, model=network, report=True)
print(f"Mean IoU over {len(evaluation['folds'])} folds: {evaluation['mean']['mean_iou']:.3f}; {result.run}/report.html")

prediction = load(result.run, model=network).predict(images[0])
print("Pixels of each class:", np.bincount(prediction.labels.ravel(), minlength=2))
