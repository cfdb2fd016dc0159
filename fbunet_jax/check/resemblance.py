"""Images that are there twice: equal pixels by hash, and near-duplicates by the correlation of small pictures.

A near-duplicate is the same field of view saved again: brighter, noisier, compressed, resampled, turned or mirrored.
Neighbouring sections and similar cells are none: what distinguishes them survives the reduction to 32 x 32 pixels.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from fbunet_jax.data.folds import natural_key

SIDE = 32
"""Side of the small pictures, pixels."""
ALIKE = 0.95
"""Correlation from which on two images are near-duplicates; measured: neighbouring Drosophila sections reach 0.81."""
NEIGHBOURS_ALIKE = 0.3
"""Median correlation from which on neighbouring groups are alike; measured: 0.75 in the Drosophila stack, 0.03 at most
in images that are independent."""
_CLOSER = 0.1
"""By how much more alike they are than distant ones, lest images that all have the same frame pass for a stack."""
_NEIGHBOURHOOD = 9
_BLOCK = 512


def fingerprint(image: NDArray) -> bytes:
    """Return a hash of the decoded pixels `[H, W, C]`, their type and shape; the file's format does not count."""
    digest = hashlib.blake2b(f"{image.dtype} {image.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def small_picture(image: NDArray) -> NDArray[np.float32] | None:
    """Return the structure of an image `[H, W, C]` as `[SIDE, SIDE]` of mean 0 and norm 1; None if there is none.

    The local mean is taken off, so that uneven illumination does not make images alike.
    """
    grey = Image.fromarray(image.mean(axis=-1, dtype=np.float32))
    small = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    scale = np.abs(small).max()
    small = small - ndimage.uniform_filter(small, _NEIGHBOURHOOD, mode="reflect")
    small -= small.mean()
    norm = np.linalg.norm(small)
    # what is left of a constant image is rounding
    return None if norm <= 1e-6 * SIDE * max(scale, 1e-30) else (small / norm).astype(np.float32)


def equal_images(fingerprints: Sequence[bytes]) -> list[list[int]]:
    """Return the indices of images with the same fingerprint, one list a set of equal images."""
    places = defaultdict(list)
    for index, each in enumerate(fingerprints):
        places[each].append(index)
    return [members for members in places.values() if len(members) > 1]


def alike_neighbours(
    pictures: Sequence[NDArray[np.float32] | None], groups: Sequence[str]
) -> tuple[float, float] | None:
    """Return how alike neighbouring groups are in natural name order, and distant ones; None if it is not notable.

    Args:
      pictures: of `small_picture`, those of a group in their own order.
      groups: of each image.

    Returns:
      The medians of two correlations: of the last image of each group with the first of the next one, and with the
      first of the group half the data set further on.
    """
    members: dict[str, list[NDArray[np.float32] | None]] = {}
    for group, picture in zip(groups, pictures, strict=True):
        members.setdefault(group, []).append(picture)
    order = [members[name] for name in sorted(members, key=natural_key)]
    if len(order) < 3:
        return None
    near, far = (
        [
            float((one[-1] * other[0]).sum())
            for one, other in zip(order, order[step:], strict=False)
            if one[-1] is not None and other[0] is not None
        ]
        for step in (1, max(2, len(order) // 2))
    )
    if not near or not far:
        return None
    medians = float(np.median(near)), float(np.median(far))
    return medians if medians[0] >= max(NEIGHBOURS_ALIKE, medians[1] + _CLOSER) else None


def near_duplicates(
    pictures: Sequence[NDArray[np.float32] | None], groups: Sequence[str], fingerprints: Sequence[bytes]
) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of images of different groups that show the same thing, with their correlation.

    Each is compared with the others in all 8 rotations and flips; equal images are passed over.

    Args:
      pictures: of `small_picture`.
      groups: of each image.
      fingerprints: of each image, see `fingerprint`.
    """
    present = [index for index, picture in enumerate(pictures) if picture is not None]
    if not present:
        return
    stack = np.stack([picture for picture in pictures if picture is not None])
    flat = stack.reshape(len(stack), -1)
    numbers = np.unique([groups[index] for index in present], return_inverse=True)[1]
    prints = np.unique(np.array([fingerprints[index].hex() for index in present]), return_inverse=True)[1]
    for start in range(0, len(stack), _BLOCK):
        block = slice(start, start + _BLOCK)
        best = np.full((len(flat[block]), len(flat)), -1, np.float32)
        for view in range(8):
            turned = np.rot90(stack[block], view % 4, axes=(1, 2))
            turned = turned[:, :, ::-1] if view >= 4 else turned
            np.maximum(best, turned.reshape(len(turned), -1) @ flat.T, out=best)
        apart = (numbers[block, None] != numbers[None]) & (prints[block, None] != prints[None])
        for row, column in np.argwhere(apart & (best >= ALIKE)):
            if start + row < column:
                yield present[start + row], present[column], float(best[row, column])
