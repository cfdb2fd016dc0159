"""What is read from the options before they are parsed."""

import sys

import pytest

from fbunet_jax.cli.options import given_option, spelled


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ([], "default"),
        (["--out", "a", "--config", "b"], "b"),
        (["--config=b", "--out", "a"], "b"),
        (["--config", "a", "--seed", "1", "--config=b"], "b"),
        (["--config=a", "--config", "b"], "b"),
        (["--out", "a", "--config"], "default"),
    ],
)
def test_the_last_value_of_an_option_counts_as_it_does_when_all_are_parsed(options, value):
    assert given_option(options, "--config", "default") == value


def test_a_command_started_as_a_module_names_the_next_one_as_a_module(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/fbunet_jax/cli/__main__.py", "train"])
    monkeypatch.setattr(sys, "executable", "/opt/python")
    assert spelled("evaluate", "fbunet train") == "/opt/python -m fbunet_jax.cli evaluate"
