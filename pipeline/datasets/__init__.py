"""COCO and its generated stand-in, the base/novel split, and loaders that cannot see novel masks."""
