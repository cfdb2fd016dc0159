"""The folder of results: what may be replaced, what is removed, how files are called."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from fbunet_jax.errors import RunError
from fbunet_jax.inference.measurements import write_summary
from fbunet_jax.inference.output_folder import OutputFolder
from fbunet_jax.inference.outputs import beside
from fbunet_jax.inference.prediction import Band
from fbunet_jax.inference.segment_file import Settings, other_channels, segment_file
from fbunet_jax.pipeline.normalisation import Normalisation


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_overwriting_removes_the_results_of_other_settings_and_nothing_else(tmp_path):
    fill(tmp_path, "prediction.json", "labels/a.tif", "overlays/a.png", "probabilities/a.tif", "uncertainty/a.tif")
    fill(tmp_path, "summary.csv", "label_next.csv", ".unfinished-1", "notes.txt", "mine/labels.tif")
    folder = OutputFolder(tmp_path)
    with pytest.raises(RunError, match="--overwrite"):
        folder.begin({}, overwrite=False)
    with pytest.raises(RunError, match=r"a\.tif is among the results"):
        folder.begin({}, [tmp_path / "labels/a.tif"], overwrite=True)
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


def test_the_pages_of_a_stack_never_have_the_name_of_another_image():
    folder = OutputFolder(Path("out"))
    assert folder.overlay("zstack", 0, 3) == Path("out/overlays/zstack/z000.png")
    assert folder.overlay("zstack-z000", 0, 1) == Path("out/overlays/zstack-z000.png")


class Known:
    """Takes the intensity for the class: what a network finds is known."""

    channels, class_names = 1, ("background", "one", "two")
    folds = (SimpleNamespace(fold=0, step=1, normalisation=Normalisation("scale")),)

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
    summaries = segment_file(Known(), tmp_path / "a.tif", folder, settings, lambda pixels, share: None)
    write_summary(folder.summary, summaries, Known.class_names)
    with folder.summary.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["objects one"]) for row in rows] == objects
    assert [int(row["profiles one"]) for row in rows] == [1, 1, 1, 1, 0, 1]
    assert [int(row["objects two"]) for row in rows] == [0] * 6
    assert {row["objects counted in"] for row in rows} == {counted_in}


def test_another_number_of_channels_is_explained():
    tiff, png = (other_channels(Path(name), 1, 3) for name in ("case_0000.tif", "a.png"))
    assert "has 1 channel, but the network was trained with 3" in tiff
    assert "--axes" in tiff
    assert "(nnU-Net) have to be joined" in tiff
    assert "--axes" not in png
    assert "nnU-Net" not in png
