import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fbunet_jax.config import Config, DataConfig
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.errors import ConfigError, DataError
from fbunet_jax.pipeline.normalisation import Normalisation
from fbunet_jax.pipeline.store import make_store

CLASSES = {"background": 0, "cell": 1}
MASKS = ("membranes", "mitochondria", "synapses")


def folder(root, images, labels, suffix=".tif", toml=""):
    """Write a data set of the folder layout; images and labels are tables of name and array."""
    for kind, files in (("images", images), ("labels", labels)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        for name, array in files.items():
            target = root / kind / (name if "." in name else f"{name}{suffix}")
            if target.suffix == ".tif":
                photometric = "rgb" if array.ndim == 3 and array.shape[-1] == 3 else "minisblack"
                tifffile.imwrite(target, array, photometric=photometric)
            else:
                Image.fromarray(array).save(target)
    if toml:
        (root / "dataset.toml").write_text(toml, encoding="utf-8")
    return root


def load_folder(root, **settings):
    return load_dataset(DataConfig(layout="folder", root=str(root), **({"classes": CLASSES} | settings)))


def image(height=8, width=9, seed=0, dtype=np.uint16):
    return np.random.default_rng(seed).integers(0, 200, (height, width)).astype(dtype)


def label(values, height=8, width=9):
    return np.random.default_rng(1).choice(np.array(values, np.uint8), (height, width))


def test_folder_pairs_by_name_whatever_the_suffix_in_natural_order(tmp_path):
    images = {"s10.tif": image(seed=10), "s2.png": image(seed=2), "s1.ome.tif": image(seed=1)}
    labels = {"s1.png": label([0, 1]), "s2.tif": label([1, 0]), "s10.tiff": None}
    labels.pop("s10.tiff")
    folder(tmp_path, images, labels | {"s10.png": label([0])})
    (tmp_path / "images" / ".DS_Store").write_bytes(b"x")

    dataset = load_folder(tmp_path)

    assert dataset.names == dataset.groups == ("s1", "s2", "s10")
    assert dataset.class_names == ("background", "cell")
    np.testing.assert_array_equal(dataset.images[2][..., 0], images["s10.tif"])
    np.testing.assert_array_equal(dataset.labels[0], labels["s1.png"])
    assert dataset.images[0].dtype == np.uint16
    assert {each.dtype for each in dataset.labels} == {np.dtype(np.uint8)}


def test_label_values_become_indices_in_the_order_of_the_table_and_ignored_ones_255(tmp_path):
    values = label([3, 70, 200])
    folder(tmp_path, {"a": image()}, {"a": values})

    dataset = load_folder(tmp_path, classes={"cell": 70, "background": 3}, ignore_value=200)

    assert dataset.class_names == ("cell", "background")
    expected = np.select([values == 70, values == 3], [0, 1], 255)
    np.testing.assert_array_equal(dataset.labels[0], expected)


def test_the_description_may_stand_in_dataset_toml(tmp_path):
    toml = 'ignore_value = 9\ngroup_pattern = "^(m[0-9]+)_"\n[classes]\nout = 5\nin = 4\n'
    folder(
        tmp_path,
        {"m1_a": image(), "m1_b": image(), "m2_a": image()},
        dict.fromkeys(("m1_a", "m1_b", "m2_a"), label([4, 5, 9])),
        toml=toml,
    )

    dataset = load_folder(tmp_path, classes={})

    assert dataset.class_names == ("out", "in")
    assert dataset.groups == ("m1", "m1", "m2")


@pytest.mark.parametrize(("toml", "words"), [
    ("[classes]\ncell = 1\nbackground = 0\n", r"is \{background = 0, cell = 1\} in the settings and \{cell = 1"),
    ("clases = 3\n", r"unknown key 'clases'. Did you mean 'classes'"),
    ("ignore_value = 'x'\n", r"ignore_value = 'x': expected a whole number"),
    ("classes = \n", "not a valid TOML"),
])  # fmt: skip
def test_a_wrong_or_contradicting_dataset_toml_is_an_error(tmp_path, toml, words):
    folder(tmp_path, {"a": image()}, {"a": label([0, 1])}, toml=toml)

    with pytest.raises(DataError, match=words):
        load_folder(tmp_path)


def test_an_equal_description_in_both_places_is_accepted(tmp_path):
    folder(tmp_path, {"a": image()}, {"a": label([0, 1])}, toml="[classes]\nbackground = 0\ncell = 1\n")

    assert load_folder(tmp_path).class_names == ("background", "cell")


def test_pages_become_items_of_one_group(tmp_path):
    stack, labels = np.stack([image(seed=i) for i in range(3)]), np.stack([label([0, 1])] * 3)
    labels[2] = 1
    folder(tmp_path, {"a": stack, "b": stack}, {"a": labels, "b": labels})

    dataset = load_folder(tmp_path, axes="ZYX")

    assert dataset.names == ("a/z000", "a/z001", "a/z002", "b/z000", "b/z001", "b/z002")
    assert dataset.groups == ("a",) * 3 + ("b",) * 3
    np.testing.assert_array_equal(dataset.images[1][..., 0], stack[1])
    assert np.all(dataset.labels[2] == 1)


def test_sizes_may_differ_but_not_types_or_channels(tmp_path):
    labels = {"a": label([0, 1]), "b": label([0, 1], 12, 7)}
    folder(tmp_path, {"a": image(), "b": image(12, 7)}, labels)
    assert [each.shape for each in load_folder(tmp_path).images] == [(8, 9, 1), (12, 7, 1)]

    folder(tmp_path, {"b": image(12, 7, dtype=np.uint8)}, {})
    with pytest.raises(DataError, match=r"b.tif has 1 channel\(s\) of uint8, but .*a.tif has 1 channel\(s\) of uint16"):
        load_folder(tmp_path)
    folder(tmp_path, {"b": np.zeros((12, 7, 3), np.uint16)}, {})
    with pytest.raises(DataError, match=r"b.tif has 3 channel\(s\)"):
        load_folder(tmp_path)


def test_a_label_of_another_size_names_both_files(tmp_path):
    folder(tmp_path, {"a": image()}, {"a": label([0, 1], 9, 8)})

    with pytest.raises(DataError, match=r"images.a.tif has 8 x 9 pixels \(height x width\).*labels.a.tif has 9 x 8\."):
        load_folder(tmp_path)


def test_a_label_of_other_pages_is_named_with_its_pages(tmp_path):
    folder(tmp_path, {"a": np.stack([image()] * 3)}, {"a": np.stack([label([0, 1])] * 2)})

    with pytest.raises(DataError, match=r"has 3 x 8 x 9 pixels \(pages x height x width\).* has 2 x 8 x 9\."):
        load_folder(tmp_path, axes="ZYX")


def test_unknown_label_values_are_counted_over_all_files(tmp_path):
    first, second = np.zeros((8, 9), np.uint8), np.zeros((8, 9), np.uint8)
    first[0, :3], second[0, :4], second[1, 0] = 7, 7, 8
    folder(tmp_path, {"a": image(), "b": image()}, {"a": first, "b": second})

    with pytest.raises(DataError, match=r"7 \(7 pixels\), 8 \(1 pixels\)\. Add each to classes, or set ignore_value"):
        load_folder(tmp_path)


def test_a_0_255_mask_is_recognised_and_the_table_for_it_proposed(tmp_path):
    folder(tmp_path, {"a": image()}, {"a": label([0, 255])})

    with pytest.raises(DataError, match=r"0/255 masks.* Set classes = \{background = 0, \"my cell\" = 255\}"):
        load_folder(tmp_path, classes={"background": 0, "my cell": 1})


def test_a_0_255_mask_is_recognised_where_255_is_ignored(tmp_path):
    folder(tmp_path, {"a": image()}, {"a": label([0, 255])})

    with pytest.raises(DataError, match=r"0/255 masks.* Set classes = \{background = 0, cell = 255\} without ignore"):
        load_folder(tmp_path, ignore_value=255)


def test_missing_classes_are_an_error_that_shows_the_values_found(tmp_path):
    folder(tmp_path, {"a": image()}, {"a": label([0, 4])})

    with pytest.raises(DataError, match=r"holds the values 0, 4\. .*dataset.toml.*data.classes"):
        load_folder(tmp_path, classes={})


@pytest.mark.parametrize(("settings", "words"), [
    ({"classes": {"a": 0}}, "from 2 to 255 classes"),
    ({"classes": {"a": 0, "b": 0}}, "value 0 stands for more than one class"),
    ({"ignore_value": 1}, "also the value of a class"),
    ({"group_pattern": "("}, "no regular expression"),
    ({"group_pattern": "x([0-9])"}, "captures nothing in the file name 'a'"),
])  # fmt: skip
def test_impossible_descriptions_are_errors(tmp_path, settings, words):
    folder(tmp_path, {"a": image()}, {"a": label([0, 1])})

    with pytest.raises(DataError, match=words):
        load_folder(tmp_path, **settings)


def test_files_without_a_partner_and_foreign_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.root is not set"):
        load_folder("")
    with pytest.raises(DataError, match="images does not exist"):
        load_folder(tmp_path)
    folder(tmp_path, {"a": image(), "b": image()}, {"a": label([0, 1]), "c": label([0, 1])})
    with pytest.raises(DataError, match=r"no label labels/b\. .* There is 1 more fault; fbunet check lists all"):
        load_folder(tmp_path)
    folder(tmp_path, {"a.png": image()}, {})
    with pytest.raises(DataError, match=r"a\.tif and .*a\.png have the same name"):
        load_folder(tmp_path)
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "a.czi")
    with pytest.raises(DataError, match=r"a\.czi is not one of the files"):
        load_folder(tmp_path)


def test_tiles_are_cut_row_by_row_and_put_together_give_the_image(tmp_path):
    whole, values = image(8, 12), label([0, 1], 8, 12)
    folder(tmp_path, {"a": whole}, {"a": values})

    dataset = load_folder(tmp_path, cut=4)

    assert dataset.names == ("a/r0c0", "a/r0c1", "a/r0c2", "a/r1c0", "a/r1c1", "a/r1c2")
    assert set(dataset.groups) == {"a"}
    rows = [np.concatenate([tile[..., 0] for tile in dataset.images[i : i + 3]], axis=1) for i in (0, 3)]
    np.testing.assert_array_equal(np.concatenate(rows), whole)
    np.testing.assert_array_equal(dataset.labels[5], values[4:, 8:])


def test_a_cut_that_does_not_fit_names_sizes_that_do(tmp_path):
    folder(tmp_path, {"a": image(8, 12)}, {"a": label([0, 1], 8, 12)})

    with pytest.raises(DataError, match=r"data.cut = 5: image 'a' of 8 x 12 .* Tiles of 4, 2, 1 pixels fit"):
        load_folder(tmp_path, cut=5)


def test_dihedral_views_are_the_8_different_ones_and_keep_image_and_label_together(tmp_path):
    values = np.array([[0, 1, 1], [0, 0, 0]], np.uint8)
    folder(tmp_path, {"a": values * 100}, {"a": values})

    dataset = load_folder(tmp_path, views="dihedral")

    assert len(set(dataset.names)) == 8
    assert set(dataset.groups) == {"a"}
    np.testing.assert_array_equal(dataset.labels[0], values)
    assert len({(each.shape, each.tobytes()) for each in dataset.labels}) == 8
    for picture, truth in zip(dataset.images, dataset.labels, strict=True):
        np.testing.assert_array_equal(picture[..., 0], truth * 100)
    np.testing.assert_array_equal(dataset.labels[dataset.names.index("a/rot90")], [[1, 0], [1, 0], [0, 0]])
    np.testing.assert_array_equal(dataset.labels[dataset.names.index("a/rot90-flip")], [[0, 1], [0, 1], [0, 0]])


@pytest.mark.parametrize("views", [1, 8])
def test_tiles_have_the_percentiles_of_the_image_that_they_were_cut_from_or_their_own(tmp_path, views):
    # two channels that brighten row by row, so that no tile is like its image
    whole = {name: np.arange(8 * 12 * 2, dtype=np.uint16).reshape(8, 12, 2) * by for name, by in (("a", 3), ("b", 200))}
    folder(tmp_path, whole, dict.fromkeys("ab", label([0, 1], 8, 12)))
    settings = {"cut": 4, "axes": "YXC", "normalisation": "percentile", "views": "dihedral" if views == 8 else "none"}

    def affines(**more):
        dataset = load_folder(tmp_path, **settings, **more)
        store = make_store(dataset, range(len(dataset.names)), Normalisation("percentile"))
        return dataset, np.stack([store.scale, store.shift], axis=1)

    def by_hand(pixels):
        low, high = np.percentile(pixels.reshape(-1, 2), [1, 99], axis=0)
        return [1 / (high - low), -low / (high - low)]

    dataset, found = affines()
    assert len(dataset.names) == 2 * 6 * views
    np.testing.assert_allclose(found, [by_hand(whole[name[0]]) for name in dataset.names], rtol=1e-6)
    dataset, found = affines(percentiles_of="tile")
    np.testing.assert_allclose(found, [by_hand(tile) for tile in dataset.images], rtol=1e-6)


def test_the_whole_settings_are_as_good_as_their_part_data(tmp_path):
    folder(tmp_path, {"a": image()}, {"a": label([0, 1])})
    data = DataConfig(layout="folder", root=str(tmp_path), classes=CLASSES)

    first, second = load_dataset(data), load_dataset(Config(data=data))

    assert first.names == second.names == ("a",)
    np.testing.assert_array_equal(first.images, second.images)
    with pytest.raises(ConfigError, match=r"not str\. To read a folder.*from_arrays"):
        load_dataset(str(tmp_path))


def test_synthetic_images_are_groups_of_their_own_and_differ_between_seeds():
    first, again = (load_dataset(DataConfig(synthetic_images=3, synthetic_size=32)) for _ in range(2))
    other = load_dataset(DataConfig(synthetic_images=3, synthetic_size=32, synthetic_seed=1))

    assert first.names == first.groups == ("00", "01", "02")
    assert first.class_names == ("cytoplasm", "membrane", "mitochondria", "synapse")
    np.testing.assert_array_equal(first.images, again.images)
    assert len({each.tobytes() for each in first.images + other.images}) == 6


def published_stack(root, side=6):
    """Write 20 sections with the file types of the published set: 1-bit and 8-bit masks with grey edges."""
    generator = np.random.default_rng(0)
    masks = {name: generator.random((20, side, side)) < 0.3 for name in MASKS}
    for name in ("raw", "labels", *MASKS):
        (root / "stack1" / name).mkdir(parents=True)
    for i in range(20):
        tifffile.imwrite(root / "stack1" / "raw" / f"{i:02d}.tif", generator.integers(0, 255, (side, side), np.uint8))
        for name, mask in masks.items():
            eight_bit = (mask[i] * generator.integers(1, 255, (side, side))).astype(np.uint8)
            Image.fromarray(mask[i] if i % 2 else eight_bit).save(root / "stack1" / name / f"{i:02d}.png")
        truth = np.select([masks["synapses"][i], masks["mitochondria"][i], masks["membranes"][i]], [223, 191, 0], 255)
        # glia also where the mitochondria mask is set, which must win
        truth[np.isin(truth, (0, 191)) & (np.arange(side) < 3)] = 159
        Image.fromarray(truth.astype(np.uint8)).save(root / "stack1" / "labels" / f"labels{i:08d}.png")
    return masks


@pytest.mark.parametrize("inner", ["", "stack1"])
def test_drosophila_classes_come_from_the_masks_and_later_ones_win(tmp_path, inner):
    masks = published_stack(tmp_path)

    dataset = load_dataset(DataConfig(layout="drosophila-vnc", root=str(tmp_path / inner)))

    assert dataset.names == dataset.groups == tuple(f"{i:02d}" for i in range(20))
    expected = np.maximum.reduce([masks[name] * index for index, name in enumerate(MASKS, start=1)])
    np.testing.assert_array_equal(np.stack(dataset.labels), expected)


def test_drosophila_glia_can_be_cytoplasm(tmp_path):
    published_stack(tmp_path)

    membrane, cytoplasm = (
        np.stack(load_dataset(DataConfig(layout="drosophila-vnc", root=str(tmp_path), glia=glia)).labels)
        for glia in ("membrane", "cytoplasm")
    )

    left = np.arange(6) < 3
    np.testing.assert_array_equal(cytoplasm, np.where((membrane == 1) & left, 0, membrane))
    assert np.any(membrane != cytoplasm)


def test_drosophila_files_that_lack_are_named_with_what_was_published(tmp_path):
    with pytest.raises(DataError, match=r"data\.root is not set\. The published set"):
        load_dataset(DataConfig(layout="drosophila-vnc"))
    with pytest.raises(DataError, match=r"stack1 does not exist\. The published set"):
        load_dataset(DataConfig(layout="drosophila-vnc", root=str(tmp_path)))
    published_stack(tmp_path)
    (tmp_path / "stack1" / "synapses" / "07.png").unlink()
    with pytest.raises(DataError, match=r"synapses lacks 1 files, the first 07\.png\. The published set"):
        load_dataset(DataConfig(layout="drosophila-vnc", root=str(tmp_path)))


def real(name):
    root = Path(os.environ.get("FBUNET_DATA", ""), name)
    if "FBUNET_DATA" not in os.environ or not root.is_dir():
        pytest.skip(f"FBUNET_DATA does not name a folder that holds {name}/")
    return root


def test_every_real_drosophila_section_agrees_with_its_label_image_but_for_glia():
    root = real("drosophila-vnc")
    dataset = load_dataset(DataConfig(layout="drosophila-vnc", root=str(root)))
    different = 0
    for i, found in enumerate(dataset.labels):
        published = np.asarray(Image.open(root / "stack1" / "labels" / f"labels{i:08d}.png"))
        expected = np.select([published == 255, published == 191, published == 223], [0, 2, 3], 1)
        wrong = (found != expected) & (published != 159)
        assert wrong.mean() < 0.001
        different += wrong.sum()
        assert np.all(found[published == 159] == 1)
    assert different < 0.0002 * 20 * 1024**2


def test_real_drosophila_shares_and_crops_are_those_measured():
    dataset = load_dataset(DataConfig(layout="drosophila-vnc", root=str(real("drosophila-vnc")), cut=256))
    labels = np.stack(dataset.labels)

    assert labels.shape == (320, 256, 256)
    assert sum(not np.any(each == 3) for each in labels) == 165
    shares = np.bincount(labels.ravel()) / labels.size
    np.testing.assert_allclose(shares, [0.741, 0.200, 0.054, 0.0056], atol=5e-4)


def test_real_nuclei_are_50_images_of_3_classes_and_400_views():
    classes = {"background": 0, "boundary": 1, "interior": 2}
    settings = {"layout": "folder", "root": str(real("nuclei-256")), "classes": classes}

    assert len(load_dataset(DataConfig(**settings)).images) == 50
    dataset = load_dataset(DataConfig(**settings, views="dihedral"))

    assert len(dataset.images) == 400
    assert {each.shape for each in dataset.images} == {(256, 256, 1)}
    assert len(set(dataset.groups)) == 50
