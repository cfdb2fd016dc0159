"""Images decoded a second time, by what the readers do not use for them: Pillow, imagecodecs, or by hand."""

import io
import itertools
import lzma
import struct
import warnings
import zlib

import imagecodecs
import numpy as np
from PIL import Image

_TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 18: "Q"}
_KINDS = {1: "u", 2: "i", 3: "f"}


def planes(array):
    """Return the planes `[H, W]` of an image `[pages, H, W, C]`."""
    return [array[page, ..., channel] for page in range(array.shape[0]) for channel in range(array.shape[-1])]


def equal_planes(found, expected, tolerance=0):
    """Say whether two lists of planes hold the same ones; a plane that is opaque everywhere may be left out."""
    if len(found) < len(expected):
        opaque = [p for p in expected if p.size and (p == _highest(p)).all()]
        if len(found) + len(opaque) < len(expected):
            return False
        expected = _without(expected, opaque, len(expected) - len(found))
    if len(found) != len(expected) or any(p.shape != expected[0].shape for p in (*found, *expected)):
        return False
    if tolerance:
        return all(
            np.abs(a.astype(float) - b.astype(float)).max(initial=0) <= tolerance
            for a, b in zip(found, expected, strict=True)
        )
    return sorted(map(_bytes, found)) == sorted(map(_bytes, expected))


def _without(every, opaque, count):
    """Return the planes without the last ``count`` of those that are opaque."""
    dropped = {id(p) for p in opaque[-count:]}
    return [p for p in every if id(p) not in dropped]


def _highest(plane):
    return np.iinfo(plane.dtype).max if plane.dtype.kind in "iu" else 1


def _bytes(plane):
    if plane.dtype.kind in "biu":
        return plane.astype(np.int64).astype(np.uint32).tobytes()  # Pillow reads 32 bits as signed ones
    with np.errstate(over="ignore"):
        return plane.astype(np.float32).tobytes()


def png(data, *, indices):
    """Return the planes of a PNG by Pillow; of a palette its indices, or the colours by imagecodecs.

    Labels are the stored values: transparency is nothing to them.
    """
    if indices:
        from tests.fuzz.images import png as packed
        from tests.fuzz.images import png_chunks

        data = packed([chunk for chunk in png_chunks(data) if chunk[0] != b"tRNS"])
        if data[25] == 4:
            whole = _png_by_hand(data) if data[24] == 16 else np.array(Image.open(io.BytesIO(data)))
            return planes(whole[None])[:1]
    image = Image.open(io.BytesIO(data))
    transparent = "transparency" in image.info
    depth, colour_type = data[24], data[25]
    if colour_type == 3:
        if not indices:
            image = image.convert("RGBA" if transparent else "RGB")
            return planes(np.array(image)[None].reshape(1, image.height, image.width, -1))
        # the colours of Pillow's indices are those of imagecodecs
        found = np.array(image)
        colours = np.zeros((256, 3), np.uint8)
        table = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        colours[: len(table)] = table
        second = imagecodecs.png_decode(data)[..., :3]
        assert np.array_equal(colours[found], second)
        return [found]
    if (depth == 16 and colour_type != 0) or transparent:
        return planes(_png_by_hand(data)[None])
    array = np.array(image)
    if depth < 8:
        array = array.astype(np.uint8) if depth == 1 else array // (255 // (2**depth - 1))
    return planes(array.reshape(1, *array.shape[:2], -1))


def _png_by_hand(data):
    """Return `[H, W, C]` of a PNG of 8 or 16 bits that is not interlaced."""
    from tests.fuzz.images import png_chunks

    chunks = png_chunks(data)
    width, height, depth, colour_type, *_, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if interlaced or depth < 8:
        raise NotImplementedError
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    step = channels * depth // 8
    raw = zlib.decompressobj().decompress(b"".join(content for kind, content in chunks if kind == b"IDAT"))
    before, rows = np.zeros(width * step, np.uint8), []
    for row in range(height):
        line = raw[row * (width * step + 1) : (row + 1) * (width * step + 1)]
        if len(line) != width * step + 1:
            raise ValueError("too few bytes")
        before = _unfiltered(line[0], bytearray(line[1:]), before, step)
        rows.append(before)
    array = np.stack(rows).reshape(height, width, channels, depth // 8)
    array = array[..., 0] if depth == 8 else array.view(">u2")[..., 0].astype(np.uint16)
    for kind, content in chunks:
        if kind == b"tRNS":
            key = np.frombuffer(content, ">u2")
            if len(key) != channels:
                raise ValueError("a transparent colour of another size")
            highest = 2**depth - 1
            alpha = np.where((array == key).all(axis=-1), 0, highest).astype(array.dtype)
            array = np.concatenate([array, alpha[..., None]], axis=-1)
    return array


def _unfiltered(kind, line, before, step):
    for i in range(len(line)):
        left = line[i - step] if i >= step else 0
        up, corner = int(before[i]), int(before[i - step]) if i >= step else 0
        guess = left + up - corner
        paeth = min((left, up, corner), key=lambda each, guess=guess: abs(guess - each))
        line[i] = (line[i] + (0, left, up, (left + up) // 2, paeth)[kind]) % 256
    return np.frombuffer(bytes(line), np.uint8)


def jpeg(data):
    """Return the planes of a JPEG by imagecodecs."""
    array = imagecodecs.jpeg8_decode(data)
    return planes(array.reshape(1, *array.shape[:2], -1))


def tiff(data):
    """Return the planes of a TIFF and the tolerance: by hand, or of the compressions that are missing here by Pillow.

    Raises:
      Exception: whatever says that it cannot be decoded.
    """
    try:
        found = list(_pages(data))
        pages = [_page(*page) for page in (_imagej_stack(*found[0]) if len(found) == 1 else found)]
    except NotImplementedError:
        pages, tolerance = _by_pillow(data), 2
        lossy = Image.open(io.BytesIO(data)).info.get("compression") in ("jpeg", "tiff_jpeg")
        return pages, tolerance if lossy else 0
    return list(itertools.chain.from_iterable(pages)), 0


def _by_pillow(data):
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = Image.open(io.BytesIO(data))
        for frame in range(image.n_frames):
            image.seek(frame)
            array = np.array(image)
            found += planes(array.reshape(1, *array.shape[:2], -1))
    return found


def _pages(data):
    """Yield the data, byte order and tags of every directory."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    number, offset, size, place = ("Q", "Q", 20, 8) if big else ("H", "I", 12, 4)
    seen = set()
    while (start := struct.unpack_from(order + offset, data, place)[0]) != 0:
        if start in seen or len(seen) > 1000:
            raise ValueError("a loop")
        seen.add(start)
        (count,) = struct.unpack_from(order + number, data, start)
        first = start + struct.calcsize(number)
        yield data, order, _tags(data, order, offset, [first + i * size for i in range(count)])
        place = first + count * size


def _imagej_stack(data, order, tags):
    """Return one entry a page: ImageJ writes one directory for a stack whose pages follow each other."""
    lines = bytes(tags.get(270, b"") if isinstance(tags.get(270), bytes) else b"").split(b"\n")
    described = dict(line.split(b"=", 1) for line in lines if b"=" in line)
    pages = 1
    for name in (b"frames", b"slices", b"channels"):
        pages *= int(described.get(name, 1)) if b"ImageJ" in described else 1
    if pages == 1:
        return [(data, order, tags)]
    size = tags[279][0]
    return [(data, order, {**tags, 273: (tags[273][0] + page * size,)}) for page in range(pages)]


def _tags(data, order, offset, entries):
    tags = {}
    for entry in entries:
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if kind not in _TYPES or tag in tags:
            continue
        (count,) = struct.unpack_from(order + offset, data, entry + 4)
        one = _TYPES[kind]
        size = count * struct.calcsize(order + one)
        place = entry + 4 + struct.calcsize(offset)
        if size > struct.calcsize(offset):
            (place,) = struct.unpack_from(order + offset, data, place)
        if size > len(data):
            continue
        if kind == 2:
            tags[tag] = data[place : place + count]
            continue
        tags[tag] = struct.unpack_from(f"{order}{count * len(one)}{one[0]}", data, place)
    return tags


def _page(data, order, tags):
    """Return the planes of one directory."""
    width, height, samples = tags[256][0], tags[257][0], tags.get(277, (1,))[0]
    bits, kinds = tags.get(258, (1,)), tags.get(339, (1,))
    compression, predictor = tags.get(259, (1,))[0], tags.get(317, (1,))[0]
    if len(set(bits)) > 1 or len(set(kinds)) > 1 or width * height * samples > 10**6:
        raise ValueError("samples of several kinds")
    # what is not compressed has no predictor, and PackBits knows none
    predictors = {1: range(65536), 32773: (1,)}.get(compression, (1, 2))
    if compression not in _DECODERS or predictor not in predictors or tags.get(266, (1,))[0] != 1 or 530 in tags:
        raise NotImplementedError
    tiled = 322 in tags
    across, down = (tags[322][0], tags[323][0]) if tiled else (width, min(tags.get(278, (height,))[0], height))
    places, counts = (tags[324], tags[325]) if tiled else (tags[273], tags[279])
    separate = samples > 1 and tags.get(284, (1,))[0] == 2
    inner, layers = (1, samples) if separate else (samples, 1)
    dtype = np.dtype(f"{order}{_KINDS[kinds[0]]}{bits[0] // 8}" if bits[0] >= 8 else "u1")
    page = np.zeros((layers, height, width, inner), dtype)
    grid = itertools.product(range(layers), range(0, height, down), range(0, width, across))
    for (layer, top, left), place, count in zip(grid, places, counts, strict=True):
        if place == count == 0:  # left out: 0
            continue
        raw = _DECODERS[compression](data[place : place + count])
        rows = down if tiled else min(down, height - top)
        block = _block(raw, rows, across, inner, bits[0], dtype)
        if predictor == 2 and compression != 1:  # not used for what is not compressed
            block = np.cumsum(block, axis=1, dtype=dtype)
        piece = page[layer, top : top + rows, left : left + across]
        piece[...] = block[: piece.shape[0], : piece.shape[1]]
    return [page[layer, ..., sample] for layer in range(layers) for sample in range(inner)]


def _block(raw, rows, across, inner, bits, dtype):
    if bits < 8:
        line = (across * inner * bits + 7) // 8
        lines = np.frombuffer(raw, np.uint8, rows * line).reshape(rows, line)
        values = np.unpackbits(lines, axis=1).reshape(rows, -1, bits)[:, : across * inner]
        return (values @ (2 ** np.arange(bits)[::-1])).astype(np.uint8).reshape(rows, across, inner)
    return np.frombuffer(raw, dtype, rows * across * inner).reshape(rows, across, inner)


def _packbits(raw):
    found, place = bytearray(), 0
    while place < len(raw):
        head = raw[place]
        if head < 128:
            found += raw[place + 1 : place + 2 + head]
            place += 2 + head
        else:
            found += raw[place + 1 : place + 2] * (257 - head if head > 128 else 0)
            place += 2 if head > 128 else 1
    return bytes(found)


def _lzw(raw):
    bits = "".join(f"{byte:08b}" for byte in raw)
    table, size, place, before, found = [], 9, 0, None, bytearray()
    while place + size <= len(bits):
        code = int(bits[place : place + size], 2)
        place += size
        if code == 257:
            break
        if code == 256:
            table, size, before = [bytes([i]) for i in range(256)] + [b"", b""], 9, None
            continue
        word = table[code] if code < len(table) else before + before[:1]
        found += word
        if before is not None:
            table.append(before + word[:1])
        before = word
        size = 9 if len(table) < 511 else 10 if len(table) < 1023 else 11 if len(table) < 2047 else 12
    else:
        raise ValueError("the data has no end")
    return bytes(found)


_DECODERS = {
    1: bytes,
    5: _lzw,
    8: zlib.decompress,
    32946: zlib.decompress,
    32773: _packbits,
    34925: lzma.decompress,
    50000: imagecodecs.zstd_decode,
}
