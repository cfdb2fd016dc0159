"""The published Drosophila set (Gerhard et al., figshare 856713): 20 sections, and a folder of masks for each class."""

from pathlib import Path

import numpy as np

from fbunet_jax.config import DataConfig
from fbunet_jax.data.faults import Fault
from fbunet_jax.data.layouts.listing import Role, list_named
from fbunet_jax.data.layouts.patterns import Pattern
from fbunet_jax.data.layouts.sources import Reading, Source, Unit
from fbunet_jax.data.readers.image_files import read_image, read_label
from fbunet_jax.errors import DataError

_SECTIONS = 20
# the files of each published folder, and how many digits a section's number has there
_PATTERNS = {
    "raw/{:d}.tif": 2,
    "membranes/{:d}.png": 2,
    "mitochondria/{:d}.png": 2,
    "synapses/{:d}.png": 2,
    "labels/labels{:d}.png": 8,
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
    patterns = [Pattern(text, "data.root") for text in _PATTERNS]
    listing = list_named(stack, [Role(pattern, (pattern.suffix,)) for pattern in patterns])
    sections: list[dict[int, Path]] = []
    faults = []
    for pattern, digits, files in zip(patterns, _PATTERNS.values(), listing.files, strict=True):
        (field,) = pattern.fields
        found = {int(file.values[field][-9:]): file.path for file in files}
        if missing := [number for number in range(_SECTIONS) if number not in found]:
            folder, _, name = pattern.fill({field: f"{missing[0]:0{digits}d}"}).partition("/")
            text = f"lacks {len(missing)} files, the first {name}."
            faults.append(Fault("missing-file", stack / folder, text, _PUBLISHED))
        sections.append(found)
    units = [
        Unit(f"{number:02d}", f"{number:02d}", tuple(found[number] for found in sections), len(_PATTERNS) - 1)
        for number in range(_SECTIONS)
        if all(number in found for found in sections)
    ]

    def read(unit: Unit) -> Reading:
        return Reading(*_read_section(unit, config.glia))

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
