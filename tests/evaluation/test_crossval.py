"""Evaluation: counts that do not depend on batch or devices, files as documented, what is missing is named."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn.metrics import confusion_matrix, jaccard_score

from fbunet_jax.config import load_config
from fbunet_jax.data.datasets import Dataset
from fbunet_jax.data.normalisation import Normalisation
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.crossval import evaluate, fold_entry, missing_folds, pool, table
from fbunet_jax.training.loop import train_fold
from fbunet_jax.training.parallel import MappedEvaluation, MappedSegmentation, replicate
from fbunet_jax.training.setup import make_part


class IntensityModel(nn.Module):
    """Class = intensity / 60 in round 1, class 1 everywhere in round 2: predictions known without a network."""

    classes: int = 3

    @nn.compact
    def __call__(self, images, *, train):
        del train
        first = jax.nn.one_hot((images[..., 0] * 255 / 60).astype(int), self.classes)
        return jnp.stack([first, jnp.zeros_like(first).at[..., 1].set(1)])


@pytest.fixture(scope="module")
def dataset():
    """Five images of mixed sizes, none a multiple of the tile, with ignored pixels; class 2 is absent."""
    random = np.random.default_rng(0)
    sizes = [(17, 40), (32, 32), (5, 9), (40, 33), (16, 16)]
    labels = [random.choice(np.array([0, 1, 255], np.uint8), size, p=[0.6, 0.3, 0.1]) for size in sizes]
    images = [random.integers(0, 120, (*size, 1)).astype(np.uint8) for size in sizes]
    names = tuple("abcde")
    return Dataset(tuple(images), tuple(labels), names, names, ("x", "y", "z"))


@pytest.mark.parametrize(
    ("devices", "batch_size", "tile"), [(1, 1, 16), (1, 7, 16), (4, 8, 16), (8, 16, 16), (2, 4, 32)]
)
def test_counts_are_scikit_learns_for_every_batch_size_and_number_of_devices(dataset, devices, batch_size, tile):
    part = make_part(dataset, np.arange(5), Normalisation("scale"), tile)
    used = jax.devices()[:devices]
    mapped = MappedEvaluation(IntensityModel(), tile=tile, batch_size=batch_size, devices=used)
    confusion = mapped({}, replicate(part.store, used), part.tiles)
    truth = np.concatenate([label.reshape(-1) for label in dataset.labels])
    predicted = np.concatenate([image.reshape(-1) for image in dataset.images]) // 60
    kept = truth != 255
    expected = confusion_matrix(truth[kept], predicted[kept], labels=range(3))
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion[0], expected)
    np.testing.assert_array_equal(confusion[1], confusion_matrix(truth[kept], np.ones(kept.sum()), labels=range(3)))
    entry = fold_entry(0, 1, 5, confusion)
    np.testing.assert_allclose(
        entry["rounds"][0]["iou"][:2], jaccard_score(truth[kept], predicted[kept], labels=[0, 1], average=None)
    )
    assert entry["iou"][2] is None  # absent from truth and prediction
    assert entry["mean_iou"] == pytest.approx(np.mean(entry["iou"][:2]))


def entry(fold, iou):
    present = [value for value in iou if value is not None]
    numbers = {"mean_iou": sum(present) / len(present), "iou": iou}
    return {"fold": fold, "step": 1, "images": 2, **numbers, "rounds": [numbers, numbers]}


def test_mean_and_deviation_are_over_folds_and_absent_classes_leave_them():
    pooled = pool(("x", "y"), "test", [entry(0, [0.2, None]), entry(2, [0.4, 0.8])])
    assert pooled["mean"]["iou"] == pytest.approx([0.3, 0.8])
    assert pooled["mean"]["mean_iou"] == pytest.approx((0.2 + 0.6) / 2)
    assert pooled["std"]["iou"][0] == pytest.approx(np.sqrt(2 * 0.1**2))
    assert pooled["std"]["iou"][1] is None
    assert missing_folds(pooled, 4) == [1, 3]


def test_the_table_shows_classes_by_folds_with_both_rounds():
    first, last = {"mean_iou": 0.25, "iou": [0.5, 0.0]}, {"mean_iou": 0.75, "iou": [0.75, None]}
    entries = [{"fold": 3, "step": 1, "images": 1, **last, "rounds": [first, last]}]
    lines = table(pool(("x", "long name"), "validation", entries)).splitlines()
    assert lines[0].split() == ["IoU", "in", "%", "fold", "3", "mean", "std"]
    assert lines[1].split() == ["x", "75.0", "(50.0)", "75.0", "(50.0)", "n/a"]
    assert lines[2].split() == ["long", "name", "n/a", "(0.0)", "n/a", "(0.0)", "n/a"]
    assert lines[3].split() == ["mean", "75.0", "(25.0)", "75.0", "(25.0)", "n/a"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = load_config(
        "quickstart",
        method="feedback-conv",
        data={"synthetic_images": 6, "synthetic_size": 40, "crop": 32, "folds": 3},
        model={"widths": [2, 3]},
        training={"epochs": 4, "batch_size": 8, "previews": 0},
    )
    out = tmp_path_factory.mktemp("runs") / "run"
    for fold in (0, 2):
        train_fold(config, fold, out=out, stream=io.StringIO())
    return out


def test_evaluation_files_are_as_documented(run):
    result = evaluate(run)
    assert result == json.loads((run / "evaluation.json").read_text())
    assert set(result) == {"format", "split", "class_names", "folds", "mean", "std"}
    assert [fold["fold"] for fold in result["folds"]] == [0, 2]
    for fold in result["folds"]:
        assert fold == json.loads((run / f"fold_{fold['fold']}" / "evaluation.json").read_text())
        assert set(fold) == {"fold", "step", "images", "mean_iou", "iou", "rounds"}
        assert fold["images"] == 2
        confusion = np.array(fold["rounds"][-1]["confusion"])
        assert confusion.sum() == 2 * 40 * 40
    assert evaluate(run, [2])["folds"] == result["folds"]


def test_validation_goes_to_its_own_file_and_equals_what_training_recorded(run):
    result = evaluate(run, [0], split="validation")
    assert json.loads((run / "evaluation-validation.json").read_text()) == result
    lines = (run / "fold_0" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "validation"]
    best = max(records, key=lambda record: record["mean_iou"])
    assert result["folds"][0]["mean_iou"] == pytest.approx(best["mean_iou"], abs=1e-6)
    assert result["folds"][0]["step"] == best["step"]


def test_an_evaluation_over_dihedral_views_lies_beside_the_other(run):
    plain = evaluate(run)
    averaged = evaluate(run, tta=True)
    assert json.loads((run / "evaluation.json").read_text()) == plain
    assert json.loads((run / "evaluation-test-tta.json").read_text()) == averaged
    assert averaged["split"] == "test-tta"
    assert [fold["step"] for fold in averaged["folds"]] == [fold["step"] for fold in plain["folds"]]
    assert averaged["folds"][0]["rounds"][0]["confusion"] != plain["folds"][0]["rounds"][0]["confusion"]


class PlaceModel(nn.Module):
    """Logits that depend on the place in the tile alone."""

    logits: tuple

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return jnp.broadcast_to(jnp.asarray(self.logits), (2, len(images), 16, 16, 3))


def test_views_are_turned_back_before_they_are_averaged(dataset):
    part = make_part(dataset, np.arange(5), Normalisation("scale"), 16)
    segment = MappedSegmentation(IntensityModel(), tile=16, batch_size=3)({}, replicate(part.store), part.tiles)
    turned = MappedSegmentation(IntensityModel(), tile=16, batch_size=3, tta=True)
    # what depends on a pixel alone is the same in all views
    for one, other in zip(segment, turned({}, replicate(part.store), part.tiles), strict=True):
        np.testing.assert_array_equal(one, other)
    logits = np.random.default_rng(0).normal(size=(16, 16, 3)).round(3)
    model = PlaceModel(tuple(tuple(map(tuple, row)) for row in logits.tolist()))
    classes = next(MappedSegmentation(model, tile=16, batch_size=2, tta=True)({}, replicate(part.store), part.tiles))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    views = [np.rot90(each, k) for each in (probabilities, probabilities[:, ::-1]) for k in range(4)]
    expected = np.mean(views, axis=0).argmax(axis=-1)
    np.testing.assert_array_equal(classes, [expected, expected])


def test_a_fold_that_is_not_trained_is_named(run):
    with pytest.raises(RunError, match=r"Fold 1 of .* has no checkpoint"):
        evaluate(run, [1])


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match="is not a run directory"):
        evaluate(tmp_path)
