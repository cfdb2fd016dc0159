import dataclasses
import os
import re
import time

import pytest

from fbunet_jax.config import Config, DataConfig, TrainingConfig, to_toml
from fbunet_jax.config_formats import BEFORE_FORMAT_2
from fbunet_jax.errors import RunError
from fbunet_jax.runs.directory import Run, default_path
from fbunet_jax.runs.files import read_json
from fbunet_jax.runs.opening import as_begun, check_bent_crops, create_or_open
from tests.threads import at_once

DATASET = {"class_names": ["a", "b"], "channels": 1, "fingerprint": "0f"}


def open_run(path, config=None, **changes):
    return create_or_open(path, config or Config(), folds='{"folds": []}', dataset=DATASET | changes)


def test_a_run_is_created_with_its_settings_folds_and_data_and_read_back(tmp_path):
    config = Config(seed=3, training=TrainingConfig(epochs=2))
    run = open_run(tmp_path / "new" / "run", config)

    assert sorted(file.name for file in run.path.iterdir()) == ["config.toml", "dataset.json", "folds.json"]
    assert run.read_config() == config
    assert run.read_dataset() == {"format": 1} | DATASET
    assert open_run(run.path, config) == run


def test_the_folds_of_the_first_process_are_kept(tmp_path):
    run = open_run(tmp_path)
    create_or_open(tmp_path, Config(), folds='{"folds": [1]}', dataset=DATASET)
    assert read_json(run.folds, dict) == {"folds": []}


def test_processes_that_start_together_agree_on_one_run(tmp_path):
    configs = [Config(seed=index % 2) for index in range(8)]
    results = at_once(lambda index: open_run(tmp_path, configs[index]))

    seed = Run(tmp_path).read_config().seed
    for index, result in enumerate(results):
        if index % 2 == seed:
            assert result == Run(tmp_path)
        else:
            assert isinstance(result, RunError)


def test_other_settings_are_refused_and_each_difference_is_named(tmp_path):
    open_run(tmp_path, Config(data=DataConfig(classes={"a": 0})))
    other = Config(
        seed=1,
        data=DataConfig(folds=3, classes={"a": 1}),
        model=dataclasses.replace(Config().model, rounds=3),
        training=TrainingConfig(learning_rate=1e-3),
    )
    with pytest.raises(RunError) as error:
        open_run(tmp_path, other, fingerprint="1e")
    for difference in (
        "seed was 0 and is now 1",
        "data.folds was 5 and is now 3",
        "data.classes was {'a': 0} and is now {'a': 1}",
        "model.rounds was None and is now 3",
        "training.learning_rate was 0.0001 and is now 0.001",
        "fingerprint of the data was '0f' and is now '1e'",
        "(out)",
    ):
        assert difference in str(error.value)


def test_files_that_are_not_read_may_be_named_in_between(tmp_path):
    names = {"images": "{}.tif", "labels": "{}_seg.png", "ignore": []}
    open_run(tmp_path, files=names)
    open_run(tmp_path, files=names | {"ignore": ["*_flows.tif"]})
    with pytest.raises(RunError, match="files of the data was"):
        open_run(tmp_path, files=names | {"labels": "{}_mask.png"})


@pytest.mark.parametrize("changes", [{"class_names": ["b", "a"]}, {"channels": 3}, {"fingerprint": ""}])
def test_other_data_are_refused(tmp_path, changes):
    open_run(tmp_path)
    with pytest.raises(RunError, match=f"{next(iter(changes))} of the data was"):
        open_run(tmp_path, **changes)


@pytest.mark.parametrize(
    "config",
    [
        Config(data=DataConfig(root="elsewhere")),
        Config(name="renamed"),
        Config(training=TrainingConfig(previews=0, preview_every=50)),
    ],
)
def test_what_does_not_change_a_result_may_change(tmp_path, config):
    open_run(tmp_path)
    open_run(tmp_path, config)
    assert Run(tmp_path).read_config() == config


@pytest.mark.parametrize(
    ("schedule", "before", "now", "allowed"),
    [
        ("constant", 10, 20, True),
        ("constant", 10, 9, False),
        ("cosine", 10, 20, False),
        ("one-cycle", 10, 20, False),
    ],
)
def test_only_a_run_with_a_constant_learning_rate_can_be_prolonged(tmp_path, schedule, before, now, allowed):
    first, second = (Config(training=TrainingConfig(schedule=schedule, epochs=epochs)) for epochs in (before, now))
    open_run(tmp_path, first)
    if allowed:
        open_run(tmp_path, second)
        with pytest.raises(RunError, match=r"settings: seed was 0 and is now 1\. Use"):
            open_run(tmp_path, dataclasses.replace(second, seed=1))
    else:
        with pytest.raises(RunError, match=f"training.epochs was {before} and is now {now}"):
            open_run(tmp_path, second)


def test_a_run_that_cannot_be_written_or_read_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written.*\(out\)"):
        open_run(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="is not a run directory"):
        Run(tmp_path).read_config()
    with pytest.raises(RunError, match=r"dataset.json is missing"):
        Run(tmp_path).read_dataset()
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(RunError, match=r"dataset.json cannot be read as JSON"):
        Run(tmp_path).read_dataset()


def test_a_run_of_a_newer_format_is_refused(tmp_path):
    run = open_run(tmp_path)
    run.config.write_text(run.config.read_text().replace("format = 2", "format = 3"))
    with pytest.raises(RunError, match="has format 3; this version reads formats 1 and 2"):
        run.read_config()


def as_format_1(run, **training):
    """Write the settings of a run as the version before format 2 did, which did not have all of them."""
    config = Config(training=TrainingConfig(**training))
    lines = to_toml(config).replace("format = 2", "format = 1").splitlines(keepends=True)
    new = tuple(name.partition(".")[2] for name in BEFORE_FORMAT_2)
    run.config.write_text("".join(line for line in lines if not line.startswith(new)))
    return config


def test_a_run_of_format_1_is_resumed_as_it_began(tmp_path):
    run = open_run(tmp_path)
    today = as_format_1(run)
    began = run.read_config().training
    assert (began.norm_batches, began.crop_border, began.elastic_probability) == (0, False, 1.0)
    config = as_begun(run, today)
    assert config.training == began
    assert config.data.validation_groups == run.read_config().data.validation_groups == "after"
    open_run(tmp_path, config)

    for changes in ({"crop_border": False}, {"norm_batches": 5}, {"elastic_probability": 0.5}):
        asked = dataclasses.replace(today, training=dataclasses.replace(today.training, **changes))
        assert as_begun(run, asked).training == dataclasses.replace(began, **changes)
    with pytest.raises(RunError, match=r"training\.norm_batches was 0 and is now 5\. "):
        open_run(tmp_path, as_begun(run, dataclasses.replace(today, training=TrainingConfig(norm_batches=5))))


def test_a_run_of_format_1_stays_one_when_it_is_prolonged(tmp_path):
    run = open_run(tmp_path)
    as_format_1(run, epochs=10)
    open_run(tmp_path, as_begun(run, Config(training=TrainingConfig(epochs=20))))
    text = run.config.read_text()
    assert "format = 1" in text
    assert "epochs = 20" in text
    assert not re.search("norm_batches|crop_border|percentiles_of", text)


def test_a_run_of_format_2_keeps_what_was_set(tmp_path):
    run = open_run(tmp_path, Config(training=TrainingConfig(crop_border=False)))
    with pytest.raises(RunError, match=r"training\.crop_border was False and is now True"):
        open_run(tmp_path, as_begun(run, Config()))
    assert as_begun(Run(tmp_path / "none"), Config()) == Config()


def test_crops_that_format_1_bent_otherwise_are_not_resumed(tmp_path):
    run = open_run(tmp_path)
    config = as_format_1(run, elastic_augmentation=2.0)
    open_run(tmp_path, as_begun(run, config))  # a fold that is finished may be looked at
    with pytest.raises(RunError, match=r"elastic_augmentation in format 1.*version 0\.1\.0"):
        check_bent_crops(run)
    check_bent_crops(open_run(tmp_path / "new", config))


def test_the_default_path_is_runs_config_method_and_seed():
    assert default_path(Config(name="mine", method="unet")).as_posix() == "runs/mine/unet"
    assert default_path(Config(name="mine", method="unet", seed=2)).as_posix() == "runs/mine/unet-seed2"


def test_the_names_in_a_run_are_those_of_the_design(tmp_path):
    run, fold = Run(tmp_path), Run(tmp_path).fold(3)
    names = [run.config, run.folds, run.evaluation("test"), run.evaluation("validation")]
    assert [path.name for path in names] == [
        "config.toml",
        "folds.json",
        "evaluation.json",
        "evaluation-validation.json",
    ]
    files = ("checkpoints", "metrics", "timing", "environment", "curves", "previews", "lock")
    assert [getattr(fold, name).relative_to(tmp_path).as_posix() for name in files] == [
        "fold_3/checkpoints",
        "fold_3/metrics.jsonl",
        "fold_3/timing.jsonl",
        "fold_3/environment.json",
        "fold_3/curves.png",
        "fold_3/previews",
        "fold_3/lock",
    ]
    assert fold.evaluation("test").name == "evaluation.json"


def test_set_aside_takes_the_first_free_number_and_keeps_everything(tmp_path):
    fold = Run(tmp_path).fold(0)
    (tmp_path / "fold_0.old-1").mkdir()
    (tmp_path / "fold_0.old-3").mkdir()
    for content, expected in (("x", "fold_0.old-2"), ("y", "fold_0.old-4")):
        fold.path.mkdir()
        fold.metrics.write_text(content)
        assert fold.set_aside() == tmp_path / expected
        assert (tmp_path / expected / "metrics.jsonl").read_text() == content
        assert not fold.path.exists()


def test_folds_are_numbered_folders_and_not_those_that_were_set_aside(tmp_path):
    for name in ("fold_1", "fold_10", "fold_0.old-1", "fold_", "fold_a"):
        (tmp_path / name).mkdir()
    (tmp_path / "fold_2").touch()
    assert Run(tmp_path).fold_names() == ["fold_1", "fold_10"]


@pytest.mark.parametrize("name", ["config", "folds", "dataset"])
def test_a_run_whose_creation_was_killed_is_created_and_a_begun_one_is_damaged(tmp_path, name):
    config = Config()
    run, dataset = Run(tmp_path / "run"), {"class_names": ["a", "b"], "channels": 1, "fingerprint": "x"}
    create_or_open(run.path, config, folds="[]", dataset=dataset)
    files = [run.config, run.folds, run.dataset]
    whole = [file.read_bytes() for file in files]
    empty = getattr(run, name)

    def kill():
        empty.write_bytes(b"")
        os.utime(empty, (time.time() - 60,) * 2)

    kill()
    assert as_begun(run, config) == config
    create_or_open(run.path, config, folds="[]", dataset=dataset)
    assert [file.read_bytes() for file in files] == whole
    kill()
    run.fold(0).path.mkdir()
    if name == "folds":
        create_or_open(run.path, config, folds="[]", dataset=dataset)
    else:
        with pytest.raises(RunError, match=str(empty)):
            create_or_open(run.path, config, folds="[]", dataset=dataset)
    assert empty.read_bytes() == b""
