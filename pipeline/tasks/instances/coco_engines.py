"""Match detections with the ground truth: hotcoco, and pycocotools as the reference that it must equal.

Matching looks at one category at a time, so one pass over all categories holds what every group of them needs. The
engine is a setting of the machine, CONTRASTMASK_EVAL_ENGINE: the numbers are the same to 1e-9 (tests/evaluation).
"""

import contextlib
import importlib.util
import io
import json
import logging
import math
import os
import shlex
import sys
from collections import Counter
from dataclasses import dataclass, field
from os import PathLike

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.datasets.annotations import stream
from pipeline.errors import ExperimentError

logger = logging.getLogger("pipeline.tasks.instances.coco_engines")

IOU_TYPES = ("segm", "bbox")
ENGINES = ("hotcoco", "pycocotools")
VARIABLE = "CONTRASTMASK_EVAL_ENGINE"
SCORED = {
    "images": ("id", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"),
}
ID_LIMIT = 1 << 53  # ids from here on are numbered anew
AREAS_AT_ONCE = 2000  # detections whose masks are Python objects at the same time


@dataclass(frozen=True)
class Matches:
    """What COCOeval.accumulate leaves, fractions, -1 where there is no ground truth.

    Attributes:
        precision: [IoU threshold, recall threshold, category, area range, limit of detections].
        recall: [IoU threshold, category, area range, limit of detections].
    """

    precision: np.ndarray
    recall: np.ndarray


@dataclass(frozen=True)
class Matched:
    """A validation set matched with one list of detections.

    Attributes:
        categories: {category id: name} of the ground truth in ascending order of ids, as the arrays have them.
        by_type: {iou type: Matches}.
        undefined: {category id: why its mask AP cannot be computed}; such a category counts as one without ground
            truth where masks are matched.
    """

    categories: dict
    by_type: dict
    undefined: dict = field(default_factory=dict)


def chosen_engine():
    """Name of the engine: CONTRASTMASK_EVAL_ENGINE, or else hotcoco where it is installed.

    Raises:
        ExperimentError: the variable names no engine, or one that is not installed.
    """
    wanted = os.environ.get(VARIABLE)
    installed = importlib.util.find_spec("hotcoco") is not None
    if wanted and wanted not in ENGINES:
        raise ExperimentError(f"{VARIABLE}={wanted!r}: no such engine; valid: {', '.join(ENGINES)}")
    if wanted == "hotcoco" and not installed:
        prefix = shlex.quote(sys.prefix)
        again = f"rm -f {prefix}/.stamp && make setup VENV={prefix}"  # with the stamp there nothing is set up
        raise ExperimentError(f"{VARIABLE}=hotcoco: it is not installed; run `{again}`, or `unset {VARIABLE}`")
    if not wanted and not installed:
        logger.info("hotcoco is not installed: scoring with pycocotools, same numbers but slower")
    return wanted or ("hotcoco" if installed else "pycocotools")


def match(ground_truth, detections):
    """Match detections of all categories, masks and boxes, in one pass each.

    Masks are sized by their own area and boxes by theirs, although a record has both: loadRes would take the area of
    a mask from the `bbox` beside it and put the detection into the wrong size range.

    Both engines see the same ground truth: ids of any kind are numbered in memory (one takes an object of id 0 for no
    match, the other takes whole numbers only), a missing `iscrowd` is 0, a missing `area` that of the box. Categories
    with an object that has no mask are left out where masks are matched, because its mask could be any.

    Args:
        ground_truth: path of an instances file, or a pycocotools COCO of one.
        detections: path of a JSON array of COCO result records, or a list of them; never changed.

    Returns:
        Matched.

    Raises:
        ExperimentError: see `chosen_engine`; a box of the ground truth that is not four finite numbers.
    """
    engine = {"hotcoco": _hotcoco, "pycocotools": _pycocotools}[chosen_engine()]
    survey = Survey(ground_truth)
    for_masks = None  # the ground truth where masks are matched, if it is another one
    if not survey.plain:
        truth = _normalised(ground_truth)
        ground_truth, detections = _loaded(truth), _renumbered(detections, truth)
        if survey.without_mask:
            left = [each for each in truth["annotations"] if each["category_id"] not in survey.without_mask]
            for_masks = _loaded(truth | {"annotations": left})
    matched = engine(ground_truth, detections, for_masks or ground_truth)
    reasons = {
        category: f"{count} of {survey.objects[category]} validation objects have no mask"
        for category, count in sorted(survey.without_mask.items())
    }
    for category, reason in reasons.items():
        logger.warning("%s: mask AP is undefined: %s", matched.categories.get(category, category), reason)
    return Matched(matched.categories, matched.by_type, reasons)


class Survey:
    """Look through a ground truth, in pieces where it is a file, for what engines do not agree on.

    Attributes:
        plain: whether engines take it as it is.
        objects, without_mask: numbers of objects by category id, all and those without a mask.
    """

    def __init__(self, ground_truth):
        self.plain, self.objects, self.without_mask = True, Counter(), Counter()
        if _is_path(ground_truth):
            stream(ground_truth, lambda section, _position, entries, _again: self._add(section, entries))
        else:
            for section in ("images", "annotations"):
                self._add(section, ground_truth.dataset[section])
        self.plain &= not self.without_mask

    def _add(self, section, entries):
        if section == "images":
            self.plain &= all(type(image["id"]) is int and 0 <= image["id"] < ID_LIMIT for image in entries)
            return
        for annotation in entries:
            box, area = annotation.get("bbox"), annotation.get("area")
            if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
                raise ExperimentError(
                    f"annotation {annotation.get('id')!r}: bbox is {box!r}, "
                    "valid: four finite numbers x, y, width, height"
                )
            self.objects[annotation["category_id"]] += 1
            if not annotation.get("segmentation"):
                self.without_mask[annotation["category_id"]] += 1
            self.plain &= (
                type(annotation.get("id")) is int
                and 0 < annotation["id"] < ID_LIMIT
                and type(annotation["image_id"]) is int
                and type(annotation.get("iscrowd")) is int
                and _is_number(area)
            )


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _normalised(ground_truth):
    """The ground truth as a dictionary with the fields that are scored, objects and, if need be, images numbered.

    Images keep whole numbers as ids: where scores are equal their order decides.
    """
    if _is_path(ground_truth):
        with open(ground_truth, encoding="utf-8-sig") as file:
            content = json.load(file)
    else:
        content = ground_truth.dataset
    ids = [image["id"] for image in content["images"]]
    plain = all(type(number) is int and 0 <= number < ID_LIMIT for number in ids)
    numbers = {number: number if plain else position for position, number in enumerate(ids, 1)}
    truth = {
        part: [
            {name: record[name] for name in fields if record.get(name) not in (None, [], {})}
            for record in content[part]
        ]
        for part, fields in SCORED.items()
    }
    truth["numbers"] = numbers
    for image in truth["images"]:
        image["id"] = numbers[image["id"]]
    for position, annotation in enumerate(truth["annotations"], 1):
        if annotation["image_id"] not in numbers:
            raise ExperimentError(f"annotation {annotation.get('id')!r}: unknown image_id {annotation['image_id']!r}")
        _, _, width, height = annotation["bbox"]
        area = annotation.get("area")
        annotation |= {
            "id": position,
            "image_id": numbers[annotation["image_id"]],
            "iscrowd": int(bool(annotation.get("iscrowd"))),
            "area": area if _is_number(area) else width * height,
        }
    return truth


def _loaded(truth):
    """A pycocotools COCO of a dictionary."""
    loaded = COCO()
    loaded.dataset = truth
    with contextlib.redirect_stdout(io.StringIO()):
        loaded.createIndex()
    return loaded


def _renumbered(detections, truth):
    """Detections with the ids of images as `_normalised` numbers them."""
    numbers = truth["numbers"]
    if _is_path(detections):
        with open(detections, encoding="utf-8") as file:
            detections = json.load(file)
    if unknown := next((each for each in detections if each["image_id"] not in numbers), None):
        raise ExperimentError(f"detections of the image {unknown['image_id']!r}, which the annotations do not list")
    return [record | {"image_id": numbers[record["image_id"]]} for record in detections]


def _hotcoco(ground_truth, detections, for_masks):
    import hotcoco  # compiled, and absent where the fallback is used

    truth = _hotcoco_truth(hotcoco, ground_truth)
    results = truth.load_res(str(detections) if _is_path(detections) else detections)

    def run(iou_type, truth):
        evaluator = hotcoco.COCOeval(truth, results, iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        arrays = evaluator.eval  # a copy at every access
        return Matches(arrays["precision"], arrays["recall"])

    boxes = run("bbox", truth)  # first, while the areas are those of the boxes
    ids = results.get_ann_ids()
    areas = np.empty(len(ids))
    for start in range(0, len(ids), AREAS_AT_ONCE):
        part = slice(start, start + AREAS_AT_ONCE)
        areas[part] = hotcoco.mask.area([record["segmentation"] for record in results.load_anns(ids[part])])
    results.update_anns(ids=ids, area=areas)
    masks = run("segm", truth if for_masks is ground_truth else _hotcoco_truth(hotcoco, for_masks))
    # not `truth.dataset`, which would copy every polygon into Python
    return Matched(_names(truth.load_cats(truth.get_cat_ids())), {"segm": masks, "bbox": boxes})


def _hotcoco_truth(hotcoco, ground_truth):
    if _is_path(ground_truth):
        try:
            return hotcoco.COCO(str(ground_truth))
        except ValueError:  # it is strict about fields that nothing is scored with, such as a number in `info`
            with open(ground_truth, encoding="utf-8-sig") as file:
                content = json.load(file)
    else:
        content = ground_truth.dataset
    return hotcoco.COCO(
        {
            part: [{field: record[field] for field in fields if field in record} for record in content[part]]
            for part, fields in SCORED.items()
        }
    )


def _pycocotools(ground_truth, detections, for_masks):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ground_truth)) if _is_path(ground_truth) else ground_truth
    by_type = {}
    for iou_type in IOU_TYPES:
        records = detections
        if _is_path(detections):
            with open(detections, encoding="utf-8") as file:
                records = json.load(file)
        drop = "bbox" if iou_type == "segm" else "segmentation"
        records = [{key: value for key, value in record.items() if key != drop} for record in records]
        with contextlib.redirect_stdout(io.StringIO()):
            against = truth if iou_type == "bbox" or for_masks is ground_truth else for_masks
            evaluator = COCOeval(against, truth.loadRes(records) if records else _no_results(truth), iou_type)
            evaluator.evaluate()
            evaluator.accumulate()
        by_type[iou_type] = Matches(evaluator.eval["precision"], evaluator.eval["recall"])
    return Matched(_names(truth.dataset["categories"]), by_type)


def _no_results(truth):
    """An empty set of results, which loadRes cannot make."""
    results = COCO()
    results.dataset = {"images": truth.dataset["images"], "annotations": [], "categories": truth.dataset["categories"]}
    results.createIndex()
    return results


def _is_path(source):
    return isinstance(source, (str, PathLike))


def _names(categories):
    return {category["id"]: category["name"] for category in sorted(categories, key=lambda each: each["id"])}
