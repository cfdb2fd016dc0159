"""A whole data set, and what breaks it or makes it suspicious: a kind of finding and a change of the files each."""

import shutil
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

from fbunet_jax.config import DataConfig

CLASSES = {"background": 0, "cell": 1}
STEMS = ("m1_a", "m1_b", "m2_a", "m2_b", "m3_a", "m3_b")


def picture(seed, shape=(32, 32), dtype=np.uint16):
    return np.random.default_rng(seed).integers(10, 250, shape).astype(dtype)


def truth(seed, shape=(32, 32)):
    """Return a label with two classes; smooth enough that edges are few."""
    return np.kron(np.random.default_rng(seed).permutation(np.arange(16) % 2).reshape(4, 4), np.ones((8, 8))).astype(
        np.uint8
    )[: shape[0], : shape[1]]


def settings(root, **changes):
    return DataConfig(layout="folder", root=str(root), **changes)


def image_of(root, stem="m1_b"):
    return root / "images" / f"{stem}.tif"


def label_of(root, stem="m1_b"):
    return root / "labels" / f"{stem}.png"


def write_image(root, array, stem="m1_b", **options):
    tifffile.imwrite(image_of(root, stem), array, **({"photometric": "minisblack", "metadata": None} | options))


def write_label(root, array, stem="m1_b"):
    Image.fromarray(array).save(label_of(root, stem))


def change_labels(root, change):
    for stem in STEMS:
        write_label(root, change(np.array(Image.open(label_of(root, stem)))), stem)


def truncate(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def with_alpha(root):
    label_of(root).unlink()
    label_of(root).with_suffix(".tif").unlink(missing_ok=True)
    write_label(root, truth(1))
    for seed, stem in enumerate(STEMS):
        image_of(root, stem).unlink()
        rgba = picture(seed, (32, 32, 4), np.uint8)
        rgba[..., 3] = 255 if stem != "m1_b" else 100
        Image.fromarray(rgba).save(image_of(root, stem).with_suffix(".png"))


def dark(seed):
    """Return a picture that JPEG does not drive to 255."""
    return Image.fromarray(picture(seed, dtype=np.uint8) // 2)


def turned_jpeg(root):
    for seed, stem in enumerate(STEMS):
        image_of(root, stem).unlink()
        exif = Image.Exif()
        exif[0x0112] = 6 if stem == "m1_b" else 1
        dark(seed).save(image_of(root, stem).with_suffix(".jpg"), exif=exif)


def cmyk(root):
    for seed, stem in enumerate(STEMS):
        image_of(root, stem).unlink()
        mode = "CMYK" if stem == "m1_b" else "L"
        dark(seed).convert(mode).save(image_of(root, stem).with_suffix(".jpg"))


def two_series(root):
    with tifffile.TiffWriter(image_of(root)) as file:
        file.write(picture(1), metadata=None)
        file.write(picture(2, (20, 16)), metadata=None)


def palette_tiff(root):
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 256)).astype(np.uint16)
    for seed, stem in enumerate(STEMS):
        write_image(root, picture(seed, dtype=np.uint8), stem)
    tifffile.imwrite(image_of(root), picture(1, dtype=np.uint8), photometric="palette", colormap=colours)


def huge_png(root):
    """Declare 2^17 x 2^17 pixels in a header."""
    for seed, stem in enumerate(STEMS):
        image_of(root, stem).unlink()
        Image.fromarray(picture(seed, dtype=np.uint8)).save(image_of(root, stem).with_suffix(".png"))
    path = image_of(root).with_suffix(".png")
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 2**17, 2**17)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(bytes(data))


def smooth(label):
    """Draw edges as anti-aliasing does: between 0 and 255."""
    soft = 255 * label.astype(float)
    soft[:-1] = np.where(soft[:-1] != soft[1:], np.arange(32) * 5 + 40, soft[:-1])
    return soft.astype(np.uint8)


def numbered(label):
    return (label * (1 + np.arange(32) // 1)[None, :]).astype(np.uint8)


def rgb(label):
    return np.array([(0, 0, 0), (255, 0, 0)], np.uint8)[label]


def indexed(label):
    return label + 0


def toml(text):
    return lambda root: (root / "dataset.toml").write_text(text)


FAULTS = {
    "missing label": ("missing-label", lambda root: label_of(root).unlink(), {}),
    "missing image": ("missing-image", lambda root: image_of(root).unlink(), {}),
    "a file of a microscope": ("foreign-file", lambda root: (root / "images" / "x.czi").write_bytes(b"x"), {}),
    "a folder among the labels": ("foreign-file", lambda root: (root / "labels" / "old").mkdir(), {}),
    "two images of one name": (
        "same-name",
        lambda root: Image.fromarray(picture(9)).save(root / "images" / "m1_a.png"),
        {},
    ),
    "empty image": ("empty-file", lambda root: image_of(root).write_bytes(b""), {}),
    "empty label": ("empty-file", lambda root: label_of(root).write_bytes(b""), {}),
    "truncated TIFF": ("damaged-file", lambda root: truncate(image_of(root)), {}),
    "truncated PNG": ("damaged-file", lambda root: truncate(label_of(root), 0.8), {}),
    "garbage in a PNG": (
        "damaged-file",
        lambda root: label_of(root).write_bytes(label_of(root).read_bytes().replace(b"IDAT", b"IDAX")),
        {},
    ),
    "a PNG named .tif": (
        "wrong-suffix",
        lambda root: Image.fromarray(picture(1, dtype=np.uint8)).save(image_of(root), format="PNG"),
        {},
    ),
    "text named .tif": ("wrong-suffix", lambda root: image_of(root).write_text("no image"), {}),
    "header of 2^34 pixels": ("file-size", huge_png, {}),
    "label of another size": ("pair-size", lambda root: write_label(root, truth(1)[:, :24]), {}),
    "label turned by a quarter": ("pair-size", lambda root: write_image(root, picture(1, (32, 24))), {}),
    "NaN": (
        "not-finite",
        lambda root: [write_image(root, picture(i).astype(np.float32) / (i != 1), s) for i, s in enumerate(STEMS)],
        {},
    ),
    "64-bit integers": (
        "image-type",
        lambda root: [write_image(root, picture(i, dtype=np.int64), s) for i, s in enumerate(STEMS)],
        {},
    ),
    "one 8-bit image": ("images-differ", lambda root: write_image(root, picture(1, dtype=np.uint8)), {}),
    "one image with two channels": (
        "images-differ",
        lambda root: write_image(root, picture(1, (2, 32, 32)), imagej=True, metadata={"axes": "CYX"}),
        {},
    ),
    "CMYK": ("colour-mode", cmyk, {}),
    "palette TIFF": ("palette", palette_tiff, {}),
    "inverted": ("inverted", lambda root: write_image(root, picture(1), photometric="miniswhite"), {}),
    "EXIF orientation": ("orientation", turned_jpeg, {}),
    "transparent": ("transparency", with_alpha, {}),
    "two series": ("several-series", two_series, {}),
    "stack without axes": ("axes-unknown", lambda root: write_image(root, picture(1, (3, 32, 32))), {}),
    "axes that are none": (
        "axes-setting",
        lambda root: write_image(root, picture(1, (3, 32, 32))),
        {"axes": "ZZYX"},
    ),
    "cut that does not fit": (
        "cut",
        lambda root: (write_image(root, picture(1, (24, 32))), write_label(root, truth(1)[:24])),
        {"cut": 16},
    ),
    "RGB labels": ("label-colours", lambda root: change_labels(root, rgb), {}),
    "labels of floats": (
        "label-type",
        lambda root: (label_of(root).unlink(), tifffile.imwrite(root / "labels" / "m1_b.tif", truth(1) / 2.0)),
        {},
    ),
    "JPEG inside a label TIFF": (
        "label-jpeg",
        lambda root: (
            label_of(root).unlink(),
            tifffile.imwrite(root / "labels" / "m1_b.tif", truth(1) * 255, compression="jpeg"),
        ),
        {},
    ),
    "unknown value": ("label-values", lambda root: write_label(root, truth(1) * 7), {}),
    "0/255 masks": ("label-mask", lambda root: change_labels(root, lambda label: label * 255), {}),
    "0/255 masks where 255 is ignored": (
        "label-mask",
        lambda root: (
            change_labels(root, lambda label: label * 255),
            toml("classes = {background = 0, cell = 1}\nignore_value = 255")(root),
        ),
        {},
    ),
    "anti-aliased masks where 255 is ignored": (
        "label-mask",
        lambda root: (
            change_labels(root, smooth),
            toml("classes = {background = 0, cell = 1}\nignore_value = 255")(root),
        ),
        {},
    ),
    "anti-aliased masks": (
        "label-edges",
        lambda root: (change_labels(root, smooth), toml("classes = {background = 0, cell = 255}")(root)),
        {},
    ),
    "numbered objects": ("label-instances", lambda root: change_labels(root, numbered), {}),
    "a class that never occurs": ("class-absent", toml("classes = {background = 0, cell = 1, nucleus = 2}"), {}),
    "no description": ("classes-undescribed", lambda root: (root / "dataset.toml").unlink(), {}),
    "one class": ("classes", toml("classes = {background = 0}\nignore_value = 1"), {}),
    "two classes of one value": ("classes", toml("classes = {background = 0, cell = 1, nucleus = 1}"), {}),
    "class that is ignored": ("classes", toml("classes = {background = 0, cell = 1}\nignore_value = 1"), {}),
    "broken TOML": ("description", toml("classes = "), {"classes": CLASSES}),
    "unknown key": ("description", toml("clases = 3"), {"classes": CLASSES}),
    "contradiction": ("description", lambda root: None, {"classes": {"cell": 0, "background": 1}}),
    "no such group": ("group-pattern", lambda root: None, {"group_pattern": "^(mouse[0-9]+)"}),
    "no regular expression": ("group-pattern", lambda root: None, {"group_pattern": "("}),
    "fewer groups than folds": ("folds", lambda root: None, {"group_pattern": "^(m[0-9])"}),
    "fold scheme of another set": ("folds", lambda root: None, {"fold_scheme": "sections"}),
    "unlabelled part": (
        "unlabelled-part",
        lambda root: (
            [write_label(root, np.full((32, 32), 9, np.uint8), stem) for stem in STEMS[:3]],
            toml("classes = {background = 0, cell = 1}\nignore_value = 9")(root),
        ),
        {"folds": 3},
    ),
}

WARNINGS = {
    "constant image": ("constant-image", lambda root: write_image(root, np.full((32, 32), 7, np.uint16))),
    "saturated image": ("saturated", lambda root: write_image(root, np.minimum(picture(1) * 30, 4095))),
    "same image twice": ("duplicate", lambda root: shutil.copy(image_of(root, "m2_a"), image_of(root))),
    "brighter copy": ("near-duplicate", lambda root: write_image(root, picture(2) * 3 + 50)),
    "turned copy": ("near-duplicate", lambda root: write_image(root, np.rot90(picture(2)) + np.uint16(1))),
    "mirrored, noisy copy": (
        "near-duplicate",
        lambda root: write_image(root, picture(2)[:, ::-1] * np.uint16(9) + picture(77)),
    ),
    "rare class": (
        "part-without-class",
        lambda root: (
            write_label(root, np.where(truth(1) == 0, 2, 1).astype(np.uint8)),
            toml("classes = {background = 0, cell = 1, nucleus = 2}")(root),
        ),
    ),
}
