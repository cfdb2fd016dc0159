"""Broken data sets, made by code: each yields its own finding and no other; and what is whole yields none."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageColor, PngImagePlugin

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.check.proposals import colour_name, palette_names
from fbunet_jax.config import DataConfig, load_config
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.data.faults import EXPECTED
from fbunet_jax.data.folds import configured_folds
from fbunet_jax.data.layouts import sources
from fbunet_jax.data.readers import pixels
from fbunet_jax.errors import DataError
from tests.check.broken_sets import (
    FAULTS,
    STEMS,
    WARNINGS,
    change_labels,
    image_of,
    label_of,
    numbered,
    picture,
    rgb,
    settings,
    smooth,
    truncate,
    truth,
    write_image,
    write_label,
)


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


def test_the_palette_of_a_label_is_read_however_large_it_is_and_whatever_text_it_carries(tmp_path, monkeypatch):
    label = Image.fromarray(np.eye(20, dtype=np.uint8), "P")
    label.putpalette([0, 0, 0, 255, 0, 0])
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Regions", "0123456789" * 200_000, zip=True)
    label.save(tmp_path / "a.png", pnginfo=notes)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert palette_names(tmp_path / "a.png") == {0: "black", 1: "red"}


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


def test_what_systems_and_network_disks_leave_is_passed_over(whole):
    for folder in (whole / "images", whole / "labels"):
        for name in ("@eaDir", "__MACOSX", "lost+found", "~tmp"):
            (folder / name).mkdir()
            (folder / name / "m1_a.tif").touch()
        for name in (".DS_Store", "._m1_a.tif", "Thumbs.db", "~$m1_a.tif", "m1_a.tif:Zone.Identifier", "Icon\r"):
            (folder / name).touch()
    assert check_dataset(settings(whole)).findings == ()


def test_capital_suffixes_pair_and_names_that_some_disk_takes_for_one_do_not(whole):
    for file in sorted((whole / "images").iterdir()):
        file.rename(file.with_name(f"{file.stem.upper()}.OME.TIF"))
    for file in sorted((whole / "labels").iterdir()):
        file.rename(file.with_name(f"{file.stem.upper()}.PNG"))
    assert check_dataset(settings(whole)).findings == ()

    first = sorted((whole / "images").iterdir())[0]
    twin = shutil.copy(first, whole / "images" / f"{STEMS[0]}.tif")
    (fault,) = check_dataset(settings(whole)).faults
    assert fault.kind == "same-name"
    assert {str(first), str(twin)} <= set(f"{fault.file} {fault.found}".split())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_description_with_a_byte_order_mark_is_read_and_one_in_utf_16_is_named(whole, encoding):
    file = whole / "dataset.toml"
    file.write_bytes(file.read_text().replace("\n", "\r\n").encode(encoding))
    faults = check_dataset(settings(whole)).faults

    assert [fault.kind for fault in faults] == (["description"] if encoding == "utf-16" else [])
    assert all("is text in UTF-16" in fault.found for fault in faults)


@pytest.mark.parametrize("name", [None, *sorted(FAULTS)[::4]])
def test_files_read_ahead_give_what_they_give_one_after_the_other(whole, name, monkeypatch):
    changes = {}
    if name:
        _, damage, changes = FAULTS[name]
        damage(whole)
    monkeypatch.setattr(pixels, "available_memory", lambda: 10**10)  # which a message says
    found = []
    for size in (2**20, -1):
        monkeypatch.setattr(sources, "_READ_AHEAD_BYTES", size)
        try:
            check = check_dataset(settings(whole, **changes))
            found.append((check.findings, check.values, [image.fingerprint for image in check.images]))
        except DataError as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_files_are_read_ahead_by_their_decoded_size(tmp_path):
    sizes = {"large.png": (6000, 6000), "small.png": (128, 128), "page.png": (1024, 1024)}
    for name, size in sizes.items():
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / name)
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((128, 128), np.uint8))
    tifffile.imwrite(tmp_path / "large.tif", np.zeros((9000, 9000), np.uint8), compression="deflate", rowsperstrip=9)
    units = [sources.Unit(each.name, "g", (each, each)) for each in sorted(tmp_path.iterdir())]
    assert max(each.files[0].stat().st_size for each in units) < sources._READ_AHEAD_BYTES / 2
    assert [unit.name for unit in units if sources._is_small(unit)] == ["page.png", "small.png", "small.tif"]


def test_few_files_are_in_memory_however_many_there_are(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x")
    began, most = itertools.count(1), 0
    read = []
    units = tuple(sources.Unit(str(number), "g", (tmp_path / "a.png",)) for number in range(50))
    source = sources.Source(units, lambda unit: read.append(next(began)) or (unit.name, None), {})
    for done, reading in enumerate(sources.read_ahead(source)):
        assert reading()[0] == str(done)
        most = max(most, len(read) - done)
    assert len(read) == 50
    assert most <= sources._READERS + 1


def test_colours_have_their_names_also_after_pillow_has_used_them():
    for name, colour in (("black", (0, 0, 0)), ("teal", (0, 128, 128))):
        ImageColor.getrgb(name)
        assert colour_name(colour) == name
    assert colour_name((1, 2, 255)) == "colour_0102ff"
