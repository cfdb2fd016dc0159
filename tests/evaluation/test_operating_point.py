"""The operating point: offsets that another implementation finds too, fitted on validation, kept, used as they are."""

import itertools
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from fbunet_jax import load
from fbunet_jax.cli import main
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.crossval import evaluate
from fbunet_jax.evaluation.operating_point import collect, fit_offsets
from fbunet_jax.evaluation.segmentation import FoldSegmentation
from fbunet_jax.evaluation.variants import Variant
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import part_items

from .conftest import write_fold


def noisy(shares, shift, pixels=3000, margin=1.0, seed=0):
    """Return labels with these shares of the classes, and scores that are too high by a shift of each class."""
    random = np.random.default_rng(seed)
    truth = random.choice(len(shares), pixels, p=shares).astype(np.uint8)
    scores = random.normal(size=(len(shares), pixels))
    scores[truth, np.arange(pixels)] += margin
    return truth, (scores + np.array(shift)[:, None]).astype(np.float32)


def mean_iou(truth, scores, offsets):
    """Return the mean IoU over the classes of the truth, by another library."""
    chosen = (scores + np.asarray(offsets, np.float32)[:, None]).argmax(axis=0)
    return jaccard_score(truth, chosen, average="macro", labels=np.unique(truth), zero_division=0)


@pytest.mark.parametrize("shift", [[0.7, 0, -2.2, 3.1], [-2, 0, -2, 2], [0, 0, 0, -4]])
def test_a_known_shift_is_taken_back(shift):
    random = np.random.default_rng(1)
    truth = random.choice(4, 20_000, p=[0.1, 0.6, 0.2, 0.1]).astype(np.uint8)
    # the right class leads by 0 to 1, so that other offsets than those of the shift lose pixels
    scores = np.zeros((4, truth.size))
    scores[truth, np.arange(truth.size)] = random.uniform(0, 1, truth.size)
    found = fit_offsets(truth, (scores + np.array(shift)[:, None]).astype(np.float32))
    np.testing.assert_allclose(found, -np.array(shift), atol=0.051)


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_get_the_best_of_all_offsets(seed):
    truth, scores = noisy([0.9, 0.1], [0, 1], seed=seed)
    grid = np.round(np.arange(-5, 5.01, 0.05), 2)
    by_offset = [mean_iou(truth, scores, [0, offset]) for offset in grid]
    found = fit_offsets(truth, scores)
    assert mean_iou(truth, scores, found) == pytest.approx(max(by_offset), abs=1e-12)
    assert found[1] in grid[np.isclose(by_offset, max(by_offset), rtol=0, atol=1e-12)]
    assert max(by_offset) > mean_iou(truth, scores, [0, 0])


def test_of_three_classes_no_single_one_and_no_pair_on_a_coarse_grid_does_better():
    truth, scores = noisy([0.7, 0.25, 0.05], [0, -1, 1.5], pixels=2000)
    found = fit_offsets(truth, scores)
    reached = mean_iou(truth, scores, found)
    coarse = np.arange(-4, 4.1, 0.5)
    assert max(mean_iou(truth, scores, [0, *pair]) for pair in itertools.product(coarse, coarse)) <= reached
    for index, offset in itertools.product((1, 2), np.arange(-5, 5.01, 0.25)):
        other = found.copy()
        other[index] = offset
        assert mean_iou(truth, scores, other) <= reached + 1e-12


def test_nothing_is_moved_that_gains_nothing():
    truth, scores = noisy([0.6, 0.4, 0], [0, 0, -9], margin=9.0)
    assert mean_iou(truth, scores, [0, 0, 0]) == 1
    np.testing.assert_array_equal(fit_offsets(truth, scores), [0, 0, 0])
    truth, scores = noisy([0.6, 0.4, 0], [0, 1, 0])
    found = fit_offsets(truth, scores)
    assert found[1] != 0  # and the class without a pixel of truth stays where it was
    assert found[0] == found[2] == 0
    np.testing.assert_array_equal(fit_offsets(np.zeros(9, np.uint8), np.ones((3, 9), np.float32)), [0, 0, 0])


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    path = make_run(tmp_path_factory.mktemp("runs") / "run")
    evaluate(path, [0, 1], offsets=True)
    return path


def kept(run, fold=0):
    return json.loads((run / f"fold_{fold}" / "offsets.json").read_text())


def parts(run, fold=0):
    """Return the data set of a run and the items of each part."""
    config = Run(run).read_config()
    dataset = load_dataset(config.data)
    return dataset, part_items(config, Run(run), dataset, fold)


def confusion_by_numpy(run, part, offsets):
    """Return the counts of argmax(log p + b), from the public predictor's probabilities."""
    dataset, items = parts(run)
    predictor, classes = load(run, fold=0), len(dataset.class_names)
    counts = np.zeros((classes, classes), int)
    for item in items[part]:
        probabilities = predictor.predict(dataset.images[item]).probabilities
        chosen = (np.log(np.maximum(probabilities, 1e-37)) + np.asarray(offsets, np.float32)).argmax(axis=-1)
        counted = dataset.labels[item] < classes
        np.add.at(counts, (dataset.labels[item][counted], chosen[counted]), 1)
    return counts


def test_the_scores_are_those_of_the_shifted_logits(run):
    offsets = kept(run)["offsets"]
    assert any(offsets)
    for part in ("test", "validation"):
        (entry,) = (e for e in evaluate(run, [0], split=part, offsets=True)["folds"] if e["fold"] == 0)
        assert entry["offsets"] == offsets
        np.testing.assert_array_equal(entry["rounds"][-1]["confusion"], confusion_by_numpy(run, part, offsets))
    assert len(entry["rounds"]) == 2  # the first round's have them as well
    assert entry["mean_iou"] == pytest.approx(kept(run)["after"]["mean_iou"])
    plain = evaluate(run, [0], split="validation")["folds"][0]
    assert plain["mean_iou"] == pytest.approx(kept(run)["before"]["mean_iou"])
    assert entry["mean_iou"] > plain["mean_iou"]
    assert entry["rounds"][0]["confusion"] != plain["rounds"][0]["confusion"]


def test_the_files_lie_beside_those_without_offsets(run, capsys):
    plain = evaluate(run)
    assert main(["evaluate", str(run), "--offsets"]) == 0
    said = capsys.readouterr().out
    assert f"{run / 'fold_0' / 'offsets.json'}, fitted on 1 validation image: mean IoU" in said
    assert "report.html" not in said
    shifted = json.loads((run / "evaluation-test-offsets.json").read_text())
    assert shifted["split"] == "test-offsets"
    assert (run / "fold_1" / "items-test-offsets.npz").is_file()
    assert json.loads((run / "evaluation.json").read_text()) == plain
    assert "offsets" not in plain["folds"][0]
    assert kept(run, 1)["offsets"] != kept(run, 0)["offsets"]
    assert kept(run, 1)["class_names"] == shifted["class_names"]


def test_zeros_give_what_no_offsets_give(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    (run / "fold_0" / "offsets.json").write_text(json.dumps(kept(run) | {"offsets": [0.0] * 4}))
    plain, zeros = evaluate(run, [0])["folds"][0], evaluate(run, [0], offsets=True)["folds"][0]
    assert zeros == plain | {"offsets": [0.0] * 4}


def test_offsets_of_other_weights_are_fitted_again(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(run / "fold_1")
    expected, file = kept(run), run / "fold_0" / "offsets.json"
    for other in ({"step": 7}, {"weights": "0" * 32}):
        file.write_text(json.dumps(expected | other | {"offsets": [1.0, 0.0, 0.0, 0.0]}))
        with pytest.raises(RunError, match=r"Fold 0 of .*run has no offsets for its checkpoint of step 1: those in"):
            load(run, offsets=True)
    said = []
    evaluate(run, offsets=True, tell=said.append)
    assert "(fitted on 1 validation image:" in said[0]
    assert kept(run) == expected
    config = Run(run).read_config()
    write_fold(Run(run), config, load_dataset(config.data), 0, step=2)
    assert evaluate(run, offsets=True)["folds"][0]["step"] == kept(run)["step"] == 2


def test_prediction_gives_the_label_maps_of_the_evaluation(run):
    dataset, items = parts(run)
    config = Run(run).read_config()
    network = FoldSegmentation(Run(run), config, dataset, 0, Variant(offsets=True))
    predictor, plain = load(run, fold=0, offsets=True), load(run, fold=0)
    moved = 0
    for item in items["test"]:
        labels = predictor.predict(dataset.images[item]).labels
        np.testing.assert_array_equal(labels, network.label_maps([item], [1])[0][-1])
        moved += (labels != plain.predict(dataset.images[item]).labels).sum()
    assert moved > 0


def test_prediction_refuses_without_offsets_and_says_how_to_get_them(make_run, tmp_path):
    run = make_run(tmp_path / "a run")
    with pytest.raises(RunError) as caught:
        load(run, offsets=True)
    for fold in (0, 1):
        assert f"Fold {fold} of {run} has no offsets for its checkpoint of step 1: " in str(caught.value)
    assert f"fbunet evaluate '{run}' --offsets, or evaluate(..., offsets=True) in Python." in str(caught.value)
    with pytest.raises(RunError, match=r"fbunet evaluate '.*a run' --fold 1 --offsets, or"):
        load(run, fold=1, offsets=True)


def test_elsewhere_offsets_lie_with_the_results(make_run, tmp_path):
    run, results = make_run(tmp_path / "run", folds=(0,)), tmp_path / "results"
    before = sorted(run.rglob("*"))
    first = evaluate(run, offsets=True, out=results)
    assert sorted(run.rglob("*")) == before
    found = json.loads((results / "fold_0" / "offsets.json").read_text())
    assert load(run, offsets=results).folds[0].offsets == tuple(found["offsets"])
    with pytest.raises(RunError, match=r"run has no offsets"):
        load(run, offsets=True)
    with pytest.raises(RunError, match=r"nowhere.*fold_0.*is missing.*--offsets --out .*nowhere"):
        load(run, offsets=tmp_path / "nowhere")
    # those that the run has are used elsewhere too
    shutil.copy(results / "fold_0" / "offsets.json", run / "fold_0")
    assert evaluate(run, offsets=True, out=tmp_path / "more") == first
    assert not (tmp_path / "more" / "fold_0" / "offsets.json").exists()


def test_of_cut_images_the_crops_are_fitted_also_for_whole_ones(make_run, tmp_path):
    run = make_run(tmp_path / "run", folds=(0,), synthetic_size=64, cut=32)
    whole = evaluate(run, offsets=True, whole=True)
    assert kept(run)["images"] == len(parts(run)[1]["validation"])
    assert whole["split"] == "test-whole-offsets"
    assert kept(run)["images"] == 4  # of one image; 2 whole ones are tested
    assert whole["folds"][0]["images"] == 2
    assert kept(run)["before"]["mean_iou"] == pytest.approx(evaluate(run, split="validation")["folds"][0]["mean_iou"])


def test_many_pixels_are_thinned_by_rows(run):
    dataset, items = parts(run)
    network = FoldSegmentation(Run(run), Run(run).read_config(), dataset, 0)
    chosen = items["test"].tolist()
    assert [dataset.labels[item].shape for item in chosen] == [(40, 40)] * 2  # 3 does not divide the rows of the first
    truth, scores = collect(network, chosen)
    values = 4 * sum(dataset.labels[item].size for item in chosen)
    assert scores.size == values
    fewer, thinned = collect(network, chosen, values // 3 + 1)
    rows = np.concatenate([dataset.labels[item] for item in chosen])
    np.testing.assert_array_equal(fewer, rows[::3].ravel())
    np.testing.assert_array_equal(thinned, scores.reshape(4, *rows.shape)[:, ::3].reshape(4, -1))
    np.testing.assert_array_equal(truth, rows.ravel())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": [1.0]}, r"offsets\.json is damaged: expected an offset from -5 to 5 for each of the 4 classes"),
        ({"offsets": [0.0, 0.0, 0.0, 9.0]}, r"offsets\.json is damaged: expected an offset from -5 to 5"),
        ({"format": 2}, r"offsets\.json has format 2; this version reads format 1"),
        ({"images": 0}, r"offsets\.json is damaged: expected a mean IoU from 0 to 1 of at least one pixel"),
        ({"step": "1"}, r"offsets\.json is damaged: step: .* Remove it and fit the offsets again"),
        ({"fold": 1}, r"Fold 0 of .* has no offsets for its checkpoint"),
        ({"colour": 1}, r"offsets\.json is damaged: unknown key 'colour'"),
    ],
)
def test_a_damaged_file_is_named(change, message, run):
    file = run / "fold_0" / "offsets.json"
    text = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(RunError, match=message):
            load(run, fold=0, offsets=True)
    finally:
        file.write_text(text)
