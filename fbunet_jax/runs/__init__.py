"""The run directory: what lies where, locks, checkpoints, and what is read back from them."""
