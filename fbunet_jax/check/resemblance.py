"""Images that are there twice: equal pixels by hash, and near-duplicates by the correlation of small pictures.

A near-duplicate is the same field of view saved again: brighter, noisier, compressed, resampled, turned or mirrored.
Neighbouring sections and similar cells are none: what distinguishes them survives the reduction to 32 x 32 pixels.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

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
COMPARED = 4096
"""Images up to which every pair is compared."""
MOST_PAIRS = 10_000
"""Pairs of many images after which no more are searched for."""
_TABLES = 16
_NEIGHBOURS = 4
_COMPARED_AT_ONCE = 4096

Progress = Callable[[Iterable[Any], str], Iterable[Any]]
"""Wraps long steps for a progress bar; its second argument names them in a word."""
Places = NDArray[np.intp]
Pairs = tuple[Places, Places, NDArray[np.float32]]
"""Two places in a stack of pictures, the first below the second, and a correlation of at least `ALIKE`, `[n]` each."""
Apart = Callable[[Places, Places], NDArray[np.bool_]]
"""Says which pairs of places are of different groups and not of equal images."""


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
    pictures: Sequence[NDArray[np.float32] | None],
    groups: Sequence[str],
    fingerprints: Sequence[bytes],
    progress: Progress = lambda steps, what: steps,
) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of images of different groups that show the same thing, with their correlation, in order.

    Each is compared with the others in all 8 rotations and flips; equal images are passed over. Among more than
    `COMPARED` images the pairs are searched for, see `_likely_pairs`, and at most `MOST_PAIRS` or a few more are found.

    Args:
      pictures: of `small_picture`.
      groups: of each image.
      fingerprints: of each image, see `fingerprint`.
      progress: wraps the steps of the comparison.
    """
    present = [index for index, picture in enumerate(pictures) if picture is not None]
    if not present:
        return
    stack = np.stack([picture for picture in pictures if picture is not None])
    numbers = np.unique([groups[index] for index in present], return_inverse=True)[1]
    prints = np.unique(np.array([fingerprints[index].hex() for index in present]), return_inverse=True)[1]

    def apart(one: Places, twin: Places) -> NDArray[np.bool_]:
        return (numbers[one] != numbers[twin]) & (prints[one] != prints[twin])

    search = _all_pairs if len(stack) <= COMPARED else _likely_pairs
    for one, twin, correlation in search(stack, apart, progress):
        for row, column, value in zip(one.tolist(), twin.tolist(), correlation.tolist(), strict=True):
            yield present[row], present[column], value


def _all_pairs(stack: NDArray[np.float32], apart: Apart, progress: Progress) -> Iterator[Pairs]:
    """Yield the pairs of pictures `[N, SIDE, SIDE]` that are alike, a block of rows at a time."""
    flat = stack.reshape(len(stack), -1)
    for start in progress(range(0, len(stack), _BLOCK), "Comparing"):
        block, later = stack[start : start + _BLOCK], flat[start:]
        best = np.full((len(block), len(later)), -1, np.float32)
        for view in range(8):
            np.maximum(best, _turned(block, view) @ later.T, out=best)
        one, twin = np.nonzero(np.triu(best >= ALIKE, 1))
        kept = apart(start + one, start + twin)
        yield start + one[kept], start + twin[kept], best[one[kept], twin[kept]]


def _likely_pairs(stack: NDArray[np.float32], apart: Apart, progress: Progress) -> Iterator[Pairs]:
    """Yield pairs of pictures `[N, SIDE, SIDE]` that are alike; the work grows with N, not with the number of pairs.

    Two are compared if random projections of both have the same signs in one of `_TABLES` tables of log2 N + 2
    projections. A picture shares them with few others that it does not resemble, and with one of correlation 0.95 in
    every sixth table, twice as often because either of the two is turned: 99 of 100 such pairs are found, and more of
    those that are more alike. Of many pictures with the same signs each is compared with a few.
    """
    count, flat = len(stack), stack.reshape(len(stack), -1)
    random = np.random.default_rng(0)
    # what all of them share, however they are turned, would give all of them the same signs
    mean = stack.mean(axis=0)[None]
    common = np.stack([_turned(mean, view)[0] for view in range(8)]).mean(axis=0)
    bits = int(np.ceil(np.log2(count))) + 2
    found: set[int] = set()
    for _ in progress(range(_TABLES), "Comparing"):
        planes = random.standard_normal((bits, SIDE, SIDE), dtype=np.float32)
        keys = [_signs(flat, common, _turned(planes, view)) for view in range(8)]
        for view in range(8):
            one, twin = _with_equal_keys(keys[0], keys[view])
            kept = apart(one, twin)
            one, twin = one[kept], twin[kept]
            for start in range(0, len(one), _COMPARED_AT_ONCE):
                left, right = one[start : start + _COMPARED_AT_ONCE], twin[start : start + _COMPARED_AT_ONCE]
                alike = np.einsum("ij,ij->i", _turned(stack[left], view), flat[right]) >= ALIKE
                low, high = np.minimum(left, right)[alike], np.maximum(left, right)[alike]
                found.update((low * count + high).tolist())
        if len(found) > MOST_PAIRS:
            break
    pairs = np.array(sorted(found), np.intp)
    for start in range(0, len(pairs), _COMPARED_AT_ONCE):
        one, twin = divmod(pairs[start : start + _COMPARED_AT_ONCE], count)
        views = [np.einsum("ij,ij->i", _turned(stack[one], view), flat[twin]) for view in range(8)]
        yield one, twin, np.max(views, axis=0)


def _turned(pictures: NDArray[np.float32], view: int) -> NDArray[np.float32]:
    """Return one of the 8 rotations and flips of pictures `[n, SIDE, SIDE]`, as `[n, SIDE * SIDE]`."""
    turned = np.rot90(pictures, view % 4, axes=(1, 2))
    return (turned[:, :, ::-1] if view >= 4 else turned).reshape(len(turned), -1)


def _signs(flat: NDArray[np.float32], common: NDArray[np.float32], planes: NDArray[np.float32]) -> Places:
    """Return the signs of the projections of pictures without what is common to all, as one number each, `[N]`."""
    positive = flat @ planes.T > planes @ common
    return positive @ (1 << np.arange(len(planes), dtype=np.intp))


def _with_equal_keys(keys: Places, others: Places) -> tuple[Places, Places]:
    """Return places in the one and in the other list whose keys are equal; at most `_NEIGHBOURS` for one of the other.

    Where more have the same key, the first of them is drawn from the place, so that those of other places differ.
    """
    order = np.argsort(keys, kind="stable")
    first = np.searchsorted(keys[order], others, "left")
    count = np.searchsorted(keys[order], others, "right") - first
    twin = np.arange(len(others))
    first = first + twin * 2_654_435_761 % np.maximum(1, count - _NEIGHBOURS + 1)
    ones, twins = [], []
    for step in range(_NEIGHBOURS):
        there = np.flatnonzero(count > step)
        ones.append(order[first[there] + step])
        twins.append(there)
    one, twin = np.concatenate(ones), np.concatenate(twins)
    return one[one != twin], twin[one != twin]
