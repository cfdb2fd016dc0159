"""The plan of a run, and the work that it comes to, are what training does."""

import dataclasses

import numpy as np

from fbunet_jax.accelerators.estimate import Costs, Work, fold_work
from fbunet_jax.config import TrainingConfig, load_config
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.runs.directory import Run
from fbunet_jax.training.plan import Stretch, calls, plan_run


def test_few_images_and_a_large_batch_share_a_stretch_among_epochs():
    # 3 crops an epoch in batches of 8: the same epochs, steps and validations as the records of a real run in test_loop
    plan = plan_run(TrainingConfig(epochs=24, batch_size=8, validate_every=4), 3)
    assert [stretch.epoch for stretch in plan] == [1, 3, 6, 9, 11, 14, 17, 19, 22]
    assert [(stretch.first, stretch.last) for stretch in plan] == [(step, step + 1) for step in range(9)]
    assert [stretch.epoch for stretch in plan if stretch.validates] == [6, 9, 14, 17, 22]


def test_the_last_epoch_always_validates():
    plan = plan_run(TrainingConfig(epochs=5, batch_size=2, validate_every=3), 5)
    assert plan == [
        Stretch(1, 0, 3, False),
        Stretch(2, 3, 5, False),
        Stretch(3, 5, 8, True),
        Stretch(4, 8, 10, False),
        Stretch(5, 10, 13, True),
    ]


def test_the_work_of_a_fold_is_counted_from_its_own_images(tmp_path):
    # 7 images of 48 x 48 in 3 folds: 3, 2 and 2 test; 1 validates, of 4 separate tiles; the rest train, two crops each
    config = load_config(
        "quickstart",
        data={"synthetic_images": 7, "synthetic_size": 48, "crop": 32, "folds": 3},
        model={"widths": [2, 3]},
        training={
            **{"epochs": 10, "batch_size": 3, "validate_every": 4, "preview_every": 2},
            "validation_tiles": "separate",
        },
    )
    work = fold_work(config, Run(tmp_path / "none"), load_dataset(config.data), [0, 2], devices=1)
    # crops an epoch: 2 for each of 3 and of 4 training images; validations after epochs 4, 8 and 10
    assert work[0] == Work(steps=20, records=10, validations=3, batches=3 * 2, pictures=2)
    assert work[2].steps == np.ceil(10 * 8 / 3)
    assert dataclasses.replace(work[2], steps=20) == work[0]
    assert not (tmp_path / "none").exists()


def test_the_time_of_a_fold_is_the_sum_of_its_parts():
    costs = Costs(start=1, compiling=1000, step=2, record=3, batch=5, save=7, picture=11)
    assert costs.seconds(Work(steps=100, records=10, validations=4, batches=12, pictures=2)) == (
        1 + 200 + 30 + 60 + 28 + 22
    )


def test_calls_end_at_the_same_steps_wherever_a_run_goes_on():
    whole = list(calls(0, 37, 16))
    assert [(steps.start, steps.stop) for steps in whole] == [(0, 16), (16, 32), (32, 37)]
    assert [step for steps in whole for step in steps] == list(range(37))
    for start in (16, 32):
        assert list(calls(start, 37, 16)) == [steps for steps in whole if steps.start >= start]
    # an epoch that begins between two multiples
    assert [(steps.start, steps.stop) for steps in calls(37, 74, 16)] == [(37, 48), (48, 64), (64, 74)]
    assert list(calls(5, 5, 16)) == []
