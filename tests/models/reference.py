"""The paper's equations as slow loops over RoIs, cells and keys, in float64; written from the text, not from the code.

Sets are lists of (row, column). RoIs are dictionaries with 'mask' (a boolean array, or None without one), 'cam' (an
array in [0, 1]) and 'embedding' (an array [C, H, W]).
"""

import math

import numpy as np


def boundary(mask):
    """Cells whose value changes between their neighbours before and behind, along rows or along columns."""
    height, width = mask.shape
    found = []
    for y in range(height):
        for x in range(width):
            up, down = mask[max(y - 1, 0), x], mask[min(y + 1, height - 1), x]
            left, right = mask[y, max(x - 1, 0)], mask[y, min(x + 1, width - 1)]
            if up != down or left != right:
                found.append((y, x))
    return found


def partition(roi, delta):
    """Foreground and background of a RoI: its mask, or where its CAM is at least 1 - delta and at most delta."""
    if roi["mask"] is not None:
        return cells_where(roi["mask"]), cells_where(~roi["mask"])
    return cells_where(roi["cam"] >= np.float32(1 - delta)), cells_where(roi["cam"] <= np.float32(delta))


def split(roi, cells):
    """Eq. 3: hard if the squared distance to the nearest boundary location is at most 2; one set without a mask."""
    if roi["mask"] is None:
        return cells, cells
    edge = boundary(roi["mask"])
    easy, hard = [], []
    for y, x in cells:
        nearest = min(((y - v) ** 2 + (x - u) ** 2 for v, u in edge), default=math.inf)
        (hard if nearest <= 2 else easy).append((y, x))
    return easy, hard


def key_sets(roi, delta):
    """Easy positive, easy negative, hard positive, hard negative candidates."""
    foreground, background = partition(roi, delta)
    easy_positive, hard_positive = split(roi, foreground)
    easy_negative, hard_negative = split(roi, background)
    return easy_positive, easy_negative, hard_positive, hard_negative


def shared_queries(rois, delta):
    """Eq. 2: mean over RoIs of the mean embedding of their foreground, and of their background."""
    queries = []
    for side in (0, 1):
        means = []
        for roi in rois:
            cells = partition(roi, delta)[side]
            if cells:
                means.append(sum(roi["embedding"][:, y, x].astype(np.float64) for y, x in cells) / len(cells))
        queries.append(sum(means) / len(means) if means else None)
    return queries


def info_nce(query, positives, negatives, tau, form="paper"):
    """Eq. 1, averaged over positives; form 'released' as spec section 8."""
    losses = []
    for key in positives:
        own = similarity(query, key, form)
        denominator = math.exp(own / tau) if form == "paper" else math.exp(own)
        for other in negatives:
            denominator += math.exp(similarity(query, other, form) / tau)
        losses.append(-math.log(math.exp(own / tau) / denominator))
    return sum(losses) / len(losses) if losses else 0.0


def similarity(query, key, form):
    """Cosine of the query and the key (released: the key minus the query)."""
    if form == "released":
        key = key - query
    return float(np.dot(query, key) / (np.linalg.norm(query) * np.linalg.norm(key)))


def four_terms(rois, keys, queries, tau_easy, tau_hard, form="paper", pooled=False):
    """Eq. 4: RoI by RoI and averaged, or on the pooled keys of all RoIs.

    Args:
        keys: per RoI the four lists of cells that were drawn, None if the RoI takes no part.
    """
    embedded = [
        None if sets is None else [[roi["embedding"][:, y, x].astype(np.float64) for y, x in cells] for cells in sets]
        for roi, sets in zip(rois, keys, strict=True)
    ]
    embedded = [sets for sets in embedded if sets is not None]
    if pooled:
        embedded = [[sum((sets[which] for sets in embedded), []) for which in range(4)]]
    terms = []
    for query, positives, negatives, tau in (
        (0, 0, 1, tau_easy),
        (0, 2, 3, tau_hard),
        (1, 1, 0, tau_easy),
        (1, 3, 2, tau_hard),
    ):
        losses = [
            info_nce(queries[query], sets[positives], sets[negatives], tau, form)
            for sets in embedded
            if sets[positives]
        ]
        terms.append(sum(losses) / len(losses) if losses else 0.0)
    return terms


def cells_where(array):
    return [tuple(cell) for cell in np.argwhere(array)]
