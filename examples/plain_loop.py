"""The network in a training loop of your own: Flax variables, an Optax optimizer, one jitted step."""

import jax
import jax.numpy as jnp
import optax

from fbunet_jax import build_method, load_config, load_dataset, losses, metrics

data = load_dataset(load_config("quickstart", data={"synthetic_images": 12, "synthetic_size": 64}))
images = jnp.stack(data.images) / 255.0  # [N, H, W, C]
labels = jnp.stack(data.labels).astype(jnp.int32)  # [N, H, W]

network = build_method("feedback-convlstm", classes=4, channels=1, widths=(8, 16, 32), momentum=0.9)
loss = losses.CrossEntropy() + 0.5 * losses.SoftDice()
optimizer = optax.adam(1e-2)
variables = network.init(jax.random.key(0), images[:1], train=False)
state = optimizer.init(variables["params"])


@jax.jit
def step(variables, state, images, labels):
    def objective(params):
        logits, updated = network.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
        first, second = loss(logits, labels)  # one value a round
        return 0.5 * first + second, updated

    (value, updated), gradients = jax.value_and_grad(objective, has_aux=True)(variables["params"])
    updates, state = optimizer.update(gradients, state)
    return {"params": optax.apply_updates(variables["params"], updates), **updated}, state, value


for number in range(60):
    batch = jax.random.choice(jax.random.key(number), 10, (4,), replace=False)
    variables, state, value = step(variables, state, images[batch], labels[batch])
    if number % 10 == 9:
        print(f"step {number + 1}: loss {value:.3f}")

predicted = network.apply(variables, images[10:], train=False)[-1].argmax(axis=-1)  # the last round
print("IoU of two other images:", metrics.iou(metrics.confusion_matrix(labels[10:], predicted, classes=4)).round(2))
