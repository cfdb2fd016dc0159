"""OME-Zarr images: their metadata, and rectangles of level 0 through TensorStore."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray

from fbunet_jax.data.readers.pixels import intensities
from fbunet_jax.errors import DataError
from fbunet_jax.inference.axes import KINDS, Axis, place_of_page
from fbunet_jax.inference.zarr_chunks import ChunkFiles
from fbunet_jax.user_files import read_text, suffix

CACHED_BYTES = 2**27
"""Of decoded chunks that are kept, since neighbouring rectangles share them."""

_EXPECTED = "expected a group with the multiscales metadata of OME-Zarr 0.5 or 0.4"


def is_zarr(path: Path) -> bool:
    """Say whether a path is a folder of Zarr: by its name, or by the metadata in it."""
    names = ("zarr.json", ".zgroup", ".zarray")
    return path.is_dir() and (suffix(path) == ".zarr" or any((path / name).is_file() for name in names))


def open_zarr(path: Path) -> tuple[tuple[Axis, ...], int, Callable[[int, slice, slice], NDArray], np.dtype]:
    """Open level 0 of an OME-Zarr image.

    Args:
      path: folder of the image's group.

    Returns:
      The axes that count pages, then y and x; the number of channels; a function that gives a rectangle of a
      page, `[h, w, C]`, from the page, the rows and the columns; and the type of its values.

    Raises:
      DataError: the group is no OME-Zarr image, has other axes than t, c, z, y and x, or values of another type than
        images have; when a chunk is read: it is damaged or lost (see `ChunkFiles`), or has values that are not finite.
    """
    metadata, driver = _multiscales(path)
    axes, inner = _axes(path, metadata)
    array = _open_array(path, path / inner, driver)
    if len(axes) != array.rank:
        raise DataError(
            f"{path} names {len(axes)} axes for level {inner}, which has {array.rank}: the metadata are damaged. "
            "Export it again."
        )
    if 0 in array.shape:
        raise DataError(f"{path} has the shape {array.shape}: it holds no pixel. Export it again.")
    chunks = ChunkFiles(path, path / inner, array)
    sized = {
        axis.name: Axis(axis.name, size, axis.scale, axis.translation, axis.unit)
        for axis, size in zip(axes, array.shape, strict=True)
    }
    names = list(sized)
    counted = {name: axis for name, axis in sized.items() if name not in "cyx"}
    pages = {name: axis.size for name, axis in counted.items()}

    def read(page: int, rows: slice, columns: slice) -> NDArray:
        cuts: dict[str, Any] = {"y": rows, "x": columns, "c": slice(None), **place_of_page(page, pages)}
        index = tuple(cuts[name] for name in names)
        chunks.check(index, array.shape)
        try:
            values = np.asarray(array[index].read().result())
        except (ValueError, NotImplementedError) as error:
            raise DataError(f"{path} cannot be read: {_reason(error)}. Copy or export it again.") from error
        kept = [name for name in names if name in "cyx"]
        values = values.transpose([kept.index(name) for name in "yxc" if name in kept])
        return intensities(path, values if "c" in kept else values[..., None])

    dtype = intensities(path, np.empty(0, array.dtype.numpy_dtype)).dtype
    channels = sized["c"].size if "c" in sized else 1
    return (*counted.values(), sized["y"], sized["x"]), channels, read, dtype


def _multiscales(path: Path) -> tuple[dict[str, Any], str]:
    """Return the first multiscales entry of a group, and the TensorStore driver of its arrays."""
    third, second = path / "zarr.json", path / ".zattrs"
    file = third if third.exists() else second
    try:
        content = json.loads(read_text(file, DataError))
        attributes = content.get("attributes", {}).get("ome", {}) if file == third else content
        if "multiscales" in attributes:
            return dict(attributes["multiscales"][0]), "zarr3" if file == third else "zarr"
    except FileNotFoundError:
        raise DataError(f"{path} has no {third.name} and no {second.name}: {_EXPECTED}.{_inner(path)}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} cannot be used ({error}): {_EXPECTED}. Export it again.") from error
    raise DataError(f"{file} has no multiscales metadata: {_EXPECTED}.{_inner(path)}")


def _inner(path: Path) -> str:
    """Return a hint at an image that lies deeper, as in plates and files of several series."""
    depths = ("*", "*/*/*")
    found = [file for depth in depths for name in ("zarr.json", ".zattrs") for file in path.glob(f"{depth}/{name}")]
    images = sorted(
        file.parent for file in found if "multiscales" in file.read_text(encoding="utf-8", errors="replace")
    )
    return f" It holds images; give one, such as {images[0]}." if images else ""


def _axes(path: Path, metadata: dict[str, Any]) -> tuple[list[Axis], str]:
    """Return the axes, without their sizes, and the path of level 0 in the group."""
    try:
        names = [str(axis["name"]).lower() for axis in metadata["axes"]]
        units = [str(axis.get("unit") or "") for axis in metadata["axes"]]
        level = metadata["datasets"][0]
        inner = str(level["path"])
        scale, translation = np.ones(len(names)), np.zeros(len(names))
        for each in (*level["coordinateTransformations"], *metadata.get("coordinateTransformations", ())):
            if each["type"] == "identity":
                continue
            # the values may also lie in an array of their own, by its path, which is refused
            values = np.asarray(each.get(each["type"], np.nan), np.float64)
            if each["type"] not in ("scale", "translation") or not np.isfinite(values).all():
                raise ValueError(f"the coordinate transformation {each}")
            if each["type"] == "scale":
                scale, translation = scale * values, translation * values
            else:
                translation = translation + values
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} has multiscales metadata that cannot be used ({error}): {_EXPECTED}.") from error
    if len(set(names)) < len(names) or not {"y", "x"} <= set(names) <= set(KINDS):
        raise DataError(
            f"{path} has the axes {', '.join(names)}: expected y and x, and of t, c and z what there is. Export it "
            "with these axes."
        )
    # no other file is opened, whatever the metadata of this one say
    if not inner or Path(inner).is_absolute() or ".." in Path(inner).parts:
        raise DataError(f"{path} names {inner!r} as the place of level 0: expected a folder in it. Export it again.")
    lengths = zip(names, scale.tolist(), translation.tolist(), units, strict=True)
    return [Axis(name, 0, factor, shift, unit) for name, factor, shift, unit in lengths], inner


def _open_array(path: Path, folder: Path, driver: str) -> Any:
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(folder.resolve())}}
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHED_BYTES}})
    try:
        array = tensorstore.open(spec, read=True, open=True, context=context).result()
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be opened: {_reason(error)}. Copy or export it again.") from error
    if array.dtype.numpy_dtype.kind not in "biuf":
        raise DataError(
            f"{path} holds values of type {array.dtype.name}; expected 8, 16 or 32-bit integers or float32. Convert it."
        )
    return array


def _reason(error: Exception) -> str:
    """Return TensorStore's message without what it adds for debugging."""
    return str(error).split(" [")[0].rstrip(".")
