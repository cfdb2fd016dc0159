"""The check as one self-contained HTML page: findings, classes, folds, and thumbnails of images and labels."""

import base64
import io
from collections.abc import Sequence
from itertools import groupby

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fbunet_jax.check.checks import Check
from fbunet_jax.check.findings import Finding
from fbunet_jax.data.folds import PARTS, Fold, natural_key
from fbunet_jax.figures import class_colours

_LISTED = 100


def render(check: Check, title: str, facts: Sequence[tuple[str, str]]) -> str:
    """Return the page.

    Args:
      check: what was found.
      title: the data set's name.
      facts: name and value of what is shown on top, such as sizes.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fbunet_jax", "check"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    total = max(1, int(check.pixels.sum()))
    holders = np.count_nonzero([image.counts for image in check.images], axis=0) if check.images else check.pixels
    classes = [
        {
            "name": name,
            "colour": "#" + bytes(colour.tolist()).hex(),
            "share": f"{100 * count / total:.2f} %",
            "images": int(holders[index]),
        }
        for index, (name, colour, count) in enumerate(
            zip(check.classes, class_colours(max(1, len(check.classes))), check.pixels.tolist(), strict=False)
        )
    ]
    thumbnails = [(each.name, _data_uri(each.image), _data_uri(each.label)) for each in check.thumbnails]
    return environment.get_template("page.html.j2").render(
        title=title,
        facts=facts,
        faults=by_kind(check.faults),
        warnings=by_kind(check.warnings),
        listed=_LISTED,
        classes=classes,
        folds=fold_spans(check.folds),
        thumbnails=thumbnails,
        images=len(check.images),
    )


def by_kind(findings: Sequence[Finding]) -> list[tuple[str, str, list[Finding]]]:
    """Return (kind, rule, findings) for each kind."""
    ordered = sorted(findings, key=lambda each: each.kind)
    return [(kind, (members := list(each))[0].expected, members) for kind, each in groupby(ordered, lambda f: f.kind)]


def spans(names: Sequence[str], order: Sequence[str]) -> str:
    """Return names in short, neighbours in the order joined: "00, 16 … 19 (5)"."""
    place_of = {name: place for place, name in enumerate(order)}
    places = sorted(place_of[name] for name in names)
    # an index minus its rank is the same all along a run of neighbours
    runs = [[place for _, place in run] for _, run in groupby(enumerate(places), lambda pair: pair[1] - pair[0])]
    words = [
        f"{order[run[0]]} … {order[run[-1]]}" if len(run) > 2 else ", ".join(order[place] for place in run)
        for run in runs
    ]
    return f"{', '.join(words)} ({len(names)})"


def fold_spans(folds: Sequence[Fold]) -> list[dict[str, str]]:
    """Return the groups of each part of each fold, in short."""
    order = sorted({name for fold in folds for part in PARTS for name in getattr(fold, part)}, key=natural_key)
    return [{part: spans(getattr(fold, part), order) for part in PARTS} for fold in folds]


def _data_uri(picture: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
