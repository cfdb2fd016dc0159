"""What a fold trains on, told by numbers and read from data."""

import pytest

from fbunet_jax.accelerators.estimate import count_work
from fbunet_jax.accelerators.workload import DataNumbers, find_workload
from fbunet_jax.config import load_config
from fbunet_jax.errors import ConfigError, DataError, UserError


def find(config, fold=0, **numbers):
    return find_workload(config, fold, DataNumbers(**numbers))


def test_the_papers_drosophila_protocol_is_known():
    config = load_config("drosophila")
    workload = find(config, fold=3)
    assert (len(workload.train), len(workload.validation)) == (192, 48)
    assert set(workload.train) == {(256, 256)}
    assert (workload.classes, workload.channels, workload.image_type) == (4, 1, "uint8")
    assert count_work(config, workload.train, workload.validation, 16).steps == 18_000


def test_the_papers_mouse_protocol_is_known():
    config = load_config("mouse")
    workload = find(config)
    assert (len(workload.train), len(workload.validation), workload.classes) == (280, 40, 3)
    assert count_work(config, workload.train, workload.validation, 10).steps == 42_000


def test_numbers_and_the_data_themselves_give_the_same():
    read = find(load_config("quickstart"), fold=1)
    layout = {"layout": "folder", "classes": {"a": 0, "b": 1, "c": 2, "d": 3}}
    told = find(load_config("quickstart", data=layout), fold=1, channels=1, images=20, size=128)
    assert (told.train, told.validation, told.classes) == (read.train, read.validation, read.classes)
    assert told.image_type == read.image_type


def test_the_real_data_set_gives_what_is_known_of_it(data_root):
    root = str(data_root / "drosophila-vnc")
    assert find(load_config("drosophila", data={"root": root}), 2) == find(load_config("drosophila"), 2)


FOLDER = {"layout": "folder"}
NUMBERS = {"classes": 3, "channels": 1, "images": 9, "size": 64}


@pytest.mark.parametrize(
    ("changes", "numbers", "error", "part"),
    [
        (FOLDER, {}, ConfigError, "--classes, --channels, --images, --size must be given"),
        (FOLDER, {"classes": 3, "size": 64}, ConfigError, "--channels, --images must be given"),
        (FOLDER, {**NUMBERS, "classes": 1}, ConfigError, "--classes 1"),
        (FOLDER, {**NUMBERS, "classes": 256}, ConfigError, "at most 255"),
        (FOLDER, {**NUMBERS, "images": 0}, ConfigError, "--images 0"),
        (FOLDER, {**NUMBERS, "images": 400, "size": 4096}, DataError, "4,294,967,296 pixels"),
        (FOLDER, {**NUMBERS, "images": 10**15, "size": 4096}, ConfigError, "fewer than 2,147,483,648"),
        ({**FOLDER, "cut": 48}, NUMBERS, ConfigError, "--size 64 is not a multiple"),
        (FOLDER, {**NUMBERS, "images": 2}, UserError, "2"),
        ({}, {"images": 4}, ConfigError, "--images: these numbers are read from the data set"),
    ],
)
def test_numbers_that_are_missing_or_do_not_fit(changes, numbers, error, part):
    with pytest.raises(error) as raised:
        find(load_config("quickstart", data=changes), **numbers)
    assert part in str(raised.value)


def test_a_fold_that_does_not_exist():
    with pytest.raises(DataError, match="no fold 7"):
        find(load_config("drosophila"), fold=7)
