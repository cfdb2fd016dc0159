"""Descriptions of what a program passes: the same in every process, another for what is something else."""

import enum
import linecache
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fbunet_jax import losses
from fbunet_jax.config import load_config
from fbunet_jax.errors import RunError
from fbunet_jax.models.feedback import FeedbackUNet
from fbunet_jax.runs.descriptions import described, without_code
from fbunet_jax.runs.passed import NOTHING, Passed, label_of, passed_with, recorded


def feedback(images, probabilities):
    return images if probabilities is None else probabilities


def made(factor):
    def scaled(images, probabilities):
        return factor * feedback(images, probabilities)

    return scaled


class Gate(nn.Module):
    features: int = 3
    norm: Any = None

    @nn.compact
    def __call__(self, images, probabilities):
        return images


@dataclass(frozen=True)
class Focal(losses.Loss):
    gamma: float = 2.0


class OfAttributes:
    def __init__(self, gamma):
        self.gamma, self._scale = gamma, gamma


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


HERE = __name__


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "None"),
        (0.5, "0.5"),
        ("replace", "'replace'"),
        (jnp.float32, "float32"),
        (jnp.dtype("bfloat16"), "bfloat16"),
        ((8, 16), "[8, 16]"),
        ({"a": 1}, "{'a'=1}"),
        (range(3), "range(0, 3)"),
        (Colour.RED, f"{HERE}:Colour.RED"),
        (feedback, f"{HERE}:feedback"),
        (partial(feedback, probabilities=None), f"{HERE}:feedback(probabilities=None)"),
        (Focal(3.0), f"{HERE}:Focal(gamma=3.0)"),
        (OfAttributes(2), f"{HERE}:OfAttributes(gamma=2, _scale=2)"),
        (Gate(4), f"{HERE}:Gate(features=4, norm=None)"),
        (Gate(norm=nn.BatchNorm), f"{HERE}:Gate(features=3, norm=flax:BatchNorm)"),
        (Gate(norm=partial(nn.GroupNorm, num_groups=2)), f"{HERE}:Gate(features=3, norm=flax:GroupNorm(num_groups=2))"),
        # of a library only what differs from its defaults, by its public package
        (losses.CrossEntropy(), "fbunet_jax:CrossEntropy()"),
        (FeedbackUNet(3, rounds=3), "fbunet_jax:FeedbackUNet(classes=3, rounds=3)"),
        (nn.Dense(4), "flax:Dense(features=4)"),
        (nn.relu, "jax:relu"),
    ],
)
def test_values_are_described_by_name_and_fields(value, expected):
    assert without_code(described(value)) == expected


@pytest.mark.parametrize(
    "alike",
    [
        (3, np.int64(3), np.array(3), jnp.array(3)),
        (0.1, np.float32(0.1), np.float64(0.1)),
        ((1.0, 2.5), [1.0, 2.5], np.array([1.0, 2.5], np.float32), jnp.array([1.0, 2.5])),
        (FeedbackUNet(3, widths=[2, 4]), FeedbackUNet(3, widths=(2, 4))),
        (losses.CrossEntropy((1.0, 2.0)), losses.CrossEntropy(np.array([1.0, 2.0], np.float32))),
        (jax.jit(feedback), feedback),
    ],
)
def test_what_computes_the_same_is_described_alike(alike):
    assert len({described(each) for each in alike}) == 1


def test_what_computes_something_else_is_described_differently():
    four = losses.CrossEntropy((1.0, 2.0)) + losses.SoftDice() + Focal() + 0.5 * Focal()
    values = [
        FeedbackUNet(3),
        FeedbackUNet(4),
        FeedbackUNet(3, feedback=feedback),
        FeedbackUNet(3, feedback=Gate()),
        FeedbackUNet(3, feedback=Gate(2)),
        FeedbackUNet(3, dtype=jnp.bfloat16),
        made(1.0),
        made(2.0),
        jax.jit(made(3.0)),
        jax.jit(made(4.0)),
        lambda images, probabilities, k=1: images * k,
        lambda images, probabilities, k=2: images * k,
        losses.CrossEntropy() + 0.5 * losses.SoftDice(),
        losses.CrossEntropy() + 0.25 * losses.SoftDice(),
        losses.CrossEntropy(np.ones(3)),
        four,
        losses.CrossEntropy((1.0, 3.0)) + losses.SoftDice() + Focal() + 0.5 * Focal(),
        OfAttributes(1.0),
        OfAttributes(5.0),
        np.zeros((5, 5)),
        np.eye(5),
        jax.random.key(0),
        jax.random.key(1),
        nn.initializers.normal(0.1),
        nn.initializers.normal(0.2),
        np.add,
        np.multiply,
        Colour.RED,
        Colour.BLUE,
    ]
    assert len({described(value) for value in values}) == len(values)


def defined(code):
    """Return what a cell of a notebook defines, with its source where Python looks for it."""
    name = f"<cell {len(linecache.cache)}>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    space = {"__name__": "__main__", "nn": nn}
    exec(compile(code, name, "exec"), space)
    return space


def test_code_that_changes_under_a_name_is_something_else_and_its_comments_are_not():
    function = "def f(images, probabilities):\n    return images{}\n"
    cell = f"{function}\nclass N(nn.Module):\n    def __call__(self, x):\n        return x{{}}\n"
    first, same, other = (
        defined(cell.format(*each)) for each in (("", ""), ("  # a remark", "  # another"), (" * 2", " * 2"))
    )
    for name in ("f", "N"):
        texts = [described(each[name]() if name == "N" else each[name]) for each in (first, same, other)]
        assert texts[0] == texts[1] != texts[2]
        assert without_code(texts[0]) == without_code(texts[2])
        passed = Passed(model=texts[0])
        passed.check("model", texts[1], "r")
        with pytest.raises(RunError, match=rf"and the code of __main__:{name} has changed since. Restore it, or"):
            passed.check("model", texts[2], "r")
        with pytest.warns(UserWarning, match="has changed since: what it computes may differ"):
            passed.check("model", texts[2], "r", resumes=False)


def test_code_includes_what_it_uses_of_its_own_module_and_is_bytecode_where_there_is_no_source():
    cell = (
        "SCALE = {}\nfrom math import sqrt\ndef helper(x):\n    return SCALE * x\n"
        "def f(images, probabilities):\n    return helper(images)\n"
    )
    one, same, other = (described(defined(cell.format(scale))["f"]) for scale in (2, 2, 3))
    assert one == same != other
    texts = []
    for factor in (2, 2, 3):
        space = {"__name__": "__main__"}
        exec(f"f = lambda images, probabilities: [images * {factor} for _ in images]", space)
        texts.append(described(space["f"]))
    assert texts[0] == texts[1] != texts[2]


def test_where_a_network_computes_and_how_it_saves_memory_are_no_part_of_it():
    model = FeedbackUNet(3, feedback=Gate())
    assert described(model.clone(axis_name="devices", rematerialise=True)) == described(model)


def test_a_description_is_the_same_in_another_process(tmp_path):
    program = (
        "from tests.runs.test_passed import *\n"
        "print(described([FeedbackUNet(3, feedback=Gate()), made(2.0), Focal() + 0.5 * losses.SoftDice(), {'b', 'a'}]))"
    )
    root = Path(__file__).resolve().parents[2]
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            env={"PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    assert " at 0x" not in texts.pop()


def test_modules_keys_and_large_objects_of_a_closure_are_described_in_short():
    key, table = jax.random.key(3), {str(number): number for number in range(2000)}

    def drawn(images, probabilities):
        return images + jnp.exp(jax.random.normal(key)) + table["1"]

    assert len(described(drawn)) < 2100
    table["5"] = 6
    other = described(drawn)
    table["5"] = 5
    assert described(drawn) != other


def test_an_object_that_holds_itself_is_described_all_the_same():
    loop = OfAttributes(1)
    loop.gamma = loop
    assert without_code(described(loop)) == f"{HERE}:OfAttributes(gamma=..., _scale=1)"


def test_labels_are_short_and_fit_a_folder():
    assert label_of(Gate()) == "Gate"
    assert label_of(FeedbackUNet(3)) == "FeedbackUNet"
    assert label_of(FeedbackUNet(3, feedback=feedback)) == "FeedbackUNet-feedback"
    assert label_of(FeedbackUNet(3, feedback=lambda images, probabilities: images)) == "FeedbackUNet-lambda"
    assert label_of(FeedbackUNet(3, feedback=Gate())) == "FeedbackUNet-Gate"


def test_something_else_or_nothing_is_a_sentence_that_names_both():
    before = passed_with("", FeedbackUNet(3, feedback=Gate()), Focal())
    with pytest.raises(RunError, match=r"trained with loss=.*Focal#\w+\(gamma=2.0\) .* loss=.*Focal#\w+\(gamma=3.0\)"):
        before.check("loss", described(Focal(3.0)), "r")
    with pytest.raises(
        RunError, match=r"r was trained with model=.*Gate.*, and none is passed now. From Python, pass the"
    ):
        before.check("model", "", "r")
    with pytest.raises(RunError, match="trained without a custom dataset, so dataset=f0 does not belong"):
        before.check("dataset", "f0", "r")
    before.check("loss", described(Focal()), "r")


def test_a_class_of_a_script_is_the_same_when_it_is_imported():
    passed = Passed(model="__main__:Net(feedback=__main__:Gate(features=3))")
    passed.check("model", "my.networks:Net(feedback=my.networks:Gate(features=3))", "r")
    with pytest.raises(RunError):
        passed.check("model", "my.networks:Net(feedback=my.networks:Gate(features=4))", "r")
    for one, other in (
        ("one:Net()", "other:Net()"),
        # only what the script itself defines
        ("__main__:Net(feedback=one:f)", "my:Net(feedback=other:f)"),
        ("__main__:Net(mode='mean:a')", "__main__:Net(mode='max:a')"),
    ):
        with pytest.raises(RunError):
            Passed(model=one).check("model", other, "r")


def test_settings_that_do_not_apply_to_what_was_passed_are_not_recorded():
    config = load_config("drosophila", data={"root": "/data"}, training={"dice_weight": 0.5})
    assert recorded(config, NOTHING) == config

    with_data = recorded(config, Passed(dataset="f0"))
    assert (with_data.data.layout, with_data.data.root, with_data.data.cut) == ("arrays", "", 0)
    assert (with_data.data.crop, with_data.data.folds) == (config.data.crop, config.data.folds)
    assert (with_data.model, with_data.training) == (config.model, config.training)

    with_model = recorded(config, Passed(model="m"))
    assert (with_model.method, with_model.data) == ("custom", config.data)

    with_loss = recorded(config, Passed(loss="l"))
    assert (with_loss.training.class_weights, with_loss.training.dice_weight) == ("custom", 0.0)
    assert with_loss.training.round_weight == config.training.round_weight
