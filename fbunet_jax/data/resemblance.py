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

SIDE = 32
"""Side of the small pictures, pixels."""
ALIKE = 0.95
"""Correlation from which on two images are near-duplicates; measured: neighbouring Drosophila sections reach 0.81."""
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
