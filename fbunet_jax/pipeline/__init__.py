"""A data set becomes batches on the devices: stored, sampled, augmented, normalised."""
