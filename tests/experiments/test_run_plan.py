"""The queue of a plan: what is missing runs, is paused, stopped and resumed; numbers are kept and never made twice."""

import io
import json
import re
import threading
from pathlib import Path

import pytest

from fbunet_jax.cli import main
from fbunet_jax.experiments import reproduce as module
from fbunet_jax.experiments.cells import read_cells, setting_of, write_cell
from fbunet_jax.experiments.devices import Device
from fbunet_jax.experiments.plan import read_plan
from fbunet_jax.experiments.progress import Board
from fbunet_jax.experiments.queue import Sweep
from fbunet_jax.experiments.run_plan import copy_numbers, jobs

PLAN = """
format = 1

[[experiments]]
name = "one"
title = "made up"
config = "quickstart"
methods = ["unet", "feedback-conv"]
folds = [0, 1]

[experiments.settings]
data = {synthetic_images = 6, synthetic_size = 32, crop = 32, folds = 3}
model.widths = [2, 3]
training = {epochs = 2, batch_size = 8, previews = 0}

[[experiments]]
name = "two"
title = "compared with one"
config = "quickstart"
methods = ["unet"]
folds = [0, 1]
reference = "one:unet"

[experiments.settings]
data = {synthetic_images = 6, synthetic_size = 32, crop = 32, folds = 3}
model.widths = [3, 4]
training = {epochs = 2, batch_size = 8, previews = 0}
"""


@pytest.fixture
def plan(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text(PLAN)
    return file


def queue(plan, *options):
    return main(["queue", str(plan), "--out", str(plan.parent / "out"), *options])


def sweep_of(plan, **options):
    out = plan.parent / "out"
    stream = io.StringIO()
    found = jobs(read_plan(plan, out), out, "")
    return Sweep(found, [Device("cpu", {})], Board(stream), **options), stream


def test_the_cells_of_all_experiments_run_in_the_order_of_the_plan(plan, stand_in):
    stand_in("finish", "finish")
    ended = []
    sweep, stream = sweep_of(plan, ended=lambda job: ended.append(job.name))
    assert not sweep.run()
    places = ["unet:0:0", "feedback-conv:0:0", "unet:1:0", "feedback-conv:1:0"]
    assert ended == [*(f"one {place}" for place in places), "two unet:0:0", "two unet:1:0"]
    assert "one unet:1:0 is finished: best validation IoU 35.0 %" in stream.getvalue()


def test_while_a_file_is_there_what_runs_is_suspended(plan, stand_in):
    stand_in("wait", "finish")
    out = plan.parent / "out"
    out.mkdir()
    fold, pause, states = out / "one" / "runs" / "unet-seed0" / "fold_0", out / "paused", []

    def until(condition):
        limit = threading.Event()
        for _ in range(3000):
            if condition():
                return
            limit.wait(0.01)
        raise AssertionError("nothing happened")

    def state():
        return re.search(r"\) (\S)", Path(f"/proc/{(fold / 'pid').read_text()}/stat").read_text())[1]

    def user():
        until(lambda: (fold / "pid").exists() and (fold / "pid").read_text())
        pause.touch()
        until(lambda: state() == "T")
        states.append(state())
        pause.unlink()
        until(lambda: state() != "T")
        for name in ("one", "two"):
            (out / name / "runs").mkdir(parents=True, exist_ok=True)
            (out / name / "runs" / "go").touch()

    thread = threading.Thread(target=user)
    thread.start()
    sweep, stream = sweep_of(plan, pause=pause)
    sweep.run()
    thread.join()
    assert states == ["T"]
    assert [outcome.state for outcome in sweep.outcomes[:2]] == ["finished"] * 2
    assert "Paused: 1 under way." in stream.getvalue()
    assert "Resumed: 1 under way." in stream.getvalue()


def test_when_the_time_is_over_what_runs_is_saved_and_nothing_more_is_started(plan, stand_in):
    stand_in("wait", "finish")
    sweep, _ = sweep_of(plan, deadline=0.0)
    assert not sweep.run()
    assert {outcome.state for outcome in sweep.outcomes} == {"not begun"}


def test_finished_cells_are_not_run_again_and_begun_ones_come_first(plan, make_cell):
    out = plan.parent / "out"
    found = read_plan(plan, out)
    first, second = found.planned
    write_cell(first.folder.cells, cell_of(make_cell, first, "unet", 0), {})
    (second.grid.fold(second.grid.places[1]).checkpoints / "4").mkdir(parents=True)
    assert [job.name for job in jobs(found, out, "")] == [
        "two unet:1:0",
        "one feedback-conv:0:0",
        "one unet:1:0",
        "one feedback-conv:1:0",
        "two unet:0:0",
    ]


def cell_of(make_cell, planned, method, fold, right=8):
    cell = make_cell(method, fold, 0, [[[right, 12 - right], [1, 9]]])
    return {**cell, "setting": setting_of(planned.grid.config), "processor_seconds": 1800.0}


def test_the_page_says_what_is_there_what_is_left_and_the_difference_to_the_reference(plan, make_cell, capsys):
    first, second = read_plan(plan, plan.parent / "out").planned
    for fold in (0, 1):
        write_cell(first.folder.cells, cell_of(make_cell, first, "unet", fold), {})
        write_cell(second.folder.cells, cell_of(make_cell, second, "unet", fold, right=9 + fold), {})
    write_cell(first.folder.cells, cell_of(make_cell, first, "feedback-conv", 0), {})
    assert queue(plan, "--pages") == 0
    page = (plan.parent / "out" / "README.md").read_text()
    lines = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if "/table.md" in line}
    assert "| 3 of 4 |  | 1.5 | 0.5 |" in lines["[one](one/table.md)"]
    assert "| 2 of 2 |  | 1.0 | 0 |" in lines["[two](two/table.md)"]
    # of 24 and 20 pixels, 19 and 18 are right against 16 and 18
    line = next(line for line in page.splitlines() if line.startswith("| two | `unet` |"))
    before, after = (16 / 26 + 18 / 28) / 2, (19 / 26 + 18 / 25) / 2
    assert f"| {100 * (after - before):+.1f} (" in line
    assert "to one:unet, folds 0, 1" in line
    assert (plan.parent / "out" / "two" / "table.md").read_text().startswith("# compared with one")


def test_the_page_gives_no_difference_to_other_labels_and_says_of_how_many_cells_the_hours_are(plan, make_cell):
    first, second = read_plan(plan, plan.parent / "out").planned
    write_cell(first.folder.cells, cell_of(make_cell, first, "unet", 0), {})
    other = cell_of(make_cell, second, "unet", 0)
    other["evaluation"] = make_cell("unet", 0, 0, [[[9, 2], [1, 9]]])["evaluation"]
    write_cell(second.folder.cells, other, {})
    without = cell_of(make_cell, first, "unet", 1)
    del without["processor_seconds"]
    write_cell(first.folder.cells, without, {})
    assert queue(plan, "--pages") == 0
    page = (plan.parent / "out" / "README.md").read_text()
    assert "| none to one:unet: other images or labels |" in page
    assert "| 2 of 4 |  | 0.5 (of 1 cells) |" in page


def test_whole_images_are_compared_with_crops_by_crops(plan, make_cell):
    plan.write_text(PLAN.replace("crop = 32, folds = 3}", "crop = 32, cut = 32, folds = 3}", 1))
    first, second = read_plan(plan, plan.parent / "out").planned
    write_cell(first.folder.cells, cell_of(make_cell, first, "unet", 0), {})
    whole = cell_of(make_cell, second, "unet", 0, right=9)
    assert queue(plan, "--pages") == 0
    write_cell(second.folder.cells, whole, {})
    assert queue(plan, "--pages") == 0
    page = plan.parent / "out" / "README.md"
    assert "to one:unet" not in page.read_text()  # it has not been evaluated by crops
    crops = cell_of(make_cell, second, "unet", 0, right=10)["evaluation"]
    write_cell(second.folder.cells, {**whole, "further": {"crops32": crops}}, {})
    assert queue(plan, "--pages") == 0
    difference = 100 * ((10 / 13 + 9 / 12) / 2 - (8 / 13 + 9 / 14) / 2)
    assert f"| {difference:+.1f} to one:unet by crops of 32, folds 0 |" in page.read_text()


def test_a_plan_that_was_changed_since_its_cells_were_trained_is_refused(plan, make_cell, capsys):
    first = read_plan(plan, plan.parent / "out").planned[0]
    write_cell(first.folder.cells, cell_of(make_cell, first, "unet", 0), {})
    plan.write_text(PLAN.replace("epochs = 2", "epochs = 3"))
    assert queue(plan) == 2
    message = "The settings of one in the plan do not fit its finished cells: they have training.epochs 3, and it is 2"
    assert message in capsys.readouterr().err


def test_of_two_copies_of_a_cell_the_one_with_more_evaluations_is_kept_whichever_file_is_newer(plan, make_cell):
    out = plan.parent / "out"
    found = read_plan(plan, out)
    cell = cell_of(make_cell, found.planned[0], "unet", 0)
    more = {**cell, "further": {"whole": cell["evaluation"]}}
    kept = plan.parent / "kept"

    def write(folder, one):
        return write_cell(folder / "one" / "cells", one, {})

    write(out, more)
    file = write(kept, cell)
    assert copy_numbers(found, kept, out) == 0  # as after a checkout: written later, and poorer
    assert copy_numbers(found, out, kept) == 1
    assert json.loads(file.read_text()) == more
    write(kept, {**cell, "seconds": 7.0})  # another training
    assert copy_numbers(found, out, kept) == 0


def test_numbers_are_kept_elsewhere_and_taken_from_there(plan, make_cell, stand_in, hardware, tmp_path):
    stand_in("finish", "finish")
    hardware("cpu", "cpu", 1)
    first = read_plan(plan, tmp_path / "kept").planned[0]
    write_cell(first.folder.cells, cell_of(make_cell, first, "unet", 0), {})
    # the stand-in writes no cells: what is copied is what was there
    assert queue(plan, "--numbers", str(tmp_path / "kept"), "--only", "two", "--workers", "1") == 0
    assert [cell["method"] for cell in read_cells(tmp_path / "out" / "one" / "cells")] == ["unet"]
    assert (tmp_path / "kept" / "README.md").read_text() == (tmp_path / "out" / "README.md").read_text()
    assert not list((tmp_path / "kept").rglob("*.npz")) or (tmp_path / "kept" / "one" / "cells").is_dir()


def test_a_queue_is_run_once_at_a_time_and_paused_by_its_options(plan, capsys):
    out = plan.parent / "out"
    assert queue(plan, "--pause") == 2
    assert "is not a folder of experiments (--out)" in capsys.readouterr().err
    out.mkdir()
    assert queue(plan, "--pause") == 0
    assert "No queue runs in" in capsys.readouterr().out
    assert (out / "paused").exists()
    assert queue(plan, "--resume") == 0
    assert not (out / "paused").exists()


def test_a_cell_is_trained_and_evaluated_in_every_way_and_completed_later(plan, monkeypatch, capsys):
    assert queue(plan, "--cell", "one/feedback-conv:1:0") == 0
    file = plan.parent / "out" / "one" / "cells" / "feedback-conv-fold1-seed0.json"
    cell = json.loads(file.read_text())
    assert set(cell["further"]) == {"offsets", "crops32", "crops32-offsets", "maps-zeros", "maps-other"}
    assert cell["processor_seconds"] > 0
    assert cell["evaluation"]["objects"]["least_pixels"] == 50
    file.write_text(json.dumps({**cell, "further": {"offsets": cell["further"]["offsets"]}}))
    monkeypatch.setattr(module, "train", lambda *arguments, **options: pytest.fail("trained again"))
    assert queue(plan, "--cell", "one/feedback-conv:1:0") == 0
    again = json.loads(file.read_text())
    assert {**again, "evaluated_by": None} == {**cell, "evaluated_by": None}
    assert "feedback-conv:1:0 has been evaluated further: crops32" in capsys.readouterr().out
