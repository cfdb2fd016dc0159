"""Settings: frozen dataclasses, every value validated, read from TOML and shown as TOML.

The docstring under each field is its ``--help`` text.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import tyro

from fbunet_jax.config_formats import BEFORE_FORMAT_2, FORMAT, in_this_format, norm_batch_count
from fbunet_jax.errors import ConfigError, did_you_mean
from fbunet_jax.models.methods import METHODS, FeedbackName
from fbunet_jax.toml_tables import from_table, merge, read_toml, to_table
from fbunet_jax.user_files import expand, expand_text

Layout = Literal["synthetic", "drosophila-vnc", "folder", "nnunet", "arrays"]

Alpha = Literal["refuse", "drop", "channel"]
"""What becomes of a channel that is tagged as transparency, see `DataConfig.alpha`."""

NoDataRule = Literal["refuse", "keep"]
"""What becomes of an image with a value that stands for no data, see `DataConfig.no_data`."""

CUSTOM = "custom"
"""The method of a run to which a program passed a network, and the class weights where it passed a loss."""

_MOST_FOLDS = 1000


@dataclass(frozen=True)
class FilesConfig:
    """Which files are images and which are labels, and how their names pair; docs/data.md#names-as-they-are."""

    images: str | tuple[str, ...] = ""
    """folder: pattern of the image files below data.root, such as "scan_{}_raw_{}.png"; one for each channel where
    the channels lie in files of their own. Empty: the files of images/, or raw/."""
    labels: str = ""
    """folder: pattern of the label files, whose braces hold what those of the images hold. Empty: the files of labels/,
    or label/."""
    ignore: tuple[str, ...] = ()
    """folder: patterns of files that are neither, such as "*_flows.tif"."""
    objects: Literal["none", "numbered", "files"] = "none"
    """folder: whether the labels show objects one by one, numbered in one file or each in a file of its own; all of
    them are then the second class, and the rest is the first."""
    sparse: bool = False
    """folder: only some images and pages are labelled: leave out images without a label file, and pages whose label is
    0 throughout."""
    first_page: int = 0
    """folder: number of the first page in the names of label files with {page}."""

    def __post_init__(self) -> None:
        _at_least("data.files.first_page", self.first_page, 0)
        for given, other in (("images", "labels"), ("labels", "images")):
            if getattr(self, given) and not getattr(self, other):
                raise ConfigError(
                    f"data.files.{given} is set, and data.files.{other} is not: expected a pattern for images and one "
                    "for labels, or neither."
                )
        if self.first_page and "{page}" not in self.labels:
            raise ConfigError("data.files.first_page is set, but data.files.labels has no {page}. Remove it.")

    @property
    def image_patterns(self) -> tuple[str, ...]:
        """The patterns of the images, one for each channel file."""
        return self.images if isinstance(self.images, tuple) else (self.images,) if self.images else ()


@dataclass(frozen=True)
class DataConfig:
    """Which images, how they are cut, normalised, and divided into folds."""

    layout: Layout = "synthetic"
    """Where the images come from: made by the program, the published Drosophila folder, your own folder, a raw folder
    of nnU-Net, or arrays that a Python program passed (only that program can pass them again)."""
    root: str = ""
    """Folder of the data set (not used by the synthetic layout)."""
    cut: int = 0
    """Cut every image into tiles of this side (pixels) when it is read; 0 keeps images whole."""
    crop: int = 256
    """Side (pixels) of the random training crops."""
    views: Literal["none", "dihedral"] = "none"
    """Whether each image is listed once or in its 8 rotations and flips (the paper's mouse protocol)."""
    normalisation: Literal["standardise", "scale", "percentile"] = "standardise"
    """Intensity: mean 0 and deviation 1 over the training part; by the range of the type; or by the 1st and
    99th percentile of each image (for fluorescence)."""
    percentiles_of: Literal["image", "tile"] = "image"
    """With data.normalisation = "percentile": what the percentiles are measured over, the whole image or each tile
    that data.cut makes of it (as runs of format 1 did)."""
    folds: int = 5
    """Number of cross-validation folds."""
    fold_scheme: Literal["grouped", "sections", "mouse", "split"] = "grouped"
    """How images are divided: blocks of groups in name order; the paper's 20 Drosophila sections; the paper's
    mouse protocol; or one fold, whose test part is that of the folders or names ({split} in data.files)."""
    validation_groups: Literal["both-sides", "after"] = "both-sides"
    """grouped: whether the validation groups lie on both sides of the test block in name order, so that no training
    group is its neighbour, or all after it."""
    glia: Literal["membrane", "cytoplasm"] = "membrane"
    """drosophila-vnc: the class of glia, which the published mask folders count as membrane."""
    classes: dict[str, int] = field(default_factory=dict)
    """folder, nnunet: class names and the value of each in the label files, in class order (or in dataset.toml)."""
    ignore_value: int | None = None
    """folder, nnunet: value of unlabelled pixels in the label files, which count in no loss and no metric."""
    axes: Annotated[str, tyro.conf.arg(aliases=("--axes",))] = ""
    """folder, nnunet: order of the axes of files with more than two dimensions, such as YXC or ZYX."""
    alpha: Alpha = "refuse"
    """folder, nnunet: what the channel of an image is that is tagged as transparency (alpha): dropped where all pixels
    are opaque and refused otherwise; dropped always; or a channel like the others, such as a fourth stain."""
    no_data: NoDataRule = "refuse"
    """folder, nnunet: what becomes of an image in which many pixels share a value far outside the others, as a mark for
    no data does: refused; or kept, where the value is a measurement, such as the floor of a logarithm."""
    group_pattern: str = ""
    """folder, nnunet: regular expression on the file's stem; what it captures names the group that stays in one part
    of a fold. Empty: every file is a group."""
    files: FilesConfig = field(default_factory=FilesConfig)
    """folder: names of the files, where they are not those of images/ and labels/ (or in dataset.toml)."""
    synthetic_images: int = 20
    """synthetic: number of images."""
    synthetic_size: int = 128
    """synthetic: side of each image (pixels)."""
    synthetic_seed: int = 0
    """synthetic: seed of the procedural tissue."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", expand_text(self.root))
        _at_least("data.cut", self.cut, 0)
        _at_least("data.crop", self.crop, 1)
        if self.fold_scheme == "split" and self.folds != 1:
            raise ConfigError(f'data.folds = {self.folds}: data.fold_scheme = "split" makes one fold. Set it to 1.')
        _at_least("data.folds", self.folds, 1 if self.fold_scheme == "split" else 2, below=_MOST_FOLDS + 1)
        _at_least("data.synthetic_images", self.synthetic_images, 1)
        _at_least("data.synthetic_size", self.synthetic_size, 16)
        _at_least("data.synthetic_seed", self.synthetic_seed, 0)


@dataclass(frozen=True)
class ModelConfig:
    """The network; the method says which parts it has."""

    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Channels of each level, from full resolution to the bottleneck."""
    rounds: int | None = None
    """Number of feedback rounds; None takes the method's own (2 in the paper)."""
    feedback: FeedbackName | None = None
    """What round 2 sees: the class maps in place of the image, image and maps, or the image again; None takes
    the method's own."""
    gate_activation: Literal["hard_sigmoid", "sigmoid"] = "hard_sigmoid"
    """Gates of the ConvLSTM: clip(0.2 x + 0.5, 0, 1) as in Keras 2, or the logistic function."""
    batch_norm_momentum: float = 0.99
    """Weight of the old value in the running statistics; 0.99 needs more than 500 steps, short runs use 0.9."""
    batch_norm_epsilon: float = 1e-3
    """Added to the variance in batch normalisation."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the convolutions; parameters, statistics, softmax and loss are float32 always."""
    rematerialise: bool = False
    """Less memory in training for more time: activations inside a block are computed a second time."""

    @property
    def multiple(self) -> int:
        """What height and width of the network's images are multiples of, pixels."""
        return 2 ** (len(self.widths) - 1)

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1 or max(self.widths) >= 2**31:
            raise ConfigError(
                f"model.widths = {list(self.widths)}: expected at least two levels, each of at least 1 channel, "
                "such as 8 16 32 64 128."
            )
        if self.rounds is not None:
            _at_least("model.rounds", self.rounds, 1)
        _in_range("model.batch_norm_momentum", self.batch_norm_momentum, 0.0, 1.0, upper_open=True)
        _positive("model.batch_norm_epsilon", self.batch_norm_epsilon)


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation of one fold."""

    epochs: int = 1500
    """Passes over the training part."""
    batch_size: int = 16
    """Images in one step, over all devices together."""
    learning_rate: float = 1e-4
    """Learning rate of Adam: the constant, or the highest of the schedule."""
    schedule: Literal["constant", "cosine", "one-cycle"] = "constant"
    """Learning rate over the run: constant; cosine to zero; or up for 30 % of the steps and down again."""
    warmup_steps: int = 0
    """Steps in which the learning rate grows linearly from 0 (constant and cosine schedules)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the convolution kernels (AdamW); 0 is plain Adam."""
    gradient_clip: float = 0.0
    """Largest global norm of the gradient; 0 does not clip."""
    adam_epsilon: float = 1e-7
    """Epsilon of Adam (1e-7 in Keras, which the paper used)."""
    round_weight: float = 0.5
    """Lambda: weight of the loss of every round but the last, whose weight is 1."""
    class_weights: Literal["median-frequency", "sqrt-median-frequency", "none", "custom"] | tuple[float, ...] = (
        "median-frequency"
    )
    """Weight of each class in the loss: median(count) / count over the training part, its square root, none, or a
    list with one number a class; custom stands for a loss that a Python program passed."""
    augmentation: Literal["none", "dihedral"] = "none"
    """Random changes of each training crop: none, or one of the 8 rotations and flips."""
    crop_border: bool = True
    """Also draw training crops that reach beyond the border of an image, and move them back inside: pixels near the
    border are seen more often, though still less than the others."""
    elastic_augmentation: float = 0.0
    """Also bend training crops: standard deviation of the smooth displacement, in pixels; 0 does not."""
    elastic_probability: float = 0.3
    """Share of the training crops that are bent."""
    intensity_augmentation: float = 0.0
    """Also change gamma, contrast and brightness of each training crop and add noise: the strength, from 0 (not) to 1
    (very much)."""
    dice_weight: float = 0.0
    """Weight of the soft Dice loss that is added to the cross-entropy of every round; 0 is the paper's loss."""
    weight_average: float = 0.0
    """Decay of the running average of the weights over the steps, which is validated, kept and used in place of the
    last weights, such as 0.999; 0 takes no average."""
    norm_batches: int | Literal["auto"] = "auto"
    """Training batches over which the statistics of batch normalisation are estimated before each validation, for the
    weights that are validated and kept; 0 takes the running statistics, as in the paper; auto is 24 with
    weight_average and 0 without."""
    validate_every: int = 1
    """Epochs between validations, each of which also saves a checkpoint."""
    validation_tiles: Literal["overlapping", "separate"] = "overlapping"
    """How validation cuts an image that is larger than a tile: as predict and evaluate do, or into separate tiles of
    data.crop pixels, which takes less than half the time and scores lower."""
    save_minutes: float = 10.0
    """Minutes after which a long epoch is also saved on its way; 0 saves whenever a step is done."""
    previews: int = 4
    """Validation images in each preview picture; 0 draws none."""
    preview_every: int = 5
    """Validations between preview pictures."""
    initial_weights: str = ""
    """Run directory whose best weights of the same fold start this run; empty starts from random weights."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial_weights", expand_text(self.initial_weights))
        for name in ("epochs", "batch_size", "validate_every", "preview_every"):
            _at_least(f"training.{name}", getattr(self, name), 1)
        for name in (
            *("warmup_steps", "save_minutes", "previews", "weight_decay", "gradient_clip", "round_weight"),
            *("dice_weight", "elastic_augmentation"),
        ):
            _at_least(f"training.{name}", getattr(self, name), 0)
        if not isinstance(self.norm_batches, str):
            _at_least("training.norm_batches", self.norm_batches, 0)
        _in_range("training.elastic_probability", self.elastic_probability, 0.0, 1.0)
        _in_range("training.intensity_augmentation", self.intensity_augmentation, 0.0, 1.0)
        _in_range("training.weight_average", self.weight_average, 0.0, 1.0, upper_open=True)
        _positive("training.learning_rate", self.learning_rate)
        _positive("training.adam_epsilon", self.adam_epsilon)
        if not isinstance(self.class_weights, str):
            if not self.class_weights or any(not math.isfinite(w) or w < 0 for w in self.class_weights):
                raise ConfigError(
                    f"training.class_weights = {list(self.class_weights)}: expected one finite number of at least 0 "
                    "for every class."
                )
            if not any(self.class_weights):
                raise ConfigError("training.class_weights are all 0: nothing would be learnt. Give a class a weight.")

    @property
    def norm_batch_count(self) -> int:
        """`norm_batches` as a number."""
        return norm_batch_count(self.norm_batches, self.weight_average)


@dataclass(frozen=True)
class Config:
    """Everything that decides the result of a run, except the fold. docs/training.md describes each setting.

    Raises:
      ConfigError: a value is out of range.

    Example:
      >>> from fbunet_jax import Config
      >>> config = Config(method="unet", seed=1)
      >>> config.model.widths, config.training.batch_size, config.data.folds
      ((8, 16, 32, 64, 128), 16, 5)
    """

    name: str = "quickstart"
    """Name of the configuration; runs lie in runs/<name>/<method>."""
    method: Annotated[str, tyro.conf.arg(help=f"The network's method, by name: {', '.join(METHODS)}.")] = (
        "feedback-convlstm"
    )
    """The network's method, by name"""
    seed: int = 0
    """Seed of the initial weights, the order of the images and the augmentation."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.method not in METHODS and self.method != CUSTOM:
            raise ConfigError(
                f"method = {self.method!r} is not a method.{did_you_mean(self.method, METHODS)} "
                f"The methods are: {', '.join(METHODS)}."
            )
        _in_range("seed", self.seed, 0, 2**32 - 1)
        if self.name in ("", ".", "..") or set(self.name) & set('/\\:*?"<>|') or not self.name.isprintable():
            raise ConfigError(
                f"name = {self.name!r}: expected a plain word, because it becomes a folder name under runs/."
            )


def with_absolute_root(config: Config) -> Config:
    """Return the settings with the folder of the data as a run's config.toml has it, which other folders read too."""
    root = config.data.root and str(Path(config.data.root).absolute())
    return replace(config, data=replace(config.data, root=root))


def load_config(path: str | Path | None = None, **overrides: Any) -> Config:
    """Read a TOML configuration, by path or by the name of one that comes with the program.

    Args:
      path: a ``.toml`` file, a bundled name such as ``"drosophila"``, or None for ``"quickstart"``.
      **overrides: fields to change, as nested tables (``training={"epochs": 2}``) or with dotted names
        (``**{"training.epochs": 2}``).

    Returns:
      The validated configuration, named after the file; a relative data.root in the file begins at the file's folder.

    Raises:
      ConfigError: the file is missing or no TOML, a key is unknown, or a value is of the wrong type or range.

    Example:
      >>> from fbunet_jax import load_config
      >>> config = load_config("drosophila", method="unet", training={"epochs": 12}, **{"data.root": "/data"})
      >>> config.name, config.method, config.training.epochs, config.data.cut
      ('drosophila', 'unet', 12, 256)
    """
    file = find_config(path if path is not None else "quickstart")
    table = read_toml(file)
    table.setdefault("format", FORMAT)
    table = in_this_format(table, str(file))
    table.setdefault("name", file.stem)
    _root_beside(table, file)
    for key, value in overrides.items():
        merge(table, key.split("."), value)
    return from_table(Config, table, str(file))


def _root_beside(table: dict[str, Any], file: Path) -> None:
    """Make a relative data.root of a file one that is relative to the file's folder."""
    data = table.get("data")
    root = data.get("root") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(root, str) and root and not root.startswith("~"):
        table["data"] = {**data, "root": str(file.parent / root)}


def find_config(path: str | Path) -> Path:
    """Return the file of a configuration given by path or by bundled name."""
    if (file := expand(path)).is_file():
        return file
    here = Path(__file__).resolve().parent
    folders = [here / "configs", here.parent / "configs"]
    bundled = {file.stem: file for folder in folders if folder.is_dir() for file in folder.glob("*.toml")}
    if str(path) in bundled:
        return bundled[str(path)]
    raise ConfigError(
        f"There is no configuration {str(path)!r}: expected a TOML file or one of {', '.join(sorted(bundled))}."
        f"{did_you_mean(str(path), bundled)}"
    )


def to_toml(config: Config, version: int = FORMAT) -> str:
    """Return the configuration as TOML; `load_config` of it gives an equal one if data.root is absolute.

    Args:
      config: the settings; for format 1 such as it could have.
      version: of the format.
    """
    table = to_table(config)
    if version == 1:
        for name in BEFORE_FORMAT_2:
            room, key = name.split(".")
            del table[room][key]
    return tomli_w.dumps({"format": version, **table})


def _at_least(name: str, value: float, least: float, *, below: float = 2**31) -> None:
    if not least <= value < below:
        limit = f"below {below}" if value >= below else f"of at least {least}"
        raise ConfigError(f"{name} = {value}: expected a number {limit}.")


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} = {value}: expected a number above 0.")


def _in_range(name: str, value: float, low: float, high: float, *, upper_open: bool = False) -> None:
    if not low <= value <= high or (upper_open and value == high):
        raise ConfigError(f"{name} = {value}: expected a number from {low} to {'below ' if upper_open else ''}{high}.")
