"""What a trained detector is used for: predict on pictures of one's own, give objects with boxes their masks."""
