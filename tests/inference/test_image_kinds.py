"""Images of another type or number of bits than the training images are announced, once for each type."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from fbunet_jax.inference.image_kinds import KindWatch
from fbunet_jax.pipeline.normalisation import ImageKind, Normalisation, measure_kind
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.trained import read_image_kind, read_normalisation, save_inputs

BYTES = np.random.default_rng(0).integers(0, 256, (9, 9, 1), dtype=np.uint8)
WIDE = BYTES.astype(np.uint16)
STANDARDISE = Normalisation("standardise", (128.0,), (70.0,))


def watch(trained, normalisation=STANDARDISE):
    return KindWatch(SimpleNamespace(images=trained, normalisation=normalisation))


@pytest.mark.parametrize(("trained", "image"), [
    (BYTES, WIDE), (BYTES, WIDE * 257), (BYTES, BYTES.astype(np.float32)), (BYTES, BYTES / np.float32(255)),
    (WIDE * 16, WIDE * 257), (WIDE * 257, WIDE * 16), (BYTES / np.float32(255), BYTES.astype(np.float32)),
    (BYTES.astype(np.float32), BYTES / np.float32(255)),
])  # fmt: skip
def test_another_type_or_number_of_bits_is_said_once(trained, image):
    kinds = watch(measure_kind([trained]))

    word = kinds.word("a.tif", image)

    assert f"a.tif holds values of type {image.dtype} from" in word
    assert f"trained on {trained.dtype} from {trained.min():.4g} to {trained.max():.4g}" in word
    assert kinds.word("b.tif", image) == ""


@pytest.mark.parametrize(("trained", "image"), [
    (BYTES, BYTES), (BYTES, BYTES // 2), (WIDE * 64, WIDE * 200), (WIDE * 200, WIDE * 64),
    (BYTES, np.zeros_like(BYTES)), (None, WIDE),
])  # fmt: skip
def test_exposure_blank_images_and_runs_that_do_not_say_are_not(trained, image):
    assert watch(None if trained is None else measure_kind([trained])).word("a.tif", image) == ""


@pytest.mark.parametrize(("kind", "trained", "image", "said"), [
    ("percentile", BYTES, WIDE * 257, False), ("scale", BYTES, WIDE * 257, False), ("scale", BYTES, WIDE * 16, True),
    ("scale", BYTES, BYTES / np.float32(255), False), ("scale", WIDE * 16, BYTES, True),
])  # fmt: skip
def test_a_normalisation_that_makes_types_alike_needs_no_word(kind, trained, image, said):
    assert bool(watch(measure_kind([trained]), Normalisation(kind)).word("a.tif", image)) == said


def test_a_hot_pixel_says_nothing_of_the_type_in_training_or_after():
    generator = np.random.default_rng(1)
    trained, image = (generator.poisson(mean, (64, 64, 1)).astype(np.uint16) for mean in (2500, 800))
    clean = image.copy()
    image[3, 3] = 65535
    assert watch(measure_kind([trained])).word("a.tif", image) == ""
    hot = trained.copy()
    hot[5, 5] = 65535
    assert watch(measure_kind([hot])).word("a.tif", clean) == ""
    # 12 bits against 16 of the same brightness are still told apart, with a hot pixel too
    for given, known in ((hot, trained * 16), (trained * 16, hot)):
        assert "a.tif holds" in watch(measure_kind([known])).word("a.tif", given)


def test_whole_numbers_in_64_bits_are_compared_by_their_range():
    kinds = watch(measure_kind([BYTES]))
    assert kinds.word("a", BYTES.astype(np.int32), given=np.int64) == ""
    assert kinds.word("a", BYTES.astype(np.int32) * 257, given=np.int64) != ""


def test_a_run_records_what_its_training_images_were_and_older_ones_are_read(tmp_path):
    fold = Run(tmp_path).fold(0)
    fold.path.mkdir(parents=True)
    known = ImageKind("uint16", 3.0, 4095.0)
    save_inputs(fold, STANDARDISE, known)
    assert read_image_kind(fold.inputs) == known
    content = json.loads(fold.inputs.read_text())
    del content["images"]
    fold.inputs.write_text(json.dumps(content))
    assert read_image_kind(fold.inputs) is None
    assert read_normalisation(fold.inputs, 1) == STANDARDISE
