"""Small folders whose images and labels lie side by side, and settings for them."""

import numpy as np
import tifffile

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.config import DataConfig, FilesConfig
from tests.tool_sets import classes, save, scene

TWO = {"background": 0, "cell": 1}


def settings(root, images="{}.tif", labels="{}_seg.png", **changes):
    files = {key: changes.pop(key) for key in tuple(changes) if key in FilesConfig.__dataclass_fields__}
    named = FilesConfig(images, labels, **files)
    return DataConfig(**{"layout": "folder", "root": str(root), "classes": TWO, "folds": 3, "files": named} | changes)


def pairs(root, names=("a", "b", "c"), image="{}.tif", label="{}_seg.png"):
    for number, name in enumerate(names):
        pixels, objects = scene(number)
        save(root / image.format(name), pixels)
        save(root / label.format(name), classes(objects))


def faults(config):
    return [(each.kind, each.found, each.file) for each in check_dataset(config).faults]


def stacks(root, pages=4):
    for name in "abc":
        image = np.stack([scene(10 * ord(name) + page)[0] for page in range(pages)])
        tifffile.imwrite(root / f"{name}.tif", image, metadata={"axes": "ZYX"}, imagej=True)
