"""The published Drosophila set (Gerhard et al., figshare 856713): 20 sections, and a folder of masks for each class."""

from pathlib import Path

import numpy as np

from fbunet_jax.config import DataConfig
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.sources import Source, Unit
from fbunet_jax.data.readers.image_files import read_image, read_label
from fbunet_jax.errors import DataError

_SECTIONS = 20
# how the section's number is written in the names of the files of each published folder
_FILES = {
    "raw": "{:02d}.tif",
    "membranes": "{:02d}.png",
    "mitochondria": "{:02d}.png",
    "synapses": "{:02d}.png",
    "labels": "labels{:08d}.png",
}
_GLIA = 159
DROSOPHILA_CLASSES = {"cytoplasm": 0, "membrane": 1, "mitochondria": 2, "synapse": 3}
_PUBLISHED = (
    "The published set (github.com/unidesigner/groundtruth-drosophila-vnc) has stack1/ with raw/00.tif … 19.tif, "
    "membranes/, mitochondria/ and synapses/ with 00.png … 19.png, and labels/ with labels00000000.png … "
    "labels00000019.png; data.root is the folder that holds stack1/. The command fbunet download fetches it."
)


def open_drosophila(config: DataConfig) -> Source:
    """List the 20 labelled sections of the published set (Gerhard et al., figshare 856713).

    Class by mask folder: membrane, mitochondria and synapse wherever the mask is not zero, later ones win.
    """
    stack = _stack(config.root)
    units, faults = [], []
    for folder, pattern in _FILES.items():
        missing = [name for i in range(_SECTIONS) if not (stack / folder / (name := pattern.format(i))).is_file()]
        if missing:
            found = f"lacks {len(missing)} files, the first {missing[0]}."
            faults.append(Fault("missing-file", stack / folder, found, _PUBLISHED))
    for section in range(_SECTIONS):
        files = tuple(stack / folder / pattern.format(section) for folder, pattern in _FILES.items())
        if all(file.is_file() for file in files):
            units.append(Unit(f"{section:02d}", f"{section:02d}", files))

    def read(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        return _read_section(unit, config.glia)

    return Source(tuple(units), read, dict(DROSOPHILA_CLASSES), labels=stack, faults=tuple(faults))


def _read_section(unit: Unit, glia: str) -> tuple[np.ndarray, np.ndarray]:
    raw, *masks, published = unit.files
    images = read_image(raw)
    label = np.zeros(images.shape[:3], dtype=np.uint8)
    for index, mask in enumerate(masks, start=1):
        label[_section_mask(mask, raw, label.shape) != 0] = index
    # read in any case, so that a set that loads once loads with every setting
    background = _section_mask(published, raw, label.shape) == _GLIA
    if glia == "cytoplasm":
        label[background & (label == 1)] = 0
    return images, label


def _stack(root: str) -> Path:
    """Return the folder stack1, or the folder itself if it holds what was published in stack1."""
    if not root:
        raise DataError(f"data.root is not set. {_PUBLISHED}")
    stack = Path(root) / "stack1"
    if not stack.is_dir() and (Path(root) / "raw").is_dir():
        stack = Path(root)
    if not stack.is_dir():
        raise DataError(f"{stack} does not exist. {_PUBLISHED}")
    return stack


def _section_mask(file: Path, raw: Path, shape: tuple[int, ...]) -> np.ndarray:
    mask = read_label(file)
    if mask.shape != shape:
        raise Fault(
            "pair-size",
            file,
            f"has {mask.shape[1]} x {mask.shape[2]} pixels, but {raw} has {shape[1]} x {shape[2]}.",
            "Download the published files again.",
        )
    return mask
