"""Score masks and boxes by category group, with the definitions of COCOeval.summarize.

The AP of a group is the mean over the precisions of its categories, which is what COCOeval gives with `params.catIds`
set to the group: matching and accumulation never look across categories, so all groups share one pass.
"""

import numpy as np

from pipeline.declaration import subsets
from pipeline.tasks import WHOLE
from pipeline.tasks.instances import TASK
from pipeline.tasks.instances.coco_engines import IOU_TYPES, match

STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
STATISTIC_OF = {"mAP": "AP"}  # what COCOeval calls a metric, where that is another name
THRESHOLD_OF = {"AP50": 0, "AP75": 5}  # index into the IoU thresholds 0.5, 0.55, ..., 0.95
AREAS = ("all", "small", "medium", "large")
LIMITS = (1, 10, 100)  # detections an image and category


def score_predictions(dataset, predictions, groups):
    """Score the predictions of one seed on the validation set of a dataset.

    Args:
        dataset: its name.
        predictions: path of the JSON array that `pipeline.tasks.instances.prediction.predict` wrote.
        groups: {"novel": category names, "base": category names}.

    Returns:
        See `report`.
    """
    matched = match(subsets.validation(dataset).annotations, predictions)
    ids = {name: category for category, name in matched.categories.items()}
    return report(matched, {group: [ids[name] for name in names] for group, names in groups.items()})


def score(ground_truth, detections, groups):
    """Match and report; arguments as of `pipeline.tasks.instances.coco_engines.match` and `report`."""
    return report(match(ground_truth, detections), groups)


def report(matched, groups):
    """The numbers of one seed.

    Args:
        matched: pipeline.tasks.instances.coco_engines.Matched.
        groups: {"novel": ids, "base": ids}; `all` is added.

    Returns:
        {"scores": [{"group", "kind", "metric", "value"}, ...], "per_category": [{"category", "kind", "metric",
        "value"}, ...]}, percent, None where undefined: without ground truth, or as `undefined` says,
        {"segm": {category name: reason}} (absent where no object lacks a mask). Means are over the others of a group.
    """
    scores, per_category = [], []
    for kind in IOU_TYPES:
        for group, ids in (groups | {WHOLE: None}).items():
            values = statistics(matched, kind, ids)
            scores += [
                {"group": group, "kind": kind, "metric": key, "value": _percent(values[STATISTIC_OF.get(key, key)])}
                for key in TASK.keys
            ]
        precision = matched.by_type[kind].precision[..., 0, -1]  # [IoU, recall, category]
        for k, name in enumerate(matched.categories.values()):
            values = {"AP": _mean(precision[:, :, k]), "AP50": _mean(precision[0, :, k])}
            per_category += [
                {"category": name, "kind": kind, "metric": key, "value": _percent(value)}
                for key, value in values.items()
            ]
    reasons = {matched.categories.get(number, str(number)): reason for number, reason in matched.undefined.items()}
    undefined = {"undefined": {"segm": reasons}} if reasons else {}
    return {"scores": scores, "per_category": per_category} | undefined


def statistics(matched, iou_type, category_ids=None):
    """The 12 numbers of COCOeval.summarize for one group of categories.

    Args:
        matched: pipeline.tasks.instances.coco_engines.Matched.
        iou_type: `segm` or `bbox`.
        category_ids: ids to restrict to; None for all.

    Returns:
        dict over STATISTICS, fractions, nan where there is no ground truth. No detections at all give zeros.
    """
    wanted = set(matched.categories if category_ids is None else category_ids)
    columns = [k for k, category in enumerate(matched.categories) if category in wanted]
    precision = matched.by_type[iou_type].precision[:, :, columns]
    recall = matched.by_type[iou_type].recall[:, columns]
    largest = precision[..., -1]  # [IoU, recall, category, area], at most 100 detections
    values = {"AP": largest[..., 0]}
    values |= {name: largest[threshold, ..., 0] for name, threshold in THRESHOLD_OF.items()}
    values |= {f"AP{area[0]}": largest[..., k] for k, area in enumerate(AREAS) if k}
    values |= {f"AR{limit}": recall[..., 0, k] for k, limit in enumerate(LIMITS)}
    values |= {f"AR{area[0]}": recall[..., k, -1] for k, area in enumerate(AREAS) if k}
    return {name: float(_mean(values[name])) for name in STATISTICS}


def _mean(values):
    return values[values > -1].mean() if (values > -1).any() else np.nan


def _percent(fraction):
    return None if np.isnan(fraction) else 100 * float(fraction)
