"""``python -m fbunet_jax.cli``: the commands, where the program ``fbunet`` is not on the path."""

import sys

from fbunet_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
