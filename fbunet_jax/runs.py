"""The run directory: names, format version; the only file that knows what lies where in a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

from fbunet_jax.config import BEFORE_FORMAT_2, CUSTOM, Config, comparable, in_this_format, to_toml
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.files import RESTORE, create_once, read_json, write_atomically
from fbunet_jax.passed import NOTHING, Passed
from fbunet_jax.toml_tables import from_table, read_toml, to_table

_DATASET_FORMAT = 1
"""Version of the format of ``dataset.json``."""

_PASSED_FORMAT = 1
"""Version of the format of ``passed.json``."""

_MOST_CHANNELS = 2**16


@dataclass(frozen=True)
class FoldDirectory:
    """The files of one fold of a run."""

    path: Path

    checkpoints = property(lambda self: self.path / "checkpoints", doc="Orbax checkpoints: the two latest, the best.")
    unfinished = property(lambda self: self.path / "unfinished", doc="Checkpoints in the middle of an epoch.")
    broken = property(lambda self: self.path / "broken", doc="Checkpoints that were found damaged and set aside.")
    inputs = property(lambda self: self.path / "inputs.json", doc="Normalisation: what the weights expect to see.")
    metrics = property(lambda self: self.path / "metrics.jsonl", doc="Deterministic values, one line a record.")
    timing = property(lambda self: self.path / "timing.jsonl", doc="Times and rates, which differ between runs.")
    environment = property(lambda self: self.path / "environment.json", doc="Versions, devices, command.")
    curves = property(lambda self: self.path / "curves.png", doc="Loss and validation IoU over epochs.")
    previews = property(lambda self: self.path / "previews", doc="Pictures of validation images, truth and rounds.")
    tensorboard = property(lambda self: self.path / "tensorboard", doc="TensorBoard event files.")
    lock = property(lambda self: self.path / "lock", doc="Who trains this fold now.")

    def evaluation(self, split: str) -> Path:
        """Return the file of one split's evaluation."""
        return self.path / _evaluation_name(split)

    def items(self, split: str) -> Path:
        """Return the file of one split's counts by image."""
        return self.path / ("items.npz" if split == "test" else f"items-{split}.npz")


@dataclass(frozen=True)
class Run:
    """A run directory: one configuration, all its folds."""

    path: Path

    config = property(lambda self: self.path / "config.toml", doc="The settings, written by the first process.")
    folds = property(lambda self: self.path / "folds.json", doc="The cross-validation folds, likewise.")
    dataset = property(lambda self: self.path / "dataset.json", doc="Classes, channels and fingerprint of the data.")
    passed = property(lambda self: self.path / "passed.json", doc="What a program passed; absent where nothing was.")

    def fold(self, index: int) -> FoldDirectory:
        """Return the directory of a fold."""
        return FoldDirectory(self.path / f"fold_{index}")

    def evaluation(self, split: str) -> Path:
        """Return the file of one split's evaluation over all folds."""
        return self.path / _evaluation_name(split)

    def report(self, split: str) -> Path:
        """Return the page of one split's numbers and pictures."""
        return self.path / ("report.html" if split == "test" else f"report-{split}.html")

    def read_config(self) -> Config:
        """Read the settings of the run.

        Raises:
          RunError: the folder is no run, or its format is newer than this version.
        """
        if not self.config.is_file():
            raise RunError(
                f"{self.path} is not a run directory: it has no config.toml. Expected a folder that a training wrote, "
                "such as runs/quickstart/feedback-convlstm."
            )
        table = read_toml(self.config)
        try:
            table = in_this_format(table, str(self.config))
        except ConfigError as error:
            raise RunError(str(error)) from None
        return from_table(Config, table, str(self.config))

    def begun_format(self) -> int:
        """Return the version of the format of its settings, which stays as the run began."""
        return int(read_toml(self.config)["format"])

    def read_dataset(self) -> "DatasetDescription":
        """Read the description of the data.

        Raises:
          RunError: the file is missing or damaged.
        """
        found = cast(DatasetDescription, read_json(self.dataset, DatasetDescription))
        names = found["class_names"]
        readable = names and len(set(names)) == len(names) and all(name.isprintable() for name in names)
        values = found.get("label_values", range(len(names)))
        readable = readable and len({*values}) == len(values) == len(names) and bool not in map(type, values)
        if found["format"] != _DATASET_FORMAT or not readable or not 1 <= found["channels"] <= _MOST_CHANNELS:
            raise RunError(
                f"{self.dataset} is damaged: expected format {_DATASET_FORMAT}, class names and label values "
                f"that differ, and 1 to {_MOST_CHANNELS} channels. {RESTORE}"
            )
        return found

    def read_passed(self) -> Passed:
        """Read what a program passed to the training.

        Raises:
          RunError: the file is damaged, is missing although the settings need it, or is newer than this version.
        """
        if not self.passed.exists():
            config = self.read_config()
            if config.data.layout == "arrays" or CUSTOM in (config.method, config.training.class_weights):
                raise RunError(
                    f"{self.passed} is missing, but the settings are those of a run to which a Python program passed a "
                    f"network, a loss or arrays. {RESTORE}"
                )
            return NOTHING
        found = cast(_PassedFile, read_json(self.passed, _PassedFile))
        if found["format"] != _PASSED_FORMAT:
            raise RunError(
                f"{self.passed} has format {found['format']}; this version reads format {_PASSED_FORMAT}. Use the "
                "version that wrote it."
            )
        passed = Passed(found["dataset"], found["model"], found["loss"], found["label"])
        if not passed or bool(passed.model) != bool(passed.label) or not "".join(astuple(passed)).isprintable():
            raise RunError(f"{self.passed} is damaged: expected descriptions of what a program passed. {RESTORE}")
        return passed

    def label(self) -> str:
        """Return what to call the run: its method, or the network that a program passed."""
        return self.read_passed().label or self.read_config().method


class _PassedFile(TypedDict):
    format: int
    dataset: str
    model: str
    loss: str
    label: str


class DatasetDescription(TypedDict):
    """What a run remembers of its data set: ``dataset.json``."""

    format: int
    class_names: list[str]
    channels: int
    fingerprint: str
    label_values: NotRequired[list[int]]
    """Value of each class in the label files, in class order; versions before 0.2 did not store it."""


class Place(NamedTuple):
    """One training among others: where in a table of methods, folds and seeds it stands."""

    method: str
    fold: int
    seed: int

    def __str__(self) -> str:
        """Return it as it is typed on the command line."""
        return f"{self.method}:{self.fold}:{self.seed}"

    @property
    def stem(self) -> str:
        """Name of files about it, without the suffix."""
        return f"{self.method}-fold{self.fold}-seed{self.seed}"


def all_places(methods: Sequence[str], folds: Sequence[int], seeds: Sequence[int]) -> list[Place]:
    """Return every training, those of one fold together, so that methods can be compared early."""
    return [Place(method, fold, seed) for seed in seeds for fold in folds for method in methods]


def _evaluation_name(split: str) -> str:
    return "evaluation.json" if split == "test" else f"evaluation-{split}.json"


def default_path(config: Config, label: str = "") -> Path:
    """Return runs/<config>/<method or label>, with -seed<s> for a seed other than 0."""
    return Path("runs") / config.name / ((label or config.method) + (f"-seed{config.seed}" if config.seed else ""))


def create_or_open(
    path: Path, config: Config, *, folds: str, dataset: Mapping[str, Any], passed: Passed = NOTHING
) -> Run:
    """Create a run directory, or compare an existing one with these settings.

    Args:
      path: of the run.
      config: its settings.
      folds: text of ``folds.json``, written once; a run that exists keeps its own.
      dataset: content of ``dataset.json``: ``class_names``, ``channels``, ``fingerprint`` and, where the classes have
        them, ``label_values``.
      passed: what a program passed.

    Raises:
      RunError: the run exists with other settings (each difference is named), or cannot be written.
    """
    run = Run(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if passed and not run.config.exists():
            write_atomically(run.passed, json.dumps({"format": _PASSED_FORMAT, **asdict(passed)}, indent=1) + "\n")
        elif not run.config.exists():
            run.passed.unlink(missing_ok=True)  # left by a process that ended before it wrote the settings
        create_once(run.config, to_toml(config))
        create_once(run.folds, folds)
        create_once(run.dataset, json.dumps({"format": _DATASET_FORMAT, **dataset}, indent=1) + "\n")
    except OSError as error:
        raise RunError(
            f"The run directory {path} cannot be written: {error.strerror}. Choose another (out), or fix the "
            "permissions."
        ) from error
    if compare(run, config, dataset, passed) != config:
        write_atomically(run.config, to_toml(config, run.begun_format()))
    return run


def as_begun(run: Run, config: Config) -> Config:
    """Return the settings with which a run is resumed: as `in_format_1`, if it began in that format.

    Args:
      run: which may not exist yet.
      config: today's settings.
    """
    if not run.config.is_file():
        return config
    run.read_config()  # whether it can be read
    return in_format_1(config) if run.begun_format() == 1 else config


def check_bent_crops(run: Run) -> None:
    """Raise a RunError if more steps of a run would bend its crops in another way than the steps before them."""
    if run.read_config().training.elastic_augmentation and run.begun_format() == 1:
        raise RunError(
            f"The run {run.path} began with training.elastic_augmentation in format 1, when crops were bent "
            "differently. Finish it with version 0.1.0, or start a new run (out)."
        )


def in_format_1(config: Config) -> Config:
    """Return settings in which what format 1 did not have is as it was then, if it has today's default value."""
    default = Config()
    for name, before in BEFORE_FORMAT_2.items():
        room, key = name.split(".")
        table = getattr(config, room)
        if getattr(table, key) == getattr(getattr(default, room), key):
            config = replace(config, **{room: replace(table, **{key: before})})
    return config


def compare(run: Run, config: Config, dataset: Mapping[str, Any], passed: Passed = NOTHING) -> Config:
    """Return the settings that a run began with, if it may be resumed with these settings and data; nothing is written.

    Raises:
      RunError: it may not (each difference is named).
    """
    before = run.read_config()
    check_passed(run, passed)
    old, new = comparable(to_table(before)), comparable(to_table(config))
    differences = _explain_epochs(_differences(old, new), old, new)
    for key, value in run.read_dataset().items():
        if key in dataset and dataset[key] != value:
            differences.append(f"{key} of the data was {value!r} and is now {dataset[key]!r}")
    if differences:
        raise RunError(
            f"The run {run.path} began with other settings: {'; '.join(differences)}. Use the same settings to "
            "resume it, or another run directory (out)."
        )
    return before


def check_passed(run: Run, passed: Passed) -> None:
    """Raise a RunError unless what a program passes now is what it passed when the run began, if it has."""
    if run.config.is_file():
        before = run.read_passed()
        for name in ("dataset", "model", "loss"):
            before.check(name, getattr(passed, name), str(run.path))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in {**old, **new}:
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping) and key != "classes":
            found += _differences(before, now, f"{prefix}{key}.")
        elif before != now and prefix + key not in _MAY_DIFFER:
            found.append(f"{prefix}{key} was {before!r} and is now {now!r}")
    return found


def _explain_epochs(found: list[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Take away that the epochs of a constant schedule have grown, or say why they may not differ."""
    item = next((item for item in found if item.startswith("training.epochs ")), None)
    if item is None:
        return found
    others, schedule = [other for other in found if other != item], new["training"]["schedule"]
    if schedule != "constant":
        return [*others, f"{item} (with the {schedule} schedule the learning rate of every step depends on them)"]
    return (
        others if new["training"]["epochs"] > old["training"]["epochs"] else [*others, f"{item} (they can only grow)"]
    )


# Where the data lie may differ between machines: their fingerprint is compared. The others do not change a result.
_MAY_DIFFER = {
    *("data.root", "name", "model.rematerialise"),
    *("training.previews", "training.preview_every", "training.save_minutes"),
}


def set_aside(fold: FoldDirectory) -> Path:
    """Rename a fold's folder to fold_K.old-N, the first free N, and return the new path."""
    number = 1
    while (target := fold.path.with_name(f"{fold.path.name}.old-{number}")).exists():
        number += 1
    fold.path.rename(target)
    FoldDirectory(target).lock.unlink(missing_ok=True)
    return target
