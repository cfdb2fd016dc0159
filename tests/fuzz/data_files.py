"""Files that describe settings, data sets and folds, and what must come out of them."""

import json
import tomllib

import numpy as np
from PIL import Image

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.check.page import render
from fbunet_jax.config import DataConfig, load_config, to_toml
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.data.folds import PARTS, check_folds, folds_to_json, make_folds, read_folds
from fbunet_jax.errors import DataError
from fbunet_jax.runs.directory import Run, default_path
from fbunet_jax.toml_tables import to_table
from tests.fuzz.outcomes import FoundError, WrongAnswerError

CONFIG = {
    "name": "mine",
    "method": "unet",
    "seed": 3,
    "data": {"layout": "folder", "root": "images", "crop": 64, "folds": 3, "classes": {"a": 0, "b b": 255}},
    "model": {"widths": [8, 16, 32], "rounds": 2, "feedback": "concat", "batch_norm_momentum": 0.9},
    "training": {"epochs": 2, "learning_rate": 1e-3, "class_weights": [1.0, 2.5], "augmentation": "dihedral"},
}


def judge_config(path):
    config = load_config(path)
    written = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    _expect_within(written, to_table(config), ("format", "root"))
    place = path.parent / default_path(config)
    if place.resolve().parent.parent != (path.parent / "runs").resolve() or len(str(place).encode()) > 4000:
        raise WrongAnswerError(f"the run would lie in {place}")
    run = Run(path.parent / "again")
    run.path.mkdir(exist_ok=True)
    run.config.write_text(to_toml(config), encoding="utf-8")
    if run.read_config() != config:
        raise WrongAnswerError("the settings differ after writing and reading")


def _expect_within(written, read, passed_over):
    for key, value in written.items():
        if key in passed_over:
            continue
        if isinstance(value, dict) and key != "classes":
            _expect_within(value, read[key], passed_over)
        elif read[key] != value:
            raise WrongAnswerError(f"{key}: {value!r} became {read[key]!r}")


def write_folder(folder, names=("images", "labels"), image="{}.png", label="{}.png"):
    """Write three images and labels of 0 and 1."""
    for name in names:
        (folder / name).mkdir()
    for index in range(3):
        values = np.random.default_rng(index).integers(0, 200, (16, 16)).astype(np.uint8)
        Image.fromarray(values).save(folder / names[0] / image.format(f"m{index}_a"))
        Image.fromarray((values > 99).astype(np.uint8)).save(folder / names[1] / label.format(f"m{index}_a"))
    return folder


NAMED = {
    "classes": {"back ground": 0, "cell": 1},
    "files": {
        "images": ["images/m{:d}_{group}.png"],
        "labels": "labels/m{:d}_{group}.png",
        "ignore": ["*/x.png"],
        "objects": "numbered",
        "sparse": True,
    },
}
DESCRIPTION = {"classes": {"back ground": 0, "cell": 1}, "ignore_value": 255, "group_pattern": "^(m[0-9])_"}


def judge_data_set(path, layout):
    """Check a data set, draw its page, and load it: exactly what has no fault is loaded."""
    data = DataConfig(layout=layout, root=str(path.parent), folds=3, crop=16)
    check = check_dataset(data)
    page = render(check, "title", [("a", "b")]).encode()
    if b"<script" in page:
        raise WrongAnswerError("the page holds a script")
    try:
        dataset = load_dataset(data)
    except DataError:
        if not check.faults:
            raise WrongAnswerError("the check finds no fault, and loading fails") from None
        raise FoundError(check.faults[0].kind) from None
    if check.faults and not any(each.kind in ("folds", "unlabelled-part", "part-size") for each in check.faults):
        raise WrongAnswerError(f"the check finds {check.faults[0]}, and loading does not fail")
    written = (
        tomllib.loads(path.read_text(encoding="utf-8-sig")) if layout == "folder" else json.loads(path.read_bytes())
    )
    names = written["classes" if layout == "folder" else "labels"]
    if set(dataset.class_names) - set(names) - set(map(str, names.values())):
        raise WrongAnswerError(f"classes {dataset.class_names}, and the file says {names}")


NNUNET = {
    "channel_names": {"0": "EM"},
    "labels": {"background": 0, "cell": 1, "ignore": 2},
    "numTraining": 3,
    "file_ending": ".png",
}
FOLDS = json.loads(folds_to_json(make_folds([f"g{i}" for i in range(9)], 3, "grouped"), "grouped"))


def judge_folds(path):
    folds = read_folds(path)
    check_folds(folds, [f"g{i}" for i in range(9)], str(path))
    written = json.loads(path.read_bytes())["folds"]
    for fold, entry in zip(folds, written, strict=True):
        parts = [getattr(fold, part) for part in PARTS]
        if [list(names) for names in parts] != [entry[part] for part in PARTS]:
            raise WrongAnswerError("the groups differ from the file's")
        if sum(map(len, parts)) != len({name for names in parts for name in names}) or not all(parts):
            raise WrongAnswerError("the parts overlap, or one is empty")
