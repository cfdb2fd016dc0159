"""Small valid TIFF, PNG and JPEG files of many kinds, and mutations that know their structure.

Every choice comes from a `random.Random`, so that a seed, hypothesis or libFuzzer can make it.
"""

import io
import struct
import zlib
from functools import cache

import numpy as np
import tifffile
from PIL import Image

EXTREMES = (0, 1, 2, 3, 7, 8, 16, 255, 256, 1000, 65535, 65536, 10**6, 10**9, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
"""Values at which sizes, offsets and counts go wrong."""

# width, height, bits, compression, photometric, strip offsets, orientation, samples, rows, strip bytes, unit,
# predictor, colour map, tiles, SubIFDs, extra samples, sample format, JPEG tables
TAGS = (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 296, 317, 320, 322, 323, 324, 325, 330)
TAGS += (338, 339, 347, 270, 50838, 50839)
COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 33003, 34712, 34887, 34892, 34925, 50000, 50001, 50002, 65000)


def noise(shape, dtype, seed=0):
    """Return random values with runs, so that every compression has something to do."""
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return np.round(generator.normal(size=shape), 1).astype(dtype)
    if np.dtype(dtype) == bool:
        return generator.random(shape) > 0.5
    limits = np.iinfo(dtype)
    values = generator.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    values[..., : shape[-1] // 2] = 3
    return values


def _tiff(shape, dtype, **options):
    buffer = io.BytesIO()
    writer = {name: options.pop(name) for name in ("bigtiff", "byteorder", "imagej", "ome") if name in options}
    with tifffile.TiffWriter(buffer, **writer) as file:
        file.write(noise(shape, dtype), **options)
    return buffer.getvalue()


@cache
def tiff_seeds():
    """Return valid TIFFs: types, compressions, strips and tiles, BigTIFF, both byte orders, pages, ImageJ, OME."""
    grey = {"photometric": "minisblack"}
    kinds = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64", "uint64")
    seeds = [_tiff((13, 17), dtype, **grey) for dtype in kinds]
    seeds += [_tiff((24, 20), "uint16", byteorder=">", **grey), _tiff((24, 20), "uint8", bigtiff=True, **grey)]
    for compression in ("lzw", "deflate", "packbits", "zstd", "lzma", "adobe_deflate"):
        seeds.append(_tiff((24, 20), "uint8", compression=compression, rowsperstrip=5, **grey))
        seeds.append(_tiff((40, 33), "uint16", compression=compression, tile=(16, 16), metadata=None, **grey))
    for predictor in (True, False):
        seeds.append(_tiff((24, 20), "uint16", compression="deflate", predictor=predictor, **grey))
        seeds.append(_tiff((24, 20), "float32", compression="deflate", predictor=predictor, **grey))
    for planar in ("contig", "separate"):
        shape = (14, 11, 3) if planar == "contig" else (3, 14, 11)
        seeds.append(_tiff(shape, "uint8", photometric="rgb", planarconfig=planar, compression="lzw"))
        seeds.append(_tiff(shape, "uint16", photometric="rgb", planarconfig=planar))
    seeds.append(_tiff((14, 11, 4), "uint8", photometric="rgb", extrasamples=["unassalpha"]))
    for dtype in ("uint8", "uint16", "float32"):
        seeds.append(_tiff((4, 9, 12), dtype, imagej=True, metadata={"axes": "ZYX"}))
        seeds.append(_tiff((2, 3, 9, 12), dtype, ome=True, metadata={"axes": "ZCYX"}, **grey))
        seeds.append(_tiff((3, 9, 12), dtype, metadata=None, compression="deflate", **grey))
    seeds.append(_tiff((2, 9, 12), "uint8", bigtiff=True, ome=True, metadata={"axes": "ZYX"}, **grey))
    seeds.append(_tiff((3, 9, 12), "uint8", metadata={"axes": "ZYX", "note": "é"}, **grey))
    seeds.append(_tiff((16, 16), "uint8", photometric="palette", colormap=noise((3, 256), "uint16")))
    seeds.append(_tiff((16, 16), "uint8", resolution=(2.5, 2.5), resolutionunit="centimeter", **grey))
    for mode, compression in (("1", "group4"), ("1", "packbits"), ("L", "jpeg"), ("RGB", "jpeg"), ("P", "tiff_lzw")):
        buffer = io.BytesIO()
        Image.fromarray(noise((24, 32), "uint8")).convert(mode).save(buffer, "TIFF", compression=compression)
        seeds.append(buffer.getvalue())
    return tuple(seeds)


@cache
def png_seeds():
    """Return valid PNGs: 1, 2, 4, 8 and 16 bits, palette, colours, alpha, a transparent colour, interlaced."""
    seeds = []
    for mode, options in (
        ("1", {}),
        ("L", {}),
        ("L", {"transparency": 3}),
        ("LA", {}),
        ("RGB", {}),
        ("RGBA", {}),
        ("P", {}),
        ("P", {"bits": 2}),
        ("P", {"transparency": b"\0\x80"}),
        ("RGB", {"transparency": (1, 2, 3), "dpi": (96, 96)}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(noise((11, 18), "uint8")).convert(mode).save(buffer, "PNG", **options)
        seeds.append(buffer.getvalue())
    buffer = io.BytesIO()
    Image.fromarray(noise((11, 18), "uint16")).save(buffer, "PNG")
    seeds.append(buffer.getvalue())
    for depth, colour_type, channels in ((2, 0, 1), (4, 0, 1), (16, 2, 3), (16, 4, 2), (16, 6, 4), (1, 0, 1)):
        width = (18 * depth * channels + 7) // 8
        rows = b"".join(b"\0" + noise((width,), "uint8", row).tobytes() for row in range(11))
        header = struct.pack(">IIBBBBB", 18, 11, depth, colour_type, 0, 0, 0)
        seeds.append(png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]))
    return tuple(seeds)


@cache
def jpeg_seeds():
    """Return valid JPEGs: grey and colour, baseline and progressive, subsampled, CMYK, with and without EXIF."""
    seeds = []
    exif = Image.Exif()
    exif[0x0112] = 1
    for mode in ("L", "RGB", "CMYK"):
        for options in ({}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"exif": exif}):
            buffer = io.BytesIO()
            Image.fromarray(noise((24, 33), "uint8")).convert(mode).save(buffer, "JPEG", **options)
            seeds.append(buffer.getvalue())
    return tuple(seeds)


def png(chunks):
    """Return a PNG of (kind, data) chunks with right checksums."""
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def png_chunks(data):
    """Return the (kind, data) chunks of a PNG."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def mutated(random, seeds, structural):
    """Return a seed after one to three mutations, structural ones or those of any bytes."""
    data = random.choice(seeds)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        change = structural if random.randrange(10) < 7 else any_bytes
        data = change(random, data, seeds)
    return data


def any_bytes(random, data, seeds):
    """Return bytes cut off, changed, doubled, or spliced with those of another seed."""
    kind = random.randrange(5)
    if not data:
        return random.choice(seeds)
    place = random.randrange(len(data))
    if kind == 0:
        return data[:place]
    if kind == 1:
        other = random.choice(seeds)
        return data[:place] + other[random.randrange(len(other)) :]
    if kind == 2:
        end = min(len(data), place + random.randrange(1, 200))
        return data[:end] + data[place:end] + data[end:]
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(len(changed))] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
    return bytes(changed)


def mutate_tiff(random, data, seeds):
    """Return a TIFF with an entry, a value or the chain of its directories changed."""
    directories = _directories(data)
    if not directories:
        return any_bytes(random, data, seeds)
    order, big, entries, after = random.choice(directories)
    changed = bytearray(data)
    offset_format = order + ("Q" if big else "I")
    value_place = 12 if big else 8
    entry = random.choice(entries)
    number = random.choice((*EXTREMES, len(data), len(data) - 1, random.randrange(2**32)))
    kind = random.randrange(8)
    if kind == 0:  # next directory: nowhere, itself, another, the middle of something
        target = random.choice((0, entries[0] - (8 if big else 2), random.randrange(len(data)), number))
        _put(changed, offset_format, after, target)
    elif kind == 1:  # type of the values
        _put(changed, order + "H", entry + 2, random.choice((*range(20), 65535)))
    elif kind == 2:  # how many there are
        _put(changed, offset_format, entry + 4, number)
    elif kind == 3:  # another tag
        _put(changed, order + "H", entry, random.choice(TAGS))
    elif kind == 4:  # entries exchanged
        other, size = random.choice(entries), 20 if big else 12
        changed[entry : entry + size], changed[other : other + size] = (
            bytes(changed[other : other + size]),
            bytes(changed[entry : entry + size]),
        )
    elif kind == 5:  # what an offset points to
        (where,) = struct.unpack_from(offset_format, changed, entry + value_place)
        _put(changed, order + "I", where, number)
    else:  # the value, or the offset of the values
        (tag,) = struct.unpack_from(order + "H", changed, entry)
        if tag == 259:
            number = random.choice(COMPRESSIONS)
        elif tag in (262, 266, 274, 284, 296, 317, 338, 339):
            number = random.randrange(9)
        elif tag in (256, 257, 277, 278, 322, 323) and random.randrange(2):
            number = random.randrange(1, 70)
        short = struct.unpack_from(order + "H", changed, entry + 2)[0] == 3
        _put(changed, order + ("H" if short else "I"), entry + value_place, number)
    return bytes(changed)


def _directories(data):
    """Return byte order, whether it is big, places of the entries and of the next offset, of each directory."""
    if data[:2] not in (b"II", b"MM") or len(data) < 16:
        return []
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    number, offset, size, place = (order + "Q", order + "Q", 20, 8) if big else (order + "H", order + "I", 12, 4)
    found = []
    while len(found) < 4:
        (start,) = struct.unpack_from(offset, data, place)
        if not 8 <= start < len(data) - 8:
            break
        (count,) = struct.unpack_from(number, data, start)
        first = start + struct.calcsize(number)
        place = first + count * size
        if not 0 < count < 200 or place + struct.calcsize(offset) > len(data):
            break
        found.append((order, big, [first + i * size for i in range(count)], place))
    return found


def _put(data, form, place, value):
    """Write a number where there is room for it, as many of its bits as fit."""
    size = struct.calcsize(form)
    if 0 <= place <= len(data) - size:
        struct.pack_into(form, data, place, value % 256**size)


def mutate_png(random, data, seeds):
    """Return a PNG with a chunk changed, moved, doubled or taken out, its checksums mended."""
    chunks = png_chunks(data)
    if not chunks or len(chunks[0][1]) != 13:
        return any_bytes(random, data, seeds)
    kind = random.randrange(7)
    place = random.randrange(len(chunks))
    if kind < 3:
        fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        field = random.randrange(7)
        if field < 2:
            fields[field] = random.choice((*EXTREMES, random.randrange(1, 40)))
        else:
            fields[field] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *fields))
    elif kind == 3:
        chunks.insert(random.randrange(len(chunks) + 1), chunks[place])
    elif kind == 4:
        del chunks[place]
    elif kind == 5:
        other = png_chunks(random.choice(seeds))
        chunks.insert(place, random.choice(other))
    else:
        name, content = chunks[place]
        if name == b"IDAT" and random.randrange(2):
            content = _recompressed(random, content)
        chunks[place] = (name, any_bytes(random, content, (b"\0",)))
    return png(chunks)


def _recompressed(random, content):
    """Return image data with other filter bytes and values, which is valid as a stream."""
    try:
        rows = zlib.decompress(content)
    except zlib.error:
        return content
    return zlib.compress(any_bytes(random, rows, (rows,)))


def mutate_jpeg(random, data, seeds):
    """Return a JPEG with a marker segment changed, moved, doubled or taken out."""
    segments, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] not in (0xDA, 0xD9):
        (length,) = struct.unpack_from(">H", data, place + 2)
        segments.append(data[place : place + 2 + length])
        place += 2 + length
    rest = data[place:]
    if not segments:
        return any_bytes(random, data, seeds)
    index, kind = random.randrange(len(segments)), random.randrange(6)
    if kind == 0:
        del segments[index]
    elif kind == 1:
        segments.insert(random.randrange(len(segments) + 1), segments[index])
    elif kind == 2:  # sizes, precision and components of the frame
        index = next((i for i, s in enumerate(segments) if s[1] in (0xC0, 0xC1, 0xC2)), index)
        changed = bytearray(segments[index])
        _put(changed, ">H", random.choice((5, 7)), random.choice((*EXTREMES, random.randrange(1, 60))))
        segments[index] = bytes(changed)
    elif kind == 3:
        changed = bytearray(segments[index])
        changed[1] = random.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xDB, 0xC4, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE))
        segments[index] = bytes(changed)
    elif kind == 4:
        rest = any_bytes(random, rest, seeds)
    else:
        segments[index] = segments[index][:4] + any_bytes(random, segments[index][4:], (b"\0",))
    return data[:2] + b"".join(segments) + rest
