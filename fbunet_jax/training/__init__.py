"""Logits become parameters."""
