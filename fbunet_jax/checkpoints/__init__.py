"""The checkpoints of a fold, and the trained weights that are read back from them."""
