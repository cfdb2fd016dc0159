"""Records of a training are read as they were written; what is not a record is named with its line."""

import json
import math

import pytest

from fbunet_jax.errors import RunError
from fbunet_jax.runs.records import (
    TrainRecord,
    ValidationRecord,
    append_record,
    drop_records_after,
    read_environment,
    read_records,
)

TRAIN = {"kind": "train", "epoch": 1, "step": 4, "gradient_norm": 1.5, "loss": 0.5, "round_losses": [0.25, 0.5]}
VALIDATION = {"kind": "validation", "epoch": 1, "step": 4, "mean_iou": 0.25, "iou": {"a": 0.25, "b": None}}


@pytest.fixture
def path(tmp_path):
    """A file with a record of each kind and a line that was being written when the process was killed."""
    path = tmp_path / "metrics.jsonl"
    for record in (TRAIN, VALIDATION, TRAIN | {"epoch": 2, "step": 8}):
        append_record(path, record)
    with path.open("a") as file:
        file.write('{"kind": "train", "ep')
    return path


def test_records_of_one_kind_are_read_in_order_without_an_unfinished_line(path):
    assert read_records(path, TrainRecord) == [TRAIN, TRAIN | {"epoch": 2, "step": 8}]
    assert read_records(path, ValidationRecord) == [VALIDATION]
    assert read_records(path.with_name("none.jsonl"), TrainRecord) == []


def test_records_after_a_step_are_dropped_and_the_others_keep_their_bytes(path):
    before = path.read_bytes()
    drop_records_after(path, 4)
    assert path.read_bytes() == b"".join(before.splitlines(keepends=True)[:2])


def test_a_mean_over_no_class_is_none_and_what_a_newer_version_adds_is_left_out(path):
    path.write_text("")
    append_record(path, VALIDATION | {"mean_iou": math.nan, "added": [1]})
    assert read_records(path, ValidationRecord) == [VALIDATION | {"mean_iou": None}]


def test_a_training_that_diverges_can_read_its_own_records(path):
    large = TRAIN | {"loss": 1e19, "gradient_norm": 1e300, "round_losses": [-1e300, 1e19]}
    append_record(path.with_name("diverging.jsonl"), large)
    assert read_records(path.with_name("diverging.jsonl"), TrainRecord) == [large]


@pytest.mark.parametrize(("changes", "reason"), [
    ({"step": True}, "step: expected `int`, got `bool`"),
    ({"epoch": 0}, "epoch: expected `int` >= 1"),
    ({"loss": math.nan}, "loss: expected `float`, got NaN or `null`"),
    ({"loss": math.inf}, "loss: expected `float` <"),
    ({"round_losses": ["0.5"]}, r"round_losses\[0\]: expected `float`, got `str`"),
])  # fmt: skip
def test_a_line_that_is_not_a_record_is_named_with_the_reason(path, changes, reason):
    path.write_text(json.dumps(VALIDATION) + "\n" + json.dumps(TRAIN | changes) + "\n")
    with pytest.raises(RunError, match=rf"metrics\.jsonl, line 2 is no record of a training: {reason}.* remove the"):
        read_records(path, TrainRecord)


def test_an_environment_may_lack_what_older_versions_did_not_write_and_have_what_newer_ones_do(tmp_path):
    path = tmp_path / "environment.json"
    assert read_environment(path) == {}
    path.write_text(json.dumps({"python": "3.11.2", "versions": {"jax": None}, "added": 1}))
    assert read_environment(path) == {"python": "3.11.2", "versions": {"jax": None}}
    path.write_text(json.dumps({"devices": "cpu"}))
    with pytest.raises(RunError, match=r"environment\.json is damaged: devices: expected `array`, got `str`\. Copy it"):
        read_environment(path)
