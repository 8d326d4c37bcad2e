"""Colours of the classes of label maps: those that a user's list gives, others far apart."""

import colorsys

import numpy as np

from pipeline.datasets.label_maps import classes
from pipeline.declaration import experiments

GOLDEN = 0.618034  # of a turn of hues, so that classes beside each other in the list differ
LIGHT = ((0.75, 0.95), (0.45, 0.85), (0.85, 0.6))  # saturation and value, in turn


def class_colours(names, given=()):
    """Colours uint8 [K, 3], RGB, of K classes.

    Args:
        names: of the classes.
        given: {name: (r, g, b)} of some of them.
    """
    found = np.zeros((len(names), 3), np.uint8)
    for label, name in enumerate(names):
        saturation, value = LIGHT[label % len(LIGHT)]
        colour = [round(255 * part) for part in colorsys.hsv_to_rgb((0.04 + label * GOLDEN) % 1, saturation, value)]
        found[label] = given[name] if name in given else colour
    return found


def of_dataset(dataset, names):
    """The same for the classes of a declared data set, None for an unknown one."""
    entry = experiments.load().datasets.get(dataset, {})
    return class_colours(names, {name: classes.colour_of(each) for name, each in entry.get("colours", {}).items()})
