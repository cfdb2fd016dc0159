"""predict.py on volumes as a user types it: chunks of OME-Zarr, in shards, interrupted, and read by other programs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel

import fbunet_jax
from fbunet_jax.cli import main, predict_chunks
from fbunet_jax.config import load_config
from fbunet_jax.data.layouts.synthetic import synthetic_image
from fbunet_jax.figures import class_colours
from fbunet_jax.inference import images, volumes, zarr_output
from fbunet_jax.inference.channels import open_input
from fbunet_jax.inference.volumes import Shard
from fbunet_jax.inference.windows import PageWindows
from fbunet_jax.runs.trained import TrainedFold
from fbunet_jax.training.fold import train

with warnings.catch_warnings():  # of a default value that the library itself deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from ome_zarr.writer import write_image

ROOT = Path(__file__).parents[2]
TILES = ["--tile", "32", "--overlap", "16", "--chunk", "64"]
CHUNKS = 12
"""Of the volume: 2 pages of 3 x 2 chunks each."""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a trained run and a volume of 2 x 150 x 110 pixels, whose sides are no multiples of a chunk."""
    folder = tmp_path_factory.mktemp("work")
    data = {"synthetic_images": 6, "synthetic_size": 64, "crop": 32, "folds": 3}
    # enough for several classes in the answer
    training = {"epochs": 20, "validate_every": 20, "batch_size": 8, "learning_rate": 0.03}
    config = load_config("quickstart", data=data, model={"widths": [2, 3]}, training=training)
    train(config, 0, out=folder / "run")
    pages = np.stack([synthetic_image(seed, 150)[0][:, :110, 0] for seed in range(2)])
    write_volume(folder / "in.ome.zarr", pages)
    tifffile.imwrite(folder / "stack.tif", pages, compression="zlib", tile=(32, 48), metadata={"axes": "ZYX"})
    np.save(folder / "pages.npy", pages)
    return folder


def write_volume(path, pages):
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    scale = {"z": 0.05, "y": 0.004, "x": 0.008}
    options = {"scale": scale, "axes_units": dict.fromkeys(scale, "micrometer"), "scale_factors": []}
    write_image(pages, group, axes="zyx", **options)


@pytest.fixture(scope="module")
def result(work):
    """The results of one process, without interruption."""
    smallest, zarr_output.SMALLEST_CHUNK = zarr_output.SMALLEST_CHUNK, 16
    largest, zarr_output.COARSEST_PIXELS = zarr_output.COARSEST_PIXELS, 64
    try:
        assert predict(work, "one") == 0
        yield work / "one"
    finally:
        zarr_output.SMALLEST_CHUNK, zarr_output.COARSEST_PIXELS = smallest, largest


def predict(work, out, *options, source="in.ome.zarr", maps=("--probabilities", "--uncertainty")):
    """Run the command in this process."""
    return main(["predict", str(work / "run"), str(work / source), "--out", str(work / out), *TILES, *maps, *options])


def files_of(folder):
    """Return name and bytes of every file of the results."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for kind in ("labels", "probabilities", "uncertainty")
        for path in (folder / kind).rglob("*")
        if path.is_file()
    }


def test_the_labels_are_those_of_the_whole_pages_in_memory(work, result):
    expected = fbunet_jax.load(work / "run").predict(np.load(work / "pages.npy"), stack=True, tile=32, overlap=16)
    assert len(np.unique(expected.labels)) > 1
    group = zarr.open_group(str(result / "labels/in.ome.zarr"), mode="r")
    np.testing.assert_array_equal(group["0"][:], expected.labels, strict=True)
    np.testing.assert_array_equal(group["1"][:], expected.labels[:, ::2, ::2])
    np.testing.assert_array_equal(group["2"][:], expected.labels[:, ::4, ::4])
    assert "3" not in group
    found = zarr.open_array(str(result / "probabilities/in.ome.zarr/0"), mode="r")[:]
    np.testing.assert_array_equal(found, np.moveaxis(expected.probabilities, -1, 0).astype(np.float16), strict=True)
    found = zarr.open_array(str(result / "uncertainty/in.ome.zarr/0"), mode="r")[:]
    np.testing.assert_array_equal(found, expected.entropy[None], strict=True)


def test_the_metadata_are_those_of_the_specification(work, result):
    names = fbunet_jax.load(work / "run").class_names
    ome = json.loads((result / "labels/in.ome.zarr/zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    multiscale = ome["multiscales"][0]
    assert multiscale["axes"] == [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    assert [(level["path"], level["coordinateTransformations"]) for level in multiscale["datasets"]] == [
        ("0", [{"type": "scale", "scale": [0.05, 0.004, 0.008]}]),
        ("1", [{"type": "scale", "scale": [0.05, 0.008, 0.016]}]),
        ("2", [{"type": "scale", "scale": [0.05, 0.016, 0.032]}]),
    ]
    label = ome["image-label"]
    assert [each["class"] for each in label["properties"]] == list(names)
    assert [each["rgba"][:3] for each in label["colors"]] == class_colours(len(names)).tolist()
    assert [each["rgba"][3] for each in label["colors"]] == [0] + [255] * (len(names) - 1)
    assert (result / "labels/in.ome.zarr" / label["source"]["image"]).resolve() == (work / "in.ome.zarr").resolve()
    array = json.loads((result / "labels/in.ome.zarr/0/zarr.json").read_text())
    assert (array["data_type"], array["shape"], array["zarr_format"]) == ("uint8", [2, 150, 110], 3)
    assert array["chunk_grid"]["configuration"]["chunk_shape"] == [1, 64, 64]
    assert array["dimension_names"] == ["z", "y", "x"]
    array = json.loads((result / "probabilities/in.ome.zarr/0/zarr.json").read_text())
    assert (array["data_type"], array["dimension_names"]) == ("float16", ["c", "z", "y", "x"])


def test_the_reference_library_accepts_and_reads_the_results(work, result):
    ImageLabel.from_zarr(zarr.open_group(str(result / "labels/in.ome.zarr"), mode="r"))
    for kind in ("probabilities", "uncertainty"):
        Image.from_zarr(zarr.open_group(str(result / kind / "in.ome.zarr"), mode="r"))
    names = fbunet_jax.load(work / "run").class_names
    nodes = list(Reader(parse_url(str(result / "labels/in.ome.zarr")))())
    label = next(node for node in nodes if "properties" in node.metadata)
    # the image that the labels belong to is opened with them
    assert len(nodes) == 2
    assert [each["class"] for _, each in sorted(label.metadata["properties"].items())] == list(names)
    assert [level.shape for level in label.data] == [(2, 150, 110), (2, 75, 55), (2, 38, 28)]
    expected = zarr.open_array(str(result / "labels/in.ome.zarr/0"), mode="r")[:]
    np.testing.assert_array_equal(label.data[0].compute(), expected)
    (node,) = Reader(parse_url(str(result / "probabilities/in.ome.zarr")))()
    assert node.metadata["channel_names"] == list(names)


@pytest.mark.parametrize("count", [2, 3])
def test_the_bytes_are_the_same_whatever_the_number_of_processes(count, work, result, capsys):
    for index in range(count, 0, -1):
        assert predict(work, f"shards-{count}", "--shard", f"{index}/{count}") == 0
        part = f"Written: {CHUNKS // count} of {CHUNKS} chunks, all of shard {index}/{count}; the other shards"
        assert part in capsys.readouterr().out
    assert files_of(work / f"shards-{count}") == files_of(result)


@pytest.mark.parametrize(
    ("count", "index"), [("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")]
)
def test_shards_are_those_of_the_processes_that_were_started_together(count, index, work, result, monkeypatch, capsys):
    out = f"started-{count}"
    monkeypatch.setenv(count, "4")
    monkeypatch.setenv(index, "2")
    assert predict(work, out) == 0
    told = "3 chunks of 12, shard 3/4 by the number of this process (--shard 1/1 is all of them)"
    assert told in capsys.readouterr().out
    written = {name for name in files_of(work / out) if name.startswith("labels/in.ome.zarr/0/c/")}
    assert written == {f"labels/in.ome.zarr/0/c/1/{place}" for place in ("0/0", "0/1", "1/0")}


def test_each_process_may_have_a_volume_of_its_own_and_tiffs_are_written_by_one(work, result, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "2")
    assert predict(work, "own", "--shard", "1/1") == 0
    assert files_of(work / "own") == files_of(result)
    options = ["--format", "tiff", *TILES[:4]]
    command = ["predict", str(work / "run"), str(work / "stack.tif"), "--out", str(work / "own-tiff"), *options]
    assert main(command) == 2
    assert "has started 4 processes of this command, but TIFFs are written by one" in capsys.readouterr().err
    assert not (work / "own-tiff").exists()
    assert main([*command, "--shard", "1/1"]) == 0


def test_results_with_and_without_offsets_are_not_mixed(work, result, capsys):
    offsets = {"0": [0.0, 0.5, -2.0, 3.0]}
    trained = fbunet_jax.load(work / "run").folds[0]
    reached = {"mean_iou": 0.5, "iou": [0.5, 0.5, 0.5, None]}
    kept = {"format": 1, "fold": 0, "step": trained.step, "weights": trained.fingerprint(), "images": 1, "pixels": 1}
    kept |= {"class_names": trained.class_names, "offsets": offsets["0"], "before": reached, "after": reached}
    (work / "elsewhere/fold_0").mkdir(parents=True)
    (work / "elsewhere/fold_0/offsets.json").write_text(json.dumps(kept))
    options = ["--offsets-from", str(work / "elsewhere")]
    assert predict(work, "one", *options) == 2
    assert f"made with offsets = null, now it is {json.dumps(offsets)}" in capsys.readouterr().err
    assert predict(work, "shifted", "--shard", "1/2", *options) == 0
    assert predict(work, "shifted", "--shard", "2/2") == 2
    assert f"made with offsets = {json.dumps(offsets)}, now it is null" in capsys.readouterr().err
    assert predict(work, "shifted", *options) == 0
    expected = fbunet_jax.load(work / "run", offsets=work / "elsewhere").predict(
        np.load(work / "pages.npy"), stack=True, tile=32, overlap=16
    )
    found = zarr.open_group(str(work / "shifted/labels/in.ome.zarr"), mode="r")["0"][:]
    np.testing.assert_array_equal(found, expected.labels)
    assert (found != zarr.open_group(str(result / "labels/in.ome.zarr"), mode="r")["0"][:]).any()
    # a folder that a version without offsets began is resumed
    record = json.loads((result / "prediction.json").read_text())
    assert record.pop("offsets") is None
    (result / "prediction.json").write_text(json.dumps(record))
    assert predict(work, "one") == 0


def test_paths_may_lead_upwards(work, result, monkeypatch):
    (work / "deeper").mkdir()
    monkeypatch.chdir(work / "deeper")
    command = ["predict", "../run", "../in.ome.zarr", "--out", "../upwards", *TILES, "--probabilities", "--uncertainty"]
    assert main(command) == 0
    assert files_of(work / "upwards") == files_of(result)


def test_shards_are_those_of_the_distributed_runtime(monkeypatch):
    runtime = SimpleNamespace(process_count=lambda: 4, process_index=lambda: 2)
    monkeypatch.setattr(predict_chunks, "jax", runtime)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert predict_chunks.own_shard() == Shard(3, 4)


def test_several_inputs_are_one_job_in_whatever_order_and_one_is_open_at_a_time(work, tmp_path, monkeypatch):
    pages = np.load(work / "pages.npy")
    inputs = [tmp_path / f"{name}.ome.zarr" for name in "ab"]
    for path, page in zip(inputs, pages, strict=True):
        write_volume(path, page[None])
    opened = []

    @contextlib.contextmanager
    def counting(*arguments):
        with open_input(*arguments) as image:
            opened.append(image.path.name)
            assert len(opened) == 1
            yield image
        opened.pop()

    monkeypatch.setattr(volumes, "open_input", counting)
    for shard, order in (("1/2", inputs), ("2/2", inputs[::-1])):
        command = ["predict", str(work / "run"), *map(str, order), "--out", str(tmp_path / "out"), *TILES]
        assert main([*command, "--shard", shard]) == 0
    chunks = [path.relative_to(tmp_path / "out/labels") for path in (tmp_path / "out/labels").rglob("0/c/0/?/?")]
    assert len(chunks) == len(set(chunks)) == CHUNKS
    assert not opened


KILLED = """
import os, signal, sys
from fbunet_jax.cli import main
from fbunet_jax.inference import zarr_output

zarr_output.SMALLEST_CHUNK, zarr_output.COARSEST_PIXELS = 16, 64
write, count = zarr_output.ZarrImage.write, 0

def dying(self, *arguments):
    global count
    if self.path.parent.name == "labels":
        count += 1
        if count == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    write(self, *arguments)

zarr_output.ZarrImage.write = dying
main(sys.argv[1:])
"""


def test_after_a_kill_the_same_command_computes_what_is_missing_and_gives_the_same_bytes(
    work, result, monkeypatch, capsys
):
    # compiled as in this process, or floating-point values would be rounded otherwise
    settings = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_NUM_CPU_DEVICES": "8"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = ["predict", str(work / "run"), str(work / "in.ome.zarr"), "--out", str(work / "killed"), *TILES]
    command += ["--probabilities", "--uncertainty"]
    done = subprocess.run([sys.executable, "-c", KILLED, *command], env=environment, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    # the maps of the fourth chunk are there, its labels are not
    assert len(list((work / "killed/probabilities/in.ome.zarr/0/c").rglob("0/?/?/?"))) == 4
    segmented = []
    segment = PageWindows.segment
    monkeypatch.setattr(PageWindows, "segment", lambda *place: segmented.append(place) or segment(*place))
    assert predict(work, "killed") == 0
    assert len(segmented) == CHUNKS - 3
    assert "3 chunks had been written before" in capsys.readouterr().out
    assert files_of(work / "killed") == files_of(result)
    assert predict(work, "killed") == 0
    assert len(segmented) == CHUNKS - 3


def test_an_interruption_says_how_to_go_on(work, result, monkeypatch, capsys):
    segment, segmented = PageWindows.segment, []

    def interrupted(*place):
        if len(segmented) == 2:
            raise KeyboardInterrupt
        segmented.append(place)
        return segment(*place)

    monkeypatch.setattr(PageWindows, "segment", interrupted)
    assert predict(work, "stopped") == 130
    assert "Interrupted: 2 chunks written; the same command writes the others." in capsys.readouterr().err
    segmented.clear()
    assert predict(work, "stopped", "--overwrite") == 130
    assert "; the same command without --overwrite writes the others" in capsys.readouterr().err


@pytest.mark.parametrize("whole", [True, False])
def test_a_tiff_becomes_the_same_ome_zarr(whole, work, result, monkeypatch):
    if not whole:
        monkeypatch.setattr(images, "WHOLE_VALUES", 0)
    out = f"tiff-{whole}"
    assert predict(work, out, "--format", "ome-zarr", source="stack.tif", maps=()) == 0
    for level in range(3):
        found = files_of(work / out)
        for name, data in files_of(result).items():
            if name.startswith(f"labels/in.ome.zarr/{level}/c/"):
                assert found[name.replace("in.ome.zarr", "stack.ome.zarr")] == data


def test_ome_zarr_becomes_tiff_on_request(work, result):
    options = ["--out", str(work / "as-tiff"), "--format", "tiff", *TILES[:4]]
    assert main(["predict", str(work / "run"), str(work / "in.ome.zarr"), *options]) == 0
    expected = zarr.open_array(str(result / "labels/in.ome.zarr/0"), mode="r")[:]
    np.testing.assert_array_equal(tifffile.imread(work / "as-tiff/labels/in.tif"), expected)


def test_results_of_other_settings_are_kept_unless_overwritten(work, result, monkeypatch, capsys):
    assert predict(work, "again", "--shard", "1/6", maps=()) == 0
    for options, message in (
        (["--tta"], "were made with tta = false, now it is true"),
        (["--chunk", "32"], "were made with chunk = 64, now it is 32"),
        (["--probabilities"], "were made with probabilities = false, now it is true"),
        (["--overwrite", "--shard", "1/2"], "--overwrite would remove what the other shards of"),
    ):
        assert predict(work, "again", *options, maps=()) == 2
        assert message in capsys.readouterr().err
    with monkeypatch.context() as other:
        # of the same step, but trained anew
        other.setattr(TrainedFold, "fingerprint", lambda fold: "other")
        assert predict(work, "again", maps=()) == 2
        assert "were made with weights = " in capsys.readouterr().err
    assert len(list((work / "again/labels/in.ome.zarr/0/c").rglob("?/?/?"))) == 2
    assert predict(work, "again", "--overwrite", "--chunk", "112", maps=()) == 0
    assert "Written: 4 of 4 chunks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "5/4"], "--shard 5/4: expected I/N with I from 1 to N, such as 1/4"),
        (["--shard", "0/4"], "--shard 0/4: expected"),
        (["--shard", "two"], "--shard two: expected"),
        (["--chunk", "100"], "--chunk 100: expected a multiple of 16"),
        (["--format", "tiff", "--shard", "1/2"], "--shard and --chunk belong to OME-Zarr"),
    ],
)
def test_options_that_do_not_fit_are_explained_and_nothing_is_written(options, message, work, capsys):
    assert predict(work, "refused", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (work / "refused").exists()


def test_inputs_and_folders_that_do_not_fit_are_explained(work, result, capsys):
    group = zarr.open_group(str(work / "colour.zarr"), mode="w", zarr_format=3)
    write_image(np.zeros((3, 40, 40), np.uint8), group, axes="cyx", scale_factors=[])
    zarr.open_group(str(work / "bare.zarr"), mode="w", zarr_format=3)
    tifffile.imwrite(work / "cut.tif", np.zeros((40, 40), np.uint8))
    (work / "cut.tif").write_bytes((work / "cut.tif").read_bytes()[:-100])
    for source, message in (
        ("colour.zarr", "has 3 channels, but the network was trained with 1"),
        ("bare.zarr", "has no multiscales metadata: expected a group with"),
        ("cut.tif", "cut.tif ends before the data"),
        ("nowhere.zarr", "nowhere.zarr does not exist"),
    ):
        assert predict(work, "refused", "--format", "ome-zarr", source=source) == 2
        assert message in capsys.readouterr().err
        assert not (work / "refused").exists()
    assert predict(work, "one", source="one/labels/in.ome.zarr") == 2
    assert "is among the results in" in capsys.readouterr().err
    (work / "mine").mkdir()
    (work / "mine/notes.txt").touch()
    assert predict(work, "mine") == 2
    assert "holds files that are not results of predict" in capsys.readouterr().err
    assert predict(work, "stack.tif") == 2
    assert "is a file: expected a folder" in capsys.readouterr().err


def test_a_disk_that_refuses_a_chunk_is_named(work, result, capsys):
    assert predict(work, "broken", "--shard", "1/12", maps=()) == 0
    # a file where a folder has to be; permissions would not stop the administrator
    (work / "broken/labels/in.ome.zarr/0/c/1").touch()
    assert predict(work, "broken", maps=()) == 2
    assert "in.ome.zarr cannot be written: " in (error := capsys.readouterr().err)
    assert "Fix that, and give the same command again." in error


def test_foreign_intensities_are_told_once_a_page(work, result, capsys):
    write_volume(work / "deep.ome.zarr", np.load(work / "pages.npy").astype(np.uint16) * 257)
    assert predict(work, "deep", source="deep.ome.zarr", maps=()) == 0
    out = capsys.readouterr().out
    assert out.count("Warning: ") == 2
    assert "deep.ome.zarr, page 1: the mean intensity is" in out


MEASURED = """
import sys
from fbunet_jax.cli import main
from fbunet_jax.training.memory import peak_host_bytes

assert main(sys.argv[1:]) == 0
print(peak_host_bytes())
"""


@pytest.mark.long
def test_the_peak_of_memory_does_not_grow_with_the_volume(work, tmp_path):
    peaks, sides = [], (1024, 3072)
    for side in sides:
        pixels = np.random.default_rng(0).integers(0, 256, (1, side, side)).astype(np.uint8)
        write_volume(tmp_path / f"{side}.ome.zarr", pixels)
        command = ["predict", str(work / "run"), str(tmp_path / f"{side}.ome.zarr"), "--out", str(tmp_path / f"{side}")]
        command += ["--tile", "256", "--overlap", "0", "--chunk", "512", "--probabilities"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        call = [sys.executable, "-c", MEASURED, *command]
        out = subprocess.run(call, env=environment, check=True, capture_output=True, text=True).stdout
        peaks.append(int(out.split()[-1]))
    more = 4 * 4 * (sides[1] ** 2 - sides[0] ** 2)  # that the probabilities of all pixels would take in memory
    assert peaks[1] - peaks[0] < more / 4
