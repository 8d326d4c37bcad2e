"""Which validation images the figures of label maps show: chosen by a stated rule, from the truth alone."""

import numpy as np

from pipeline.datasets.label_maps.packs import Pack
from pipeline.declaration import subsets

MIN_AREA = 0.1  # share of an image that either group covers


def load_truth(dataset):
    """The `Pack` of the validation maps of a dataset. Raises ExperimentError if they are not there."""
    return Pack(subsets.validation(dataset).annotations)


def select(truth, groups, count):
    """Choose images: the first ones of which each group of classes covers at least `MIN_AREA`.

    Args:
        truth: `Pack` of complete maps.
        groups: positions of classes, a sequence for each group.
        count: how many.

    Returns:
        At most `count` positions in the pack, increasing.
    """
    chosen = []
    for position, image in enumerate(truth.images):
        if len(chosen) == count:
            break
        if not all(set(image["classes"]) & set(members) for members in groups):
            continue
        found = truth.read(position)
        if all(np.isin(found, members).mean() >= MIN_AREA for members in groups):
            chosen.append(position)
    return chosen


def rule(count):
    """The rule of `select` in words."""
    which = "first validation image" if count == 1 else f"first {count} validation images"
    return f"The {which} of which base and novel classes each cover at least {MIN_AREA:.0%}"
