"""A training's line: from its records, on a terminal and in a log."""

import io
import json

import pytest

from fbunet_jax.experiments.progress import Board, Progress, read_progress
from fbunet_jax.runs.directory import FoldDirectory


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_epoch_latest_and_best_score_are_those_of_the_records(tmp_path):
    fold = FoldDirectory(tmp_path)
    assert read_progress(fold) == (0, None, None)
    records = [
        {"kind": "train", "epoch": 1, "step": 3, "loss": 0.9},
        {"kind": "validation", "epoch": 1, "step": 3, "mean_iou": 0.5, "iou": {}},
        {"kind": "train", "epoch": 2, "step": 6, "loss": 0.8},
        {"kind": "validation", "epoch": 2, "step": 6, "mean_iou": 0.4, "iou": {}},
        {"kind": "train", "epoch": 3, "step": 9, "loss": 0.7},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    fold.metrics.write_text(text + '{"kind": "validation", "ep')
    assert read_progress(fold) == (3, 0.4, 0.5)
    fold.metrics.write_text("[]\n")
    assert read_progress(fold) == (0, None, None)


def test_a_terminal_shows_a_bar_for_each_training_that_runs():
    stream = Terminal()
    board = Board(stream)
    board.show(0, "unet:0:0", Progress(2, 0.5, 0.625), 8)
    board.show(1, "unet:1:0", Progress(), 8)
    board.clear(0)
    text = stream.getvalue()
    assert "unet:0:0:  25%" in text
    assert "2/8" in text
    assert "validation IoU 50.0 %, best 62.5 %" in text
    assert "unet:1:0:   0%" in text


def test_a_log_gets_a_line_for_each_tenth_of_the_epochs():
    stream = io.StringIO()
    board = Board(stream)
    for epoch in range(101):
        board.show(0, "unet:0:0", Progress(epoch, 0.5, 0.5), 100)
    lines = stream.getvalue().splitlines()
    assert [line.split()[2].removesuffix(",") for line in lines] == [f"{epoch}/100" for epoch in range(10, 101, 10)]


class Closed(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_connection_that_broke_or_a_full_disk_stops_no_training(terminal):
    board = Board(Closed(terminal))
    board.line("unet:0:0 on cpu")
    board.show(0, "unet:0:0", Progress(), 8)
    board.show(0, "unet:0:0", Progress(8, 0.5, 0.5), 8)
    board.clear(0)
