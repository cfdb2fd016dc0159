"""``fbunet predict``: images of any size become segmentations."""

import errno
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tqdm import tqdm

from fbunet_jax.cli.distributed import launched
from fbunet_jax.errors import ConfigError, DataError, DeviceError
from fbunet_jax.runs.interruption import raise_dropped, raise_on_signals
from fbunet_jax.user_files import expand, real

if TYPE_CHECKING:
    from fbunet_jax.data.faults import Fault
    from fbunet_jax.inference.inputs import InputImage
    from fbunet_jax.inference.label_values import ClassValues
    from fbunet_jax.inference.measurements import PageSummary
    from fbunet_jax.inference.output_folder import OutputFolder
    from fbunet_jax.inference.predictor import Predictor
    from fbunet_jax.inference.segment_file import Settings

SHOWN = 5
"""How many of a ranking are printed; the files hold more."""


@dataclass(frozen=True)
class Arguments:
    """Segment images of any size with a trained run: labels, overlays, and a table of areas and uncertainty."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, such as runs/quickstart/feedback-convlstm."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Images (TIFF, PNG, JPEG, OME-Zarr; one or many pages), or folders of images. Channels in several files are joined
    where the run's were."""
    out: str
    """Folder for the results; created."""
    fold: int | None = None
    """Use one fold instead of the average of all that are trained."""
    tile: int | None = None
    """Side of the tiles in pixels; 512 if not given."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share; 192 if not given, at most half of the tile."""
    batch: int | None = None
    """Tiles at once; 1 on a CPU and 8 elsewhere if not given."""
    tta: bool = False
    """Average over the 8 rotations and mirror images of each tile (test-time augmentation); takes 8 times as long."""
    offsets: bool = False
    """Add the offsets of each fold's classes to its logits, which evaluate --offsets has fitted on its validation
    part."""
    offsets_from: str = ""
    """Folder of the results of evaluate that holds the offsets, where the run could not be written."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Type of the convolutions; as trained if not given."""
    axes: str = ""
    """Order of the axes of TIFFs that do not say it themselves, such as ZYX or YXC."""
    probabilities: bool = False
    """Also write the class probabilities, as 16-bit floating-point TIFFs."""
    uncertainty: bool = False
    """Also write maps of the uncertainty, as 32-bit floating-point TIFFs."""
    overlays: bool = True
    """Write a picture of each image with its segmentation."""
    format: Literal["tiff", "ome-zarr"] | None = None
    """Files of the results; OME-Zarr is written chunk by chunk, without overlays and tables, and the same command goes
    on after an interruption. If not given, ome-zarr where an image is one, and tiff otherwise."""
    chunk: int | None = None
    """Side of the chunks of OME-Zarr in pixels; 1024 if not given."""
    shard: str = ""
    """Compute one part of the chunks of OME-Zarr, such as 1/4 for the first of four processes; by default all of them,
    or this process's part where srun or Open MPI has started several; 1/1 for all of them there too."""
    labels: Literal["values", "indices"] = "values"
    """What the label files hold: the values that the classes have in the label files of the data set, so that a
    corrected file can be used as a label again, or class indices from 0 on."""
    overwrite: bool = False
    """Replace results that --out holds already."""
    debug: bool = False
    """Show the traceback of an error."""


def command(options: Sequence[str], prog: str) -> int:
    """Segment images; 2 if some could not be, after the others are done."""
    arguments = tyro.cli(Arguments, args=options, prog=prog)
    if not arguments.images:
        raise DataError("No image is given. Give images, or folders of images, after the run directory.")
    # as Ctrl-C does, so that unfinished files are removed, see cli/train.py
    raise_on_signals()
    from fbunet_jax.data.readers.tiff import check_axes
    from fbunet_jax.inference.file_names import naming_of
    from fbunet_jax.inference.inputs import find_images
    from fbunet_jax.inference.label_values import known_label_values
    from fbunet_jax.inference.loading import load
    from fbunet_jax.inference.output_folder import OutputFolder
    from fbunet_jax.inference.predictor import Tiles
    from fbunet_jax.inference.segment_file import Settings
    from fbunet_jax.inference.zarr_input import is_zarr
    from fbunet_jax.runs.directory import Run

    check_axes(arguments.axes)
    run = Run(Path(arguments.run))
    found = find_images([expand(image) for image in arguments.images], naming_of(run))
    images, files = found.images, [file for image in found.images for file in image.files]
    chunked = arguments.format == "ome-zarr" or (not arguments.format and any(map(is_zarr, files)))
    if not chunked:
        check_alone(arguments.shard, arguments.chunk)
    if found.faults and (chunked or not images):
        raise DataError(_sentences(found.faults))
    offsets = arguments.offsets_from or arguments.offsets
    predictor = load(run.path, fold=arguments.fold, precision=arguments.precision, offsets=offsets)
    raise_dropped()  # a signal while checkpoints were read
    label_values, unknown = known_label_values(run)
    data = run.read_config().data
    names = Settings.__dataclass_fields__.keys() - {"label_values", "alpha", "no_data"}
    given = {name: getattr(arguments, name) for name in names}
    settings = Settings(**given, label_values=label_values, alpha=data.alpha, no_data=data.no_data)
    tiling = predictor.tiling(Tiles(settings.tile, settings.overlap, settings.batch))
    folder = OutputFolder(expand(arguments.out))
    made_with = {"run": str(real(run.path)), **_made_with(predictor, settings)}
    made_with |= {"tile": tiling.tile, "overlap": tiling.overlap, "precision": arguments.precision}
    if unknown and arguments.labels == "values":
        print(f"Warning: {unknown}")
    for sentence in found.passed_over:
        print(sentence[0].upper() + sentence[1:])
    if chunked:
        from fbunet_jax.cli.predict_chunks import Request, predict_chunks

        made_with["weights"] = {str(fold.fold): fold.fingerprint() for fold in predictor.folds}
        request = Request(arguments.shard, arguments.chunk, arguments.overwrite, made_with)
        return predict_chunks(predictor, images, folder, settings, request)
    made_with |= {"format": "tiff"}
    folder.begin(made_with, images, overwrite=arguments.overwrite)
    folds = f"{_plural('fold', len(predictor.folds))} {', '.join(str(fold.fold) for fold in predictor.folds)}"
    with_offsets = " with offsets" if predictor.offsets else ""
    print(
        f"{len(images)} {_plural('image', len(images))}; {folds} of {run.path}{with_offsets}; "
        f"tiles of {tiling.tile} pixels, overlapping by {tiling.overlap}",
        flush=True,
    )
    return _segment(predictor, images, folder, settings, found.faults)


def _made_with(predictor: "Predictor", settings: "Settings") -> dict[str, Any]:
    """Return what decides the bytes of the results, however it was found."""
    steps = {str(fold.fold): fold.step for fold in predictor.folds}
    made_with: dict[str, Any] = {"checkpoints": steps, "offsets": predictor.offsets}
    made_with |= {"class_names": predictor.class_names, **asdict(settings)}
    made_with["classes"] = settings.classes(predictor.class_names).written
    del made_with["labels"], made_with["label_values"]
    for name in ("alpha", "no_data"):
        if made_with[name] == "refuse":  # what earlier versions did, who did not say so
            del made_with[name]
    return made_with


def check_alone(shard: str, chunk: int | None) -> None:
    """Check the options where TIFFs are written, by one process.

    Raises:
      ConfigError: an option belongs to OME-Zarr, or a launcher has started several processes of this command.
    """
    if shard not in ("", "1/1") or chunk is not None:
        raise ConfigError("--shard and --chunk belong to OME-Zarr: add --format ome-zarr, or leave them out.")
    if not shard and (count := launched()[1]) > 1:
        raise ConfigError(
            f"Slurm or Open MPI has started {count} processes of this command, but TIFFs are written by one. Add "
            "--format ome-zarr, whose chunks they divide, or --shard 1/1 if each has images and a folder of its own."
        )


def _segment(
    predictor: "Predictor",
    images: Sequence["InputImage"],
    folder: "OutputFolder",
    settings: "Settings",
    lacking: Sequence["Fault"] = (),
) -> int:
    """Segment the images; those that lack a channel are reported with those that cannot be segmented."""
    from fbunet_jax.inference.measurements import write_label_next, write_summary

    pages: list[PageSummary] = []
    faults = [str(fault) for fault in lacking]
    started = time.monotonic()
    try:
        _segment_images(predictor, images, folder, settings, (pages, faults))
    finally:  # also when interrupted, or when the disk is full
        if pages:
            write_summary(folder.summary, pages, predictor.class_names)
            write_label_next(folder.label_next, pages)
    seconds = time.monotonic() - started
    if pages:
        _report(pages, folder, settings, settings.classes(predictor.class_names), seconds)
    if faults:
        names = "\n".join(f"  {fault}" for fault in faults)
        count = len(images) + len(lacking)
        what = "image" if lacking or any(len(image.files) > 1 for image in images) else "file"
        print(
            f"Error: {len(faults)} of {count} {_plural(what, count)} could not be segmented:\n{names}",
            file=sys.stderr,
        )
        return 2
    return 0


def _segment_images(
    predictor: "Predictor",
    images: Sequence["InputImage"],
    folder: "OutputFolder",
    settings: "Settings",
    found: tuple[list["PageSummary"], list[str]],
) -> None:
    """Add every page that is segmented, and a sentence for every image that cannot be, to what is found."""
    from fbunet_jax.inference.segment_file import segment_file

    pages, faults = found
    started = time.monotonic()
    # one unit an image, so that the end is known before every file has been opened
    layout = "{percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=len(images), bar_format=layout, disable=None, file=sys.stderr) as bar:
        pixels = 0

        def done(count: int, share: float) -> None:
            nonlocal pixels
            raise_dropped()
            pixels += count
            bar.set_postfix_str(f"{pixels / 1e6 / (time.monotonic() - started):.2f} megapixels/s", refresh=False)
            bar.update(share)

        for number, image in enumerate(images, start=1):
            file = image.path
            try:
                pages += segment_file(predictor, image, folder, settings, done)
            except DataError as error:
                faults.append(str(error))
            except DeviceError as error:  # every other file may fail as well
                raise DeviceError(f"{file} could not be segmented. {error}", error.kind) from error
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):  # every other file would fail as well
                    raise
                where = f" {error.filename}:" if error.filename and str(error.filename) != str(file) else ""
                faults.append(f"{file} could not be segmented:{where} {error.strerror or error}.")
            bar.n = number
            bar.refresh()


def _report(
    pages: Sequence["PageSummary"],
    folder: "OutputFolder",
    settings: "Settings",
    classes: "ClassValues",
    seconds: float,
) -> None:
    from fbunet_jax.inference.measurements import rank_pages, rank_regions

    area = sum(page.height * page.width for page in pages) / 1e6
    count = f"{len(pages)} {_plural('page', len(pages))}, {area:.1f} megapixels"
    print(f"{count} in {seconds:.1f} s ({area / seconds:.2f} megapixels/s, compiling included)")
    for page in pages:
        if page.warning:
            print(f"Warning: {page.warning}")
    several = pages[0].disagreement is not None
    by = "disagreement of the folds" if several else "entropy of the class probabilities"
    print(f"Label these next (mean {by}, from 0 to 1):")
    for page in rank_pages(pages)[:SHOWN] if len(pages) > 1 else []:
        value = page.entropy if page.disagreement is None else page.disagreement
        print(f"  {value:.3g}  {_place(page, pages)}")
    for page, region in rank_regions(pages)[:SHOWN]:
        value = region.disagreement if several else region.entropy
        place = f"rows {region.top} to {region.top + region.height - 1}, "
        place += f"columns {region.left} to {region.left + region.width - 1}"
        print(f"  {value:.3g}  {_place(page, pages)}, {place}")
    print("Written:")
    print(f"  {folder.path / 'labels'}  {classes.legend}")
    for wanted, name, what in (
        (settings.probabilities, "probabilities", "one plane a class, from 0 to 1"),
        (settings.uncertainty, "uncertainty", "entropy" + (", disagreement of the folds" if several else "")),
        (settings.overlays, "overlays", "pictures to look at"),
    ):
        if wanted:
            print(f"  {folder.path / name}  {what}")
    print(f"  {folder.summary}  areas, objects, uncertainty")
    print(f"  {folder.label_next}  what to label next")


def _place(page: "PageSummary", pages: Sequence["PageSummary"]) -> str:
    several = any(other.page for other in pages if other.image == page.image)
    return f"{page.image}, page {page.page}" if several else page.image


def _sentences(faults: Sequence["Fault"]) -> str:
    """Return the first faults, and how many more there are."""
    more = f" The same holds for {len(faults) - SHOWN} more." if len(faults) > SHOWN else ""
    return " ".join(str(fault) for fault in faults[:SHOWN]) + more


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
