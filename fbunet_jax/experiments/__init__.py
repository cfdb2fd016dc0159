"""Many trainings: run here, one a device, or as jobs of a cluster; and the paper's tables."""
