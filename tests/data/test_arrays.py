"""Arrays in memory pass the checks of files, and what is wrong with them is named by their index."""

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fbunet_jax.cli import main
from fbunet_jax.config import DataConfig
from fbunet_jax.data.arrays import REMEDIES
from fbunet_jax.data.datasets import Dataset, described_classes, load_dataset, open_source
from fbunet_jax.data.faults import EXPECTED
from fbunet_jax.errors import DataError

NAMES = ("background", "cell")
COUNT = 5


def images(dtype=np.uint8):
    return [np.random.default_rng(i).integers(0, 200, (8, 9)).astype(dtype) for i in range(COUNT)]


def labels():
    return [(image > 100).astype(np.uint8) for image in images()]


def changed(items, change, index=3):
    """Return the items, one of them changed."""
    return [change(item) if place == index else item for place, item in enumerate(items)]


def every(items, change):
    return [change(item) for item in items]


def make(**arguments):
    given = {"images": images(), "labels": labels(), "class_names": NAMES} | arguments
    return Dataset.from_arrays(given.pop("images"), given.pop("labels"), **given)


def smooth(mask):
    """Return a 0/255 mask whose left edge fades."""
    grey = np.where(mask > 0, np.uint8(255), np.uint8(0))
    grey[:, 2] = np.arange(8) * 30 + 10
    return grey


def assert_equal(dataset, other):
    for name in ("names", "groups", "class_names", "label_values", "percentiles"):
        assert getattr(dataset, name) == getattr(other, name)
    for name in ("images", "labels"):
        pairs = zip(getattr(dataset, name), getattr(other, name), strict=True)
        assert all(a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64, bool])
@pytest.mark.parametrize("channels", [None, 2])
def test_arrays_give_the_data_set_that_their_files_give(tmp_path, dtype, channels):
    random = np.random.default_rng(0)
    sizes = [(8 + i, 9) if channels is None else (8 + i, 9, channels) for i in range(COUNT)]
    pictures = [random.integers(0, 2 if dtype is bool else 200, size).astype(dtype) for size in sizes]
    classes = [random.choice(np.array([0, 1, 255], np.uint8), size[:2]) for size in sizes]
    names = [f"m{i // 2}_{i}" for i in range(COUNT)]
    for kind, items in (("images", pictures), ("labels", classes)):
        (tmp_path / kind).mkdir()
        for name, item in zip(names, items, strict=True):
            tifffile.imwrite(tmp_path / kind / f"{name}.tif", item, photometric="minisblack")
    table = {"background": 0, "cell": 1}
    description = {"classes": table, "ignore_value": 255, "group_pattern": "^(m[0-9])", "axes": "YXC"}

    from_files = load_dataset(DataConfig(layout="folder", root=str(tmp_path), **description))
    groups = [name[:2] for name in names]

    assert_equal(Dataset.from_arrays(pictures, classes, class_names=NAMES, names=names, groups=groups), from_files)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_one_array_a_list_and_arrays_of_jax_are_the_same(kind):
    expected = make()

    assert_equal(make(images=kind(np.stack(images())), labels=kind(np.stack(labels()))), expected)
    assert_equal(make(images=every(images(), kind), labels=every(labels(), kind)), expected)
    with_axis = [item[..., None] for item in images()], [item[..., None] for item in labels()]
    assert_equal(make(images=kind(np.stack(with_axis[0])), labels=kind(np.stack(with_axis[1]))), expected)
    ragged = np.empty(COUNT, object)
    ragged[:] = images()
    assert_equal(make(images=ragged), expected)


def test_names_count_and_every_item_is_a_group_unless_told():
    dataset = make()

    assert dataset.names == dataset.groups == ("000", "001", "002", "003", "004")
    assert dataset.label_values == (0, 1)
    many = Dataset.from_arrays(np.zeros((1001, 1, 2), np.uint8), np.tile([0, 1], (1001, 1, 1)), class_names=NAMES)
    assert (many.names[0], many.names[-1]) == ("0000", "1000")


@pytest.mark.parametrize("words", [
    [7, 7, 10, 10, 2],
    np.array([7, 7, 10, 10, 2]),
    jnp.array([7, 7, 10, 10, 2]),
    np.array(["7", "7", "10", "10", "2"]),
    [np.int64(7), np.str_("7"), "10", jnp.int32(10), 2],
])  # fmt: skip
def test_groups_and_names_become_text(words):
    dataset = make(groups=words, names=np.arange(COUNT), class_names=np.array(NAMES))

    assert dataset.groups == ("7", "7", "10", "10", "2")
    assert dataset.names == ("0", "1", "2", "3", "4")
    assert {type(word) for word in dataset.groups + dataset.names + dataset.class_names} == {str}


def test_pixels_are_not_copied_and_the_arrays_stay_as_they_were():
    whole = np.stack(images(np.uint16))
    before = whole.copy()
    parts = images()

    dataset, other = make(images=whole), make(images=parts)

    assert all(np.shares_memory(item, whole) for item in dataset.images)
    assert all(np.shares_memory(item, part) for item, part in zip(other.images, parts, strict=True))
    assert whole.flags.writeable
    np.testing.assert_array_equal(whole, before)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int32, np.int64, np.uint64, ">i4"])
def test_labels_of_any_integer_type_become_uint8(dtype):
    assert_equal(make(labels=every(labels(), lambda label: label.astype(dtype))), make())


def test_numbers_of_another_byte_order_become_native():
    assert_equal(make(images=images(">u2")), make(images=images(np.uint16)))


DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32]


@st.composite
def data_sets(draw):
    """Draw valid images and labels, and the number of classes."""
    dtype, channels = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.sampled_from([None, 1, 2, 5]))
    classes, count = draw(st.integers(2, 255)), draw(st.integers(1, 4))
    elements = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False) if dtype.kind == "f" else None
    pictures, truths = [], []
    for place in range(count):
        size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        shape = size if channels is None else (*size, channels)
        pictures.append(draw(arrays(dtype, shape, elements=elements)))
        values = st.one_of(st.integers(0, classes - 1), st.just(255))
        truth = draw(arrays(draw(st.sampled_from([np.uint8, np.int64])), size, elements=values))
        if place == 0:  # every class must occur
            pictures[0] = np.resize(pictures[0], (16, 16, *shape[2:]))
            truth = (np.arange(256) % classes).astype(truth.dtype).reshape(16, 16)
        truths.append(truth)
    return pictures, truths, classes


@given(data_sets())
@settings(deadline=None, max_examples=60)
def test_valid_arrays_pass_unchanged(drawn):
    pictures, truths, classes = drawn

    dataset = Dataset.from_arrays(pictures, truths, class_names=[f"class {index}" for index in range(classes)])

    for given_image, given_label, image, label in zip(pictures, truths, dataset.images, dataset.labels, strict=True):
        expected = given_image if given_image.ndim == 3 else given_image[..., None]
        assert image.dtype == given_image.dtype
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(label, given_label)


FAULTS = {
    "int64 images": (
        {"images": changed(images(), lambda image: image.astype(np.int64))},
        r"^images\[3\] holds values of type int64; expected 8, 16 or 32-bit .* float32\. .*astype\(np\.uint8\)",
    ),
    "complex images": ({"images": images(complex)}, r"^images\[0\] holds values of type complex128"),
    "brain floats": (
        {"images": every(images(), lambda image: jnp.asarray(image, jnp.bfloat16))},
        r"^images\[0\] holds values of type bfloat16.*astype\(np\.float32\)",
    ),
    "NaN": (
        {"images": changed(images(np.float32), lambda image: np.where(image == image.max(), np.nan, image))},
        r"^images\[3\] has 1 of 72 values that are NaN or infinite in 32 bits\. .*np\.nan_to_num",
    ),
    "too large for 32 bits": (
        {"images": changed(images(np.float64), lambda image: image + 1e300)},
        r"^images\[3\] has 72 of 72 values that are NaN or infinite",
    ),
    "another type": (
        {"images": changed(images(), lambda image: image.astype(np.float32))},
        r"^images\[3\] has 1 channel\(s\) of float32, but images\[0\] has 1 channel\(s\) of uint8\. All images",
    ),
    "other channels": (
        {"images": changed(images(), lambda image: np.stack([image] * 3, axis=-1))},
        r"^images\[3\] has 3 channel\(s\) of uint8, but images\[0\] has 1",
    ),
    "channels first": (
        {"images": every(images(), lambda image: np.stack([image] * 3))},
        r"^images\[0\] has 3 x 8 pixels \(height x width\), but its label labels\[0\] has 8 x 9\. .*channels last",
    ),
    "another size": (
        {"labels": changed(labels(), np.transpose)},
        r"^images\[3\] has 8 x 9 pixels \(height x width\), but its label labels\[3\] has 9 x 8\. Both must agree",
    ),
    "empty image": (
        {"images": changed(images(), lambda image: image[:0])},
        r"^images\[3\] has the size 0 x 9: it holds no pixel\. Leave",
    ),
    "empty label": ({"labels": changed(labels(), lambda label: label[:, :0])}, r"^labels\[3\] has the size 8 x 0:"),
    "no channel": ({"images": np.zeros((COUNT, 8, 9, 0))}, r"^images\[0\] has the size 8 x 9 x 0:"),
    "giant": (
        {"images": changed(images(), lambda image: np.broadcast_to(np.uint8(0), (2**16, 2**16)))},
        r"^images\[3\] has the size 65536 x 65536, more than 2147483648 pixels\. Cut",
    ),
    "one axis": (
        {"images": changed(images(), np.ravel)},
        r"^images\[3\] has the shape \(72,\): expected \[H, W\] or \[H, W, C\]\.",
    ),
    "an axis too many": (
        {"labels": changed(labels(), lambda label: label[None, ..., None])},
        r"^labels\[3\] has the shape \(1, 8, 9, 1\): expected \[H, W\]\.",
    ),
    "file names": ({"images": ["a.tif"] * COUNT}, r"^images\[0\] is of type str: expected numbers.* load_dataset"),
    "None": ({"labels": changed(labels(), lambda label: None)}, r"^labels\[3\] is of type NoneType"),
    "text": ({"labels": changed(labels(), lambda label: label.astype(str))}, r"^labels\[3\] is an array of type <U"),
    "ragged lists": (
        {"images": changed(images(), lambda image: [[1], [2, 3]])},
        r"^images\[3\] cannot be made a NumPy",
    ),
    "masked": (
        {"images": changed(images(), lambda image: np.ma.masked_array(image, image > 9))},
        r"^images\[3\] is a masked array.* filled",
    ),
    "floating-point labels": (
        {"labels": changed(labels(), lambda label: label.astype(np.float32))},
        r"^labels\[3\] holds values of type float32, but a label image holds whole numbers\. .*astype\(np\.uint8\)",
    ),
    "one-hot labels": (
        {"labels": changed(labels(), lambda label: np.stack([1 - label, label], axis=-1))},
        r"^labels\[3\] has 2 channels \(colours\?\), but a label image has one.* label\.argmax\(axis=-1\)",
    ),
    "no class": (
        {"labels": changed(labels(), lambda label: label * 7)},
        r"^labels\[3\] holds values that class_names = \['background', 'cell'\] does not know: 7 \(\d+ pixels\)\. Map",
    ),
    "no class in several": (
        {"labels": every(labels(), lambda label: label.astype(int) * 2 - 1)},
        r"^labels holds values .* does not know \(5 labels: labels\[0\], .* and 1 more\): -1 \(\d+ pixels\)\.",
    ),
    "masks": (
        {"labels": every(labels(), lambda label: label * 255)},
        r"^labels holds only the values 0 and 255, and 255 is ignored\. These look like 0/255 masks.* label // 255",
    ),
    "masks and three classes": (
        {"labels": every(labels(), lambda label: label * 255), "class_names": [*NAMES, "nucleus"]},
        r"^labels holds only the values 0 and 255, and 255 is ignored",
    ),
    "smoothed masks": (
        {"labels": every(labels(), smooth)},
        r"^labels holds values .*These look like 0/255 masks.* label > 127 where the edges are smoothed",
    ),
    "a smoothed mask among others": ({"labels": changed(labels(), smooth)}, r"^labels\[3\] .*look like 0/255 masks"),
    "numbered objects": (
        {"labels": every(labels(), lambda label: np.arange(72).reshape(8, 9))},
        r"^labels holds values .*one number an object.* label > 0",
    ),
    "many ignored pixels and a stray one": (
        {"labels": changed(labels(), lambda label: np.where(np.arange(72).reshape(8, 9) < 70, label * 255, 7))},
        r"^labels\[3\] holds values .*: 7 \(2 pixels\)\. Map every value",
    ),
    "absent class": (
        {"class_names": [*NAMES, "nucleus"]},
        r"^labels holds the values \[0, 1\], so nothing could be learnt about nucleus of class_names = \['background', "
        r"'cell', 'nucleus'\]\. Take",
    ),
    "one class": ({"class_names": ["a"]}, r"^class_names = \['a'\]: expected from 2 to 255 classes\. Give"),
    "256 classes": (
        {"class_names": list(map(str, range(256)))},
        r"^class_names = \['0', '1', .*'7', … 248 more\]: expected from 2 to 255 classes",
    ),
    "equal classes": ({"class_names": ["a", "a"]}, r"^class_names = \['a', 'a'\]: 'a' is the name of more than one"),
    "nameless class": ({"class_names": ["a", " "]}, r"^the class name ' ' is empty"),
    "a number as a class": ({"class_names": ["a", 3]}, r"^class_names\[1\] is 3: expected text"),
    "a text of classes": ({"class_names": "ab"}, r"^class_names is of type str: expected a list of names"),
    "a table of classes": ({"class_names": {"a": 0, "b": 1}}, r"^class_names is of type dict"),
    "equal names": ({"names": list("abcbe")}, r"^names\[3\] is 'b', as names\[1\] is\. Give every image a name"),
    "equal as text": ({"names": [1, 2, 3, "1", 5]}, r"^names\[3\] is '1', as names\[0\] is"),
    "nameless image": ({"names": ["a", "b", "c", "", "e"]}, r"^names\[3\] is '': expected text that can be printed"),
    "a surrogate": ({"names": ["a", "b", "c", "\udcff", "e"]}, r"^names\[3\] is '\\udcff': expected text"),
    "group None": ({"groups": [1, 1, 2, None, 2]}, r"^groups\[3\] is None: expected text .* or a whole number\. Pass"),
    "group True": ({"groups": [1, 1, 2, True, 2]}, r"^groups\[3\] is True"),
    "group of a float": ({"groups": np.array([1, 1, 2, 2.5, 2])}, r"^groups\[0\] is 1\.0.* There are 4 more faults"),
    "groups of another length": ({"groups": [1, 2]}, r"^groups has 2 entries for 5 images\. Pass groups as"),
    "names of another length": ({"names": ["a"]}, r"^names has 1 entry for 5 images\. Pass names as"),
    "a text of groups": ({"groups": "aabbc"}, r"^groups is of type str: expected a list"),
    "fewer labels": ({"labels": labels()[:4]}, r"^There are 5 images, but 4 labels\. Pass one label for each image"),
    "fewer images": ({"images": images()[:1]}, r"^There is 1 image, but 5 labels\."),
    "nothing": ({"images": [], "labels": []}, r"^images and labels are empty"),
    "no item in an array": (
        {"images": np.zeros((0, 8, 9), np.uint8), "labels": np.zeros((0, 8, 9), np.uint8)},
        r"^images and labels are empty",
    ),
    "a single image": (
        {"images": images()[0], "labels": labels()[0]},
        r"^images has the shape \(8, 9\): expected \[N, H, W\] or \[N, H, W, C\].* pass images\[None\]",
    ),
    "a single label": ({"labels": labels()[0]}, r"^labels has the shape \(8, 9\): .* pass labels\[None\]"),
    "a single image in colour": (
        {"images": np.zeros((8, 9, 3), np.uint8), "labels": labels()[:1]},
        r"^There are 8 images, but 1 label\. .* a single image \[H, W, C\] is passed as images\[None\]",
    ),
    "five axes": ({"images": np.zeros((5, 1, 8, 9, 1))}, r"^images has the shape \(5, 1, 8, 9, 1\): expected"),
    "a folder": ({"images": "folder/images"}, r"^images is of type str: expected one array .* load_dataset"),
    "a table": ({"images": dict(enumerate(images()))}, r"^images is of type dict: expected one array"),
    "a number": ({"labels": 3}, r"^labels is of type int: expected one array \[N, H, W\]"),
    "masked whole": ({"labels": np.ma.masked_array(np.stack(labels()))}, r"^labels is a masked array"),
}
ABOUT_FILES = ("Fiji", "data.", "ignore_value", "classes = {", "Export", "Save", "Copy", " file ")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_the_index_of_the_array_and_says_nothing_of_files(name):
    arguments, words = FAULTS[name]

    with pytest.raises(DataError, match=words) as caught:
        make(**arguments)

    text = str(caught.value)
    assert text.endswith(".")
    assert not [word for word in ABOUT_FILES if word in text]


def test_the_first_fault_counts_the_others_and_names_three():
    broken = {1: np.int64, 2: complex, 3: np.int64, 4: complex}
    wrong = [image.astype(broken.get(place, np.uint8)) for place, image in enumerate(images())]

    with pytest.raises(DataError) as caught:
        make(images=wrong, groups=[1, 2, 3, 4, None])

    text = str(caught.value)
    assert text.startswith("groups[4] is None: expected text that can be printed, or a whole number. Pass groups")
    assert "There are 4 more faults; the first 3 of them: images[1] holds values of type int64" in text
    assert text.count("images[3] holds") == 1
    assert "images[4]" not in text
    with pytest.raises(DataError, match=r"There is 1 more fault: images\[4\] holds values of type complex128"):
        make(images=changed(changed(images(), lambda image: image.astype(np.int64)), lambda image: image * 1j, index=4))


def test_a_class_is_not_called_absent_while_labels_cannot_be_read():
    # the only label with class 1 is a float
    wrong = changed(every(labels(), np.zeros_like), lambda label: label + 1.0)

    with pytest.raises(DataError) as caught:
        make(labels=wrong)

    assert str(caught.value).startswith("labels[3] holds values of type float64")
    assert "learnt" not in str(caught.value)


def test_every_remedy_belongs_to_a_kind_of_fault():
    assert set(REMEDIES) <= set(EXPECTED)


def test_the_settings_do_not_have_the_arrays(tmp_path, monkeypatch, capsys):
    config = DataConfig(layout="arrays")

    for read in (load_dataset, open_source):
        with pytest.raises(DataError, match=r"were arrays passed from Python.* as dataset="):
            read(config)
    assert described_classes(config) == {}
    monkeypatch.chdir(tmp_path)
    for options in (["check"], ["train", "--training.batch-size", "8"]):
        assert main([*options, "--data.layout", "arrays"]) == 2
        assert "were arrays passed from Python" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_measurement_far_outside_the_others_is_kept_if_the_caller_says_so():
    size = (COUNT, 40, 40)
    floor = np.random.default_rng(0).uniform(-60, 0, size).astype(np.float32)
    floor[:, :10] = -300
    marks = (np.arange(40) % 2 * np.ones(size)).astype(np.uint8)
    with pytest.raises(DataError, match='if it is a measurement, pass no_data="keep"'):
        make(images=floor, labels=marks)
    np.testing.assert_array_equal(make(images=floor, labels=marks, no_data="keep").images[0][..., 0], floor[0])
    with pytest.raises(DataError, match="no_data = 'maybe': expected 'refuse' or 'keep'"):
        make(images=floor, labels=marks, no_data="maybe")
