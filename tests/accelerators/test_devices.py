"""Names and figures of devices."""

import re
from pathlib import Path

import pytest

from fbunet_jax.accelerators.bounds import Memory, Prediction, Report, Seconds, Training
from fbunet_jax.accelerators.devices import DEVICES, gpu_description, parse_target
from fbunet_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "name", "shape", "count"),
    [
        ("v5e:4x4", "v5e", (4, 4), 16),
        ("V5E:16x16", "v5e", (16, 16), 256),
        ("v5p:2x2x1", "v5p", (2, 2, 1), 4),
        ("h100", "h100", (1, 1), 1),
        ("h100:8", "h100", (1, 8), 8),
        ("a100-40gb:2x8", "a100-40gb", (2, 8), 16),
    ],
)
def test_a_name_and_its_shape(text, name, shape, count):
    target = parse_target(text)
    assert (target.name, target.shape, target.count) == (name, shape, count)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("h1000", "Did you mean 'h100'?"),
        ("v5", "not a known device"),
        ("", "not a known device"),
        ("v5e", "with 2 sides"),
        ("v5e:4", "with 2 sides"),
        ("v4:4x4", "such as v4:2x2x1"),
        ("v5e:4xx4", "not a shape"),
        ("v5e:", "not a shape"),
        ("v5e:-1x2", "not a shape"),
        ("h100:" + "9" * 5000, "not a shape"),
        ("h100:\u0664", "not a shape"),
        ("v5e:0x4", "at least 1"),
        ("h100:1x2x3", "HOSTSxGPUS"),
        ("v5e:32x32", "the largest slice of v5e has 256"),
    ],
)
def test_what_is_no_device_says_what_was_expected(text, part):
    with pytest.raises(ConfigError) as error:
        parse_target(text)
    assert part in str(error.value)
    assert text[:40] in str(error.value)


@pytest.mark.parametrize(
    ("name", "units", "multiplications_a_clock", "gigahertz"),
    # XLA's descriptions of the matrix units, at the clock that the data sheets reckon with
    [("h100", 4 * 132, 512, 1.83), ("h200", 4 * 132, 512, 1.83), ("b200", 4 * 148, 1024, 1.85)],
)
def test_the_peak_is_that_of_all_matrix_units(name, units, multiplications_a_clock, gigahertz):
    expected = 2 * units * multiplications_a_clock * gigahertz * 1e9
    assert DEVICES[name].flops["bfloat16"] == pytest.approx(expected, rel=0.02)


def test_the_compiler_is_told_memory_and_rate_that_the_bounds_use():
    for device in DEVICES.values():
        if device.is_gpu:
            text = gpu_description(device)
            assert f"memory_bandwidth: {int(device.bandwidth)}" in text
            assert f"device_memory_size: {round(device.memory / 0.75)}" in text
            assert text.count("{") == text.count("}")


def test_the_page_has_the_figures_that_the_bounds_use():
    page = (Path(__file__).parents[2] / "docs" / "compile.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w\S+)` \| (\d.*) \|$", page, re.MULTILINE))
    assert rows == {
        name: f"{device.memory / 1e9:.1f} GB | {device.bandwidth / 1e9:,.0f} | "
        f"{device.flops['bfloat16'] / 1e12:,.0f} | {device.flops['float32'] / 1e12:,.0f} | "
        f"{device.links / 1e9:,.0f} | {device.source}"
        for name, device in DEVICES.items()
    }


def test_the_page_names_every_field_of_the_json_file():
    page = (Path(__file__).parents[2] / "docs" / "compile.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if text.startswith("{format")]
    named = set(re.findall(r"\w+", block))
    types = (Report, Training, Prediction, Memory, Seconds)
    assert named == {"format", "jax", "targets"} | {field for each in types for field in each.__annotations__}
