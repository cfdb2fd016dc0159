"""A folder like the published Drosophila set, of procedural tissue."""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from fbunet_jax.data.layouts.synthetic import CLASS_NAMES, synthetic_image

MASKS = {"membranes": "membrane", "mitochondria": "mitochondria", "synapses": "synapse"}


def write_sections(folder: Path, size: int = 128) -> Path:
    """Write ``stack1`` with 20 sections into a folder, and return the folder."""
    for name in ("raw", "labels", *MASKS):
        (folder / "stack1" / name).mkdir(parents=True)
    for section in range(20):
        image, label = synthetic_image(section, size)
        tifffile.imwrite(folder / "stack1" / "raw" / f"{section:02d}.tif", image[..., 0])
        for name, class_name in MASKS.items():
            mask = np.uint8(255) * (label == CLASS_NAMES.index(class_name))
            Image.fromarray(mask).save(folder / "stack1" / name / f"{section:02d}.png")
        Image.fromarray(label).save(folder / "stack1" / "labels" / f"labels{section:08d}.png")
    return folder
