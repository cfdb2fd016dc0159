"""Logits and loss of fixed weights on this device, beside those of the CPU here and of the CPU that wrote golden.json.

usage: python -m benchmarks.quarter_hour.golden SIZE RESULT

To write golden.json anew, where the network's definition has changed: python -m benchmarks.quarter_hour.golden write
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks.contender import CLASS_WEIGHTS, CLASSES, settings
from benchmarks.quarter_hour.sizes import SIZES, Size
from fbunet_jax.losses import CrossEntropy, round_weights
from fbunet_jax.models.contract import abstract_variables
from fbunet_jax.networks import build_network
from fbunet_jax.runs.files import write_atomically

TOLERANCES = {"float32": 1e-4, "mixed": 5e-2}
"""Of the logits, relative to the largest of them, and of the loss, relative to itself."""

FILE = Path(__file__).with_name("golden.json")

IMAGES, EVERY = 2, 97
"""How many images, and which of their logits golden.json keeps."""


class Golden(NamedTuple):
    """What the fixed weights give: logits `[R, N, H, W, K]` float32, and the loss of all rounds."""

    logits: NDArray[np.float32]
    loss: float

    def differences(self, other: "Golden") -> dict[str, float]:
        """Return the largest difference of the logits, and that of the loss, both relative to the other's."""
        logits = np.abs(self.logits - other.logits).max() / np.abs(other.logits).max()
        return {"logits": float(logits), "loss": abs(self.loss - other.loss) / abs(other.loss)}

    @property
    def sample(self) -> "Golden":
        """Those of the logits that golden.json keeps, `[n]`."""
        return Golden(self.logits.ravel()[::EVERY], self.loss)


def compute(size: Size, precision: str, device: jax.Device) -> Golden:
    """Compute them on a device, products of matrices in float32 as exact as it can.

    The weights come from NumPy's legacy generator, whose numbers never change: kernels of He's deviation, statistics
    and biases near their initial values.
    """
    model = build_network(settings(size.task(precision)), classes=CLASSES, channels=1)  # type: ignore[arg-type]
    random = np.random.RandomState(0)

    def weights(path: Any, leaf: Any) -> NDArray[np.float32]:
        noise = random.standard_normal(leaf.shape)
        if path[-1].key.endswith("kernel"):
            return np.float32(noise * np.sqrt(2 / np.prod(leaf.shape[:-1])))
        around = 1 if path[-1].key in ("scale", "var") else 0
        return np.float32(around + np.clip(0.1 * noise, -0.5, 0.5))

    variables = jax.tree_util.tree_map_with_path(weights, abstract_variables(model, 1))
    images = np.float32(random.standard_normal((IMAGES, size.golden_side, size.golden_side, 1)))
    labels = np.int32(random.randint(0, CLASSES, (IMAGES, size.golden_side, size.golden_side)))

    def run(variables: Any, images: Any, labels: Any) -> Any:
        logits = model.apply(variables, images, train=False)
        losses = CrossEntropy(np.float32(CLASS_WEIGHTS))(logits, labels)
        return logits, (losses * round_weights(model.rounds, 0.5)).sum()

    with jax.default_matmul_precision("highest"), jax.default_device(device):
        logits, loss = jax.jit(run)(variables, jnp.asarray(images), jnp.asarray(labels))
    return Golden(np.asarray(logits, np.float32), float(loss))


def check(size: Size, kept: dict[str, Any]) -> dict[str, Any]:
    """Compare this device with the CPU here, and this CPU with what is kept of another.

    Args:
      size: of the network and the images.
      kept: of golden.json, for this size.
    """
    device, cpu = jax.local_devices()[0], jax.local_devices(backend="cpu")[0]
    truth = compute(size, "float32", cpu)
    found: dict[str, Any] = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "cpu_beside_golden": truth.sample.differences(Golden(np.float32(kept["logits"]), kept["loss"])),
        "device_beside_cpu": {
            precision: compute(size, precision, device).differences(truth) for precision in TOLERANCES
        },
    }
    compared = [(found["cpu_beside_golden"], TOLERANCES["float32"])]
    compared += [(found["device_beside_cpu"][precision], tolerance) for precision, tolerance in TOLERANCES.items()]
    # what is not a number is not smaller
    found["passes"] = all(value <= tolerance for values, tolerance in compared for value in values.values())
    return {**found, "tolerances": TOLERANCES}


def main() -> None:
    """Check, or write golden.json."""
    if sys.argv[1:] == ["write"]:
        cpu = jax.local_devices(backend="cpu")[0]
        kept = {name: compute(size, "float32", cpu).sample for name, size in SIZES.items()}
        content = {name: {"loss": each.loss, "logits": each.logits.tolist()} for name, each in kept.items()}
        write_atomically(FILE, json.dumps(content) + "\n")
        return
    name, result = sys.argv[1:]
    found = check(SIZES[name], json.loads(FILE.read_text(encoding="utf-8"))[name])
    write_atomically(Path(result), json.dumps(found, indent=1).replace("NaN", "null") + "\n")
    print(json.dumps(found, indent=1))
    if not found["passes"]:
        sys.exit("The golden weights do not give the CPU's logits and loss: do not trust what is trained here.")


if __name__ == "__main__":
    main()
