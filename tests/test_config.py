import ast
import dataclasses
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbunet_jax import cli
from fbunet_jax.config import Config, DataConfig, FilesConfig, ModelConfig, TrainingConfig, load_config, to_toml
from fbunet_jax.config_formats import comparable
from fbunet_jax.errors import ConfigError
from fbunet_jax.models.methods import METHODS
from fbunet_jax.toml_tables import from_table, to_table

ROOT = Path(__file__).resolve().parent.parent


def write(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


positive = st.floats(1e-12, 1e6)
not_negative = st.floats(0, 1e6)
counts = st.integers(1, 10**6)
weights = st.lists(not_negative, min_size=1, max_size=5).filter(any).map(tuple)
# home folders, environment variables and NUL are tested in test_user_files.py
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0~$%"))
configs = st.builds(
    Config,
    name=st.text(min_size=1).filter(
        lambda n: n not in (".", "..") and not set(n) & set('/\\:*?"<>|') and n.isprintable()
    ),
    method=st.sampled_from(list(METHODS)),
    seed=st.integers(0, 2**32 - 1),
    data=st.builds(
        DataConfig,
        layout=st.sampled_from(["synthetic", "drosophila-vnc", "folder"]),
        root=paths,
        cut=st.integers(0, 10**6),
        crop=counts,
        folds=st.integers(2, 99),
        validation_groups=st.sampled_from(["both-sides", "after"]),
        classes=st.dictionaries(st.text(), st.integers(-(2**40), 2**40), max_size=3),
        ignore_value=st.none() | st.integers(-1, 255),
        group_pattern=st.text(),
    ),
    model=st.builds(
        ModelConfig,
        widths=st.lists(counts, min_size=2, max_size=6).map(tuple),
        rounds=st.none() | st.integers(1, 5),
        feedback=st.sampled_from([None, "replace", "concat", "image"]),
        batch_norm_momentum=st.floats(0, 1, exclude_max=True),
        batch_norm_epsilon=positive,
        precision=st.sampled_from(["float32", "bfloat16"]),
    ),
    training=st.builds(
        TrainingConfig,
        epochs=counts,
        batch_size=counts,
        learning_rate=positive,
        weight_decay=not_negative,
        class_weights=st.sampled_from(["median-frequency", "sqrt-median-frequency", "none"]) | weights,
        round_weight=not_negative,
        norm_batches=st.just("auto") | st.integers(0, 99),
        crop_border=st.booleans(),
        initial_weights=paths,
    ),
)


@given(config=configs)
def test_toml_gives_back_every_config_and_the_order_of_its_classes(tmp_path_factory, config):
    folder = tmp_path_factory.getbasetemp()
    root = config.data.root
    if root and not root.startswith("~"):
        config = replace(config, data=replace(config.data, root=str(folder / root)))  # absolute, as in every run

    back = load_config(write(folder, to_toml(config)))

    assert back == config
    assert list(back.data.classes) == list(config.data.classes)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_configs_that_come_with_the_program_load_by_name_or_path_and_survive_toml(tmp_path, path):
    config = load_config(path.stem)

    assert config.name == path.stem
    assert load_config(path) == load_config(str(path)) == config
    assert load_config(write(tmp_path, to_toml(config))) == config
    assert "fbunet train" in path.read_text(encoding="utf-8").split("\n\n")[0]


def test_without_a_path_the_quickstart_is_loaded_and_the_paper_settings_are_the_defaults():
    assert load_config() == load_config("quickstart")
    config = Config()
    assert config.model.widths == (8, 16, 32, 64, 128)
    training = config.training
    assert (training.epochs, training.batch_size, training.learning_rate) == (1500, 16, 1e-4)
    assert (training.adam_epsilon, training.round_weight) == (1e-7, 0.5)


def test_the_paper_settings_of_the_drosophila_set():
    config = load_config("drosophila")
    assert (config.data.layout, config.data.cut, config.data.folds) == ("drosophila-vnc", 256, 5)
    training = config.training
    assert (training.epochs, training.batch_size, training.learning_rate) == (1500, 16, 1e-4)
    assert (config.model.rounds, config.model.feedback, config.method) == (None, None, "feedback-convlstm")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("sed = 1", "unknown key 'sed'. Did you mean 'seed'?"),
        ("[training]\nepoch = 1", "unknown key 'training.epoch'. Did you mean 'training.epochs'?"),
        ("[modl]\nrounds = 2", "unknown key 'modl'. Did you mean 'model'?"),
        ("[data]\nxyzzy = 2", "unknown key 'data.xyzzy'."),
        ('method = "feedback-convltsm"', "'feedback-convltsm' is not a method. Did you mean 'feedback-convlstm'?"),
        (
            '[data]\nlayout = "foldr"',
            "data.layout = 'foldr': expected 'synthetic' or 'drosophila-vnc' or 'folder' or 'nnunet' or 'arrays'. "
            "Did you mean 'folder'?",
        ),
        ('[training]\nclass_weights = "medianfrequency"', "Did you mean 'median-frequency'?"),
        ("data = 3", "data = 3: expected a table [data]."),
        ('seed = "1"', "seed = '1': expected a whole number."),
        ("seed = true", "seed = True: expected a whole number."),
        ("[training]\nepochs = 2.5", "training.epochs = 2.5: expected a whole number."),
        ("[training]\nlearning_rate = false", "training.learning_rate = False: expected a number."),
        ("[model]\nrounds = true", "model.rounds = True: expected a whole number."),
        ("[model]\nwidths = [true, 8]", "model.widths = (True, 8): expected a list of whole numbers."),
        ("[model]\nwidths = 8", "model.widths = 8: expected a list of whole numbers."),
        ("[model]\nwidths = [8, 16.0]", "model.widths = (8, 16.0): expected a list of whole numbers."),
        ("[training]\nclass_weights = [1, true]", "training.class_weights = (1, True): expected"),
        ("[data]\nclasses = {a = 0, b = true}", "expected a table of names and whole numbers."),
        ("[data]\nclasses = {a = 0, b = 1.5}", "expected a table of names and whole numbers."),
        ("[data]\nroot = 3", "data.root = 3: expected text."),
        ("name = 1979-05-27", "expected text."),
    ],
)
def test_a_wrong_key_or_type_names_file_and_key_and_what_was_expected(tmp_path, toml, message):
    path = write(tmp_path, toml)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


RANGES = {
    FilesConfig: {"first_page": [-1]},
    DataConfig: {
        "cut": [-1],
        "crop": [0],
        "folds": [1],
        "synthetic_images": [0],
        "synthetic_size": [15],
        "synthetic_seed": [-1],
    },
    ModelConfig: {
        "widths": [(), (8,), (8, 0), (8, -1)],
        "rounds": [0],
        "batch_norm_momentum": [-0.1, 1.0, float("nan")],
        "batch_norm_epsilon": [0.0, -1.0, float("inf")],
    },
    TrainingConfig: {
        "dice_weight": [-0.1, float("nan")],
        "elastic_augmentation": [-1.0, float("inf")],
        "elastic_probability": [-0.1, 1.1],
        "norm_batches": [-1],
        "intensity_augmentation": [-0.1, 1.1],
        "weight_average": [-0.1, 1.0],
        "epochs": [0],
        "batch_size": [0],
        "validate_every": [0],
        "preview_every": [0],
        "warmup_steps": [-1],
        "previews": [-1],
        "save_minutes": [-1.0, float("nan"), float("inf")],
        "weight_decay": [-1e-3, float("nan")],
        "gradient_clip": [-1.0, float("inf")],
        "round_weight": [-0.5, float("inf")],
        "learning_rate": [0.0, -1.0, float("nan"), float("inf")],
        "adam_epsilon": [0.0],
        "class_weights": [(), (1.0, -1.0), (1.0, float("nan")), (0.0, 0.0)],
    },
    Config: {"seed": [-1, 2**32], "name": ["", "..", "a/b", "a:b"], "method": ["", "UNet"]},
}
SECTIONS = {
    FilesConfig: "data.files.",
    DataConfig: "data.",
    ModelConfig: "model.",
    TrainingConfig: "training.",
    Config: "",
}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [(kind, field, value) for kind, fields in RANGES.items() for field, values in fields.items() for value in values],
)
def test_a_value_out_of_range_names_the_setting_from_python_and_from_toml(kind, field, value):
    name = SECTIONS[kind] + field
    with pytest.raises(ConfigError, match=rf"^{re.escape(name)}\b"):
        kind(**{field: value})
    with pytest.raises(ConfigError, match=rf"^here: {re.escape(name)}\b"):
        from_table(kind, {field: value}, "here", SECTIONS[kind])


def test_every_number_is_refused_at_some_value_or_needs_no_limit():
    unlimited = {"ignore_value", "classes"}
    for kind, known in RANGES.items():
        for field in dataclasses.fields(kind):
            if re.search(r"\b(int|float)\b", str(field.type)) and field.name not in unlimited:
                assert field.name in known, f"{kind.__name__}.{field.name} has no case in RANGES"


def test_whole_numbers_serve_where_numbers_are_expected(tmp_path):
    path = write(tmp_path, "[training]\nlearning_rate = 1\nclass_weights = [1, 2.5]")
    training = load_config(path).training
    assert (training.learning_rate, training.class_weights) == (1.0, (1.0, 2.5))
    assert all(type(value) is float for value in (training.learning_rate, *training.class_weights))


def test_overrides_are_dotted_or_nested_and_leave_the_rest(tmp_path):
    path = write(tmp_path, "seed = 3\n[model]\nrounds = 3\n[training]\nepochs = 7\nbatch_size = 2")

    nested = load_config(path, seed=4, training={"epochs": 9}, model={"widths": [2, 3]})
    dotted = load_config(path, seed=4, **{"training.epochs": 9, "model.widths": (2, 3)})

    assert nested == dotted
    assert (nested.seed, nested.training.epochs, nested.training.batch_size) == (4, 9, 2)
    assert (nested.model.widths, nested.model.rounds) == ((2, 3), 3)
    assert load_config(path, **{"model.rounds": None}).model.rounds is None
    assert load_config(path, data={"root": tmp_path}).data.root == str(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"trainng": {"epochs": 1}}, "unknown key 'trainng'. Did you mean 'training'?"),
        ({"training.epoch": 1}, "unknown key 'training.epoch'. Did you mean 'training.epochs'?"),
        ({"training": {"epochs": -1}}, "training.epochs = -1"),
        ({"name.first": "x"}, "name.first: name = 'quickstart' is a value, not a table"),
        ({"seed": 1.5}, "seed = 1.5: expected a whole number"),
    ],
)
def test_wrong_overrides_are_errors(overrides, message):
    with pytest.raises(ConfigError) as error:
        load_config(**overrides)
    assert message in str(error.value)


def test_a_missing_file_names_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match=r"drosophila.*quickstart.*Did you mean 'drosophila'\?"):
        load_config("drosofila")
    with pytest.raises(ConfigError, match="There is no configuration"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="There is no configuration"):
        load_config(tmp_path)


@pytest.mark.parametrize("content", [b"seed = ", b"[data\n", b"seed = 1\nseed = 2", b'name = "\xff"'])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{re.escape(str(path))} is not (a valid TOML file|text in UTF-8): "):
        load_config(path)


def test_a_newer_format_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"mine.toml has format 3; this version reads formats 1 and 2"):
        load_config(write(tmp_path, "format = 3\nsomething_new = 1"))


def test_settings_of_format_1_mean_what_they_did(tmp_path):
    assert load_config(write(tmp_path, "format = 1")).data.validation_groups == "after"
    old = load_config(write(tmp_path, "format = 1\n[training]\nepochs = 3")).training
    assert (old.norm_batches, old.crop_border, old.elastic_probability) == (0, False, 1.0)
    given = load_config(write(tmp_path, "format = 1\n[training]\ncrop_border = true")).training
    assert (given.norm_batches, given.crop_border) == (0, True)
    assert load_config(write(tmp_path, "[training]\nepochs = 3")).training == TrainingConfig(epochs=3)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({}, {"norm_batches": 0}, True),
        ({"weight_average": 0.9}, {"weight_average": 0.9, "norm_batches": 24}, True),
        ({"weight_average": 0.9}, {"weight_average": 0.9, "norm_batches": 0}, False),
        ({}, {"elastic_probability": 1.0}, True),
        ({"elastic_augmentation": 1.0}, {"elastic_augmentation": 1.0, "elastic_probability": 1.0}, False),
        ({}, {"crop_border": False}, False),
    ],
)
def test_settings_that_come_to_the_same_compare_as_the_same(one, other, alike):
    tables = [comparable(to_table(Config(training=TrainingConfig(**changes)))) for changes in (one, other)]
    assert (tables[0] == tables[1]) == alike


@pytest.mark.parametrize(
    ("cut", "crop", "alike"),
    [
        *((256, 256, (True, True)), (0, 256, (False, False)), (1024, 1024, (True, False))),
        *((192, 256, (True, False)), (512, 256, (False, False)), (250, 250, (True, False))),
    ],
)
def test_items_of_the_size_of_a_crop_have_no_border_and_one_tile(cut, crop, alike):
    data = DataConfig(cut=cut, crop=crop)
    for changes, same in zip(({"crop_border": False}, {"validation_tiles": "separate"}), alike, strict=True):
        tables = [comparable(to_table(Config(data=data, training=TrainingConfig(**each)))) for each in ({}, changes)]
        assert (tables[0] == tables[1]) == same


@pytest.mark.parametrize(("scheme", "alike"), [("grouped", False), ("sections", True), ("mouse", True)])
def test_where_validation_groups_lie_matters_in_grouped_folds_only(scheme, alike):
    tables = [
        comparable(to_table(Config(data=DataConfig(fold_scheme=scheme, validation_groups=where))))
        for where in ("both-sides", "after")
    ]
    assert (tables[0] == tables[1]) == alike


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().training.epochs = 3


def documented_fields():
    """Return (class name, field, docstring or None) as they stand in the source."""
    source = (ROOT / "fbunet_jax" / "config.py").read_text(encoding="utf-8")
    for kind in (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)):
        for node, following in zip(kind.body, [*kind.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                text = following.value.value if isinstance(following, ast.Expr) else None
                yield kind.name, node.target.id, text


def test_every_setting_has_a_docstring_and_shows_it_in_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # the panels stand side by side on a wide one
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help"])
    assert stop.value.code == 0
    # boxes and line breaks are the terminal's business
    shown = re.sub(r"[\s│─╭╮╰╯|+-]+", "", capsys.readouterr().out)

    sections = {
        "FilesConfig": "data.files.",
        "DataConfig": "data.",
        "ModelConfig": "model.",
        "TrainingConfig": "training.",
        "Config": "",
    }
    fields = [
        (kind, name, text)
        for kind, name, text in documented_fields()
        if name not in ("data", "files", "model", "training")
    ]
    assert len(fields) == sum(len(dataclasses.fields(kind)) for kind in RANGES) - 4
    for kind, name, text in fields:
        assert text, f"{kind}.{name} has no docstring"
        option = re.sub(r"[-]", "", f"{sections[kind]}{name.replace('_', '-')}")
        assert option in shown, f"--{sections[kind]}{name} is not in --help"
        assert re.sub(r"[\s│─╭╮╰╯|+-]+", "", text) in shown, f"the docstring of {kind}.{name} is not in --help"
