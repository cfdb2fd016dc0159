"""The commands check, init and download, as a user's first minutes with a folder of images."""

import errno
import html.parser
import os
import re
import shlex
import shutil
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fbunet_jax.cli import download as download_command
from fbunet_jax.cli import main
from fbunet_jax.config import load_config
from fbunet_jax.data import download
from fbunet_jax.data.datasets import load_dataset

STEMS = [f"m{animal}_{place}" for animal in (1, 2, 3) for place in "ab"]


def folder(root, names=("images", "labels"), shape=(48, 64), values=(0, 1), **options):
    """Write six images and labels of random blocks."""
    for name in names:
        (root / name).mkdir(parents=True)
    for seed, stem in enumerate(STEMS):
        generator = np.random.default_rng(seed)
        tifffile.imwrite(root / names[0] / f"{stem}.tif", generator.integers(1, 200, shape).astype(np.uint8), **options)
        label = np.kron(generator.permutation(np.resize(values, 12)).reshape(3, 4), np.ones((16, 16), int))
        Image.fromarray(label.astype(np.uint8)).save(root / names[1] / f"{stem}.png")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty folder, which is the current one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def run(capsys, *options, code=0):
    """Run a command in this process and return what it printed."""
    assert main([str(option) for option in options]) == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.out + printed.err


class Page(html.parser.HTMLParser):
    """Collects the tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data


def test_init_check_and_the_training_that_it_names_fit_each_other(here, tmp_path, capsys):
    root = folder(tmp_path / "my images", values=(0, 255))

    text = run(capsys, "init", root)
    assert "Proposed classes: {background = 0, foreground = 255}" in text
    description = tomllib.loads((root / "dataset.toml").read_text())
    assert description == {"classes": {"background": 0, "foreground": 255}}
    assert (root / "dataset.toml").read_text().count("PROPOSED") == 3  # header, classes, groups

    text = run(capsys, "check", root)
    assert "No faults." in text
    assert "No warnings." in text
    assert "6 of 48 x 64 pixels, 1 channel, uint8" in text
    assert "background 50.0 %, foreground 50.0 %" in text
    program, command, *options = shlex.split(text[text.index("Next: ") + 6 :])
    assert (program, command) == ("fbunet", "train")
    config = load_config(options[options.index("--config") + 1])
    assert (config.name, config.data.crop, config.data.folds, config.model.feedback) == ("my images", 48, 5, None)
    assert len(load_dataset(config.data).images) == 6


def test_init_proposes_groups_axes_and_a_feedback_for_the_channels(here, tmp_path, capsys):
    root = folder(tmp_path / "data", shape=(2, 48, 64), values=(0, 1, 2), metadata=None, photometric="minisblack")

    text = run(capsys, "init", root)

    assert "Feedback: concat" in text
    written = (root / "dataset.toml").read_text()
    assert tomllib.loads(written)["axes"] == "CYX"
    assert '# group_pattern = "^([^_-]+)[_-]"' in written
    assert "3 groups" in written
    assert load_config(root / "fbunet.toml").model.feedback == "concat"
    assert "No faults." in run(capsys, "check", root)
    run(capsys, "check", root, "--model.feedback", "replace", code=1)


def third_class(root, stems):
    """Give a few pixels in the labels of some files the value 2."""
    for stem in stems:
        path = root / "labels" / f"{stem}.png"
        label = np.array(Image.open(path))
        label[:4, :4] = 2
        Image.fromarray(label).save(path)


def test_init_proposes_folds_and_groups_with_every_class_in_every_part(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    third_class(root, ("m1_a", "m2_b", "m3_b"))

    text = run(capsys, "init", root)

    assert 'Proposed folds: 3, group_pattern = "^([^_-]+)[_-]". So every class' in text
    assert tomllib.loads((root / "dataset.toml").read_text())["group_pattern"] == "^([^_-]+)[_-]"
    assert load_config(root / "fbunet.toml").data.folds == 3
    text = run(capsys, "check", root)
    assert "No warnings." in text
    assert "in 3 groups" in text


def test_init_says_which_class_no_folds_bring_into_every_part(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    third_class(root, ("m1_a",))

    text = run(capsys, "init", root)

    assert "was tried puts 'class_2' in every part: label more images" in text
    assert "'class_2'" in (root / "fbunet.toml").read_text()
    assert load_config(root / "fbunet.toml").data.folds == 5


def test_check_prints_what_the_folds_do_about_a_stack(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    base = np.random.default_rng(0).integers(0, 100, (48, 64))
    for number, stem in enumerate(STEMS):
        # each shows most of what the one before it does
        image = np.roll(base, 11 * number, axis=0)
        image = image + 2 * np.roll(base, 11 * number + 11, axis=0)
        tifffile.imwrite(root / "images" / f"{stem}.tif", image.astype(np.uint16))
    run(capsys, "init", root)

    text = run(capsys, "check", root, "--data.folds", "2")
    assert "Order     neighbours in name order are alike (correlation 0." in text
    assert "validation groups lie between training and test groups in every fold" in text
    assert "No warnings." in text
    assert "neighbours-alike" in run(capsys, "check", root, "--data.folds", "3")


def test_init_overwrites_nothing(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    (root / "fbunet.toml").write_text("mine")

    assert "fbunet.toml exists and is not overwritten" in run(capsys, "init", root, code=2)
    assert not (root / "dataset.toml").exists()
    assert (root / "fbunet.toml").read_text() == "mine"


def test_init_of_labels_that_cannot_be_read_writes_nothing_and_leads_to_the_check(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    for stem in STEMS:
        path = root / "labels" / f"{stem}.png"
        Image.open(path).convert("RGB").save(path)

    text = run(capsys, "init", root, code=2)
    assert "The first of 6 faults" in text
    assert "then call init again; fbunet check" in text
    assert not (root / "dataset.toml").exists()
    assert "label-colours" in run(capsys, "check", root, code=1)


def test_one_damaged_label_and_a_file_of_macos_do_not_stop_init_and_check(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    (root / "labels" / f"{STEMS[0]}.png").write_bytes(b"")
    (root / "labels" / f"._{STEMS[0]}.png").write_bytes(b"no image")

    assert "1 fault in the files" in run(capsys, "init", root)
    text = run(capsys, "check", root, code=1)
    assert "1 fault\n" in text
    assert f"{STEMS[0]}.png" in text


def test_the_settings_of_a_copied_folder_are_those_of_the_copy(here, tmp_path, capsys):
    run(capsys, "init", folder(tmp_path / "data"))
    shutil.copytree(tmp_path / "data", tmp_path / "copy")

    assert load_config(tmp_path / "copy" / "fbunet.toml").data.root == str(tmp_path / "copy")


def test_a_folder_of_another_name_is_named(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    (root / "labels").rename(root / "masks")

    assert "images, masks" in run(capsys, "check", root, code=2)


def test_the_program_of_the_docs_converts_labels_in_colour(here, tmp_path, capsys, monkeypatch):
    root = folder(tmp_path / "data")
    original = {path.name: np.array(Image.open(path)) for path in (root / "labels").iterdir()}
    for name, values in original.items():
        Image.fromarray(np.array([(0, 0, 0), (255, 0, 0)], np.uint8)[values]).save(root / "labels" / name)
    page = (Path(__file__).parents[2] / "docs" / "checking.md").read_text(encoding="utf-8")
    monkeypatch.chdir(root)

    exec(re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1], {})

    converted = {path.name: np.array(Image.open(path)) for path in (root / "labels-as-values").iterdir()}
    assert converted.keys() == original.keys()
    assert all(np.array_equal(converted[name], original[name]) for name in original)


def test_raw_and_label_is_read_like_images_and_labels(here, tmp_path, capsys):
    root = folder(tmp_path / "data", names=("raw", "label"))

    run(capsys, "init", root)
    assert "No faults." in run(capsys, "check", root)

    (root / "images").mkdir()
    assert "holds both images/ and raw/" in run(capsys, "check", root, code=2)


def test_check_lists_every_fault_and_exits_with_1(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    run(capsys, "init", root)
    (root / "labels" / "m1_a.png").unlink()
    (root / "images" / "m1_b.tif").write_bytes(b"")

    text = run(capsys, "check", root, code=1)

    assert "2 faults" in text
    for words in ("missing-label", "m1_a.tif is an image", "empty-file", "m1_b.tif is empty", "To do: Copy or export"):
        assert words in text
    assert "Next" not in text


@pytest.mark.parametrize(("options", "words"), [
    (("no-such-folder",), "does not exist"),
    ((".",), "images does not exist"),
    (("--data.layout", "folder"), "data.root is not set"),
    (("--data.layout", "arrays"), "were arrays passed from Python"),
    ((".", "--data.layout", "arrays"), "were arrays passed from Python"),
    (("--config", "no-such-config"), "no configuration"),
    ((".", "--data.root", "/"), "Give one of them"),
])  # fmt: skip
def test_what_cannot_be_read_exits_with_2(options, words, here, capsys):
    assert words in run(capsys, "check", *options, code=2)
    assert not list(here.iterdir())


def test_settings_of_the_network_that_do_not_fit_are_faults(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    classes = ("--data.classes", "background", "0", "cell", "1")

    assert "No faults." in run(capsys, "check", root, *classes)
    assert "data.crop = 20" in run(capsys, "check", root, *classes, "--data.crop", "20", code=1)
    weights = ("--training.class-weights", "1", "2", "3")
    assert "settings" in run(capsys, "check", root, *classes, *weights, code=1)


def test_the_next_command_repeats_the_settings_of_the_check(here, tmp_path, capsys):
    root = folder(tmp_path / "data")

    text = run(capsys, "check", root, "--data.classes", "background", "0", "cell", "1", "--data.crop=16")

    assert text.rstrip().endswith("--name data --data.classes background 0 cell 1 --data.crop=16")
    assert "--data.crop 48" not in text


def test_the_page_holds_findings_and_pictures_and_needs_no_network(here, tmp_path, capsys):
    root = folder(tmp_path / "<data>")
    run(capsys, "init", root)
    tifffile.imwrite(root / "images" / "m2_a.tif", np.full((48, 64), 7, np.uint8))

    text = run(capsys, "check", root, "--out", "pages/check.html")

    assert "Page with thumbnails: pages/check.html" in text
    content = Path("pages/check.html").read_text()
    page = Page(content)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 12
    assert all(each["src"].startswith("data:image/png;base64,") and each["alt"] for each in pictures)
    assert "constant-image" in page.words
    assert "prefers-color-scheme: dark" in content
    assert not re.search(r'(src|href)="(?!data:)', content)
    assert "<data>" not in content
    assert "&lt;data&gt;" in content


def test_the_page_is_never_written_into_the_data_set_unless_told(here, tmp_path, capsys, monkeypatch):
    root = folder(tmp_path / "data")
    run(capsys, "init", root)
    before = sorted(root.rglob("*"))
    monkeypatch.chdir(root)
    monkeypatch.setattr("tempfile.tempdir", str(here))

    assert str(here / "check-data.html") in run(capsys, "check", ".")
    assert sorted(root.rglob("*")) == before
    run(capsys, "check", ".", "--out", "check.html")
    assert (root / "check.html").exists()


def test_a_moved_folder_is_checked_where_it_is(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    run(capsys, "init", root)
    root.rename(tmp_path / "moved")

    text = run(capsys, "check", tmp_path / "moved")

    assert "No faults." in text
    assert load_config(tmp_path / "moved" / "fbunet.toml").data.root == str(tmp_path / "moved")


def test_the_synthetic_set_needs_no_folder(here, capsys):
    text = run(capsys, "check", "--data.synthetic-size", "32", "--data.crop", "32")
    assert "No faults." in text


@pytest.mark.parametrize(("answer", "fetched"), [("y", True), ("n", False), ("", False)])
def test_download_shows_the_licence_and_asks(answer, fetched, here, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(download, "fetch", lambda *arguments: calls.append(arguments) or 121)
    monkeypatch.setattr(download_command.sys, "stdin", type("Terminal", (), {"isatty": staticmethod(lambda: True)}))
    monkeypatch.setattr("builtins.input", lambda question: answer)

    text = run(capsys, "download", "drosophila-vnc", "flies")

    assert text.index("CC BY-NC-SA 3.0") < len(text)
    assert bool(calls) == fetched
    assert ("121 files are in flies" in text) == fetched


def test_download_without_a_terminal_needs_yes(here, capsys, monkeypatch):
    monkeypatch.setattr(download_command.sys, "stdin", type("Pipe", (), {"isatty": staticmethod(lambda: False)}))
    assert "Add --yes" in run(capsys, "download", "drosophila-vnc", "flies", code=2)

    monkeypatch.setattr(download, "fetch", lambda *arguments: 0)
    assert "0 downloaded, 121 were there" in run(capsys, "download", "drosophila-vnc", "flies", "--yes")


@pytest.fixture
def read_only(monkeypatch):
    """Return what makes a folder one in which nothing can be made."""
    folders, temporary, write = [], tempfile.TemporaryFile, Path.write_text

    def check(folder):
        if any(Path(folder).resolve().is_relative_to(each.resolve()) for each in folders):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

    def made(*arguments, dir=None, **options):
        check(dir or tempfile.gettempdir())
        return temporary(*arguments, dir=dir, **options)

    def written(path, *arguments, **options):
        check(path)
        return write(path, *arguments, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", made)
    monkeypatch.setattr(Path, "write_text", written)
    return folders.append


def test_a_folder_that_cannot_be_written_is_described_elsewhere(here, tmp_path, capsys, read_only):
    root = folder(tmp_path / "data", values=(0, 7))
    before = sorted(root.rglob("*"))
    read_only(root)
    text = run(capsys, "init", root, code=2)
    assert f"{root} cannot be written: Read-only file system. Give another folder for the settings with --out." in text
    text = run(capsys, "init", root, "--out", "settings")
    assert f"Next: fbunet check --config {Path('settings', 'fbunet.toml')}, then " in text
    config = load_config("settings/fbunet.toml")
    assert config.data.classes == {"background": 0, "class_7": 7}
    assert Path(config.data.root) == root
    run(capsys, "check", "--config", "settings/fbunet.toml")
    assert len(load_dataset(config.data).images) == 6
    assert sorted(root.rglob("*")) == before
    assert "settings/fbunet.toml exists and is not overwritten" in run(
        capsys, "init", root, "--out", "settings", code=2
    )


def test_settings_elsewhere_do_not_contradict_the_description_that_is_there(here, tmp_path, capsys):
    root = folder(tmp_path / "data")
    (root / "dataset.toml").write_text("classes = {nothing = 0, cell = 1}\n")
    run(capsys, "init", root, "--out", "settings")
    run(capsys, "check", "--config", "settings/fbunet.toml")


def test_the_page_of_a_check_goes_elsewhere_where_the_current_folder_cannot_be_written(
    here, tmp_path, capsys, read_only, monkeypatch
):
    root = folder(tmp_path / "data")
    (root / "dataset.toml").write_text("classes = {nothing = 0, cell = 1}\n")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    read_only(here)
    assert f"Page with thumbnails: {tmp_path / 'temporary' / 'check-data.html'}" in run(capsys, "check", root)
    assert "Read-only file system" in run(capsys, "check", root, "--out", here / "page.html", code=2)
