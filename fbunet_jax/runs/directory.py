"""The run directory: names, format version; the only file that knows what lies where in a run."""

import re
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from fbunet_jax.config import CUSTOM, Config
from fbunet_jax.config_formats import in_this_format
from fbunet_jax.errors import ConfigError, RunError
from fbunet_jax.runs.files import RESTORE, is_left_empty, read_json
from fbunet_jax.runs.passed import NOTHING, Passed
from fbunet_jax.toml_tables import from_table, read_toml
from fbunet_jax.user_files import expand, is_text

DATASET_FORMAT = 1
"""Version of the format of ``dataset.json``."""

PASSED_FORMAT = 1
"""Version of the format of ``passed.json``."""

_MOST_CHANNELS = 2**16


@dataclass(frozen=True)
class FoldDirectory:
    """The files of one fold of a run; those of its evaluation may lie elsewhere."""

    path: Path
    results: Path | None = None

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

    def has_started(self) -> bool:
        """Say whether there is a checkpoint to resume from, whole or not."""
        return self.latest_saved() is not None

    def latest_saved(self) -> int | None:
        """Return the step of the latest checkpoint, whole or not, also in the middle of an epoch; None without one."""
        folders = (self.checkpoints, self.unfinished)
        names = [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]
        return max((int(name) for name in names if name.isdecimal()), default=None)

    def set_aside(self) -> Path:
        """Rename the folder to fold_K.old-N, the first free N, and return the new path."""
        target = self.path.rename(free_name(self.path.with_name(f"{self.path.name}.old")))
        FoldDirectory(target).lock.unlink(missing_ok=True)
        return target

    @property
    def offsets(self) -> Path:
        """What is added to the logits of each class, fitted on the validation part."""
        return (self.results or self.path) / "offsets.json"

    def evaluation(self, split: str) -> Path:
        """Return the file of one split's evaluation."""
        return (self.results or self.path) / _evaluation_name(split)

    def items(self, split: str) -> Path:
        """Return the file of one split's counts by image."""
        return (self.results or self.path) / ("items.npz" if split == "test" else f"items-{split}.npz")


@dataclass(frozen=True)
class Run:
    """A run directory: one configuration, all its folds; the results of its evaluation may lie elsewhere."""

    path: Path
    results: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", expand(self.path))
        if not is_text(str(self.path)):
            raise RunError(
                f"The run directory {str(self.path)!r} is not text in UTF-8, and checkpoints need it. Choose another "
                "(out).",
                argument="out",
            )

    config = property(lambda self: self.path / "config.toml", doc="The settings, written by the first process.")
    folds = property(lambda self: self.path / "folds.json", doc="The cross-validation folds, likewise.")
    dataset = property(lambda self: self.path / "dataset.json", doc="Classes, channels and fingerprint of the data.")
    passed = property(lambda self: self.path / "passed.json", doc="What a program passed; absent where nothing was.")

    def fold(self, index: int) -> FoldDirectory:
        """Return the directory of a fold."""
        name = f"fold_{index}"
        return FoldDirectory(self.path / name, self.results / name if self.results else None)

    def fold_names(self) -> list[str]:
        """Return the names of the folders of its folds; those that were set aside are none."""
        return sorted(p.name for p in self.path.glob("fold_*") if re.fullmatch("fold_[0-9]+", p.name) and p.is_dir())

    def has(self, file: Path) -> bool:
        """Say whether one of its files is there; not if it was left empty when the run was created, before any fold."""
        return file.is_file() and (bool(self.fold_names()) or not is_left_empty(file))

    def evaluation(self, split: str) -> Path:
        """Return the file of one split's evaluation over all folds."""
        return (self.results or self.path) / _evaluation_name(split)

    def report(self, split: str) -> Path:
        """Return the page of one split's numbers and pictures."""
        return (self.results or self.path) / ("report.html" if split == "test" else f"report-{split}.html")

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
        found = read_json(self.dataset, DatasetDescription)
        names = found["class_names"]
        readable = names and len(set(names)) == len(names) and all(name.isprintable() for name in names)
        values = found.get("label_values", range(len(names)))
        readable = readable and len({*values}) == len(values) == len(names)
        if found["format"] != DATASET_FORMAT or not readable or not 1 <= found["channels"] <= _MOST_CHANNELS:
            raise RunError(
                f"{self.dataset} is damaged: expected format {DATASET_FORMAT}, class names and label values "
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
        found = read_json(self.passed, _PassedFile)
        if found["format"] != PASSED_FORMAT:
            raise RunError(
                f"{self.passed} has format {found['format']}; this version reads format {PASSED_FORMAT}. Use the "
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
    files: NotRequired[dict[str, Any]]
    """How its files are called, see `FilesConfig`; where they are not those of a folder each."""
    channel_numbers: NotRequired[list[int]]
    """Those of ``{channel}`` in the names of its files."""


def _evaluation_name(split: str) -> str:
    return "evaluation.json" if split == "test" else f"evaluation-{split}.json"


def free_name(path: Path) -> Path:
    """Return a path with the first number, -1 or more, under which nothing lies."""
    number = 1
    while (found := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return found


def default_path(config: Config, label: str = "") -> Path:
    """Return runs/<config>/<method or label>, with -seed<s> for a seed other than 0."""
    return Path("runs") / config.name / ((label or config.method) + (f"-seed{config.seed}" if config.seed else ""))
