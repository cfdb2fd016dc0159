"""What ``fbunet predict`` does when it writes OME-Zarr: its part of the chunks, those that are not there yet."""

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from tqdm import tqdm

from fbunet_jax.cli.distributed import launched
from fbunet_jax.errors import ConfigError
from fbunet_jax.inference.inputs import InputImage
from fbunet_jax.inference.output_folder import OutputFolder
from fbunet_jax.inference.predictor import Predictor, default_batch
from fbunet_jax.inference.segment_file import Settings
from fbunet_jax.inference.volumes import DEFAULT_CHUNK, Shard, Volume, describe_volumes, parts_of, record_of
from fbunet_jax.runs.interruption import raise_dropped

SHOWN_WARNINGS = 5


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
      shard: "I/N", or empty for the part of this process.
      chunk: side of the chunks in pixels, or None for the default.
      overwrite: whether earlier results are removed.
      made_with: settings that are recorded.
    """

    shard: str
    chunk: int | None
    overwrite: bool
    made_with: dict[str, Any]


def predict_chunks(
    predictor: Predictor, images: Sequence[InputImage], folder: OutputFolder, settings: Settings, request: Request
) -> int:
    """Segment this shard's chunks that are not on disk; return the exit code."""
    shard = Shard.parse(request.shard) if request.shard else own_shard()
    if request.overwrite and shard.count > 1:
        raise ConfigError(
            f"--overwrite would remove what the other shards of {folder.path} have written. Remove the folder before "
            "the first of them starts, or choose another with --out."
        )
    chunk = DEFAULT_CHUNK if request.chunk is None else request.chunk
    volumes = describe_volumes(predictor, images, folder, settings, chunk)
    made_with = {"format": "ome-zarr", "chunk": chunk, **request.made_with, "images": record_of(volumes)}
    # overlays are not written, and the number of tiles at once must not change with the machine
    del made_with["overlays"]
    made_with["batch"] = settings.batch or default_batch()
    folder.join(made_with, images, overwrite=request.overwrite)
    for volume in volumes:
        volume.create()
    again = "the same command without --overwrite" if request.overwrite else "the same command"
    _segment(volumes, shard, folder, again, told=bool(request.shard))
    return 0


def own_shard() -> Shard:
    """Return the part of this process: of JAX's distributed runtime, or of what Slurm or Open MPI has started."""
    index, count = (jax.process_index(), jax.process_count()) if jax.process_count() > 1 else launched()
    return Shard(index + 1, count)


def _segment(volumes: Sequence[Volume], shard: Shard, folder: OutputFolder, again: str, *, told: bool) -> None:
    # nothing here may look at the chunks of the other shards: of a large volume there are too many
    total = sum(volume.chunks for volume in volumes)
    mine = len(shard.part(total))
    part = f" of {total}, shard {shard.index}/{shard.count}" if shard.count > 1 else ""
    part += " by the number of this process (--shard 1/1 is all of them)" if part and not told else ""
    print(f"{_count(mine, 'chunk')}{part}; tiles of the settings in {folder.record}", flush=True)
    warnings: list[str] = []
    done = pixels = 0
    started = time.monotonic()
    layout = "{percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]"
    try:
        with tqdm(total=mine, bar_format=layout, disable=None, file=sys.stderr) as bar:
            for volume, chunks in parts_of(volumes, shard):
                with contextlib.closing(volume):
                    for chunk in chunks:
                        raise_dropped()
                        if not volume.is_written(chunk):
                            warnings += filter(None, [volume.segment(chunk)])
                            done, pixels = done + 1, pixels + chunk.pixels
                            rate = pixels / 1e6 / (time.monotonic() - started)
                            bar.set_postfix_str(f"{rate:.2f} megapixels/s", refresh=False)
                        bar.update()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{_count(done, 'chunk')} written; {again} writes the others") from None
    finally:
        for warning in warnings[:SHOWN_WARNINGS]:
            print(f"Warning: {warning}")
        if len(warnings) > SHOWN_WARNINGS:
            print(f"Warning: the same holds for {_count(len(warnings) - SHOWN_WARNINGS, 'page')} more.")
    seconds = time.monotonic() - started
    if done:
        print(
            f"{_count(done, 'chunk')}, {pixels / 1e6:.1f} megapixels in {seconds:.1f} s "
            f"({pixels / 1e6 / seconds:.2f} megapixels/s, compiling included)"
        )
    if done < mine:
        print(f"{_count(mine - done, 'chunk')} had been written before.")
    rest = f", all of shard {shard.index}/{shard.count}; the other shards write the rest" if shard.count > 1 else ""
    print(f"Written: {mine} of {_count(total, 'chunk')}{rest}")
    for volume in volumes:
        print(f"  {volume.labels.path}  {volume.classes.legend}")
        for array, names in volume.maps.values():
            print(f"  {array.path}  {', '.join(names)}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
