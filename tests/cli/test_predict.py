"""predict.py as a user types it: files in, files out, mistakes explained."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tifffile
from PIL import Image

import fbunet_jax
from fbunet_jax.cli import main
from fbunet_jax.cli import predict as predict_command
from fbunet_jax.config import load_config
from fbunet_jax.data.layouts.synthetic import synthetic_image
from fbunet_jax.figures import class_colours
from fbunet_jax.inference import images as inference_images
from fbunet_jax.inference import outputs
from fbunet_jax.inference import segment_file as segmenting
from fbunet_jax.inference.inputs import InputImage
from fbunet_jax.inference.measurements import PageSummary
from fbunet_jax.inference.output_folder import OutputFolder
from fbunet_jax.training.fold import train

ROOT = Path(__file__).parents[2]
TILES = ["--tile", "64"]


def predict(*options, cwd, check=0):
    """Run predict.py in a process of its own and return what it printed; a traceback is a failure."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, "-W", "error", str(ROOT / "predict.py"), *map(str, options)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)
    assert "Traceback" not in done.stderr
    assert "Internal error" not in done.stderr
    assert done.returncode == check, done.stderr + done.stdout
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a run of two folds, and images of every kind, one of them cut off."""
    folder = tmp_path_factory.mktemp("work")
    data = {"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3}
    config = load_config("quickstart", data=data, model={"widths": [2, 3]}, training={"epochs": 2, "batch_size": 8})
    for fold in (0, 1):
        train(config, fold, out=folder / "run")
    inputs = folder / "in"
    inputs.mkdir()
    pages = np.stack([synthetic_image(seed, 80)[0][..., 0] for seed in range(3)])
    tifffile.imwrite(inputs / "9.tif", pages[0, :50], resolution=(4000, 3000), resolutionunit="CENTIMETER")
    tifffile.imwrite(inputs / "10.tif", pages, imagej=True, metadata={"axes": "ZYX"})
    Image.fromarray(pages[1]).save(inputs / "photo.png")
    tifffile.imwrite(inputs / "pixel.tif", pages[0, :1, :1])
    tifffile.imwrite(inputs / "colour.tif", np.zeros((9, 9, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(inputs / "deep.tif", pages[0].astype(np.uint16) * 257)
    (inputs / "cut.tif").write_bytes((inputs / "9.tif").read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def result(work):
    """What the command printed; its results lie in out/."""
    return predict("run", "in", "--out", "out", *TILES, "--probabilities", "--uncertainty", cwd=work, check=2)


def test_what_cannot_be_segmented_is_named_after_everything_else_is_done(work, result):
    assert "Error: 2 of 7 files could not be segmented" in result
    assert "cut.tif ends before the data" in result
    assert "colour.tif has 3 channels, but the network was trained with 1" in result
    assert "Warning: in/deep.tif: the mean intensity is" in result
    assert "megapixels/s" in result
    assert {path.name for path in (work / "out/labels").iterdir()} == {
        "9.tif",
        "10.tif",
        "photo.tif",
        "pixel.tif",
        "deep.tif",
    }
    for line in result[result.index("Written:") :].splitlines()[1:6]:
        assert (work / line.split()[0]).exists()
    assert not list((work / "out").rglob(".unfinished*"))


def test_labels_are_those_of_python_with_palette_class_table_and_resolution(work, result):
    predictor = fbunet_jax.load(work / "run")
    expected = predictor.predict(tifffile.imread(work / "in/9.tif"), tile=64)
    with tifffile.TiffFile(work / "out/labels/9.tif") as file:
        page = file.pages[0]
        np.testing.assert_array_equal(page.asarray(), expected.labels)
        assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
        np.testing.assert_array_equal(page.colormap[:, :4] >> 8, class_colours(4).T)
        assert page.tags["XResolution"].value == (4000, 1)
        assert page.tags["YResolution"].value == (3000, 1)
        assert int(page.tags["ResolutionUnit"].value) == 3
        description = json.loads(page.description)
    assert description["classes"] == {name: index for index, name in enumerate(predictor.class_names)}
    assert description["folds"] == {str(fold.fold): fold.step for fold in predictor.folds}
    with Image.open(work / "out/labels/9.tif") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), expected.labels)
    probabilities = tifffile.imread(work / "out/probabilities/9.tif")
    assert probabilities.dtype == np.float16
    np.testing.assert_allclose(probabilities.transpose(1, 2, 0), expected.probabilities, atol=1e-3)
    entropy, disagreement = tifffile.imread(work / "out/uncertainty/9.tif")
    np.testing.assert_allclose(entropy, expected.entropy, atol=1e-5)
    np.testing.assert_allclose(disagreement, expected.disagreement, atol=1e-5)


def test_offsets_are_used_named_and_asked_for(work, result, capsys):
    command = ["predict", str(work / "run"), str(work / "in/9.tif"), "--out", str(work / "shifted"), *TILES]
    assert main([*command, "--offsets"]) == 2
    said = capsys.readouterr().err
    assert "Fold 1 of " in said
    assert f"fbunet evaluate {work / 'run'} --offsets, or" in said
    assert not (work / "shifted").exists()
    assert main(["evaluate", str(work / "run"), "--offsets"]) == 0
    assert main([*command, "--offsets"]) == 0
    assert f"folds 0, 1 of {work / 'run'} with offsets; tiles" in capsys.readouterr().out
    predictor = fbunet_jax.load(work / "run", offsets=True)
    expected = {str(fold.fold): list(fold.offsets) for fold in predictor.folds}
    assert json.loads((work / "shifted/prediction.json").read_text())["offsets"] == expected
    with tifffile.TiffFile(work / "shifted/labels/9.tif") as file:
        labels, description = file.asarray(), json.loads(file.pages[0].description)
    assert description["offsets"] == expected
    np.testing.assert_array_equal(labels, predictor.predict(tifffile.imread(work / "in/9.tif"), tile=64).labels)
    assert json.loads((work / "out/prediction.json").read_text())["offsets"] is None


def test_a_stack_stays_a_stack(work, result):
    pages = tifffile.imread(work / "in/10.tif")
    expected = fbunet_jax.load(work / "run").predict(pages, tile=64, stack=True)
    with tifffile.TiffFile(work / "out/labels/10.tif") as file:
        assert file.series[0].axes == "ZYX"
        np.testing.assert_array_equal(file.asarray(), expected.labels)
    with tifffile.TiffFile(work / "out/probabilities/10.tif") as file:
        assert file.series[0].axes == "ZCYX"
        found = file.asarray().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-3)
    assert {path.name for path in (work / "out/overlays/10").iterdir()} == {f"z00{page}.png" for page in range(3)}


def test_the_tables_hold_what_the_label_files_hold(work, result):
    with (work / "out/summary.csv").open() as file:
        rows = {(row["image"], int(row["page"])): row for row in csv.DictReader(file)}
    assert list(rows) == [("9", 0), ("10", 0), ("10", 1), ("10", 2), ("deep", 0), ("photo", 0), ("pixel", 0)]
    stack = tifffile.imread(work / "out/labels/10.tif")
    labels = stack[1]
    entropy, disagreement = tifffile.imread(work / "out/uncertainty/10.tif")[1]
    row = rows["10", 1]
    for index, name in enumerate(("cytoplasm", "membrane", "mitochondria", "synapse")):
        assert float(row[f"area share {name}"]) == pytest.approx((labels == index).mean(), abs=1e-6)
        assert int(row[f"profiles {name}"]) == scipy.ndimage.label(labels == index, np.ones((3, 3)))[1]
        objects = scipy.ndimage.label(stack == index, np.ones((3, 3, 3)))[1]
        assert sum(int(rows["10", page][f"objects {name}"]) for page in range(3)) == objects
    assert (row["objects counted in"], rows["9", 0]["objects counted in"]) == ("3D", "2D")
    assert float(row["entropy"]) == pytest.approx(entropy.mean(), abs=1e-5)
    assert float(row["disagreement"]) == pytest.approx(disagreement.mean(), abs=1e-5)
    with (work / "out/label_next.csv").open() as file:
        ranked = [row for row in csv.DictReader(file) if row["what"] == "image"]
    values = [float(row["disagreement"]) for row in ranked]
    assert values == sorted(values, reverse=True)
    assert scipy.stats.rankdata([-value for value in values], method="ordinal").tolist() == list(range(1, 8))


def test_bands_and_scratch_files_give_the_same_files(work, result, monkeypatch, tmp_path):
    monkeypatch.setattr(inference_images, "WHOLE_VALUES", 0)
    monkeypatch.setattr(outputs, "SCRATCH_PIXELS", 0)
    folder = OutputFolder(tmp_path)
    settings = segmenting.Settings(tile=64, probabilities=True)
    told = []
    predictor = fbunet_jax.load(work / "run")
    segmenting.segment_file(
        predictor, InputImage.alone(work / "in/10.tif"), folder, settings, lambda *each: told.append(each)
    )
    for kind in ("labels", "probabilities"):
        found = tifffile.imread(tmp_path / kind / "10.tif")
        np.testing.assert_allclose(found, tifffile.imread(work / "out" / kind / "10.tif"), atol=1e-3)
    assert sum(pixels for pixels, _ in told) == 3 * 80 * 80
    assert sum(share for _, share in told) == pytest.approx(1)
    assert {path.name for path in tmp_path.iterdir()} == {"labels", "probabilities", "overlays"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["run", "in", "--out", "out"], "replace them with --overwrite"),
        (["run", "in", "--out", "in"], "not results of predict"),
        (["run", "nowhere", "--out", "new"], "nowhere does not exist"),
        (["in", "in/9.tif", "--out", "new"], "is not a run directory"),
        (["run", "in/9.tif", "--out", "new", "--fold", "2"], "Fold 2 of run has no checkpoint"),
        (["run", "in/9.tif", "--out", "new", "--tile", "33"], "tile = 33"),
        (["run", "in/9.tif", "--out", "new", "--batch", "0"], "batch = 0"),
        (["run", "--out", "new"], "No image is given"),
        (["run", "in/9.tif", "--out", "new", "--axes", "ZZ"], "--axes or data.axes = 'ZZ'"),
    ],
)
def test_a_mistake_gets_a_sentence_and_nothing_is_written(options, message, work, result, monkeypatch, capsys):
    monkeypatch.chdir(work)
    before = sorted(work.rglob("*"))
    assert main(["predict", *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(work.rglob("*")) == before


class Stub:
    """Stands for a predictor where nothing is segmented."""

    folds: tuple = ()
    class_names = ("a", "b")


@pytest.fixture
def segmented(tmp_path, monkeypatch):
    """Return a function that runs the loop over a.tif, b.tif and c.tif, where b.tif raises an error."""

    def run(error):
        def segment(_, image, *__):
            if image.name == "b":
                raise error
            counts = np.array([3, 1])
            return [PageSummary(image.name, 0, 2, 2, counts, [1, 1], [1, 1], 2, 1.2e-5, None, [], "")]

        monkeypatch.setattr(segmenting, "segment_file", segment)
        folder, given = OutputFolder(tmp_path), [InputImage.alone(Path(f"{name}.tif")) for name in "abc"]
        return predict_command._segment(Stub(), given, folder, segmenting.Settings())

    return run


def test_a_file_that_the_system_refuses_does_not_lose_the_others(segmented, tmp_path, capsys):
    assert segmented(OSError(errno.ENAMETOOLONG, "File name too long", "b" * 300)) == 2
    told = capsys.readouterr()
    assert "1 of 3 files could not be segmented" in told.err
    assert "File name too long" in told.err
    assert "1.2e-05  a" in told.out
    with (tmp_path / "summary.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a", "c"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_what_is_done_is_in_the_tables_when_the_rest_is_given_up(error, segmented, tmp_path):
    with pytest.raises(type(error)):
        segmented(error)
    for name in ("summary.csv", "label_next.csv"):
        with (tmp_path / name).open() as file:
            assert [row["image"] for row in csv.DictReader(file)] == ["a"]


def test_a_terminated_command_says_so_and_leaves_nothing_unfinished(work, result, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(outputs, "SCRATCH_PIXELS", 0)
    monkeypatch.setattr(segmenting, "draw_overlay", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert (
            main(["predict", str(work / "run"), str(work / "in/9.tif"), "--out", str(tmp_path / "out"), *TILES]) == 130
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "Interrupted." in capsys.readouterr().err
    assert not list(tmp_path.rglob(".unfinished*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [(["a", "b", "--out", "a.pdf"], "ends in .png"), (["a", "b", "./a"], "./a is given twice")],
)
def test_a_comparison_that_cannot_be_gets_a_sentence(options, message, capsys):
    assert main(["compare", *options]) == 2
    assert message in capsys.readouterr().err
