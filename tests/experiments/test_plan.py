"""Plans: what they say becomes grids; what they cannot mean is named with the place."""

import pytest

from fbunet_jax.errors import ConfigError
from fbunet_jax.experiments.plan import read_plan

HEAD = "format = 1\n"
FIRST = """
[[experiments]]
name = "five-folds"
table = 1

[experiments.settings]
training.epochs = 21
model.batch_norm_momentum = 0.9
"""
SECOND = """
[[experiments]]
name = "best"
title = "the best setting"
config = "drosophila"
methods = ["unet", "unet-wide"]
folds = [0, 2]
seeds = 2
further = ["size", "views"]
reference = "five-folds:unet"

[experiments.settings]
data.cut = 0
seed = 3
"""


def plan_of(tmp_path, text, **options):
    file = tmp_path / "plan.toml"
    file.write_text(text)
    return read_plan(file, tmp_path / "out", **options)


def test_an_experiment_is_a_grid_in_its_own_setting_and_folder(tmp_path):
    first, second = plan_of(tmp_path, HEAD + FIRST + SECOND, data_root="/data").planned
    assert len(first.grid) == 40
    assert (first.grid.config.training.epochs, first.grid.config.model.batch_norm_momentum) == (21, 0.9)
    assert first.grid.config.data.root == second.grid.config.data.root == "/data"
    assert [str(place) for place in second.grid][:3] == ["unet:0:3", "unet-wide:0:3", "unet:2:3"]
    assert len(second.grid) == 8
    assert second.grid.config.data.cut == 0
    assert second.folder.path == tmp_path / "out" / "best"
    assert second.grid.run(second.grid.places[0]).path == tmp_path / "out" / "best" / "runs" / "unet-seed3"
    assert second.experiment.paper_table.title == "the best setting"
    assert first.experiment.paper_table.rows[0].method == "unet"


def test_some_methods_of_a_table_of_the_paper(tmp_path):
    text = HEAD + FIRST.replace("table = 1", 'table = 3\nmethods = ["feedback-convlstm-e"]')
    (planned,) = plan_of(tmp_path, text).planned
    assert planned.grid.methods == ["feedback-convlstm-e"]
    assert planned.experiment.paper_table.rows[0].paper[-1] == 70.3


def test_some_of_a_plan_are_chosen(tmp_path):
    plan = plan_of(tmp_path, HEAD + FIRST + SECOND)
    chosen = plan.select(["best/unet:2", "five-folds/ru-net"])
    assert [[str(place) for place in each.grid] for each in chosen.planned] == [
        [f"ru-net:{fold}:0" for fold in range(5)],
        ["unet:2:3", "unet:2:4"],
    ]
    assert [len(each.grid) for each in plan.select(["best"]).planned] == [8]
    assert plan.select([]) is plan
    with pytest.raises(ConfigError, match=r"'bset' is not an experiment of .*Did you mean 'best'"):
        plan.select(["bset/unet"])
    with pytest.raises(ConfigError, match=r"--only ru-net: expected METHOD:FOLD"):
        plan.select(["best/ru-net"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FIRST, r"plan.toml has format None: expected format = 1"),
        (HEAD, r"has no \[\[experiments\]\]"),
        (HEAD + "experiments = 3", r"has no \[\[experiments\]\]"),
        (HEAD + "title = 3\n" + FIRST, "unknown key 'title'"),
        (HEAD + FIRST + FIRST, "two experiments are called 'five-folds'"),
        (HEAD + FIRST.replace("table = 1", "tabel = 1"), "experiment 1: unknown key 'tabel'. Did you mean 'table'"),
        (HEAD + FIRST.replace("table = 1", "table = 7"), "table = 7: expected one of 1, 2, 3, 4"),
        (HEAD + FIRST.replace('name = "five-folds"', ""), "experiment 1: name is missing"),
        (HEAD + FIRST.replace("five-folds", "Five/folds"), "expected small letters, digits and -"),
        (HEAD + FIRST.replace("table = 1", ""), "needs title, config and methods"),
        (HEAD + FIRST.replace("epochs = 21", "epochs = 0"), "experiment 1, settings: training.epochs = 0"),
        (HEAD + FIRST.replace("epochs", "epoch"), "experiment 1, settings: unknown key 'training.epoch'"),
        (HEAD + FIRST + SECOND.replace("[0, 2]", "[0, 5]"), "experiment 2: folds has 5: expected numbers from 0 to 4"),
        (HEAD + FIRST + SECOND.replace("[0, 2]", "[2, 2]"), "experiment 2: best: folds has 2 twice"),
        (HEAD + FIRST + SECOND.replace("unet-wide", "unet"), "methods has 'unet' twice"),
        (HEAD + FIRST + SECOND.replace("folds:unet", "folds:unet-wild"), "expected EXPERIMENT:METHOD of this plan"),
        (HEAD + FIRST + SECOND.replace("folds:unet", "folds:feedback-convlstm-e"), "expected EXPERIMENT:METHOD of"),
        (HEAD + FIRST + SECOND.replace("unet-wide", "unet-wild"), "'unet-wild' is not a method. Did you mean"),
        (
            HEAD + FIRST + SECOND.replace("five-folds:unet", "six-folds:unet"),
            "expected EXPERIMENT:METHOD of this plan, such as five",
        ),
        (
            HEAD + FIRST + SECOND.replace('"views"', '"view"'),
            "experiment 2: further has 'view': .*Did you mean 'views'",
        ),
        (HEAD + FIRST + SECOND.replace("seeds = 2", "seeds = 0"), "seeds = 0: expected a number of at least 1"),
        (HEAD + "[[experiments]]\nname = 'a'\nsettings = 3", "settings = 3: expected a table of settings"),
    ],
)
def test_what_a_plan_cannot_mean_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(tmp_path, text)
