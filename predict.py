"""Segment images: python predict.py RUN IMAGE_OR_FOLDER --out FOLDER. See python predict.py --help."""

import sys

from fbunet_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]], prog="predict.py"))
