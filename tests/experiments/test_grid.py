"""The grid: its order, what is chosen of it, and the run directories of each command."""

from pathlib import Path

import pytest

from fbunet_jax.config import Config
from fbunet_jax.errors import ConfigError
from fbunet_jax.experiments.cells import TableFolder
from fbunet_jax.experiments.grid import Grid, Place, default_runs, runs_beside
from fbunet_jax.experiments.paper import TABLES
from fbunet_jax.runs.directory import default_path
from fbunet_jax.runs.locks import fold_lock, is_held


def grid_of(table, folds, seeds, out="table"):
    return Grid.full(Config(), [row.method for row in TABLES[table].rows], folds, seeds, TableFolder(Path(out)).run)


def test_trainings_of_one_fold_come_together_and_only_keeps_some():
    grid = grid_of(3, [0, 4], [0, 1])
    assert len(grid) == 6 * 2 * 2
    assert list(grid)[:6] == [Place(row.method, 0, 0) for row in TABLES[3].rows]
    only = grid.select(["feedback-convlstm-abde:4", "feedback-convlstm-a:0:1"], "it")
    assert list(map(str, only)) == [
        *("feedback-convlstm-abde:4:0", "feedback-convlstm-a:0:1", "feedback-convlstm-abde:4:1"),
    ]
    assert (only.methods, only.folds, only.seeds) == (
        ["feedback-convlstm-abde", "feedback-convlstm-a"],
        *([4, 0], [0, 1]),
    )
    assert len(grid.select(["feedback-convlstm-a"], "it")) == 4
    assert grid.select([], "it") == grid


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("unets:0", "Did you mean 'unet'"),
        ("feedback-convlstm-a:0", "of a cell of table 1: methods unet, ru-net"),
        ("unet:5", "folds 0, 1; seeds 0"),
        ("unet:0:1", "seeds 0"),
        ("unet:0:0:0", "METHOD:FOLD"),
        ("", "METHOD:FOLD"),
    ],
)
def test_only_that_names_no_training_gets_a_sentence(only, message):
    with pytest.raises(ConfigError, match=message):
        grid_of(1, [0, 1], [0]).select([only], "a cell of table 1")


@pytest.mark.parametrize(
    ("run", "names"),
    [
        (default_runs(Config(name="mine")), ["runs/mine/unet", "runs/mine/unet-seed1"]),
        (default_runs(Config(name="mine"), Path("out")), ["out/unet", "out/unet-seed1"]),
        (TableFolder(Path("out")).run, ["out/runs/unet-seed0", "out/runs/unet-seed1"]),
        (runs_beside("out/mine/", 1), ["out/mine-seed0", "out/mine"]),
    ],
)
def test_run_directories_have_the_names_that_each_command_gives_them(run, names):
    grid = Grid.full(Config(name="mine"), ["unet"], [0], [0, 1], run)
    assert [grid.run(place).path.as_posix() for place in grid] == names
    assert [grid.fold(place).path.as_posix() for place in grid] == [f"{name}/fold_0" for name in names]


def test_without_a_folder_the_run_directory_is_that_of_the_training_by_itself():
    grid = Grid.full(Config(name="mine"), ["unet", "ru-net"], [0], [0, 2], default_runs(Config(name="mine")))
    assert [grid.run(place).path for place in grid] == [default_path(grid.settings(place)) for place in grid]


def test_a_training_with_a_checkpoint_has_started_and_one_whose_lock_is_taken_is_held(tmp_path):
    grid = grid_of(1, [0, 1], [0], tmp_path)
    one, *_, other = grid
    assert not grid.fold(one).has_started()
    grid.fold(one).checkpoints.mkdir(parents=True)
    (grid.fold(one).checkpoints / "3").mkdir()
    with fold_lock(grid.fold(other)):
        assert [grid.fold(place).has_started() for place in (one, other)] == [True, False]
        assert [is_held(grid.fold(place)) for place in (one, other)] == [False, True]
    assert not is_held(grid.fold(other))
