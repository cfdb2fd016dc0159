"""Arrays become logits."""
