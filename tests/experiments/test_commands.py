"""The options of a training are those from which its settings are parsed again."""

import itertools

import pytest
import tyro

from fbunet_jax.cli.train import Arguments
from fbunet_jax.config import load_config
from fbunet_jax.experiments.commands import Commands, setting_options
from fbunet_jax.experiments.grid import Grid, Place, default_runs
from fbunet_jax.runs.directory import default_path

CHANGES = [
    {},
    {"training": {"epochs": 3, "learning_rate": 2.5e-7, "class_weights": [1, 0.25, 3]}},
    {"data": {"classes": {"membrane of a cell": 7, "rest": 0}, "ignore_value": -1, "group_pattern": "-(\\d+) 'x\""}},
    {"data": {"classes": {"membrane of a cell": 8, "rest": 1}}},
    {"data": {"root": "--odd folder"}, "model": {"widths": [2, 3, 4], "rounds": 3, "rematerialise": True}},
    {"name": "other", "data": {"layout": "folder", "root": "a b", "classes": {}}, "model": {"rematerialise": False}},
    {"model": {"rounds": None, "feedback": None}, "training": {"class_weights": "none"}, "data": {"root": ""}},
]


CONFIGS = [load_config("drosophila", **change) for change in CHANGES]


@pytest.mark.parametrize(
    ("base", "config"),
    # classes of a configuration can get other values on the command line, but cannot be taken away there
    [pair for pair in itertools.product(CONFIGS, CONFIGS) if set(pair[0].data.classes) <= set(pair[1].data.classes)],
)
def test_settings_that_were_changed_are_parsed_again_from_their_options(base, config):
    options = setting_options(config, base)
    assert tyro.cli(Arguments, args=options, default=Arguments(settings=base)).settings == config
    assert base != config or options == []


@pytest.mark.parametrize("seed", [0, 4])
def test_a_training_is_that_of_fbunet_train_with_its_method_fold_and_seed_in_the_same_folder(seed):
    base = load_config("quickstart")
    config = load_config("quickstart", training={"epochs": 3})
    place = Place("ru-net", 2, seed)
    grid = Grid(config, (place,), default_runs(config))
    options = Commands(grid, default_path(config).parent, "quickstart", base).options(place)
    arguments = tyro.cli(Arguments, args=options, default=Arguments(settings=base))
    expected = load_config("quickstart", training={"epochs": 3}, method="ru-net", seed=seed)
    assert arguments.settings == expected
    assert (arguments.fold, arguments.config) == ("2", "quickstart")
    assert arguments.out == str(default_path(expected))
