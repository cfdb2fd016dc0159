"""Many trainings: one a device of this machine, or one a job of a cluster."""
