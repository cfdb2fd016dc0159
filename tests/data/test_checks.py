"""Broken data sets, made by code: each yields its own finding and no other; and what is whole yields none."""

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fbunet_jax.config import DataConfig, load_config
from fbunet_jax.data.checks import check_dataset
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.data.findings import EXPECTED
from fbunet_jax.data.folds import configured_folds
from fbunet_jax.errors import DataError

CLASSES = {"background": 0, "cell": 1}
STEMS = ("m1_a", "m1_b", "m2_a", "m2_b", "m3_a", "m3_b")


def picture(seed, shape=(32, 32), dtype=np.uint16):
    return np.random.default_rng(seed).integers(10, 250, shape).astype(dtype)


def truth(seed, shape=(32, 32)):
    """Return a label with two classes; smooth enough that edges are few."""
    return np.kron(np.random.default_rng(seed).permutation(np.arange(16) % 2).reshape(4, 4), np.ones((8, 8))).astype(
        np.uint8
    )[: shape[0], : shape[1]]


@pytest.fixture
def whole(tmp_path):
    """Return a folder without a fault: six 16-bit images, six labels, dataset.toml."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for seed, stem in enumerate(STEMS):
        tifffile.imwrite(tmp_path / "images" / f"{stem}.tif", picture(seed))
        Image.fromarray(truth(seed)).save(tmp_path / "labels" / f"{stem}.png")
    (tmp_path / "dataset.toml").write_text("classes = {background = 0, cell = 1}\n")
    return tmp_path


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


def loads(config):
    """Return whether training could start: the data set is read, divided, and every part has labels."""
    try:
        dataset = load_dataset(config)
        folds = configured_folds(dataset.groups, config)
    except DataError:
        return False
    labelled = {group for group, label in zip(dataset.groups, dataset.labels, strict=True) if (label < 255).any()}
    return all(labelled & set(part) for fold in folds for part in (fold.train, fold.validation))


def test_there_are_at_least_25_broken_sets_of_many_kinds():
    assert len(FAULTS) >= 25
    assert len({kind for kind, *_ in FAULTS.values()}) >= 25


def test_a_whole_set_yields_nothing(whole):
    check = check_dataset(settings(whole))

    assert check.findings == ()
    assert loads(settings(whole))
    assert check.classes == ("background", "cell")
    assert check.pixels.tolist() == [6 * 512, 6 * 512]
    assert (len(check.images), len(check.folds), check.ignored) == (6, 5, 0)


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_set_yields_its_own_fault_and_no_other_and_cannot_be_loaded(name, whole):
    kind, spoil, changes = FAULTS[name]
    with np.errstate(divide="ignore"):
        spoil(whole)
    config = settings(whole, **changes)

    check = check_dataset(config)

    assert {finding.kind for finding in check.findings} == {kind}
    assert all(finding.severity == "fault" for finding in check.findings)
    assert not loads(config)
    for finding in check.findings:
        assert finding.found[-1] in ".?"
        assert finding.expected == EXPECTED[kind]
        assert finding.remedy or kind == "axes-setting"
        assert not finding.file or Path(finding.file).exists()


def test_more_classes_than_indices_are_a_fault(whole):
    classes = {f"class{value}": value for value in reversed(range(300))}
    (whole / "dataset.toml").unlink()

    found = {finding.kind: finding.found for finding in check_dataset(settings(whole, classes=classes)).faults}

    assert "expected from 2 to 255 classes" in found["classes"]


@pytest.mark.parametrize("name", WARNINGS)
def test_a_suspicious_set_yields_its_own_warning_and_can_be_loaded(name, whole):
    kind, spoil = WARNINGS[name]
    spoil(whole)

    check = check_dataset(settings(whole))

    assert [finding.kind for finding in check.findings] == [kind]
    assert check.warnings == check.findings
    assert loads(settings(whole))


def test_all_faults_are_found_at_once_with_their_files(whole):
    label_of(whole, "m1_a").unlink()
    truncate(image_of(whole, "m1_b"))
    write_label(whole, truth(2) * 7, "m2_a")
    write_image(whole, np.full((32, 32), 7, np.uint16), "m3_a")

    findings = check_dataset(settings(whole)).findings

    assert {finding.kind: Path(finding.file).name for finding in findings} == {
        "missing-label": "m1_a.tif",
        "damaged-file": "m1_b.tif",
        "label-values": "m2_a.png",
        "constant-image": "m3_a.tif",
    }


def test_stray_values_of_smoothed_edges_are_counted(whole):
    change_labels(whole, smooth)
    config = settings(whole, classes={"background": 0, "cell": 255})
    (whole / "dataset.toml").unlink()

    (finding,) = check_dataset(config).findings

    stray = sum(int(np.isin(np.array(Image.open(label_of(whole, s))), (0, 255), invert=True).sum()) for s in STEMS)
    assert f"{stray} stray pixels" in finding.remedy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda label: label * 255, "classes = {background = 0, foreground = 255}"),
        (lambda label: label * 4, "classes = {background = 0, class_4 = 4}"),
        (lambda label: np.where(np.tri(32, dtype=bool), label, 255).astype(np.uint8), "ignore_value = 255"),
        (numbered, "one number an object"),
    ],
)
def test_a_table_of_classes_is_proposed_for_labels_without_a_description(change, words, whole):
    (whole / "dataset.toml").unlink()
    change_labels(whole, change)

    (finding,) = check_dataset(settings(whole)).findings

    assert words in finding.remedy


def test_colours_of_rgb_and_palette_labels_become_a_proposed_table(whole):
    change_labels(whole, rgb)
    finding = check_dataset(settings(whole)).findings[0]
    assert "black (0, 0, 0) = 0, red (255, 0, 0) = 1; then classes = {black = 0, red = 1}" in finding.remedy

    (whole / "dataset.toml").unlink()
    for seed, stem in enumerate(STEMS):
        label = Image.fromarray(truth(seed), mode=None).convert("P")
        label.putdata(truth(seed).ravel().tolist())
        label.putpalette([0, 0, 0, 0, 0, 255])
        label.save(label_of(whole, stem))
    (finding,) = check_dataset(settings(whole)).findings
    assert "classes = {black = 0, blue = 1}" in finding.remedy


def test_equal_images_of_one_group_are_told_from_leaks(whole):
    shutil.copy(image_of(whole, "m1_a"), image_of(whole, "m1_b"))
    grouped = settings(whole, group_pattern="^(m[0-9])", folds=3)

    assert "in another group" in check_dataset(settings(whole)).findings[0].found
    assert "in another group" not in check_dataset(grouped).findings[0].found
    write_image(whole, picture(0) + np.uint16(3))
    assert check_dataset(grouped).findings == ()


def test_what_cannot_be_read_at_all_is_an_error(whole, tmp_path):
    shutil.rmtree(whole / "labels")
    with pytest.raises(DataError, match="labels does not exist"):
        check_dataset(settings(whole))
    (whole / "labels").mkdir()
    with pytest.raises(DataError, match="labels is empty"):
        check_dataset(settings(whole))


def test_pixels_are_not_kept(whole):
    check = check_dataset(settings(whole))
    kept = sum(image.picture.nbytes for image in check.images) / len(check.images)
    assert kept <= 4 * 32 * 32
    assert len(check.thumbnails) == 6


@pytest.mark.parametrize("name", ["quickstart", "drosophila", "mouse"])
def test_the_sets_of_the_projects_configurations_yield_nothing(name):
    config = load_config(name)
    if config.data.layout != "synthetic":
        folder = {"drosophila": "drosophila-vnc", "mouse": "nuclei-256"}[name]
        root = Path(os.environ.get("FBUNET_DATA", ""), folder)
        if "FBUNET_DATA" not in os.environ or not root.is_dir():
            pytest.skip(f"FBUNET_DATA does not name a folder that holds {folder}/")
        config = load_config(name, **{"data.root": str(root)})

    check = check_dataset(config.data)

    assert check.findings == ()
    assert len(check.images) == {"quickstart": 20, "drosophila": 20, "mouse": 50}[name]


def test_a_missing_section_and_a_mask_of_another_size_are_faults(tmp_path):
    for folder, pattern in (
        ("raw", "{:02d}.tif"),
        ("membranes", "{:02d}.png"),
        ("mitochondria", "{:02d}.png"),
        ("synapses", "{:02d}.png"),
        ("labels", "labels{:08d}.png"),
    ):
        (tmp_path / "stack1" / folder).mkdir(parents=True)
        for section in range(20):
            path = tmp_path / "stack1" / folder / pattern.format(section)
            array = picture(section, dtype=np.uint8) if folder == "raw" else truth(section) * 255
            tifffile.imwrite(path, array) if path.suffix == ".tif" else Image.fromarray(array).save(path)
    (tmp_path / "stack1" / "synapses" / "07.png").unlink()
    Image.fromarray(truth(1)[:8]).save(tmp_path / "stack1" / "membranes" / "03.png")

    check = check_dataset(DataConfig(layout="drosophila-vnc", root=str(tmp_path), fold_scheme="grouped"))

    assert {finding.kind for finding in check.faults} >= {"missing-file", "pair-size"}
    assert json.dumps([finding.found for finding in check.faults]).count("07.png") == 1


def smoothed_mask():
    """Return a 0/255 mask whose edges were smoothed by scaling."""
    return np.asarray(Image.fromarray(truth(1) * 255).resize((29, 29), Image.Resampling.BICUBIC).resize((32, 32)))


def test_one_smoothed_mask_hides_neither_what_it_is_nor_the_classes_of_the_other_labels(whole):
    write_label(whole, smoothed_mask())
    assert len(np.unique(smoothed_mask())) > 25

    (fault,) = check_dataset(settings(whole)).faults
    assert fault.kind == "label-mask"
    assert fault.file == str(label_of(whole))

    (whole / "dataset.toml").unlink()
    (undescribed,) = check_dataset(settings(whole)).faults
    assert "Proposed: classes = {background = 0, class_1 = 1}" in undescribed.remedy
