"""Make the two data sets of docs/own_data.md that have names of their own, from a folder of nuclei.

    python docs/two_channels.py nuclei scans channels

``nuclei`` holds images/, labels/ (0 = background, 1 = boundary, 2 = interior of a nucleus) and sources.csv, as
docs/data.md describes them. ``scans`` gets image and label in one folder, under two different names. ``channels`` gets
a file for each of two channels: the nuclei, and a made-up marker around a random half of them, which is what the
labels tell apart.
"""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage


def main(nuclei: Path, scans: Path, channels: Path) -> None:
    """Write both sets."""
    scans.mkdir()
    channels.mkdir()
    rng = np.random.default_rng(0)
    with (nuclei / "sources.csv").open(encoding="utf-8") as file:
        origins = {row["file"]: row["source"] for row in csv.DictReader(file)}
    for path in sorted((nuclei / "images").glob("*.tif")):
        well, site = re.search(r"_([A-P][0-9]{2})_s([0-9])_", origins[path.stem]).groups()
        image = tifffile.imread(path)
        label = np.array(Image.open(nuclei / "labels" / f"{path.stem}.png"))
        tifffile.imwrite(scans / f"scan_{well}_raw_{site}.tif", image)
        Image.fromarray(label).save(scans / f"scan-{well}_annotation_{site}.png")
        marker, classes = marked(image, label, rng)
        tifffile.imwrite(channels / f"{well}_s{site}_DAPI.tif", image)
        tifffile.imwrite(channels / f"{well}_s{site}_GFP.tif", marker)
        Image.fromarray(classes).save(channels / f"{well}_s{site}_labels.png")


def marked(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a marker around half of the nuclei, `[H, W]` uint16, and 0 = background, 1 = without, 2 = with it."""
    nuclei, count = ndimage.label(label > 0)
    positive = np.concatenate([[False], rng.random(count) < 0.5])[nuclei]
    rim = ndimage.binary_dilation(positive, iterations=5) & ~ndimage.binary_erosion(positive, iterations=2)
    light = ndimage.gaussian_filter(rim.astype(float), 1.5) * rng.uniform(150, 400)
    marker = (200 + light + rng.normal(0, 20, image.shape)).clip(0, 65535).astype(np.uint16)
    return marker, np.where(nuclei == 0, 0, np.where(positive, 2, 1)).astype(np.uint8)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
