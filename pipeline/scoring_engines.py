"""Match detections with the ground truth: hotcoco, and pycocotools as the reference that it must equal.

Matching looks at one category at a time, so one pass over all categories holds what every group of them needs. The
engine is a setting of the machine, CONTRASTMASK_EVAL_ENGINE: the numbers are the same to 1e-9 (tests/evaluation).
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
from dataclasses import dataclass
from os import PathLike

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.errors import ExperimentError

logger = logging.getLogger("pipeline.scoring_engines")

IOU_TYPES = ("segm", "bbox")
ENGINES = ("hotcoco", "pycocotools")
VARIABLE = "CONTRASTMASK_EVAL_ENGINE"
SCORED = {"images": ("id", "width", "height"), "categories": ("id", "name"),
          "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")}  # fmt: skip
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
    """

    categories: dict
    by_type: dict


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
        raise ExperimentError(f"{VARIABLE}=hotcoco: it is not installed; run `make setup` or unset the variable")
    if not wanted and not installed:
        logger.info("hotcoco is not installed: scoring with pycocotools, same numbers but slower")
    return wanted or ("hotcoco" if installed else "pycocotools")


def match(ground_truth, detections):
    """Match detections of all categories, masks and boxes, in one pass each.

    Masks are sized by their own area and boxes by theirs, although a record has both: loadRes would take the area of
    a mask from the `bbox` beside it and put the detection into the wrong size range.

    Args:
        ground_truth: path of an instances file, or a pycocotools COCO of one.
        detections: path of a JSON array of COCO result records, or a list of them; never changed.

    Returns:
        Matched.

    Raises:
        ExperimentError: see `chosen_engine`.
    """
    return {"hotcoco": _hotcoco, "pycocotools": _pycocotools}[chosen_engine()](ground_truth, detections)


def _hotcoco(ground_truth, detections):
    import hotcoco  # compiled, and absent where the fallback is used

    truth = _hotcoco_truth(hotcoco, ground_truth)
    if 0 in truth.get_ann_ids():
        logger.info("an object has the id 0, which pycocotools takes for no match: scoring with pycocotools")
        return _pycocotools(ground_truth, detections)
    results = truth.load_res(str(detections) if _is_path(detections) else detections)

    def run(iou_type):
        evaluator = hotcoco.COCOeval(truth, results, iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        arrays = evaluator.eval  # a copy at every access
        return Matches(arrays["precision"], arrays["recall"])

    boxes = run("bbox")  # first, while the areas are those of the boxes
    ids = results.get_ann_ids()
    areas = np.empty(len(ids))
    for start in range(0, len(ids), AREAS_AT_ONCE):
        part = slice(start, start + AREAS_AT_ONCE)
        areas[part] = hotcoco.mask.area([record["segmentation"] for record in results.load_anns(ids[part])])
    results.update_anns(ids=ids, area=areas)
    # not `truth.dataset`, which would copy every polygon into Python
    return Matched(_names(truth.load_cats(truth.get_cat_ids())), {"segm": run("segm"), "bbox": boxes})


def _hotcoco_truth(hotcoco, ground_truth):
    if _is_path(ground_truth):
        try:
            return hotcoco.COCO(str(ground_truth))
        except ValueError:  # it is strict about fields that nothing is scored with, such as a number in `info`
            with open(ground_truth, encoding="utf-8") as file:
                content = json.load(file)
    else:
        content = ground_truth.dataset
    return hotcoco.COCO({part: [{field: record[field] for field in fields if field in record}
                                for record in content[part]] for part, fields in SCORED.items()})  # fmt: skip


def _pycocotools(ground_truth, detections):
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
            evaluator = COCOeval(truth, truth.loadRes(records) if records else _no_results(truth), iou_type)
            evaluator.evaluate()
            evaluator.accumulate()
        by_type[iou_type] = Matches(evaluator.eval["precision"], evaluator.eval["recall"])
    return Matched(_names(truth.dataset["categories"]), by_type)


def _no_results(truth):
    """An empty set of results, which loadRes cannot make."""
    results = COCO()
    results.dataset = {"images": truth.dataset["images"], "annotations": [],
                       "categories": truth.dataset["categories"]}  # fmt: skip
    results.createIndex()
    return results


def _is_path(source):
    return isinstance(source, (str, PathLike))


def _names(categories):
    return {category["id"]: category["name"] for category in sorted(categories, key=lambda each: each["id"])}
