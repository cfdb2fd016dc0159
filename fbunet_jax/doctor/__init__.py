"""Is this machine fit for training? What it has, and what stands in the way."""
