"""One test for each kind of fault that fuzzing found."""

import json
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.cli import main
from fbunet_jax.config import DataConfig, load_config
from fbunet_jax.data.folds import folds_from_json, natural_key, read_folds
from fbunet_jax.data.readers.image_files import read_image, read_label
from fbunet_jax.errors import ConfigError, DataError, RunError
from fbunet_jax.evaluation import scores, summary
from fbunet_jax.evaluation.items import ItemCounts, read_items
from fbunet_jax.inference.images import open_image
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.files import read_json
from fbunet_jax.runs.trained import read_normalisation
from tests.fuzz.images import png, png_chunks
from tests.fuzz.run_files import ENVIRONMENT, EVALUATION, INPUTS, METRICS, RUN_DATASET, TIMING
from tests.fuzz.targets import TARGETS
from tests.fuzz.test_bombs import grey, tiff


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def changed_entry(data, page, tag, **changes):
    """Return a classic little-endian TIFF with the type, count or value of an entry of one directory changed."""
    data, place = bytearray(data), 4
    for _ in range(page + 1):
        (start,) = struct.unpack_from("<I", data, place)
        (count,) = struct.unpack_from("<H", data, start)
        place = start + 2 + 12 * count
    entries = [start + 2 + 12 * i for i in range(count)]
    entry = next(each for each in entries if struct.unpack_from("<H", data, each)[0] == tag)
    forms = {"kind": ("<H", 2), "count": ("<I", 4), "value": ("<I", 8)}
    for name, value in changes.items():
        struct.pack_into(forms[name][0], data, entry + forms[name][1], value)
    return bytes(data)


@pytest.fixture
def stack(tmp_path):
    """An ImageJ stack and an OME stack of three pages."""
    values = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    tifffile.imwrite(tmp_path / "imagej.tif", values, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "ome.tif", values, ome=True, photometric="minisblack", metadata={"axes": "ZYX"})
    return {name: (tmp_path / f"{name}.tif").read_bytes() for name in ("imagej", "ome")}


@pytest.mark.parametrize(
    ("kind", "page", "tag", "value"), [("ome", 0, 258, 2), ("ome", 2, 258, 16), ("ome", 1, 259, 5)]
)
def test_pages_that_are_stored_in_other_ways_than_the_first_are_not_decoded_like_it(
    stack, tmp_path, kind, page, tag, value
):
    path = write(tmp_path / "a.tif", changed_entry(stack[kind], page, tag, value=value))
    with pytest.raises(DataError, match=r"stores page \d in another way than the first|damaged"):
        read_image(path)


def test_a_page_of_an_imagej_stack_that_lies_elsewhere_is_not_read_from_where_it_should_lie(stack, tmp_path):
    path = write(tmp_path / "a.tif", changed_entry(stack["imagej"], 1, 273, value=300))
    with pytest.raises(DataError, match=r"stores page 1 elsewhere"):
        read_image(path)


@pytest.mark.parametrize(("changes", "words"), [
    ({"t273": 0}, "64 bytes long at byte 0: it was begun and not written"),
    ({"t277": 0}, "no value a pixel|damaged"),
    ({"t279": 60}, "ends before the data"),
    ({"t278": 4}, "ends before the data"),
    ({"t256": 0}, "damaged|no pixel"),
])  # fmt: skip
def test_a_page_whose_data_cannot_be_all_there_is_refused(changes, words, tmp_path):
    path = write(tmp_path / "a.tif", tiff(grey(8, 8, **changes), bytes(64)))
    with pytest.raises(DataError, match=words):
        read_image(path)
    assert read_image(write(path, tiff(grey(8, 8), bytes(64)))).shape == (1, 8, 8, 1)


def test_a_page_that_lists_a_tag_twice_is_refused(stack, tmp_path):
    data = bytearray(stack["ome"])
    data[:] = changed_entry(data, 1, 278, value=300)
    place = data.index(struct.pack("<H", 278), struct.unpack_from("<I", data, 4)[0] + 200)
    struct.pack_into("<H", data, place, 273)
    with pytest.raises(DataError, match=r"lists the tag 273 of page 1 twice"):
        read_image(write(tmp_path / "a.tif", bytes(data)))


@pytest.mark.parametrize("changes", [{"t324": 9}, {"t322": 16, "t323": 16}, {"t324": 9, "t322": 16, "t323": 16}])
def test_a_page_of_strips_and_tiles_is_refused(changes, tmp_path):
    path = write(tmp_path / "a.tif", tiff(grey(8, 8, **changes), bytes(64)))
    with pytest.raises(DataError, match="strips and tiles"):
        read_image(path)


@pytest.mark.parametrize("compression", [1, 32773])
def test_a_predictor_without_a_compression_that_has_one_is_refused(compression, tmp_path):
    path = write(tmp_path / "a.tif", tiff(grey(8, 8, t317=2, t259=compression), bytes(64)))
    with pytest.raises(DataError, match="names a predictor"):
        read_image(path)


def test_fax_compression_is_refused_because_damage_is_passed_over(tmp_path):
    Image.fromarray(np.eye(16, dtype=bool)).save(tmp_path / "a.tif", compression="group4")
    with pytest.raises(DataError, match=r"fax-compressed"):
        read_label(tmp_path / "a.tif")


def test_a_resolution_that_makes_no_sense_is_not_handed_on(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8), resolution=(2.0, 2.0))
    whole = (tmp_path / "a.tif").read_bytes()
    with open_image(tmp_path / "a.tif", "") as image:
        assert image.resolution
    for changes in ({"kind": 3}, {"count": 0}, {"kind": 2}, {"count": 2}):
        write(tmp_path / "a.tif", changed_entry(whole, 0, 282, **changes))
        with open_image(tmp_path / "a.tif", "") as image:
            assert image.resolution == {}


def test_a_palette_label_that_lacks_rows_is_refused(tmp_path):
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) % 7, (64, 1))).convert("P").save(tmp_path / "a.png")
    chunks = png_chunks((tmp_path / "a.png").read_bytes())
    header = chunks[0][1][:4] + struct.pack(">I", 80) + chunks[0][1][8:]
    write(tmp_path / "a.png", png([(b"IHDR", header), *chunks[1:]]))
    with pytest.raises(DataError, match=r"damaged or incomplete"):
        read_label(tmp_path / "a.png")


def test_a_jpeg_of_too_few_bytes_for_its_pixels_is_not_filled_with_grey(tmp_path):
    Image.fromarray(np.full((64, 64), 99, np.uint8)).save(tmp_path / "a.jpg", progressive=True)
    whole = (tmp_path / "a.jpg").read_bytes()
    assert (read_image(tmp_path / "a.jpg") == 99).all()
    place = whole.index(b"\xff\xc2") + 5
    write(tmp_path / "a.jpg", whole[:place] + struct.pack(">HH", 9000, 9000) + whole[place + 4 :])
    with pytest.raises(DataError, match=r"too few bytes for 9000 x 9000 pixels"):
        read_image(tmp_path / "a.jpg")


HARD_JSON = ("[" * 20_000 + "]" * 20_000, "1" + "0" * 5000, "[NaN]", "[1e999]", "-Infinity", '"\xff"', "\ufeff1")


@pytest.mark.parametrize("text", HARD_JSON, ids=range(len(HARD_JSON)))
def test_json_that_python_chokes_on_is_a_sentence(text, tmp_path):
    path = write(tmp_path / "a.json", text.encode("latin-1" if "\xff" in text else "utf-8"))
    with pytest.raises(RunError, match=r"a\.json (cannot be read as JSON|is not text in UTF-8|is damaged)"):
        read_json(path, dict)


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 20_000 + "]" * 20_000, "seed = 1" + "0" * 5000, "seed = 0x" + "f" * 5000]
)
def test_toml_that_python_chokes_on_is_a_sentence(text, tmp_path):
    with pytest.raises(ConfigError, match=r"a\.toml is not a valid TOML file"):
        load_config(write(tmp_path / "a.toml", text))


@pytest.mark.parametrize("option", ["--data.crop", "--data.folds", "--training.epochs", "--training.learning-rate"])
def test_a_number_of_400_digits_is_a_sentence(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", option, "1" * 400])
    assert "expected a number" in " ".join(capsys.readouterr().err.split())


def test_numbers_in_the_names_of_groups_may_have_any_length_and_leading_zeros():
    names = ["a10", "a2", "a02", "a" + "1" * 5000, "b", "a", "a1"]
    assert sorted(names, key=natural_key) == ["a", "a1", "a02", "a2", "a10", "a" + "1" * 5000, "b"]


def test_folds_of_many_groups_are_read_at_once_and_those_of_other_bytes_are_refused(tmp_path):
    names = [f"g{index}" for index in range(60_000)]
    fold = {"train": names[2:], "validation": names[:1], "test": names[1:2]}
    assert len(folds_from_json(json.dumps({"format": 1, "folds": [fold]}), "here")[0].train) == 59_998
    with pytest.raises(DataError, match=r"is not text in UTF-8: line 1, byte 25 is 0xff"):
        read_folds(write(tmp_path / "folds.json", b'{"format": 1, "folds": "\xff"}'))


def test_a_pattern_that_cannot_be_compiled_and_class_names_that_cannot_be_printed_are_findings(tmp_path):
    path = TARGETS["dataset.toml"].prepare(tmp_path)
    write(path, 'classes = {"a\\u001b[31m" = 0, " " = 1}\ngroup_pattern = "a{99999999999}"\n')
    found = {fault.kind: fault.found for fault in check_dataset(DataConfig(layout="folder", root=str(tmp_path))).faults}
    assert "cannot be printed" in found["classes"]
    assert "is no regular expression" in found["group-pattern"]


def test_a_class_of_nnunet_that_is_half_a_character_is_refused(tmp_path):
    path = TARGETS["dataset.json of nnU-Net"].prepare(tmp_path)
    write(path, '{"channel_names": {"0": "a"}, "labels": {"\\ud800": 0, "b": 1}, "file_ending": ".png"}')
    with pytest.raises(DataError, match=r"labels: '\\ud800' holds characters that cannot be printed"):
        check_dataset(DataConfig(layout="nnunet", root=str(tmp_path)))


@pytest.mark.parametrize("changes", [
    {"class_names": "ab"}, {"class_names": ["a", "a"]}, {"class_names": [1, 2]}, {"class_names": []}, {"channels": 0},
    {"channels": 10**12}, {"channels": "1"}, {"fingerprint": None}, {"format": 2}, {"class_names": ["\ud800", "b"]},
])  # fmt: skip
def test_a_damaged_description_of_a_run_is_refused(changes, tmp_path):
    write(tmp_path / "dataset.json", json.dumps(RUN_DATASET | changes))
    with pytest.raises(RunError, match=r"dataset\.json is damaged"):
        Run(tmp_path).read_dataset()


@pytest.mark.parametrize("changes", [
    {"rounds": [EVALUATION["rounds"][0] | {"confusion": [[3, 0], [0, 0]]}]}, {"mean_iou": 0.374},
    {"rounds": [EVALUATION["rounds"][0] | {"confusion": [[3, 0], [1, -1]]}]}, {"fold": 1}, {"iou": [0.5]},
    {"iou": ["a", "b"]}, {"mean_iou": 1.5}, {"rounds": []}, {"step": None}, {"iou": None},
    {"rounds": [{"mean_iou": 0.3, "iou": [0.3, 0.3], "confusion": [[1]]}]},
])  # fmt: skip
def test_a_damaged_evaluation_is_refused(changes, tmp_path, monkeypatch):
    path = TARGETS["evaluation.json"].prepare(tmp_path)
    monkeypatch.setattr(scores, "best_step", lambda run, fold: EVALUATION["step"])
    assert len(scores.present_entries(Run(tmp_path / "run"), "test")) == 2
    write(path, json.dumps(EVALUATION | changes))
    with pytest.raises(RunError, match=r"fold_0/evaluation\.json is damaged"):
        scores.present_entries(Run(tmp_path / "run"), "test")


@pytest.mark.parametrize(("name", "content"), [
    ("metrics.jsonl", [METRICS[0], {"kind": "train"}]),
    ("metrics.jsonl", [METRICS[0] | {"loss": "0"}]),
    ("metrics.jsonl", [METRICS[0] | {"epoch": 0}]),
    ("metrics.jsonl", [METRICS[1] | {"iou": [0.5]}]),
    ("metrics.jsonl", [METRICS[1] | {"iou": {"a": 10**400}}]),
    ("metrics.jsonl", ["train"]),
    ("timing.jsonl", [TIMING[0] | {"seconds": None}]),
    ("timing.jsonl", [TIMING[0] | {"peak_host_bytes": "1"}]),
    ("timing.jsonl", [TIMING[0] | {"seconds": 10**400}]),
    ("environment.json", ENVIRONMENT | {"versions": "1"}),
    ("environment.json", ENVIRONMENT | {"command": [1]}),
    ("environment.json", []),
])  # fmt: skip
def test_damaged_records_are_refused(name, content, tmp_path):
    path = TARGETS[name].prepare(tmp_path)
    text = "".join(json.dumps(line) + "\n" for line in content) if name.endswith("jsonl") else json.dumps(content)
    write(path, text)
    with pytest.raises(RunError, match=rf"{name} is damaged|{name}, line \d is no record"):
        TARGETS[name].judge(path)


def test_curves_that_stay_at_zero_are_drawn(tmp_path):
    path = TARGETS["metrics.jsonl"].prepare(tmp_path)
    for loss in (0.0, 5e-324, -1.0):
        write(path, json.dumps(METRICS[0] | {"loss": loss}) + "\n")
        assert summary.curves(["a"], Run(tmp_path / "run"), [0])[0]["lines"]


@pytest.mark.parametrize("changes", [
    {"mean": []}, {"mean": [True]}, {"mean": [1e300]}, {"deviation": [-1.0]}, {"kind": "other"}, {"kind": "scale"},
])  # fmt: skip
def test_a_damaged_normalisation_is_refused(changes, tmp_path):
    path = write(tmp_path / "inputs.json", json.dumps(INPUTS))
    assert read_normalisation(path, channels=1).mean == (10.0,)
    write(path, json.dumps({"normalisation": INPUTS["normalisation"] | changes}))
    with pytest.raises(RunError, match=r"inputs\.json is damaged"):
        read_normalisation(path, channels=1)


@pytest.mark.parametrize("parts", [{"moves": (1, 2, 2, 3)}, {"confusion": (2, 1, 2, 2)}, {"groups": (1,)}])
def test_counts_that_do_not_belong_together_are_refused(parts, tmp_path):
    whole = {"confusion": np.ones((1, 1, 2, 2), np.int64), "moves": np.ones((1, 2, 2, 2), np.int64), "groups": ("x",)}
    ItemCounts(0, 1, ("x",), **whole).save(tmp_path / "items.npz")
    assert read_items(tmp_path / "items.npz").names == ("x",)
    for name, shape in parts.items():
        whole[name] = ("x", "y") if name == "groups" else np.ones(shape, np.int64)
    ItemCounts(0, 1, ("x",), **whole).save(tmp_path / "items.npz")
    with pytest.raises(RunError, match=r"items\.npz cannot be read: its parts"):
        read_items(tmp_path / "items.npz")


def test_damaged_compressed_counts_are_refused(tmp_path):
    ItemCounts(0, 1, ("x",), ("x",), np.ones((1, 1, 2, 2), np.int64), np.ones((1, 2, 2, 2), np.int64)).save(
        tmp_path / "items.npz"
    )
    whole = (tmp_path / "items.npz").read_bytes()
    for place in range(60, 200):
        write(tmp_path / "items.npz", whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            found = read_items(tmp_path / "items.npz")
        except RunError:
            continue
        assert found.confusion.sum() == 4
