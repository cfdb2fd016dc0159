"""A quarter of an hour on a GPU: speed, a profile, and cells of the paper's Table 1; see ``docs/performance.md``."""
