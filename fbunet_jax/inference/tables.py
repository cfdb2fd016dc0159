"""The tables of a prediction: summary.csv, and label_next.csv with the most uncertain images and regions."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from fbunet_jax.files import write_atomically
from fbunet_jax.inference.files import PageSummary
from fbunet_jax.inference.summary import Region

RANKED_REGIONS = 50


def write_summary(path: Path, pages: Sequence[PageSummary], class_names: Sequence[str]) -> None:
    """Write one line a page: area share, objects and profiles of each class, mean uncertainty.

    The objects of a stack are counted in 3D, each on the page where it begins: their sum is the number in the stack.
    """
    header = ["image", "page", "height", "width"]
    header += [f"{what} {name}" for what in ("area share", "objects", "profiles") for name in class_names]
    rows = [
        [page.image, page.page, page.height, page.width]
        + [f"{count / (page.height * page.width):.6f}" for count in page.areas.tolist()]
        + [*page.objects, *page.profiles, f"{page.dimensions}D"]
        + [_number(page.entropy), _number(page.disagreement)]
        for page in pages
    ]
    _write(path, [*header, "objects counted in", "entropy", "disagreement"], rows)


def rank_pages(pages: Sequence[PageSummary]) -> list[PageSummary]:
    """Return the pages, the most uncertain first: by disagreement of the folds, or entropy where there is one fold."""
    return sorted(
        pages, key=lambda page: page.entropy if page.disagreement is None else page.disagreement, reverse=True
    )


def rank_regions(pages: Sequence[PageSummary]) -> list[tuple[PageSummary, Region]]:
    """Return the most uncertain regions of all pages, likewise."""
    regions = [(page, region) for page in pages for region in page.regions]

    def uncertainty(each: tuple[PageSummary, Region]) -> float:
        page, region = each
        return region.entropy if page.disagreement is None else region.disagreement

    return sorted(regions, key=uncertainty, reverse=True)[:RANKED_REGIONS]


def write_label_next(path: Path, pages: Sequence[PageSummary]) -> None:
    """Write the ranking of all pages, then that of the regions."""
    rows: list[list[object]] = []
    for rank, page in enumerate(rank_pages(pages), start=1):
        values = (_number(page.entropy), _number(page.disagreement))
        rows.append(["image", rank, page.image, page.page, 0, 0, page.height, page.width, *values])
    for rank, (page, region) in enumerate(rank_regions(pages), start=1):
        values = (_number(region.entropy), _number(None if page.disagreement is None else region.disagreement))
        place = (region.top, region.left, region.height, region.width)
        rows.append(["region", rank, page.image, page.page, *place, *values])
    header = ["what", "rank", "image", "page", "top", "left", "height", "width", "entropy", "disagreement"]
    _write(path, header, rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
