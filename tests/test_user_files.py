import os
import pickle
import unicodedata
from pathlib import Path

import pytest
import tomli_w

from fbunet_jax import UserError, load_config
from fbunet_jax.config import DataConfig, TrainingConfig
from fbunet_jax.data.datasets import open_source
from fbunet_jax.data.readers.image_files import read_image
from fbunet_jax.errors import ConfigError, DataError, RunError
from fbunet_jax.runs.directory import Run
from fbunet_jax.toml_tables import read_toml
from fbunet_jax.user_files import expand, is_clutter, listed, missing, read_text, real, same_name, stem


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_every_kind_of_setting_and_argument_means_the_home_folder_by_a_tilde(home, tmp_path):
    (tmp_path / "a.toml").write_text(
        tomli_w.dumps({"data": {"root": "~/d"}, "training": {"initial_weights": "~/run"}}), encoding="utf-8"
    )
    config = load_config("a.toml")

    assert config.data.root == load_config(**{"data.root": "~/d"}).data.root == str(home / "d")
    assert config.training.initial_weights == TrainingConfig(initial_weights="~/run").initial_weights
    assert Run(Path("~/run")).path == home / "run"
    assert expand("~") == home
    assert expand(Path("~/a b/")) == home / "a b"
    assert not list(tmp_path.glob("*~*"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("~nobody-here/x", "~nobody-here, and the home folder that it stands for is not known"),
        ("$SCRATCH/x", r"holds \$SCRATCH, which does not exist; environment variables are not replaced"),
        ("a/${USER}", r"holds \$\{USER\}"),
        ("%USERPROFILE%/x", "%USERPROFILE%"),
        ("a\0b", "NUL"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(home, given, said):
    with pytest.raises(ConfigError, match=said):
        expand(given)


@pytest.mark.parametrize("given", ["~nobody-here/x", "a\0b"])
def test_a_setting_that_is_no_path_is_refused(home, given):
    for use in (lambda text: DataConfig(root=text), lambda text: load_config(**{"data.root": text})):
        with pytest.raises(ConfigError):
            use(given)


def test_settings_of_a_run_may_name_what_looks_like_a_variable_and_is_gone(tmp_path):
    root = str(tmp_path / "$data" / "x")
    config = DataConfig(layout="folder", root=root)
    assert config.root == root
    with pytest.raises(DataError, match=r"does not exist \(environment variables such as \$data are not"):
        open_source(config)


def test_a_folder_that_has_such_a_name_can_be_given(home, tmp_path):
    (tmp_path / "$SCRATCH").mkdir()
    assert expand("$SCRATCH/x") == Path("$SCRATCH/x")
    assert expand("./~x") == expand(str(expand("./~x"))) == tmp_path / "~x"
    assert expand("d/") == expand("./d") == Path("d")
    assert expand("a b /ä.b. c/-x\n") == Path("a b /ä.b. c/-x\n")


CLUTTER = [
    *(".DS_Store", "._a00.tif", ".Spotlight-V100", ".fseventsd", ".Trashes", "Icon\r", "__MACOSX"),
    *("Thumbs.db", "THUMBS.DB", "Desktop.ini", "$RECYCLE.BIN", "System Volume Information", "~$a.tif"),
    *("a00.tif:Zone.Identifier", "@eaDir", "@Recycle", "#recycle", "#snapshot", ".snapshot", "~snapshot", "lost+found"),
    *(".nfs000000000abc", "~tmp", ".sync", ".ipynb_checkpoints", ".git", ".dropbox", "a00.tif@SynoEAStream"),
]


@pytest.mark.parametrize("name", CLUTTER)
def test_what_systems_put_into_folders_is_passed_over(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "a00.tif").touch()
    assert [file.name for file in listed(tmp_path)] == ["a00.tif"]


@pytest.mark.parametrize(
    "name", ["a00.tif", "~a.tif", "#1.tif", "@x.tif", "$a.tif", "thumbs.png", "a..b .tif", "-a.tif"]
)
def test_what_users_call_images_is_listed(name):
    assert not is_clutter(name)


def test_a_name_is_the_same_in_capital_letters_and_with_decomposed_umlauts():
    names = ("Ä07.OME.TIF", "ä07.ome.tif", unicodedata.normalize("NFD", "ä07.Png"), "ä07.ome.zarr")
    assert len({same_name(stem(Path(name))) for name in names}) == 1
    assert [stem(Path(name)) for name in ("A.OME.TIF", "a.b.tif", "ome.tif", "x.ome")] == ["A", "a.b", "ome", "x"]


TEXTS = {
    "byte order mark": (b'\xef\xbb\xbfname = "a"\r\n', None),
    "old Mac": (b'name = "a"\rseed = 1\r', None),
    "UTF-16": ('name = "a"'.encode("utf-16"), "text in UTF-16"),
    "UTF-16 big": (b"\xfe\xff" + 'name = "a"'.encode("utf-16-be"), "text in UTF-16"),
    "UTF-16 without a mark": ('name = "a"'.encode("utf-16-le"), "UTF-16 without a byte order mark"),
    "UTF-32": ('name = "a"'.encode("utf-32"), "text in UTF-32"),
    "Latin-1": ('seed = 1\nname = "Köln"'.encode("latin-1"), "line 2, byte 10 is 0xf6, which is 'ö' in Latin-1"),
    "NUL": (b'name = "a"\nseed\0 = 1', r"NUL byte \(line 2, byte 5\)"),
    "typographic quotes": ("name = “a”".encode(), r"left double quotation mark \(U\+201C\)"),
    "no-break space": ("name\u00a0= 'a'".encode(), r"no-break space \(U\+00A0\)"),
    "minus": ("seed = \u22121".encode(), r"minus sign \(U\+2212\)"),
    "Windows path": (b'name = "C:\\data\\x"', "single quotes"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_file_is_read_or_named_as_what_it_is(tmp_path, name):
    content, said = TEXTS[name]
    file = tmp_path / "a.toml"
    file.write_bytes(content)
    if said is None:
        assert read_toml(file)["name"] == "a"
        return
    with pytest.raises(ConfigError, match=said):
        read_toml(file)


def test_a_link_that_leads_nowhere_is_called_so(tmp_path):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    (tmp_path / "gone.tif").symlink_to("away.tif")

    assert {missing(tmp_path / name) for name in ("one", "gone.tif")} == {"is a link that leads nowhere"}
    assert real(tmp_path / "one").parent == real(tmp_path)
    with pytest.raises(DataError, match=r"gone.tif is a link that leads nowhere"):
        read_image(tmp_path / "gone.tif")


def test_a_run_directory_that_is_not_text_is_refused():
    with pytest.raises(RunError, match=r"'r\\udcff' is not text in UTF-8.*\(out\)") as caught:
        Run(Path(os.fsdecode(b"r\xff")))
    assert caught.value.argument == "out"


def test_an_error_keeps_its_argument_in_another_process():
    error = pickle.loads(pickle.dumps(RunError("Choose another (out).", argument="out")))
    assert (str(error), error.argument) == ("Choose another (out).", "out")
    assert UserError("x").argument == ""


def test_read_text_makes_the_error_that_is_asked_for(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"a is text in UTF-16"):
        read_text(tmp_path / "a", DataError)
