"""Colours of the classes of label maps, as figures paint them."""

import colorsys

import matplotlib
import numpy as np

from pipeline.datasets.label_maps import IGNORE, drawn

PALETTES = ("tab20", "tab20b", "tab20c")
SMALL = 18  # classes of a label set that have a colour of the first palette each
OTHER = (120, 120, 120)  # of a class without a colour of its own
STUFF_TONE, THING_TONE = (0.5, 0.97), (0.9, 0.62)  # saturation and value: things are darker than stuff of their hue
STRIPES, STRIPE = ((225, 225, 225), (165, 165, 165)), 6  # of pixels without a class: two greys, and pixels of each


def colours(names, shown):
    """The colours of some classes of a label set.

    A drawn class has the hue that it is drawn in, which its name may tell, and those of a small set the colour of their
    position. Those of a large one, which no palette tells apart, have colours by their order here: the first ones
    differ most.

    Args:
        names: of all classes of the label set.
        shown: positions of those that are to be painted, the largest first.

    Returns:
        {position: (r, g, b) of 0 to 255}; `OTHER` for those behind the last colour.
    """
    if tuple(names) == drawn.CLASSES:
        hues = [(hue, STUFF_TONE) for hue, _ in drawn.STUFF.values()]
        hues += [(sum(span) / 2, THING_TONE) for span in drawn.THINGS.values()]
        return {position: _bytes(colorsys.hsv_to_rgb(hues[position][0], *hues[position][1])) for position in shown}
    order = range(len(names)) if len(names) <= SMALL else shown
    found = dict(zip(order, _palette(), strict=False))
    return {position: found.get(position, OTHER) for position in shown}


def _palette():
    """Colours, those that differ most first; grey is left to what has no class."""
    first, *more = ([_bytes(colour) for colour in matplotlib.colormaps[name].colors] for name in PALETTES)
    every = [*first[::2], *first[1::2], *(colour for palette in more for colour in palette)]
    return [colour for colour in every if len(set(colour)) > 1]


def painted(label_map, chosen):
    """A label map as a picture.

    Args:
        label_map: uint8 [H, W]; `IGNORE` is striped grey.
        chosen: {value: (r, g, b)} of all other values in it.

    Returns:
        uint8 RGB [H, W, 3].
    """
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    for value, colour in chosen.items():
        table[value] = colour
    picture = table[label_map]
    rows, columns = np.indices(label_map.shape)
    stripes = np.array(STRIPES, np.uint8)[((rows + columns) // STRIPE) % 2]
    return np.where((label_map == IGNORE)[..., None], stripes, picture)


def _bytes(colour):
    return tuple(round(255 * part) for part in colour)
