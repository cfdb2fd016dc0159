import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from fbunet_jax.figures import (
    blend_label,
    class_colours,
    colour_label,
    colour_values,
    draw_curves,
    draw_differences,
    draw_previews,
    show_image,
)

CLASSES = ["cytoplasm", "membrane", "mitochondria", "synapse"]


def read_png(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def colours_in(picture):
    """Return the RGB values that fill more than 20 pixels (so no blends at an edge)."""
    values, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(value.tolist()) for value, count in zip(values, counts, strict=True) if count > 20}


@pytest.mark.parametrize("classes", [1, 4, 8, 20])
def test_every_class_has_a_colour_of_its_own_that_is_not_the_grey_of_ignored_pixels(classes):
    colours = class_colours(classes)

    assert colours.shape == (classes, 3)
    assert colours.dtype == np.uint8
    assert len({tuple(colour) for colour in colours.tolist()} | {(128, 128, 128)}) == classes + 1


def test_up_to_8_classes_are_clearly_different():
    colours = class_colours(8).astype(float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert distances[~np.eye(8, dtype=bool)].min() > 60


def test_a_label_becomes_the_colours_of_its_classes_and_ignored_pixels_grey():
    label = np.array([[0, 1], [3, 255]])
    colours = class_colours(4)
    np.testing.assert_array_equal(
        colour_label(label, 4), [[colours[0], colours[1]], [colours[3], np.array([128, 128, 128])]]
    )
    np.testing.assert_array_equal(colour_label(label.astype(np.uint8), 4), colour_label(label, 4))


def test_previews_show_truth_and_rounds_in_the_colours_of_the_classes(tmp_path):
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 32, 32, 1)).astype(np.float32)
    labels = np.zeros((2, 32, 32), np.int32)
    labels[:, :16, 16:] = 1
    labels[:, 16:, :16] = 2
    labels[:, 24:, 24:] = 255
    rounds = np.stack([np.zeros_like(labels), np.full_like(labels, 3)])

    draw_previews(tmp_path / "new" / "p.png", images, labels, rounds, CLASSES)

    picture = read_png(tmp_path / "new" / "p.png")
    colours = [tuple(colour) for colour in class_colours(4).tolist()]
    # columns from left to right: image, truth, round 1, round 2; the legend stands below
    panels = np.array_split(picture[: int(0.85 * len(picture))], 4, axis=1)
    image, truth, first, second = (colours_in(panel) - {(255, 255, 255)} for panel in panels)
    assert all(red == green == blue for red, green, blue in image)
    assert {colours[0], colours[1], colours[2], (128, 128, 128)} <= truth
    assert colours[3] not in truth
    assert {colour for colour in first if colour in colours} == {colours[0]}
    assert {colour for colour in second if colour in colours} == {colours[3]}
    assert set(colours) <= colours_in(picture[int(0.85 * len(picture)) :])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_previews_of_a_constant_image_of_any_number_of_channels_are_drawn(tmp_path, channels):
    images = np.zeros((1, 8, 8, channels), np.float32)
    labels = np.zeros((1, 8, 8), np.int32)
    draw_previews(tmp_path / "p.png", images, labels, labels[None], CLASSES)
    assert read_png(tmp_path / "p.png").size


def records(epochs):
    train = [{"epoch": e, "loss": 2.0 / e} for e in range(1, epochs + 1)]
    validation = [
        {
            "epoch": e,
            "mean_iou": 1 - 0.5**e,
            "iou": {
                name: None if name == "synapse" and e < 3 else 1 - 0.5 ** (e / (k + 1))
                for k, name in enumerate(CLASSES)
            },
        }
        for e in range(1, epochs + 1)
    ]
    return train, validation


@pytest.mark.parametrize("epochs", [1, 12])
def test_curves_show_every_class_even_after_one_epoch(tmp_path, epochs):
    draw_curves(tmp_path / "curves.png", *records(epochs), CLASSES)

    picture = read_png(tmp_path / "curves.png")
    _, right = np.array_split(picture, 2, axis=1)
    drawn = colours_in(right)
    assert len({colour for colour in drawn if len(set(colour)) > 1}) >= len(CLASSES)


def test_curves_of_a_run_without_a_validation_yet_are_drawn(tmp_path):
    draw_curves(tmp_path / "curves.png", records(2)[0], [], CLASSES)
    assert read_png(tmp_path / "curves.png").size


def test_an_image_is_shown_in_grey_or_in_its_three_colours():
    ramp = np.linspace(-3, 7, 64).reshape(8, 8, 1)
    grey = show_image(ramp)
    assert grey.dtype == np.uint8
    assert (grey[..., 0] == grey[..., 2]).all()
    assert grey.min() == 0
    assert grey.max() == 255
    colour = show_image(np.concatenate([ramp, 0 * ramp, 0 * ramp], axis=-1))
    assert (colour[..., 0] != colour[..., 1]).any()
    assert not show_image(np.full((4, 4, 1), 9, np.uint16)).any()


def test_a_blended_label_lies_between_the_image_and_the_colour_of_its_class():
    shown = np.full((2, 2, 3), 100, np.uint8)
    label = np.array([[0, 1], [2, 255]])
    np.testing.assert_array_equal(blend_label(shown, label, 4, opacity=0.0), shown)
    np.testing.assert_array_equal(blend_label(shown, label, 4, opacity=1.0), colour_label(label, 4))
    expected = np.round((100 + class_colours(4)[1].astype(float)) / 2)
    np.testing.assert_allclose(blend_label(shown, label, 4)[0, 1], expected, atol=1)


def test_values_become_brighter_colours_as_they_grow():
    picture = colour_values(np.linspace(0, 1, 100).reshape(1, 100)).astype(int)
    brightness = picture[0].sum(axis=1)
    assert brightness[0] < brightness[50] < brightness[-1]
    assert colour_values(np.zeros((3, 3))).shape == (3, 3, 3)


def test_differences_are_drawn_with_and_without_intervals(tmp_path):
    folds = np.array([[1.0, -2.0, np.nan], [2.0, -1.0, np.nan]])
    summed = np.array([1.6, -1.5, np.nan])
    drawn = [("a", folds, summed, [(-90.0, 93.0), (-2, -1), None])]
    draw_differences(tmp_path / "c.png", ["x", "y", "z"], drawn, "unet")
    drawn = read_png(tmp_path / "c.png")
    draw_differences(tmp_path / "d.png", ["x", "y", "z"], [("a", folds[:1], summed, [None] * 3)], "unet")
    assert (0, 114, 178) in colours_in(drawn)
    assert (0, 114, 178) in colours_in(read_png(tmp_path / "d.png"))


def test_pictures_do_not_depend_on_the_style_that_a_user_has_set(tmp_path):
    train = [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}]
    validation = [{"epoch": 2, "mean_iou": 0.5, "iou": {"cell": 0.5}}]
    draw_curves(tmp_path / "plain.png", train, validation, ["cell"])
    style = {"figure.facecolor": "black", "axes.facecolor": "red", "font.size": 30, "savefig.transparent": True}
    with matplotlib.rc_context(style):
        draw_curves(tmp_path / "styled.png", train, validation, ["cell"])
        assert matplotlib.rcParams["font.size"] == 30  # which stays the user's
    plain, styled = (read_png(tmp_path / f"{name}.png") for name in ("plain", "styled"))
    np.testing.assert_array_equal(plain, styled)


@pytest.mark.parametrize("variable", ["MPLBACKEND", "MATPLOTLIBRC"])
def test_a_program_draws_where_matplotlib_refuses_the_settings_of_the_user(variable, tmp_path):
    (tmp_path / "broken").write_bytes(b"font.family: \xe4\n")
    code = "import fbunet_jax.figures as figures; print(figures.class_colours(2)[0])"
    command = [sys.executable, "-W", "error", "-c", code]
    environment = os.environ | {variable: "broken", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[240 228 216]"), done.stderr
