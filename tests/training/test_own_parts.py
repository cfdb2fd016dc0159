"""A data set in memory, a network and a loss of a program's own, through training, resuming, evaluation and loading."""

import io
import json
import re
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from fbunet_jax import Dataset, UserError, cli, evaluate, load, load_config, load_dataset, losses, train
from fbunet_jax.data.folds import read_folds
from fbunet_jax.metrics import iou
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.trained import load_trained_fold

CONFIG = load_config(
    "quickstart",
    data={"synthetic_images": 6, "synthetic_size": 32, "crop": 32, "folds": 3},
    model={"widths": [2, 3]},
    training={"epochs": 8, "batch_size": 8, "validate_every": 4, "previews": 2, "preview_every": 1},
)


class Own(nn.Module):
    """A convolution, a batch norm, two convolutions; one round; any size."""

    classes: int = 4
    features: int = 3
    momentum: float = 0.9
    axis_name: str | None = None
    multiple: int = 1

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(self.features, (3, 3))(images)
        x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum, axis_name=self.axis_name)(x)
        return nn.Conv(self.classes, (3, 3))(nn.relu(x))


class Bare(nn.Module):
    """Without statistics, and without any field but the classes."""

    classes: int = 4

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return nn.Conv(self.classes, (1, 1))(nn.relu(nn.Conv(3, (3, 3))(images)))


class Fixed(nn.Module):
    """With a norm whose momentum nobody can change."""

    axis_name: str | None = None
    multiple: int = 1

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Conv(4, (1, 1))(nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(images))


class Learned(nn.Module):
    """With a number for every pixel of an image, as for positions."""

    multiple: int = 8

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return nn.Conv(4, (1, 1))(images + self.param("positions", nn.initializers.zeros, images.shape[1:])[None])


class Gate(nn.Module):
    """A feedback with parameters."""

    @nn.compact
    def __call__(self, images, probabilities):
        maps = jnp.zeros((*images.shape[:-1], 4)) if probabilities is None else probabilities
        return jnp.concatenate([images, nn.sigmoid(nn.Conv(4, (1, 1))(maps)) * maps], axis=-1)


@dataclass(frozen=True)
class Focal(losses.Loss):
    gamma: float = 2.0

    def statistics(self, logits, labels):
        counted, targets = losses.targets_of(labels, logits)
        log_p = (targets[None] * jax.nn.log_softmax(logits)).sum(axis=-1)
        return (-((1 - jnp.exp(log_p)) ** self.gamma) * log_p).sum(axis=(1, 2, 3)), counted.sum()

    def value(self, sums):
        return sums[0] / jnp.maximum(sums[1], 1).astype(sums[0].dtype)


def quietly(config=CONFIG, fold=1, **options):
    return train(config, fold, stream=io.StringIO(), **options)


@pytest.fixture(scope="module")
def arrays():
    source = load_dataset(CONFIG)
    return Dataset.from_arrays(
        source.images, source.labels, class_names=source.class_names, names=source.names, groups=source.groups
    )


@pytest.fixture(scope="module")
def own_run(arrays, tmp_path_factory):
    """Return the options and the result of a training with all three."""
    options = {"dataset": arrays, "model": Own(), "loss": Focal()}
    return options, quietly(out=tmp_path_factory.mktemp("runs") / "own", **options)


def variables_of(run, model=None):
    leaves = jax.tree_util.tree_leaves_with_path(load_trained_fold(Run(run), 1, model).variables)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def test_arrays_train_as_the_same_images_from_settings_bit_for_bit(arrays, tmp_path):
    from_settings, from_arrays = quietly(out=tmp_path / "settings"), quietly(out=tmp_path / "arrays", dataset=arrays)
    assert from_arrays.directory.metrics.read_bytes() == from_settings.directory.metrics.read_bytes()
    expected = variables_of(from_settings.run)
    for name, values in variables_of(from_arrays.run).items():
        np.testing.assert_array_equal(values, expected[name])
    assert evaluate(from_arrays.run, dataset=arrays)["folds"] == evaluate(from_settings.run)["folds"]
    assert Run(from_arrays.run).read_config().data.layout == "arrays"


def test_a_loss_that_is_passed_trains_as_the_same_loss_of_the_settings(tmp_path):
    config = replace(CONFIG, training=replace(CONFIG.training, class_weights="none", dice_weight=0.5))
    by_settings = quietly(config, out=tmp_path / "settings")
    passed = quietly(out=tmp_path / "passed", loss=losses.CrossEntropy() + 0.5 * losses.SoftDice())
    assert passed.directory.metrics.read_bytes() == by_settings.directory.metrics.read_bytes()


def test_a_network_that_is_passed_trains_as_the_same_network_of_the_settings(tmp_path):
    by_settings = quietly(out=tmp_path / "settings")
    settings = CONFIG.model
    model = FeedbackUNet(4, settings.widths, momentum=settings.batch_norm_momentum, epsilon=settings.batch_norm_epsilon)
    passed = quietly(out=tmp_path / "passed", model=model)
    assert passed.directory.metrics.read_bytes() == by_settings.directory.metrics.read_bytes()


@pytest.mark.parametrize(
    "model", [Own(), Bare(), FeedbackUNet(4, (2, 3), feedback=Gate())], ids=["norms", "no-norms", "feedback-module"]
)
def test_a_stopped_run_of_own_parts_ends_like_one_that_was_not(model, arrays, tmp_path, stopped_at_once):
    config = replace(CONFIG, training=replace(CONFIG.training, save_minutes=0.0, weight_average=0.9))
    if isinstance(model, Bare):
        arrays = Dataset.from_arrays(
            [image[:16, :16] for image in arrays.images],
            [np.arange(256).reshape(16, 16) % 4] * 6,
            class_names=arrays.class_names,
        )
        config = replace(config, data=replace(config.data, crop=16))
    options = {"dataset": arrays, "model": model, "loss": Focal() + losses.CrossEntropy((1.0, 2.0, 3.0, 4.0))}
    whole = quietly(config, out=tmp_path / "whole", **options)
    with stopped_at_once() as interruption:
        quietly(config, out=tmp_path / "stopped", interruption=interruption, **options)
    stopped = quietly(config, out=tmp_path / "stopped", **options)
    assert stopped.directory.metrics.read_bytes() == whole.directory.metrics.read_bytes()
    expected = variables_of(whole.run, model)
    for name, values in variables_of(stopped.run, model).items():
        np.testing.assert_array_equal(values, expected[name])


def test_the_numbers_are_those_of_the_network_on_the_arrays_of_the_test_part(own_run, arrays):
    options, result = own_run
    evaluation = evaluate(result.run, dataset=arrays, model=Own(), report=True)
    fold = load(result.run, model=Own()).folds[0]
    tested = read_folds(Run(result.run).folds)[1].test
    confusion = np.zeros((4, 4), int)
    for image, label, group in zip(arrays.images, arrays.labels, arrays.groups, strict=True):
        if group in tested:
            scale, shift = fold.normalisation.affine(image)
            logits = Own().apply(fold.variables, (image * scale + shift)[None], train=False)
            np.add.at(confusion, (label, np.asarray(logits[0].argmax(axis=-1))), 1)
    (only,) = evaluation["folds"][0]["rounds"]
    assert only["confusion"] == confusion.tolist()
    np.testing.assert_allclose(only["iou"], iou(confusion))
    page = Run(result.run).report("test").read_text()
    assert re.search(r"test_own_parts:Own#\w+\(classes=4", page)
    assert re.search(r"Focal#\w+\(gamma=2.0\)", page)
    assert list(result.directory.previews.iterdir())
    prediction = load(result.run, model=Own()).predict(arrays.images[0])
    assert prediction.labels.shape == (32, 32)
    assert options["model"] == Own()
    entry = evaluate(result.run, dataset=arrays, model=Own(), offsets=True)["folds"][0]
    assert load(result.run, model=Own(), offsets=True).folds[0].offsets == tuple(entry["offsets"])


def test_the_run_says_by_name_what_was_passed(own_run):
    _, result = own_run
    passed = json.loads((result.run / "passed.json").read_text())
    model, loss = (re.sub(r"#\w{8}", "", passed[name]) for name in ("model", "loss"))
    assert model.endswith("test_own_parts:Own(classes=4, features=3, momentum=0.9, multiple=1)")
    assert loss.endswith("test_own_parts:Focal(gamma=2.0)")
    assert passed["label"] == "Own"
    assert len(passed["dataset"]) == 32
    config = Run(result.run).read_config()
    assert (config.method, config.data.layout, config.training.class_weights) == ("custom", "arrays", "custom")
    assert Run(result.run).label() == "Own"


@pytest.mark.parametrize("name", ["dataset", "model", "loss"])
def test_resuming_with_something_else_or_without_it_names_both_and_changes_nothing(name, own_run, arrays):
    options, result = own_run
    labels = [label[::-1] for label in arrays.labels]
    others = {
        "dataset": Dataset.from_arrays(arrays.images, labels, class_names=arrays.class_names),
        "model": Own(features=4),
        "loss": Focal(1.0),
    }
    before = {path: path.stat().st_mtime_ns for path in result.run.rglob("*") if path.name != "lock"}
    recorded = json.loads((result.run / "passed.json").read_text())[name]
    for other in (others[name], None):
        with pytest.raises(UserError) as error:
            quietly(out=result.run, **(options | {name: other}))
        assert f"{name}={recorded}" in str(error.value)
        assert ("passed now" in str(error.value)) or other is None
    assert {path: path.stat().st_mtime_ns for path in result.run.rglob("*") if path.name != "lock"} == before


def test_other_groups_are_another_data_set(own_run, arrays):
    options, result = own_run
    groups = [*arrays.groups[1:], arrays.groups[0]]
    moved = Dataset.from_arrays(
        arrays.images, arrays.labels, class_names=arrays.class_names, names=arrays.names, groups=groups
    )
    with pytest.raises(UserError, match=r"and dataset=.* is passed now"):
        quietly(out=result.run, **(options | {"dataset": moved}))


def test_evaluating_and_loading_need_the_same_parts(own_run, arrays):
    _, result = own_run
    with pytest.raises(UserError, match=r"trained with model=.*Own#\w+\(.*and none is passed now"):
        load(result.run)
    with pytest.raises(UserError, match=r"and model=.*Bare#\w+\(classes=4\) is passed now"):
        load(result.run, model=Bare())
    with pytest.raises(UserError, match=r"trained with dataset=.*and none is passed now"):
        evaluate(result.run, model=Own())
    with pytest.raises(UserError, match=r"trained with model=.*and none is passed now"):
        evaluate(result.run, dataset=arrays)
    with pytest.raises(UserError, match=r"precision = 'bfloat16': the network Own has no field dtype"):
        load(result.run, model=Own(), precision="bfloat16")


def test_a_run_of_settings_takes_no_parts_of_ones_own(arrays, tmp_path):
    result = quietly(out=tmp_path / "run")
    for call in (
        lambda: quietly(out=tmp_path / "run", dataset=arrays),
        lambda: quietly(out=tmp_path / "run", model=Own()),
        lambda: quietly(out=tmp_path / "run", loss=Focal()),
        lambda: load(result.run, model=Own()),
        lambda: evaluate(result.run, dataset=arrays),
    ):
        with pytest.raises(UserError, match="trained without a custom"):
            call()


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "report"])
def test_the_command_line_says_that_a_program_has_to_pass_them(command, own_run, tmp_path, capsys):
    _, result = own_run
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "images" / "a.png")
    options = {
        "train": ["--config", str(result.run / "config.toml"), "--fold", "1", "--out", str(result.run)],
        "evaluate": [str(result.run)],
        "predict": [str(result.run), str(tmp_path / "images"), "--out", str(tmp_path / "out")],
        "report": [str(result.run)],
    }
    assert cli.main([command, *options[command]]) == 2
    text = capsys.readouterr().err
    assert "Python" in text
    assert "passed" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": "quickstart"}, "config is of type str: expected a Config; load_config returns one"),
        ({"fold": "all"}, "fold = 'all': expected the number of one fold, from 0 to 2"),
        ({"fold": 7}, "There is no fold 7"),
        ({"dataset": ([], [])}, "dataset is of type tuple: expected a Dataset"),
        ({"model": Own(classes=3)}, r"logits of shape .* expected .* K = 4 classes"),
        ({"model": lambda images: images}, "expected a Flax Linen module"),
        (
            {"model": Learned(), "config": replace(CONFIG, data=replace(CONFIG.data, crop=16))},
            "have the size of the images",
        ),
        ({"loss": lambda logits, labels: 0}, r"expected an object with the methods statistics\(logits, labels\)"),
        (
            {"model": Bare(), "config": replace(CONFIG, data=replace(CONFIG.data, crop=20))},
            "data.crop = 20: .*multiple of 16",
        ),
        (
            {"model": Fixed(), "config": replace(CONFIG, training=replace(CONFIG.training, norm_batches=2))},
            "Fixed has no field momentum",
        ),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_no_run_directory(options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        quietly(**({"out": tmp_path / "run"} | options))
    assert not (tmp_path / "run").exists()


def test_the_folder_of_a_network_of_ones_own_is_named_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = replace(CONFIG, training=replace(CONFIG.training, epochs=1, previews=0))
    stream = io.StringIO()
    result = train(config, 1, model=FeedbackUNet(4, (2, 3), rounds=1, feedback=Gate()), stream=stream)
    assert str(result.run) == "runs/quickstart/FeedbackUNet-Gate"
    assert "Fold 1 of FeedbackUNet-Gate starts" in stream.getvalue()
    assert result.images_per_second > 0


@pytest.mark.parametrize(
    "options", [{"model": Own()}, {"loss": Focal()}, {"dataset": None}], ids=lambda each: next(iter(each))
)
def test_a_run_whose_passed_json_is_lost_is_not_taken_for_one_of_settings(options, arrays, tmp_path):
    options = {name: arrays if part is None else part for name, part in options.items()}
    result = quietly(out=tmp_path / "run", **options)
    (tmp_path / "run" / "passed.json").unlink()
    for call in (lambda: quietly(out=tmp_path / "run"), lambda: load(result.run), lambda: evaluate(result.run)):
        with pytest.raises(UserError, match=r"passed.json is missing|stands for a|was trained|trained with|pass"):
            call()
    # nor do its settings alone begin another one
    with pytest.raises(UserError, match=r"that a Python program passed|were arrays passed from Python"):
        quietly(Run(result.run).read_config(), out=tmp_path / "other")


def test_evaluating_with_other_class_names_is_refused(own_run, arrays):
    _, result = own_run
    renamed = Dataset.from_arrays(
        arrays.images, arrays.labels, class_names=arrays.class_names[::-1], names=arrays.names, groups=arrays.groups
    )
    with pytest.raises(UserError, match=r"trained with dataset=\w+ .* and dataset=\w+ is passed now"):
        evaluate(result.run, dataset=renamed, model=Own())


def test_arguments_that_do_not_go_together_are_refused(own_run, arrays):
    _, result = own_run
    options = {"dataset": arrays, "model": Own()}
    for others, words in (
        ({"split": "train"}, "split = 'train': expected 'test' or 'validation'"),
        ({"report": True, "tta": True}, "report: the page shows the split as predict segments it"),
        ({"root": "/nowhere"}, "root = '/nowhere': the data set is passed, so no folder is read"),
        ({"whole": True}, "were passed as they are"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate(result.run, **options, **others)


def test_a_finished_fold_and_settings_that_do_not_apply_are_mentioned(own_run, arrays, tmp_path):
    options, result = own_run
    stream = io.StringIO()
    assert train(CONFIG, np.int64(1), out=result.run, stream=stream, **options).was_finished
    assert stream.getvalue() == f"Fold 1 in {result.run} is finished already, at step {result.steps}.\n"
    config = replace(CONFIG, data=replace(CONFIG.data, cut=16, views="dihedral"))
    train(config, 1, out=tmp_path / "run", stream=stream, dataset=arrays)
    assert "used as it was passed, without data.cut = 16, data.views = 'dihedral'." in stream.getvalue()


def test_a_custom_network_begins_with_the_weights_of_another_run_of_the_same_shapes(own_run, arrays, tmp_path):
    options, result = own_run
    config = replace(CONFIG, training=replace(CONFIG.training, initial_weights=str(result.run)))

    class Renamed(Own):
        """The same layers under another name."""

    options = options | {"model": Renamed()}
    stream = io.StringIO()
    begun = train(config, 1, out=tmp_path / "run", stream=stream, **options)
    assert begun.steps == result.steps
    with pytest.raises(UserError, match=r"training.initial_weights = .*cannot be restored"):
        train(config, 1, out=tmp_path / "other", stream=stream, **(options | {"model": Own(features=5)}))


def test_the_report_of_a_network_with_widths_in_a_list_has_its_features(arrays, tmp_path):
    model = FeedbackUNet(4, [2, 3])
    result = quietly(out=tmp_path / "run", model=model)
    evaluate(result.run, model=model, report=True)
    assert "first layer" in Run(result.run).report("test").read_text()
