"""The folder of results: what may be replaced, what is removed, how files are called."""

import csv
import errno
import mmap
import os
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from fbunet_jax import figures
from fbunet_jax.errors import DataError, RunError
from fbunet_jax.inference.inputs import InputImage
from fbunet_jax.inference.measurements import write_summary
from fbunet_jax.inference.output_folder import OutputFolder
from fbunet_jax.inference.outputs import beside, label_pages
from fbunet_jax.inference.prediction import Band
from fbunet_jax.inference.segment_file import Settings, other_channels, segment_file
from fbunet_jax.pipeline.normalisation import Normalisation


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_overwriting_removes_the_results_of_other_settings_and_nothing_else(tmp_path):
    fill(tmp_path, "prediction.json", "labels/a.tif", "overlays/a.png", "probabilities/a.tif", "uncertainty/a.tif")
    fill(tmp_path, "summary.csv", "label_next.csv", ".unfinished-1", "notes.txt", "mine/labels.tif")
    folder = OutputFolder(tmp_path)
    with pytest.raises(RunError, match="--overwrite"):
        folder.begin({}, overwrite=False)
    with pytest.raises(RunError, match=r"a\.tif is among the results"):
        folder.begin({}, [InputImage.alone(tmp_path / "labels/a.tif")], overwrite=True)
    assert folder.labels("a").exists()
    folder.begin({}, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"prediction.json", "notes.txt", "mine"}


def test_a_link_to_results_elsewhere_is_removed_and_not_followed(tmp_path):
    fill(tmp_path, "elsewhere.tif")
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "prediction.json")
    (tmp_path / "kept").mkdir()
    fill(tmp_path / "kept", "a.tif")
    (tmp_path / "out/labels").symlink_to(tmp_path / "kept")
    OutputFolder(tmp_path / "out").begin({}, overwrite=True)
    assert not (tmp_path / "out/labels").exists()
    assert (tmp_path / "kept/a.tif").exists()


def test_a_folder_without_a_finished_result_is_used_again(tmp_path):
    folder = OutputFolder(tmp_path)
    folder.begin({}, overwrite=False)
    fill(tmp_path, "labels/.unfinished-1.tif", ".unfinished-2", "overlays/a.png")
    folder.begin({}, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["prediction.json"]
    fill(tmp_path, "summary.csv")
    with pytest.raises(RunError, match="holds results already"):
        folder.begin({}, overwrite=False)


def test_a_long_name_fits_while_the_file_is_unfinished(tmp_path):
    folder, name = OutputFolder(tmp_path), "n" * 251
    for path in (folder.scratch(name, "labels"), beside(tmp_path / f"{name}.tif")):
        path.touch()
        path.unlink()
    assert folder.scratch("a", "labels") != folder.scratch("b", "labels")


def test_a_picture_with_a_name_as_long_as_the_disk_takes_is_drawn(tmp_path):
    path = tmp_path / ("ü" * 125 + "n.png")  # 255 bytes
    figures.draw_overlay(path, np.zeros((8, 8, 1), np.uint8), np.zeros((8, 8), np.uint8), ("a", "b"))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("names", [("A01", "a01"), ("Zell\u00e9", "Zelle\u0301"), ("stra\u00dfe", "STRASSE")])
def test_names_that_the_disk_does_not_tell_apart_are_refused_before_anything_is_written(tmp_path, names, monkeypatch):
    images = [InputImage.alone(tmp_path / f"{name}.tif") for name in names]
    OutputFolder(tmp_path / "exact").begin({}, images, overwrite=False)  # this disk tells them apart
    made, touch, exists = set(), Path.touch, Path.exists

    def key(path):
        return unicodedata.normalize("NFC", path.name).casefold()

    def remember(path, *arguments, **options):
        made.add(key(path))
        touch(path, *arguments, **options)

    monkeypatch.setattr(Path, "touch", remember)
    monkeypatch.setattr(Path, "exists", lambda path: key(path) in made or exists(path))
    folder = OutputFolder(tmp_path / "out")
    for begin in (folder.begin, folder.join):
        with pytest.raises(DataError, match=r"would have one result: the disk of .*out does not tell upper from lower"):
            begin({}, images, overwrite=False)
    assert list((tmp_path / "out").iterdir()) == []


def named(folder, *names):
    return [InputImage(name, (folder / f"{number}.tif",)) for number, name in enumerate(names)]


def test_results_in_folders_count_as_results_and_are_removed_with_them(tmp_path):
    folder = OutputFolder(tmp_path)
    folder.begin({}, named(tmp_path, "fish A/image_1"), overwrite=False)
    fill(tmp_path, "labels/fish A/.unfinished-1.tif")
    folder.begin({}, overwrite=False)  # nothing was finished
    assert not (tmp_path / "labels").exists()
    for result in ("labels/fish A/image_1.tif", "labels/fish A/b/image_1.ome.zarr/zarr.json"):
        fill(tmp_path, result)
        with pytest.raises(RunError, match="holds results already"):
            folder.begin({}, overwrite=False)
        folder.begin({}, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["prediction.json"]


def test_every_channel_file_is_kept_apart_from_the_results(tmp_path):
    fill(tmp_path, "prediction.json", "labels/a_1.tif")
    image = InputImage("a", (tmp_path / "elsewhere/a_0.tif", tmp_path / "labels/a_1.tif"))
    with pytest.raises(RunError, match=r"a_1\.tif is among the results"):
        OutputFolder(tmp_path).begin({}, [image], overwrite=True)
    assert (tmp_path / "labels/a_1.tif").exists()


def test_names_with_folders_are_told_apart_as_the_disk_does(tmp_path, monkeypatch):
    images = named(tmp_path, "Fish/image_1", "fish/image_1", "fish/image_2")
    OutputFolder(tmp_path / "exact").begin({}, images, overwrite=False)  # this disk tells them apart
    exists = Path.exists

    def without_case(path):
        here = path.parent.parent
        alike = (each for each in here.glob("*/*") if str(each).casefold() == str(path).casefold())
        return exists(path) or any(alike)

    monkeypatch.setattr(Path, "exists", without_case)
    with pytest.raises(DataError, match=r"0\.tif and .*1\.tif would have one result"):
        OutputFolder(tmp_path / "out").begin({}, images, overwrite=False)
    OutputFolder(tmp_path / "other").begin({}, images[1:], overwrite=False)


@pytest.mark.parametrize("names", [("a", "a/z000"), ("a.tif/b", "a"), ("x/a.ome.zarr/b/c", "x/a"), ("A.png/b", "a")])
def test_images_whose_results_would_lie_among_those_of_another_are_refused(names, tmp_path):
    for begin in (OutputFolder(tmp_path / "out").begin, OutputFolder(tmp_path / "out").join):
        with pytest.raises(DataError, match=r"The results of .* would lie among those of"):
            begin({}, named(tmp_path, *names), overwrite=False)
    assert not (tmp_path / "out/prediction.json").exists()
    OutputFolder(tmp_path / "out").begin({}, named(tmp_path, "a", "a/b", "a/z00", "b/z000"), overwrite=False)


@pytest.mark.parametrize("can_map", [True, False])
def test_large_labels_are_kept_in_a_file_on_any_disk(tmp_path, monkeypatch, can_map):
    monkeypatch.setattr("fbunet_jax.inference.outputs.SCRATCH_PIXELS", 0)
    real = mmap.mmap

    def refuse(descriptor, size, *arguments, **options):
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(tmp_path) and not can_map:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return real(descriptor, size, *arguments, **options)

    monkeypatch.setattr(mmap, "mmap", refuse)
    with label_pages(2, 3, 4, tmp_path / "scratch", np.uint16) as labels:
        assert labels.shape == (2, 3, 4)
        assert not labels.any()
        labels[1] = 1000
        np.testing.assert_array_equal(labels[:, 0, 0], [0, 1000])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_labels_are_kept_there(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fbunet_jax.inference.outputs.SCRATCH_PIXELS", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(OSError, match=r"No space left on device.*scratch"),
        label_pages(2, 3, 4, tmp_path / "scratch"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_pages_of_a_stack_never_have_the_name_of_another_image():
    folder = OutputFolder(Path("out"))
    assert folder.overlay("zstack", 0, 3) == Path("out/overlays/zstack/z000.png")
    assert folder.overlay("zstack-z000", 0, 1) == Path("out/overlays/zstack-z000.png")


class Known:
    """Takes the intensity for the class: what a network finds is known."""

    channels, class_names = 1, ("background", "one", "two")
    folds = (SimpleNamespace(fold=0, step=1, normalisation=Normalisation("scale")),)
    offsets = None
    kinds = SimpleNamespace(word=lambda *_: "")

    def bands(self, rows, height, width, tiles):
        yield Band(0, np.pad(np.eye(3, dtype=np.float32)[rows(0, height)[..., 0]], ((0, 0), (0, 0), (0, 1))))


@pytest.mark.parametrize(
    ("axes", "objects", "counted_in"),
    [
        ("ZYX", [1, 0, 0, 0, 0, 1], "3D"),
        ("TZYX", [1, 0, 0, 1, 0, 1], "3D"),
        ("ZTYX", [1, 1, 0, 0, 0, 0], "3D"),
        ("TYX", [1, 1, 1, 1, 0, 1], "2D"),
        ("IYX", [1, 1, 1, 1, 0, 1], "2D"),
        ("ZIYX", [1, 1, 1, 1, 0, 1], "2D"),
    ],
)
def test_objects_count_once_through_sections_and_on_every_page_of_other_axes(axes, objects, counted_in, tmp_path):
    pages = np.zeros((6, 8, 8), np.uint8)
    pages[[0, 1, 2, 3, 5], 2:4, 2:4] = 1
    shape = {"TZYX": (2, 3, 8, 8)}.get(axes, (3, 2, 8, 8) if len(axes) == 4 else pages.shape)
    tifffile.imwrite(tmp_path / "a.tif", pages.reshape(shape), photometric="minisblack")
    folder, settings = OutputFolder(tmp_path), Settings(axes=axes, overlays=False)
    summaries = segment_file(
        Known(), InputImage.alone(tmp_path / "a.tif"), folder, settings, lambda pixels, share: None
    )
    write_summary(folder.summary, summaries, Known.class_names)
    with folder.summary.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["objects one"]) for row in rows] == objects
    assert [int(row["profiles one"]) for row in rows] == [1, 1, 1, 1, 0, 1]
    assert [int(row["objects two"]) for row in rows] == [0] * 6
    assert {row["objects counted in"] for row in rows} == {counted_in}


class Blind(Known):
    """Finds the first class everywhere."""

    def bands(self, rows, height, width, tiles):
        yield Band(0, np.tile(np.float32([1, 0, 0, 0]), (height, width, 1)))


@pytest.mark.parametrize("no_data", ["refuse", "keep"])
def test_a_value_for_no_data_is_announced_by_the_settings_of_the_run(no_data, tmp_path):
    image = np.random.default_rng(0).uniform(-60, 0, (40, 40)).astype(np.float32)
    image[:10] = -300
    tifffile.imwrite(tmp_path / "a.tif", image)
    folder, settings = OutputFolder(tmp_path), Settings(no_data=no_data, overlays=False)
    (page,) = segment_file(Blind(), InputImage.alone(tmp_path / "a.tif"), folder, settings, lambda pixels, share: None)
    assert ("looks like a mark for no data" in page.warning) == (no_data == "refuse")


def test_another_number_of_channels_is_explained():
    tiff, png = (other_channels(InputImage("a", (Path(name),), " In files."), 1, 3) for name in ("a.tif", "a.png"))
    assert "has 1 channel, but the network was trained with 3" in tiff
    assert "--axes" in tiff
    assert "--axes" not in png
    assert png.endswith(" In files.")
    several = other_channels(InputImage("a", (Path("a_0.png"), Path("a_1.png")), " In files."), 2, 1)
    assert "a_0.png and a_1.png have 2 channels, but" in several
    assert not several.endswith(" In files.")
