"""Masks as annotation tools take them: polygons, or run lengths."""

import cv2
import numpy as np
from pycocotools import mask as rle

SCALE = 2  # contours are traced on a mask so many times as large, so that they enclose the centres of its pixels
TOLERANCE = 0.3  # pixels that a polygon may leave its contour by


def encoded(mask, form="polygons"):
    """The `segmentation` of a COCO annotation.

    Args:
        mask: [H, W] bool.
        form: `polygons`, which tools can edit and which have no holes, or `rle`, which is exact.

    Returns:
        List of polygons [x1, y1, x2, y2, ...] in image pixels, empty for a mask without a pixel; or {size, counts}.
    """
    return polygons(mask) if form == "polygons" else run_lengths(mask)


def run_lengths(mask):
    """Compressed run lengths of a mask [H, W] as JSON has them."""
    found = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def polygons(mask):
    """Outlines of the parts of a mask [H, W], rasterised by pycocotools to its pixels within `TOLERANCE`."""
    mask = np.asarray(mask, dtype=np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return []
    crop = np.repeat(np.repeat(mask[top : top + height, left : left + width], SCALE, 0), SCALE, 1)
    contours, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, TOLERANCE * SCALE, True)
        points = contour if len(points) < 3 else points
        corners = (points[:, 0].astype(float) + 0.5) / SCALE + (left, top)
        found.append([round(value, 2) for value in corners.ravel().tolist()])
    return found


def decoded(segmentation, height, width):
    """The mask [height, width] bool of a COCO annotation's `segmentation`, polygons or run lengths."""
    if isinstance(segmentation, list):
        found = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        found = rle.frPyObjects(segmentation, height, width)
    else:
        found = segmentation | {"counts": segmentation["counts"].encode()}
    return rle.decode(found).astype(bool)
