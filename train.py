"""Train a fold: python train.py --fold 0. See python train.py --help, or fbunet_jax/cli/train.py."""

import sys

from fbunet_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], prog="train.py"))
