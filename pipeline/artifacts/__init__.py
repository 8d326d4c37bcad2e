"""What runs leave on disk."""

# Raise one when its digest is made otherwise: else a file with the old one comes back from DVC's cache, for ever.
FORMATS = {"training": 1, "evaluation": 1, "labelling": 1}
