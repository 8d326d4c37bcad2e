"""Colours of the classes of label maps: those that a user's list gives, others told apart by a rule."""

import colorsys

import matplotlib
import numpy as np

from pipeline.datasets.label_maps import IGNORE, classes, drawn
from pipeline.declaration import experiments

PALETTES = ("tab20", "tab20b", "tab20c")
SMALL = 18  # classes of a label set that have a colour of the first palette each
OTHER = (120, 120, 120)  # of a class without a colour of its own
STUFF_TONE, THING_TONE = (0.5, 0.97), (0.9, 0.62)  # saturation and value: things are darker than stuff of their hue
GOLDEN = 0.618034  # of a turn of hues, so that classes beside each other in the list differ
TONES = ((0.75, 0.95), (0.45, 0.85), (0.85, 0.6))  # saturation and value, in turn
STRIPES, STRIPE = ((225, 225, 225), (165, 165, 165)), 6  # of pixels without a class: two greys, and pixels of each


def colours(names, shown, given=()):
    """The colours of some classes of a label set.

    A drawn class has the hue that it is drawn in, which its name may tell, and those of a small set the colour of their
    position. Those of a large one, which no palette tells apart, have colours by their order here: the first ones
    differ most.

    Args:
        names: of all classes of the label set.
        shown: positions of those that are to be painted, the largest first.
        given: {name: (r, g, b)} of some classes, which take precedence.

    Returns:
        {position: (r, g, b) of 0 to 255}; `OTHER` for those behind the last colour.
    """
    own = {position: tuple(given[names[position]]) for position in shown if names[position] in given}
    return _told_apart(names, shown) | own


def _told_apart(names, shown):
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


def of_all(names, given=()):
    """Colours uint8 [K, 3], RGB, of K classes, each by its position: for pictures that are not seen beside each other.

    Args:
        names: of the classes.
        given: {name: (r, g, b)} of some of them.
    """
    found = np.zeros((len(names), 3), np.uint8)
    for position, name in enumerate(names):
        tone = TONES[position % len(TONES)]
        hue = (0.04 + position * GOLDEN) % 1
        found[position] = given[name] if name in given else _bytes(colorsys.hsv_to_rgb(hue, *tone))
    return found


def given_of(dataset):
    """{name: (r, g, b)} that a user gave the classes of a data set; empty of one that is not declared."""
    entry = experiments.load().datasets.get(dataset, {})
    return {name: classes.colour_of(each) for name, each in entry.get("colours", {}).items()}


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
