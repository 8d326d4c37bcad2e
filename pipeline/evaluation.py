"""Predict on the validation images and score masks and boxes by category group, with pycocotools.

Protocol (contrastive method and baseline alike): one set of detections, at most 100 an image over all 80 categories;
COCO evaluation with the category ids restricted to a group (novel, base, all). Mask areas define small, medium, large.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import contextlib
import io
import json
import logging
import os

import mmcv
import numpy as np
import torch
from mmcv.parallel import collate
from mmdet.core import encode_mask_results
from mmdet.datasets import build_dataset
from mmdet.models import build_detector
from mmdet.utils import build_dp
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import DataLoader
from tqdm import tqdm

import pipeline.datasets.partial  # noqa: F401  # registers the loading steps
import pipeline.models  # noqa: F401  # registers the model
from pipeline import paths
from pipeline.machine import data_workers, use_device

logger = logging.getLogger("pipeline.evaluation")

STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRICS = ("mAP", "AP50", "AP75", "APs", "APm", "APl")  # what tables show; percent
IOU_TYPES = ("segm", "bbox")


def coco_statistics(ground_truth, detections, iou_type, category_ids=None):
    """The 12 numbers of COCOeval.summarize for one group of categories.

    Args:
        ground_truth: pycocotools COCO of the whole validation set.
        detections: COCO result records; with `segm`, a `bbox` they carry is ignored (pycocotools would otherwise
            take the area from the box and sort detections into the wrong size range).
        iou_type: `segm` or `bbox`.
        category_ids: ids to restrict to; None for all.

    Returns:
        (statistics, evaluator): dict over STATISTICS, fractions, nan where there is no ground truth; and the
        COCOeval, which holds per-category precision. No detections at all give zeros.
    """
    drop = "bbox" if iou_type == "segm" else "segmentation"
    records = [{key: value for key, value in record.items() if key != drop} for record in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        results = ground_truth.loadRes(records) if records else _no_results(ground_truth)
        evaluator = COCOeval(ground_truth, results, iou_type)
        if category_ids is not None:
            evaluator.params.catIds = sorted(category_ids)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = np.where(evaluator.stats < 0, np.nan, evaluator.stats)
    return dict(zip(STATISTICS, values.tolist(), strict=True)), evaluator


def _no_results(ground_truth):
    results = COCO()
    results.dataset = {"images": ground_truth.dataset["images"], "annotations": [],
                       "categories": ground_truth.dataset["categories"]}  # fmt: skip
    results.createIndex()
    return results


def score(ground_truth, detections, groups):
    """Score one seed's detections.

    Args:
        groups: {"novel": ids, "base": ids}; `all` is added.

    Returns:
        {"segm": {"novel": {"mAP": ...}, "base": ..., "all": ...}, "bbox": ..., "per_category": {"segm": {name:
        {"AP", "AP50"}}, ...}}, percent, None where undefined.
    """
    names = {category["id"]: category["name"] for category in ground_truth.dataset["categories"]}
    report = {"per_category": {}}
    for iou_type in IOU_TYPES:
        report[iou_type] = {}
        for group, ids in (groups | {"all": None}).items():
            statistics, evaluator = coco_statistics(ground_truth, detections, iou_type, ids)
            report[iou_type][group] = {
                metric: _percent(statistics["AP" if metric == "mAP" else metric]) for metric in METRICS
            }
        precision = evaluator.eval["precision"][:, :, :, 0, -1]  # of the last group, all: [IoU, recall, category]
        report["per_category"][iou_type] = {
            names[category]: {
                "AP": _percent(_mean(precision[:, :, k])),
                "AP50": _percent(_mean(precision[0, :, k])),
            }
            for k, category in enumerate(evaluator.params.catIds)
        }
    return report


def _mean(precision):
    return precision[precision > -1].mean() if (precision > -1).any() else np.nan


def _percent(fraction):
    return None if np.isnan(fraction) else 100 * float(fraction)


def predict(training):
    """Detections of a trained run on the whole validation set, COCO result records in image order."""
    device = use_device()
    dataset = build_dataset(
        dict(
            type="CocoDataset",
            ann_file=str(paths.annotations(training.dataset, "val2017")),
            img_prefix=str(paths.images(training.dataset, "val2017")),
            pipeline=training.data["test"],
            test_mode=True,
        )
    )
    model = build_detector(mmcv.ConfigDict(training.model))
    checkpoint = paths.checkpoint(training.dataset, training.name, training.seed)
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    model.CLASSES = dataset.CLASSES
    model = build_dp(model, device, device_ids=range(1)).eval()
    loader = DataLoader(dataset, num_workers=data_workers(), collate_fn=collate, multiprocessing_context="fork")
    records = []
    progress = tqdm(loader, desc=f"evaluate {training.name} seed {training.seed}", unit="image", mininterval=5)
    for info, batch in zip(dataset.data_infos, progress, strict=True):
        with torch.no_grad():
            boxes, masks = model(return_loss=False, rescale=True, **batch)[0]
        for label, (box, mask) in enumerate(zip(boxes, encode_mask_results(masks), strict=True)):
            for (x1, y1, x2, y2, confidence), rle in zip(box.tolist(), mask, strict=True):
                records.append({
                    "image_id": info["id"], "category_id": dataset.cat_ids[label], "score": confidence,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
                })  # fmt: skip
    return records


def evaluate(training, base, novel):
    """Predict and score one trained run; write its predictions.

    Args:
        training: pipeline.config.Training of the run.
        base, novel: names of the categories of its split.

    Returns:
        The scores, see `score`.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(paths.annotations(training.dataset, "val2017")))
    detections = predict(training)
    write_json(detections, paths.predictions(training.dataset, training.name, training.seed))
    ids = {category["name"]: category["id"] for category in ground_truth.dataset["categories"]}
    groups = {"novel": [ids[name] for name in novel], "base": [ids[name] for name in base]}
    return score(ground_truth, detections, groups)


def write_json(content, path):
    """Write compact JSON under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    os.replace(temporary, path)
