"""An evaluation with other class maps: counts by hand, files beside the others, and sentences where there is none."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn.metrics import confusion_matrix

from fbunet_jax.cli import main
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.evaluation.crossval import evaluate
from fbunet_jax.evaluation.feedback_use import feedback_use
from fbunet_jax.evaluation.other_maps import beside, other_items
from fbunet_jax.evaluation.report import write_report
from fbunet_jax.evaluation.segmentation import FoldSegmentation, load_run_data
from fbunet_jax.evaluation.variants import Variant
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.pipeline.normalisation import Normalisation
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import part_items

CLASSES = 4


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    """A run of two folds, each with two test images of 40 x 40 pixels."""
    return make_run(tmp_path_factory.mktemp("runs") / "a run")


@pytest.fixture(scope="module")
def evaluated(run):
    """What the run reached, by the maps that its second round was given."""
    return {maps: evaluate(run, maps=maps) for maps in ("own", "zeros", "other")}


@pytest.fixture
def network(run):
    return FoldSegmentation(Run(run), *load_run_data(Run(run)), 0).trained.model


def network_input(trained, dataset, item):
    scale, shift = trained.normalisation.affine_of(dataset, item)
    return np.float32(dataset.images[item] * scale + shift)[None]


def classes_with(trained, image, maps, *, image_stays=False):
    """Return the classes of both rounds `[2, H, W]`, where round 2 is given explicit maps."""

    def given(images, probabilities):
        if image_stays:
            return jnp.concatenate([images, jnp.zeros_like(maps) if probabilities is None else maps], axis=-1)
        return jnp.tile(images, CLASSES) if probabilities is None else maps

    model = trained.model.clone(feedback=given)
    return np.asarray(model.apply(trained.variables, image, train=False).argmax(axis=-1))[:, 0]


def maps_of(trained, image):
    return jax.nn.softmax(trained.model.apply(trained.variables, image, train=False)[0])


@pytest.mark.parametrize("maps", ["zeros", "other"])
def test_counts_are_those_of_explicit_maps_and_of_the_same_first_round(run, evaluated, maps):
    config, dataset = load_run_data(Run(run))
    entry = evaluated[maps]["folds"][0]
    items = part_items(config, Run(run), dataset, 0)["test"]
    trained = FoldSegmentation(Run(run), config, dataset, 0).trained
    expected = np.zeros((2, CLASSES, CLASSES), int)
    for item, another in [items, items[::-1]]:
        turned = np.rot90(network_input(trained, dataset, another)[0], 2)[None]
        given = maps_of(trained, turned) if maps == "other" else jnp.zeros((1, 40, 40, CLASSES))
        found = classes_with(trained, network_input(trained, dataset, item), given)
        label = dataset.labels[item].ravel()
        expected += [confusion_matrix(label, classes.ravel(), labels=range(CLASSES)) for classes in found]
    rounds = np.array([scores["confusion"] for scores in entry["rounds"]])
    # rounding differs between programs: a tie may go the other way in a pixel or two
    assert np.abs(rounds - expected).sum() <= 4
    own = [scores["confusion"] for scores in evaluated["own"]["folds"][0]["rounds"]]
    assert np.abs(rounds[0] - own[0]).sum() <= 4
    assert np.abs(rounds[1] - own[1]).sum() > 100


def test_the_results_lie_beside_those_of_own_maps_and_without_a_page(run, evaluated, capsys):
    assert main(["evaluate", str(run), "--fold", "1", "--maps", "zeros"]) == 0
    assert "split: test-maps-zeros" in capsys.readouterr().out
    for maps, name in (("own", ""), ("zeros", "-test-maps-zeros"), ("other", "-test-maps-other")):
        found = json.loads((run / f"evaluation{name}.json").read_text())
        assert found == evaluated[maps]
        assert found["split"] == "test" + Variant(maps=maps).suffix
        assert (run / f"fold_0/items{name}.npz").is_file()
    assert not list(run.glob("*.html"))


def test_images_of_other_sizes_are_turned_and_mirrored_or_cropped(run):
    config, dataset = load_run_data(Run(run))
    sizes = {0: (40, 40), 1: (16, 24), 2: (40, 28)}
    images = [image[: sizes.get(i, (40, 40))[0], : sizes.get(i, (40, 40))[1]] for i, image in enumerate(dataset.images)]
    dataset = replace(dataset, images=tuple(images))
    segmentation = FoldSegmentation(Run(run), config, dataset, 0, Variant(maps="other"), part=[0, 1, 2])
    # scale and shift are each image's own
    trained = segmentation.trained = replace(segmentation.trained, normalisation=Normalisation("percentile"))
    for item, another in ((0, 1), (1, 2), (2, 0)):
        height, width = sizes[item]
        turned = np.rot90(network_input(trained, dataset, another)[0], 2)
        margins = [(0, max(0, size - found)) for size, found in zip((height, width), turned.shape, strict=False)]
        fitted = np.pad(turned, [*margins, (0, 0)], "reflect")[:height, :width]
        # a page that is not square is one tile of 64 pixels, mirrored
        side = 40 if height == width else 64
        own, other = (
            np.pad(each, [(0, side - height), (0, side - width), (0, 0)], "reflect")[None]
            for each in (network_input(trained, dataset, item)[0], fitted)
        )
        expected = classes_with(trained, own, maps_of(trained, other))[:, :height, :width]
        (found,) = segmentation.label_maps([item], [1])
        assert (found != expected).sum() <= 4


def test_rows_of_another_image_are_the_same_in_any_band():
    image, other = (np.random.default_rng(0).integers(0, 99, (h, w, 2)) for h, w in ((11, 7), (4, 9)))
    rows = beside(image, other)
    np.testing.assert_array_equal(np.concatenate([rows(0, 3), rows(3, 10), rows(10, 11)]), rows(0, 11))
    np.testing.assert_array_equal(rows(0, 11)[..., :2], image)
    np.testing.assert_array_equal(rows(0, 4)[..., 2:], other[::-1, ::-1][:, :7])


def test_the_other_image_is_half_the_part_further_on_and_in_the_same_view():
    assert other_items([3, 5, 6, 8, 9], 1, "part") == {3: 6, 5: 8, 6: 9, 8: 3, 9: 5}
    views = [*range(8, 32)]  # of three images
    assert other_items(views, 8, "part") == {item: 8 + (item - 8 + 8) % 24 for item in views}
    for items, count in (([7], 1), (range(8), 8)):
        with pytest.raises(ConfigError, match=r"maps = 'other': the part has one image.*Use maps = 'zeros'"):
            other_items(items, count, "part")


class Learned(nn.Module):
    """The image, and the maps times a number each."""

    @nn.compact
    def __call__(self, images, probabilities):
        scale = self.param("scale", nn.initializers.ones, (1, 1, 1, CLASSES))
        maps = jnp.zeros((*images.shape[:-1], CLASSES)) if probabilities is None else probabilities
        return jnp.concatenate([images, scale * maps], axis=-1)


def doubt(images, probabilities):
    """The image and the entropy of the maps, which is not a number where one of them is 0."""
    entropy = jnp.zeros_like(images)
    if probabilities is not None:
        entropy = -(probabilities * jnp.log(probabilities)).sum(axis=-1, keepdims=True)
    return jnp.concatenate([images, entropy], axis=-1)


def test_a_feedback_of_one_s_own_keeps_its_parameters(make_run, tmp_path):
    model = FeedbackUNet(CLASSES, (3, 4), feedback=Learned())
    run = make_run(tmp_path / "run", folds=(0,), model=model)
    config, dataset = load_run_data(Run(run))
    (entry,) = evaluate(run, maps="other", model=model)["folds"]
    items = part_items(config, Run(run), dataset, 0)["test"]
    trained = FoldSegmentation(Run(run), config, dataset, 0, model=model).trained
    expected = np.zeros((CLASSES, CLASSES), int)
    scale = trained.variables["params"]["feedback"]["scale"]
    explicit = replace(trained, variables=jax.tree.map(lambda leaf: leaf, trained.variables))
    del explicit.variables["params"]["feedback"]
    for item, another in [items, items[::-1]]:
        given = scale * maps_of(trained, np.rot90(network_input(trained, dataset, another)[0], 2)[None])
        found = classes_with(explicit, network_input(trained, dataset, item), given, image_stays=True)[1]
        expected += confusion_matrix(dataset.labels[item].ravel(), found.ravel(), labels=range(CLASSES))
    assert np.abs(np.array(entry["rounds"][1]["confusion"]) - expected).sum() <= 4
    shutil.copy(run / "fold_0/evaluation-test-maps-other.json", run / "fold_0/evaluation.json")
    assert feedback_use(Run(run), "test", model)["commands"] == [f"evaluate({str(run)!r}, model=model, maps='zeros')"]


def test_a_feedback_that_makes_no_number_of_zeros_is_named(make_run, tmp_path):
    model = FeedbackUNet(CLASSES, (3, 4), feedback=doubt)
    run = make_run(tmp_path / "run", folds=(0,), model=model)
    with pytest.raises(RunError, match=r"are not numbers.*Does it take their logarithm.*Use maps = 'other' instead"):
        evaluate(run, maps="zeros", model=model)


@pytest.mark.parametrize(
    ("method", "why"), [("unet", "it has one round"), ("convlstm-no-feedback", "see the image again")]
)
def test_a_method_that_feeds_no_maps_back_is_refused(make_run, tmp_path, capsys, method, why):
    run = make_run(tmp_path / "run", method, folds=(0,))
    assert main(["evaluate", str(run), "--maps", "other"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Error: maps = 'other': the network of {run} cannot be given other class maps: ")
    assert why in said
    assert said.endswith("such as one of method 'feedback-convlstm'.\n")
    assert not list(run.glob("**/*maps*"))


def test_a_part_of_one_image_an_unknown_word_and_a_page_are_refused(make_run, run, tmp_path):
    single = make_run(tmp_path / "run", folds=(0,), synthetic_images=3)
    with pytest.raises(ConfigError, match="maps = 'other': the evaluated part of fold 0 has one image"):
        evaluate(single, maps="other")
    with pytest.raises(ConfigError, match="maps = 'mine': expected own, zeros, other"):
        evaluate(run, maps="mine")
    with pytest.raises(ConfigError, match="Leave report out with what changes it"):
        evaluate(run, maps="zeros", report=True)


def test_the_report_has_a_table_of_the_folds_that_have_all_and_names_the_commands(run, evaluated, network, tmp_path):
    copy = tmp_path / "a copy"
    shutil.copytree(run, copy)
    (copy / "fold_0/evaluation-test-maps-other.json").unlink()
    found = feedback_use(Run(copy), "test", network)
    assert (found["folds"], found["names"]) == ([1], ["zeros", "maps of another image"])
    own, zeros, other = (evaluated[maps]["folds"][1] for maps in ("own", "zeros", "other"))
    columns = [[*each["iou"], each["mean_iou"]] for each in (own, zeros, other)]
    for row, first, *others in zip(found["rows"], *columns, strict=True):
        assert row["own"] == pytest.approx(first)
        assert row["others"] == [(value, pytest.approx(value - first)) for value in others]
    page = write_report([copy]).read_text(encoding="utf-8")
    assert "of fold 1; difference" in page
    assert f"<td>{100 * other['iou'][0]:.1f}</td><td>{100 * (other['iou'][0] - own['iou'][0]):+.1f}</td></tr>" in page
    assert f"with other class maps: run <code>fbunet evaluate &#39;{copy}&#39; --maps other</code>, then" in page
    (copy / "fold_1/evaluation-test-maps-other.json").unlink()
    found = feedback_use(Run(copy), "test", network)
    assert (found["folds"], found["names"]) == ([0, 1], ["zeros"])
    means = [evaluated[maps]["mean"] for maps in ("own", "zeros")]
    assert found["rows"][2]["own"] == pytest.approx(means[0]["iou"][2])
    assert found["rows"][-1]["others"][0][0] == pytest.approx(means[1]["mean_iou"])


def test_evaluations_of_an_earlier_checkpoint_are_not_in_the_report(run, evaluated, network, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for fold, entry in enumerate(evaluated["zeros"]["folds"]):
        file = tmp_path / f"run/fold_{fold}/evaluation-test-maps-zeros.json"
        file.write_text(json.dumps(entry | {"step": 7}))
        (tmp_path / f"run/fold_{fold}/evaluation-test-maps-other.json").unlink()
    found = feedback_use(Run(tmp_path / "run"), "test", network)
    assert (found["rows"], found["folds"], found["names"]) == ([], [], [])
    assert found["commands"] == [f"fbunet evaluate {tmp_path / 'run'} --maps {maps}" for maps in ("zeros", "other")]


def test_the_report_names_what_evaluates_a_run_elsewhere_or_of_a_program(run, network, make_run, tmp_path):
    opened = Run(run, results=tmp_path)
    for each in ("fold_0", "fold_1"):
        (tmp_path / each).mkdir()
    found = feedback_use(opened, "validation", network)
    assert found["commands"] == []  # without own maps there is nothing to compare with
    for fold in (0, 1):
        shutil.copy(run / f"fold_{fold}/evaluation.json", tmp_path / f"fold_{fold}/evaluation-validation.json")
    found = feedback_use(opened, "validation", network)
    assert found["commands"][0] == f"fbunet evaluate '{run}' --maps zeros --split validation --out {tmp_path}"


def test_the_report_of_a_network_without_feedback_has_no_such_part(run):
    assert feedback_use(Run(run), "test", FeedbackUNet(CLASSES, feedback="image")) is None
    assert feedback_use(Run(run), "test", FeedbackUNet(CLASSES, rounds=1)) is None
