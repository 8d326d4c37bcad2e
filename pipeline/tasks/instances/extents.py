"""What boxes tell of predicted masks: whether one reaches as far as its object, and whether it fills the object's box.

Both need no mask of the object, so they can be measured for categories that have boxes alone.
"""

import json
from collections import defaultdict

import numpy as np
from pycocotools import mask as coco_mask

FOUND = 0.5  # IoU of a predicted and a true box from which on an object is found


def measure(ground_truth, predictions):
    """Compare the predicted masks of found objects with the true boxes.

    An object is found by the detection of its category with the highest confidence whose box has an IoU of `FOUND` with
    its box and that found no other one, as COCO matches them. Crowds are left out.

    Args:
        ground_truth: pycocotools COCO.
        predictions: path of a JSON array of COCO result records, or a list of them.

    Returns:
        {category name: {"objects", "found", "extent", "projection"}}: two counts, the mean IoU of the mask's bounding
        box and the true box, and the share of the true box's rows and columns that the mask touches (both in percent,
        None where nothing was found). Categories without objects are left out.
    """
    if not isinstance(predictions, list):
        with open(predictions, encoding="utf-8") as file:
            predictions = json.load(file)
    detections, objects = defaultdict(list), defaultdict(list)
    for record in predictions:
        detections[record["image_id"], record["category_id"]].append(record)
    for annotation in ground_truth.dataset["annotations"]:
        if not annotation.get("iscrowd"):
            objects[annotation["image_id"], annotation["category_id"]].append(annotation["bbox"])
    counts, extents, projections = defaultdict(int), defaultdict(list), defaultdict(list)
    for (image, category), boxes in objects.items():
        name = ground_truth.cats[category]["name"]
        counts[name] += len(boxes)
        for box, mask in found(boxes, detections[image, category]):
            extents[name].append(extent(box, mask))
            projections[name].append(projection(box, mask))
    return {
        name: {
            "objects": count,
            "found": len(extents[name]),
            "extent": _percent(extents[name]),
            "projection": _percent(projections[name]),
        }
        for name, count in counts.items()
    }


def found(boxes, detections):
    """Pairs of a true box and the run-length encoded mask of the detection that found it.

    Args:
        boxes: of the objects of a category in an image, (x, y, width, height) each.
        detections: COCO result records of that category and image.
    """
    detections = sorted(detections, key=lambda record: -record["score"])
    if not detections:
        return
    boxes = np.asarray(boxes, dtype=float)
    overlaps = coco_mask.iou(
        np.asarray([record["bbox"] for record in detections], dtype=float), boxes, [0] * len(boxes)
    )
    free = np.ones(len(boxes), dtype=bool)
    for record, row in zip(detections, overlaps, strict=True):
        best = int(np.argmax(np.where(free, row, -1)))
        if free[best] and row[best] >= FOUND:
            free[best] = False
            yield boxes[best], record["segmentation"]


def extent(box, mask):
    """IoU of the bounding box of a mask and a true box; 0 for an empty mask."""
    around = np.asarray(coco_mask.toBbox(mask), dtype=float)
    return float(coco_mask.iou(around[None], np.asarray(box, dtype=float)[None], [0])[0, 0])


def projection(box, mask):
    """The share of the rows and columns of pixels in a box, whole or in part, that a mask touches inside."""
    x, y, width, height = box
    inside = coco_mask.decode(mask)[int(y) : int(np.ceil(y + height)), int(x) : int(np.ceil(x + width))] > 0
    touched = inside.any(axis=1).sum() + inside.any(axis=0).sum()
    return float(touched / max(1, sum(inside.shape)))


def _percent(values):
    return 100 * float(np.mean(values)) if values else None
