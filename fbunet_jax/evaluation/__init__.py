"""Segmentations become numbers and a report."""
