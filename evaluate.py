"""Evaluate a run: python evaluate.py runs/quickstart/feedback-convlstm. See python evaluate.py --help."""

import sys

from fbunet_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]], prog="evaluate.py"))
