"""Data sets of label maps, a class for every pixel: official archives, drawn scenes, and the packs that maps are in.

The value of a pixel is the position of its class in the label set; `IGNORE` is no class.
"""

IGNORE = 255  # the value of a pixel without a label
MOST_CLASSES = 255  # that bytes can tell apart, `IGNORE` left out
