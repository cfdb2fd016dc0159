"""The paper's Feedback U-Net with ConvLSTMs in Keras 3: its own layers, as a careful user would put them together.

Layers are shared by the rounds, batch normalisations are not. `load` copies the weights of the JAX network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops


def gate(x: Any) -> Any:
    """Return Keras 2's hard sigmoid, clip(0.2 x + 0.5, 0, 1)."""
    return ops.clip(0.2 * x + 0.5, 0, 1)


def build(size: int, classes: int, widths: Sequence[int], *, rounds: int = 2) -> keras.Model:
    """Return `[N, size, size, 1]` -> a list with the logits `[N, size, size, K]` of every round."""
    last = len(widths) - 1
    shared: dict[str, layers.Layer] = {}

    def layer(name: str, make: Any) -> layers.Layer:
        if name not in shared:
            shared[name] = make(name=name)
        return shared[name]

    def block(x: Any, name: str, features: int, states: dict[str, Any], index: int, recurrent: bool) -> Any:
        if recurrent:
            cell = layer(
                name,
                lambda name: layers.ConvLSTM2D(
                    features, 3, padding="same", recurrent_activation=gate, return_state=True, name=name
                ),
            )
            x, *states[name] = cell(ops.expand_dims(x, 1), initial_state=states.get(name))
        else:
            x = layer(name, lambda name: layers.Conv2D(features, 3, padding="same", name=name))(x)
        norm = layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_norm_round_{index}")
        return layers.Activation("relu", dtype=x.dtype)(norm(x))

    def double(x: Any, place: str, features: int, states: dict[str, Any], index: int, recurrent: bool) -> Any:
        for position in ("first", "second"):
            x = block(x, f"{place}_{position}", features, states, index, recurrent)
        return x

    images = keras.Input((size, size, 1))
    x, states, logits = ops.repeat(images, classes, axis=-1), {}, []
    for index in range(rounds):
        skips = []
        for level, features in enumerate(widths[:-1]):
            skips.append(double(x, f"encoder_{level}", features, states, index, level == 0))
            x = layers.MaxPooling2D(2)(skips[-1])
        x = double(x, "bottleneck", widths[-1], states, index, True)
        for level in reversed(range(last)):
            up = layer(f"up_{level}", lambda name, f=widths[level]: layers.Conv2DTranspose(f, 2, 2, name=name))
            x = layers.Concatenate()([up(x), skips[level]])
            x = double(x, f"decoder_{level}", widths[level], states, index, level == 0)
        output = layer("output", lambda name: layers.Conv2D(classes, 1, name=name))
        logits.append(layers.Activation("linear", dtype="float32")(output(x)))
        x = ops.softmax(logits[-1])
    return keras.Model(images, logits)


def weighted_loss(weights: Sequence[float]) -> Any:
    """Return the weighted cross-entropy of one round, of labels `[N, H, W]` and logits `[N, H, W, K]`."""

    def loss(labels: Any, logits: Any) -> Any:
        labels = ops.cast(labels, "int32")
        entropy = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return ops.mean(entropy * ops.take(ops.convert_to_tensor(weights, "float32"), labels), axis=(1, 2))

    return loss


def load(model: keras.Model, variables: Mapping[str, Any]) -> None:
    """Copy the parameters and running statistics of the JAX network's method feedback-convlstm."""
    params, statistics = variables["params"]["unet"], variables["batch_stats"]["unet"]
    for name, source in params.items():
        layer = model.get_layer(name)
        if "convlstm" in source:
            parts = [source["convlstm"][key] for key in ("kernel", "recurrent_kernel", "bias")]
        elif name.startswith("up_"):
            # Flax correlates with the kernel, Keras spreads it: one is the other turned by half a circle
            parts = [np.asarray(source["kernel"])[::-1, ::-1].transpose(0, 1, 3, 2), source["bias"]]
        else:
            parts = [source.get("conv", source)[key] for key in ("kernel", "bias")]
        layer.set_weights([np.asarray(part) for part in parts])
        for norm in (key for key in source if key.startswith("norm_round_")):
            values = [source[norm]["scale"], source[norm]["bias"]]
            values += [statistics[name][norm]["mean"], statistics[name][norm]["var"]]
            model.get_layer(f"{name}_{norm}").set_weights([np.asarray(value) for value in values])
