"""What is fuzzed: for each kind of file, how one is made and how its reading is judged."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.fuzz import data_files, image_files, images, run_files, tables
from tests.fuzz.outcomes import WrongAnswerError


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
      name: of the kind.
      prepare: writes what stands around the file into an empty folder, and returns the file's path.
      make: returns the bytes of a mutated file, given a `random.Random`.
      judge: reads the file; returns if the answer is right, and raises what went wrong.
    """

    name: str
    prepare: Callable[[Path], Path]
    make: Callable
    judge: Callable[[Path], None]


def _beside(name):
    return lambda folder: folder / name


def _in_run(name):
    return lambda folder: run_files.write_run(folder) / name


class _Checkpoint:
    """Imports Orbax when a checkpoint is to be read."""

    def prepare(self, folder):
        from tests.fuzz.checkpoints import Checkpoint

        self._files = Checkpoint()
        return self._files.prepare(folder)

    def make(self, random):
        return self._files.make(random)

    def judge(self, path):
        step, equal = self._files.judge(path)
        if not equal:
            raise WrongAnswerError(f"the state of step {step} is not the one that was saved")


CHECKPOINT = _Checkpoint()


def _table(value, form):
    return lambda random: tables.mutated(random, value, form)


def _image(seeds, mutate):
    return lambda random: images.mutated(random, seeds(), mutate)


TIFF, PNG = _image(images.tiff_seeds, images.mutate_tiff), _image(images.png_seeds, images.mutate_png)
JPEG = _image(images.jpeg_seeds, images.mutate_jpeg)

TARGETS = {
    target.name: target
    for target in (
        Target("tiff", _beside("a.tif"), TIFF, partial(image_files.judge_image, indices=False)),
        Target("tiff label", _beside("a.tif"), TIFF, partial(image_files.judge_image, indices=True)),
        Target("tiff by bands", _beside("a.tif"), TIFF, image_files.judge_large),
        Target("png", _beside("a.png"), PNG, partial(image_files.judge_image, indices=False)),
        Target("png label", _beside("a.png"), PNG, partial(image_files.judge_image, indices=True)),
        Target("jpeg", _beside("a.jpg"), JPEG, partial(image_files.judge_image, indices=False)),
        Target("config.toml", _beside("a.toml"), _table(data_files.CONFIG, "toml"), data_files.judge_config),
        Target(
            "dataset.toml",
            lambda folder: data_files.write_folder(folder) / "dataset.toml",
            _table(data_files.DESCRIPTION, "toml"),
            partial(data_files.judge_data_set, layout="folder"),
        ),
        Target(
            "dataset.toml with patterns",
            lambda folder: data_files.write_folder(folder) / "dataset.toml",
            _table(data_files.NAMED, "toml"),
            partial(data_files.judge_data_set, layout="folder"),
        ),
        Target(
            "dataset.json of nnU-Net",
            lambda folder: data_files.write_folder(folder, ("imagesTr", "labelsTr"), "{}_0000.png") / "dataset.json",
            _table(data_files.NNUNET, "json"),
            partial(data_files.judge_data_set, layout="nnunet"),
        ),
        Target("folds.json", _beside("folds.json"), _table(data_files.FOLDS, "json"), data_files.judge_folds),
        Target(
            "dataset.json of a run",
            _in_run("dataset.json"),
            _table(run_files.RUN_DATASET, "json"),
            run_files.judge_run_dataset,
        ),
        Target("passed.json", _in_run("passed.json"), _table(run_files.PASSED, "json"), run_files.judge_passed),
        Target("inputs.json", _beside("inputs.json"), _table(run_files.INPUTS, "json"), run_files.judge_inputs),
        Target(
            "evaluation.json",
            _in_run("fold_0/evaluation.json"),
            _table(run_files.EVALUATION, "json"),
            run_files.judge_evaluation,
        ),
        Target(
            "metrics.jsonl",
            _in_run("fold_0/metrics.jsonl"),
            _table(run_files.METRICS, "jsonl"),
            run_files.judge_records,
        ),
        Target(
            "timing.jsonl",
            _in_run("fold_0/timing.jsonl"),
            _table(run_files.TIMING, "jsonl"),
            run_files.judge_records,
        ),
        Target(
            "environment.json",
            _in_run("fold_0/environment.json"),
            _table(run_files.ENVIRONMENT, "json"),
            run_files.judge_records,
        ),
        Target("checkpoint", CHECKPOINT.prepare, CHECKPOINT.make, CHECKPOINT.judge),
        Target("items.npz", run_files.beside_items, run_files.make_items, run_files.judge_items),
    )
}
