"""Files of a run, and what must come out of them; what needs JAX is imported where it is used."""

import json
import tempfile
from pathlib import Path

import numpy as np

from fbunet_jax.config import load_config
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import create_or_open
from tests.fuzz import images
from tests.fuzz.data_files import FOLDS
from tests.fuzz.outcomes import WrongAnswerError

RUN_DATASET = {"format": 1, "class_names": ["a", "b <i>"], "channels": 1, "fingerprint": "0123456789abcdef" * 2}


def write_run(folder):
    """Write a run without checkpoints, and another one beside it."""
    import fbunet_jax.evaluation.compare
    import fbunet_jax.evaluation.summary  # noqa: F401  (what is imported is not the files')

    config = load_config("quickstart", method="unet", data={"folds": 3})
    for name in ("run", "other"):
        run = create_or_open(folder / name, config, folds=json.dumps(FOLDS), dataset={**RUN_DATASET})
        for fold in range(2):
            run.fold(fold).path.mkdir()
            run.fold(fold).evaluation("test").write_text(json.dumps({**EVALUATION, "fold": fold}))
            run.fold(fold).metrics.write_text("".join(json.dumps(line) + "\n" for line in METRICS))
            run.fold(fold).timing.write_text("".join(json.dumps(line) + "\n" for line in TIMING))
            run.fold(fold).environment.write_text(json.dumps(ENVIRONMENT))
    (folder / "run" / "passed.json").write_text(json.dumps(PASSED))
    return folder / "run"


EVALUATION = {
    "format": 2,
    "fold": 0,
    "step": 7,
    "images": 2,
    "mean_iou": 0.375,
    "iou": [0.75, 0.0],
    "rounds": [{"mean_iou": 0.375, "iou": [0.75, 0.0], "confusion": [[3, 0], [1, 0]]}],
    "tile": 512,
    "overlap": 192,
}
METRICS = [
    {"kind": "train", "epoch": 1, "step": 4, "loss": 0.5},
    {"kind": "validation", "epoch": 1, "step": 4, "mean_iou": 0.25, "iou": {"a": 0.5, "b <i>": None}},
    {"kind": "train", "epoch": 2, "step": 8, "loss": 0.25},
]
TIMING = [{"kind": "train", "step": 4, "seconds": 9.5, "images_per_second": 2.5, "peak_host_bytes": 2**30}]
ENVIRONMENT = {
    "command": ["train.py", "--name", "a"],
    "python": "3.11.2",
    "platform": "Linux",
    "versions": {"jax": "0.10", "fbunet-jax": None},
    "backend": "cpu",
    "devices": ["cpu", "cpu"],
}
PASSED = {"format": 1, "dataset": "0123456789abcdef" * 2, "model": "a:B(c=1)", "loss": "", "label": "B"}
INPUTS = {"normalisation": {"kind": "standardise", "mean": [10.0], "deviation": [2.5]}}


def judge_run_dataset(path):
    from fbunet_jax.evaluation.compare import check_comparable

    run = Run(path.parent)
    found = run.read_dataset()
    check_comparable([run, Run(path.parent.parent / "other")])
    names = found["class_names"]
    if json.loads(path.read_bytes()) != found or names != RUN_DATASET["class_names"]:
        raise WrongAnswerError("the description differs from the file's")


def judge_passed(path):
    from fbunet_jax.evaluation.compare import run_names

    run = Run(path.parent)
    found = run.read_passed()
    names = ("dataset", "model", "loss", "label")
    written = json.loads(path.read_bytes())
    if [getattr(found, name) for name in names] != [written[name] for name in names]:
        raise WrongAnswerError("the descriptions differ from the file's")
    if not all(name.isprintable() for name in run_names([run, Run(path.parent.parent / "other")])):
        raise WrongAnswerError("a name cannot be printed")


def judge_evaluation(path):
    from fbunet_jax.evaluation import scores
    from fbunet_jax.evaluation.compare import compare, comparison_table

    scores.best_step = lambda run, fold: 7
    run = Run(path.parent.parent)
    entries = scores.present_entries(run, "test")
    counts = [each["confusion"] for each in json.loads(path.read_bytes())["rounds"]]
    for entry in entries:
        if entry["fold"] == 0 and [each["confusion"] for each in entry["rounds"]] != counts:
            raise WrongAnswerError("the counts differ from the file's")
    pooled = scores.pool(RUN_DATASET["class_names"], "test", entries)
    scores.table(pooled)
    json.dumps(pooled, allow_nan=False)
    comparison_table(compare([run.path, run.path.parent / "other"]))


def judge_records(path):
    from fbunet_jax.evaluation import summary
    from fbunet_jax.evaluation.items import ItemCounts

    run = Run(path.parent.parent)
    counts = ItemCounts(0, 7, ("x",), ("x",), np.ones((1, 1, 2, 2), np.int64), np.ones((1, 2, 2, 2), np.int64))
    charts = summary.curves(RUN_DATASET["class_names"], run, [0])
    times = summary.training_times(run, [counts])
    json.dumps([charts, times]).encode()
    points = [line["points"] for chart in charts for line in chart["lines"]]
    if any("nan" in each or "inf" in each for each in points):
        raise WrongAnswerError("a point lies nowhere")


def judge_inputs(path):
    from fbunet_jax.runs.trained import read_normalisation

    found = read_normalisation(path, channels=1)
    written = json.loads(path.read_bytes())["normalisation"]
    if (found.kind, list(found.mean), list(found.deviation)) != (
        written["kind"],
        written["mean"],
        written["deviation"],
    ):
        raise WrongAnswerError("the normalisation differs from the file's")
    scale, shift = found.affine(np.arange(12, dtype=np.uint8).reshape(3, 4, 1))
    if not np.isfinite(scale).all() or not np.isfinite(shift).all():
        raise WrongAnswerError("the inputs would not be finite")


def items():
    """Return the bytes of the counts of two items."""
    from fbunet_jax.evaluation.items import ItemCounts

    counts = ItemCounts(0, 7, ("x", "y"), ("x", "x"), np.ones((2, 2, 3, 3), np.int64), np.ones((2, 3, 3, 3), np.int64))
    with tempfile.TemporaryDirectory() as folder:
        counts.save(Path(folder) / "items.npz")
        return (Path(folder) / "items.npz").read_bytes()


def judge_items(path):
    from fbunet_jax.evaluation.items import read_items

    counts = read_items(path)
    with np.load(path, allow_pickle=False) as archive:
        if not np.array_equal(archive["confusion"], counts.confusion):
            raise WrongAnswerError("the counts differ from the file's")
    number, rounds, classes, _ = counts.confusion.shape
    shapes = (len(counts.names), len(counts.groups), *counts.moves.shape)
    if shapes != (number, number, number, classes, classes, classes) or rounds < 1:
        raise WrongAnswerError(f"the parts do not belong together: {shapes}")


def beside_items(folder):
    items()  # what is imported for it is not the file's
    return folder / "items.npz"


def make_items(random):
    return images.mutated(random, (items(),), images.any_bytes)
