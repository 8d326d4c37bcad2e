"""Points and scribbles that stand for what a person would mark of an object: a pure function of its mask and box.

Nothing is drawn by chance, so every epoch and every seed sees the same marks. Coordinates are (x, y) in pixels, a
pixel's centre at its index + 0.5.
"""

import cv2
import numpy as np

DIRECTIONS = 36  # of a scribble, 5 degrees from one to the next
CORE = 0.25  # a scribble keeps this share of the pole's depth from the outline, and
CLEAR = 1.5  # pixels, so that what it touches in passing from one pixel to the next is inside, too
ROUNDING = 0.01  # pixels, by which the edge of a box may lie off a pixel's edge: box sides are sums of rounded numbers
SPACES = 32  # a line is walked in steps of at most this part of the box's longer side


def depths(region):
    """How far inside of a region its pixels lie, in pixels; what is outside of the array is outside of the region.

    Args:
        region: [h, w] bool.

    Returns:
        [h, w] float32, 0 outside.
    """
    padded = np.pad(region, 1).astype(np.uint8)
    rounded = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.sqrt(np.rint(rounded**2))  # roots of whole numbers: equal depths are equal, whatever the processor


def point(region):
    """The region's pole of inaccessibility, the first one by rows: [1, 2], or [0, 2] of an empty region."""
    if not region.any():
        return np.zeros((0, 2))
    row, column = np.unravel_index(depths(region).argmax(), region.shape)
    return np.array([[column + 0.5, row + 0.5]])


def scribble(region):
    """The longest straight stroke through the pole whose pixels lie a quarter of its depth inside the region: its ends.

    In a region that is nowhere three pixels wide it stays within the pixel of the pole.

    Args:
        region: [h, w] bool.

    Returns:
        [2, 2], or [0, 2] of an empty region.
    """
    pole = point(region)
    if not len(pole):
        return pole
    depth = depths(region)
    core = depth >= max(CLEAR, CORE * depth.max())
    core[tuple(np.floor(pole[0, ::-1]).astype(int))] = True
    half = np.arange(DIRECTIONS) * np.pi / DIRECTIONS
    ways = np.stack([np.cos(half), np.sin(half)], 1)  # [directions, 2]
    ways = np.stack([ways, -ways])  # there and back
    walked = np.arange(0, sum(region.shape) + 1, 0.5)
    places = pole + ways[:, :, None] * walked[:, None]  # [2, directions, steps, x and y]
    columns, rows = np.moveaxis(np.floor(places).astype(int), -1, 0)
    inside = (columns >= 0) & (columns < region.shape[1]) & (rows >= 0) & (rows < region.shape[0])
    inside &= core[rows.clip(0, region.shape[0] - 1), columns.clip(0, region.shape[1] - 1)]
    reach = inside.argmin(2) - 1  # the last step before the first one outside; a walk leaves the array at its end
    longest = reach.sum(0).argmax()
    return np.stack([places[way, longest, reach[way, longest]] for way in (0, 1)])


RULES = {"points": point, "scribbles": scribble}


def marks(mask, box, kind):
    """What stands for one object: a mark inside of its mask, and one outside of it within its box.

    Args:
        mask: [H, W], 0/1, of the image.
        box: x1, y1, x2, y2.
        kind: of `RULES`.

    Returns:
        Foreground and background, each [n, 2], n = 0 where there is no such pixel.
    """
    height, width = mask.shape
    left, top = (max(0, int(np.floor(low + ROUNDING))) for low in box[:2])
    right, bottom = (
        min(size, int(np.ceil(high - ROUNDING))) for size, high in zip((width, height), box[2:], strict=True)
    )
    inside = mask[top:bottom, left:right].astype(bool)
    return [RULES[kind](region) + (left, top) for region in (inside, ~inside)]


def walk(line, box):
    """Points along a line, its corners among them, no further apart than a 32nd of the box's longer side.

    Args:
        line: [n, 2].
        box: x1, y1, x2, y2.

    Returns:
        [m, 2].
    """
    if len(line) < 2:
        return line
    step = max(box[2] - box[0], box[3] - box[1], 1) / SPACES
    parts = []
    for start, end in zip(line, line[1:], strict=False):
        count = max(1, int(np.ceil(np.hypot(*(end - start)) / step)))
        parts.append(np.linspace(start, end, count, endpoint=False))
    return np.concatenate([*parts, line[-1:]])
