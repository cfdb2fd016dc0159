"""What a program needs on devices that are not here: compiled for them, counted, and never run."""
