"""Parameters become segmentations of images of any size."""
