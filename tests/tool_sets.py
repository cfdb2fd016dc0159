"""Small made-up data sets, each with the names of the tool or habit that keeps images and labels so.

Every image shows bright discs on a darker, noisy ground; labels number the discs, or say class 1 for all of them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from fbunet_jax.data.folds import natural_key

SIDE = 48


@dataclass(frozen=True)
class ToolSet:
    """A made-up data set and what has to be found in it.

    Attributes:
      write: creates it in an empty folder.
      tool: the words with which ``init`` says what it is.
      files: `[files]` of dataset.toml that describes it.
      names: of the images, in order.
      groups: of the images; their names if empty.
      channels: of the images.
      split: whether names say what is for training and what for test.
      classes: of the label values.
      ignore_value: of the label values.
      new: folder or files that ``predict`` can be given, below the folder of the set.
    """

    write: Callable[[Path], None]
    tool: str
    files: dict[str, object]
    names: tuple[str, ...]
    groups: tuple[str, ...] = ()
    channels: int = 1
    split: bool = False
    classes: dict[str, int] = field(default_factory=lambda: {"background": 0, "cell": 1})
    ignore_value: int | None = None
    new: str = "."


def scene(seed: int, side: int = SIDE) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image and its numbered discs, `[side, side]` each; at least two discs, none of them touching."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    objects = np.zeros((side, side), np.uint8)
    count = 2 + seed % 3
    for number, cell in enumerate(rng.permutation(9)[:count], start=1):
        centre = (np.array(divmod(int(cell), 3)) + 0.5) * side / 3
        objects[np.hypot(rows - centre[0], columns - centre[1]) < side / rng.uniform(8, 10)] = number
    image = 60 + 120 * (objects > 0) + rng.normal(0, 12, objects.shape)
    return image.clip(0, 255).astype(np.uint8), objects


def save(file: Path, array: NDArray) -> None:
    """Write a PNG or a TIFF, and the folders that lead to it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in (".tif", ".tiff"):
        tifffile.imwrite(file, array)
    else:
        Image.fromarray(array).save(file)


def classes(objects: NDArray) -> NDArray:
    """Return class 1 for every object."""
    return (objects > 0).astype(np.uint8)


def _scan_numbers(root: Path) -> None:
    for slide in (1, 2, 3):
        for place in (7, 11):
            image, objects = scene(10 * slide + place)
            save(root / f"scan_{slide}_raw_{place}.png", image)
            save(root / f"scan-{slide}_annotation_{place}.png", classes(objects))


def _prefixes(root: Path) -> None:
    for number in range(1, 7):
        image, objects = scene(number)
        save(root / f"img_{number:03d}.tif", image)
        save(root / f"mask_{number:03d}.tif", classes(objects))


def _suffix_seg(root: Path) -> None:
    for number, name in enumerate(("alpha", "beta 2", "gamma-x", "delta.v2", "epsilon_1")):
        image, objects = scene(number)
        save(root / f"{name}.tif", image)
        save(root / f"{name}_seg.png", classes(objects))


def _raw_cp_masks(root: Path) -> None:
    for number, name in enumerate(("a", "b", "c", "d", "e")):
        image, objects = scene(number)
        save(root / f"{name}_raw.tif", image)
        save(root / f"{name}_cp_masks.tif", objects.astype(np.uint16))


def _train_folder(root: Path) -> None:
    for number in range(5):
        image, objects = scene(number)
        save(root / "train" / "images" / f"{number}.png", image)
        save(root / "train" / "masks" / f"{number}.png", classes(objects))


def _specimens(root: Path) -> None:
    for specimen in ("fish A", "fish B", "fish C", "fish D"):
        for number in (1, 2):
            image, objects = scene(ord(specimen[-1]) + number)
            save(root / specimen / f"image_{number}.tif", image)
            save(root / specimen / f"label_{number}.tif", classes(objects))


def _channel_files(root: Path) -> None:
    for number, name in enumerate(("w1", "w2", "w3", "w4", "w5")):
        image, objects = scene(number)
        save(root / f"{name}_DAPI.tif", image)
        save(root / f"{name}_GFP.tif", 255 - image)
        save(root / f"{name}_labels.png", classes(objects))


def _channel_folders(root: Path) -> None:
    for number in range(5):
        image, objects = scene(number)
        save(root / "DAPI" / f"{number}.tif", image)
        save(root / "GFP" / f"{number}.tif", 255 - image)
        save(root / "masks" / f"{number}.tif", classes(objects))


def _nnunet(root: Path) -> None:
    for number in range(5):
        image, objects = scene(number)
        for channel, values in enumerate((image, 255 - image)):
            save(root / "imagesTr" / f"case_{number}_{channel:04d}.png", values)
            save(root / "imagesTs" / f"new_{number}_{channel:04d}.png", values)
        save(root / "labelsTr" / f"case_{number}.png", classes(objects))
    table = {"channel_names": {"0": "DAPI", "1": "GFP"}, "labels": {"background": 0, "cell": 1}, "numTraining": 5}
    (root / "dataset.json").write_text(json.dumps(table | {"file_ending": ".png"}))


def _biapy(root: Path) -> None:
    for part, count in (("train", 5), ("test", 2)):
        for number in range(count):
            image, objects = scene(number + 20 * (part == "test"))
            save(root / part / "raw" / f"{number:03d}.tif", image)
            save(root / part / "label" / f"{number:03d}.tif", classes(objects))


def _cellpose(root: Path) -> None:
    for number, name in enumerate(("x", "y", "z", "u", "v")):
        image, objects = scene(number)
        save(root / f"{name}.tif", image)
        save(root / f"{name}_masks.tif", objects.astype(np.uint16))
        np.save(root / f"{name}_seg.npy", {"masks": objects}, allow_pickle=True)


def _stardist(root: Path) -> None:
    for part, count in (("train", 5), ("test", 2)):
        for number in range(count):
            image, objects = scene(number + 20 * (part == "test"))
            save(root / part / "images" / f"img_{number}.tif", image)
            save(root / part / "masks" / f"img_{number}.tif", objects.astype(np.uint16))


def _data_science_bowl(root: Path) -> None:
    for number in range(5):
        image, objects = scene(number)
        name = f"{number * 7919 + 2**20:08x}"
        save(root / name / "images" / f"{name}.png", np.stack([image] * 3 + [np.full_like(image, 255)], axis=-1))
        for each in range(1, int(objects.max()) + 1):
            mask = np.where(objects == each, 255, 0).astype(np.uint8)
            save(root / name / "masks" / f"{each * 104729:08x}.png", mask)


def _ilastik(root: Path) -> None:
    for number, name in enumerate(("a", "b", "c", "d", "e")):
        image, objects = scene(number)
        drawn = np.where(objects > 0, 2, 1).astype(np.uint8)
        drawn[:, ::3] = 0  # not drawn on
        save(root / f"{name}.png", image)
        save(root / f"{name}_Labels.png", drawn)


def _qupath(root: Path) -> None:
    for slide in ("slide 1", "slide 2", "slide 3"):
        for column in (0, 48):
            image, objects = scene(column + int(slide[-1]))
            name = f"{slide} [x={column},y=0,w=48,h=48]"
            save(root / f"{name}.tif", np.stack([image, image, image // 2], axis=-1))
            save(root / f"{name}-labelled.tif", classes(objects))


def _stacks(root: Path) -> None:
    """Write stacks of four pages, of which pages 1 and 2 are labelled."""
    for number in range(4):
        scenes = [scene(10 * number + page) for page in range(4)]
        labels = np.stack([classes(objects) for _, objects in scenes])
        labels[[0, 3]] = 0
        for folder, pages in (("images", np.stack([image for image, _ in scenes])), ("labels", labels)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / folder / f"s{number}.tif", pages, imagej=True, metadata={"axes": "ZYX"})


def _page_labels(root: Path) -> None:
    """Write stacks of four pages, and a label file for pages 1 and 4 of each, counted from 1."""
    for number in range(4):
        scenes = [scene(10 * number + page) for page in range(4)]
        pages = np.stack([image for image, _ in scenes])
        (root / "stacks").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / "stacks" / f"s{number}.tif", pages, imagej=True, metadata={"axes": "ZYX"})
        for page in (1, 4):
            save(root / "drawn" / f"s{number}_z{page:02d}.png", classes(scenes[page - 1][1]))


def _pages(stems: tuple[str, ...], pages: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{each}/z{page:03d}" for each in stems for page in pages)


STACKS = ("s0", "s1", "s2", "s3")

TOOL_SETS = {
    "numbers": ToolSet(
        _scan_numbers,
        "names that differ in a word",
        {"images": "scan_{:d}_raw_{:d}.png", "labels": "scan-{:d}_annotation_{:d}.png"},
        tuple(f"scan_{slide}_raw_{place}" for slide in (1, 2, 3) for place in (7, 11)),
    ),
    "prefixes": ToolSet(
        _prefixes,
        "names that differ in a word",
        {"images": "img_{}.tif", "labels": "mask_{}.tif"},
        tuple(f"img_{number:03d}" for number in range(1, 7)),
    ),
    "suffix": ToolSet(
        _suffix_seg,
        "names that differ in a word",
        {"images": "{}.tif", "labels": "{}_seg.png"},
        ("alpha", "beta 2", "delta.v2", "epsilon_1", "gamma-x"),
    ),
    "raw and cp_masks": ToolSet(
        _raw_cp_masks,
        "Cellpose",
        {"images": "{}_raw.tif", "labels": "{}_cp_masks.tif", "objects": "numbered"},
        ("a_raw", "b_raw", "c_raw", "d_raw", "e_raw"),
    ),
    "train folder": ToolSet(
        _train_folder,
        "a folder of images and one of labels",
        {"images": "train/images/{}.png", "labels": "train/masks/{}.png"},
        ("0", "1", "2", "3", "4"),
        new="train/images",
    ),
    "specimens": ToolSet(
        _specimens,
        "names that differ in a word",
        {"images": "{group}/image_{}.tif", "labels": "{group}/label_{}.tif"},
        tuple(f"fish {each}/image_{number}" for each in "ABCD" for number in (1, 2)),
        tuple(f"fish {each}" for each in "ABCD" for _ in (1, 2)),
    ),
    "channel files": ToolSet(
        _channel_files,
        "a file for each channel",
        {"images": ["{}_DAPI.tif", "{}_GFP.tif"], "labels": "{}_labels.png"},
        ("w1", "w2", "w3", "w4", "w5"),
        channels=2,
    ),
    "channel folders": ToolSet(
        _channel_folders,
        "a folder for each channel",
        {"images": ["DAPI/{}.tif", "GFP/{}.tif"], "labels": "masks/{}.tif"},
        ("0", "1", "2", "3", "4"),
        channels=2,
    ),
    "biapy": ToolSet(
        _biapy,
        "BiaPy",
        {"images": "{split}/raw/{}.tif", "labels": "{split}/label/{}.tif"},
        ("test/000", "test/001", "train/000", "train/001", "train/002", "train/003", "train/004"),
        split=True,
        new="test/raw",
    ),
    "cellpose": ToolSet(
        _cellpose,
        "Cellpose",
        {"images": "{}.tif", "labels": "{}_masks.tif", "objects": "numbered"},
        ("u", "v", "x", "y", "z"),
    ),
    "stardist": ToolSet(
        _stardist,
        "StarDist",
        {"images": "{split}/images/{}.tif", "labels": "{split}/masks/{}.tif", "objects": "numbered"},
        ("test/img_0", "test/img_1", *(f"train/img_{number}" for number in range(5))),
        split=True,
        new="test/images",
    ),
    "data science bowl": ToolSet(
        _data_science_bowl,
        "Data Science Bowl",
        {"images": "{id}/images/{id}.png", "labels": "{id}/masks/*.png", "objects": "files"},
        tuple(sorted((f"{number * 7919 + 2**20:08x}" for number in range(5)), key=natural_key)),
        channels=3,
    ),
    "ilastik": ToolSet(
        _ilastik,
        "ilastik",
        {"images": "{}.png", "labels": "{}_Labels.png"},
        ("a", "b", "c", "d", "e"),
        classes={"class_1": 1, "class_2": 2},
        ignore_value=0,
    ),
    "qupath": ToolSet(
        _qupath,
        "QuPath",
        {"images": "{group} [{}].tif", "labels": "{group} [{}]-labelled.tif"},
        tuple(f"slide {n} [x={column},y=0,w=48,h=48]" for n in (1, 2, 3) for column in (0, 48)),
        tuple(f"slide {n}" for n in (1, 2, 3) for _ in (0, 48)),
        channels=3,
    ),
    "sparse stacks": ToolSet(
        _stacks,
        "a folder of images and one of labels",
        {"sparse": True},
        _pages(STACKS, (1, 2)),
        tuple(each for each in STACKS for _ in range(2)),
        new="images",
    ),
    "label pages": ToolSet(
        _page_labels,
        "a label file for each page",
        {"images": "stacks/{}.tif", "labels": "drawn/{}_z{page}.png", "sparse": True, "first_page": 1},
        _pages(STACKS, (0, 3)),
        tuple(each for each in STACKS for _ in range(2)),
        new="stacks",
    ),
}
"""Each set under the name of the habit; that of nnU-Net has a layout of its own (`write_nnunet`)."""

write_nnunet = _nnunet
