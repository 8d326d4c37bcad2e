"""Score masks and boxes by category group, with the definitions of COCOeval.summarize.

The AP of a group is the mean over the precisions of its categories, which is what COCOeval gives with `params.catIds`
set to the group: matching and accumulation never look across categories, so all groups share one pass.
"""

import numpy as np

from pipeline.tasks.instances.coco_engines import IOU_TYPES, match

STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRICS = ("mAP", "AP50", "AP75", "APs", "APm", "APl")  # what tables show; percent
THRESHOLD_OF = {"AP50": 0, "AP75": 5}  # index into the IoU thresholds 0.5, 0.55, ..., 0.95
AREAS = ("all", "small", "medium", "large")
LIMITS = (1, 10, 100)  # detections an image and category


def score(ground_truth, detections, groups):
    """Match and report; arguments as of `pipeline.tasks.instances.coco_engines.match` and `report`."""
    return report(match(ground_truth, detections), groups)


def report(matched, groups):
    """The numbers of one seed.

    Args:
        matched: pipeline.tasks.instances.coco_engines.Matched.
        groups: {"novel": ids, "base": ids}; `all` is added.

    Returns:
        {"segm": {"novel": {"mAP": ...}, "base": ..., "all": ...}, "bbox": ..., "per_category": {"segm": {name:
        {"AP", "AP50"}}, ...}}, percent, None where undefined: without ground truth, or as `undefined` says,
        {"segm": {category name: reason}} (absent where no object lacks a mask). Means are over the others of a group.
    """
    reasons = {matched.categories.get(number, str(number)): reason for number, reason in matched.undefined.items()}
    result = {"per_category": {}} | ({"undefined": {"segm": reasons}} if reasons else {})
    for iou_type in IOU_TYPES:
        matches = matched.by_type[iou_type]
        result[iou_type] = {}
        for group, ids in (groups | {"all": None}).items():
            values = statistics(matched, iou_type, ids)
            result[iou_type][group] = {
                metric: _percent(values["AP" if metric == "mAP" else metric]) for metric in METRICS
            }
        precision = matches.precision[..., 0, -1]
        result["per_category"][iou_type] = {
            name: {"AP": _percent(_mean(precision[:, :, k])), "AP50": _percent(_mean(precision[0, :, k]))}
            for k, name in enumerate(matched.categories.values())
        }
    return result


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
