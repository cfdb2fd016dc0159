"""Sets with other people's names, read as `[files]` describes them."""

import numpy as np
import pytest
import tomli_w

from fbunet_jax.check.checks import check_dataset
from fbunet_jax.config import DataConfig
from fbunet_jax.data.datasets import load_dataset
from tests.tool_sets import TOOL_SETS, scene


def described(root, tool_set):
    """Write the set and its dataset.toml, and return settings for it."""
    tool_set.write(root)
    table = {"classes": tool_set.classes, "files": tool_set.files}
    if tool_set.ignore_value is not None:
        table["ignore_value"] = tool_set.ignore_value
    (root / "dataset.toml").write_text(tomli_w.dumps(table))
    split = {"fold_scheme": "split", "folds": 1} if tool_set.split else {"folds": 3}
    alpha = {"alpha": "drop"} if tool_set.tool == "Data Science Bowl" else {}
    return DataConfig(layout="folder", root=str(root), **split, **alpha)


@pytest.mark.parametrize("name", TOOL_SETS)
def test_a_set_is_read_as_its_files_describe_it_and_has_no_fault(name, tmp_path):
    tool_set = TOOL_SETS[name]
    config = described(tmp_path, tool_set)

    dataset = load_dataset(config)

    assert dataset.names == tool_set.names
    if tool_set.split:
        assert dataset.groups == tool_set.names
    else:
        assert dataset.groups == (tool_set.groups or tool_set.names)
    assert {image.shape[-1] for image in dataset.images} == {tool_set.channels}
    assert dataset.class_names == tuple(tool_set.classes)
    # bright is object, whatever the names say
    for image, label in zip(dataset.images, dataset.labels, strict=True):
        known = label != 255
        bright = image[..., 0] > 120
        assert (bright == (label == 1))[known].mean() > 0.99
        assert {0, 1} <= set(label.ravel().tolist())
    assert check_dataset(config).faults == ()


def test_channels_are_joined_in_the_order_of_their_patterns(tmp_path):
    tool_set = TOOL_SETS["channel files"]
    config = described(tmp_path, tool_set)

    first = load_dataset(config).images[0]

    np.testing.assert_array_equal(first[..., 0], scene(0)[0])
    np.testing.assert_array_equal(first[..., 1], 255 - scene(0)[0])
