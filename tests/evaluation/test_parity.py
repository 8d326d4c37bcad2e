"""The evaluation gives the numbers of plain pycocotools."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline import evaluation

CASE = Path(__file__).parent / "parity"
EXPECTED = json.loads((CASE / "expected.json").read_text())


@pytest.fixture(scope="module")
def ground_truth():
    return COCO(str(CASE / "instances_val2017.json"))


@pytest.fixture(scope="module")
def detections():
    """One list with mask and box in every record, as `predict` returns them."""
    masks = json.loads((CASE / "detections_segm.json").read_text())
    boxes = json.loads((CASE / "detections_bbox.json").read_text())
    return [mask | {"bbox": box["bbox"]} for mask, box in zip(masks, boxes, strict=True)]


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("group", ["all", "voc", "nonvoc"])
def test_twelve_statistics(ground_truth, detections, iou_type, group):
    statistics, _ = evaluation.coco_statistics(ground_truth, detections, iou_type, EXPECTED["category_ids"][group])
    expected = dict(zip(EXPECTED["stat_names"], EXPECTED["stats"][iou_type][group], strict=True))
    assert statistics == pytest.approx(expected, abs=1e-9)


def test_score_reports_percent_by_group_and_category(ground_truth, detections):
    groups = {"novel": EXPECTED["category_ids"]["voc"], "base": EXPECTED["category_ids"]["nonvoc"]}
    report = evaluation.score(ground_truth, detections, groups)
    for iou_type in ("segm", "bbox"):
        for group, name in (("novel", "voc"), ("base", "nonvoc"), ("all", "all")):
            expected = EXPECTED["stats"][iou_type][name]
            assert report[iou_type][group]["mAP"] == pytest.approx(100 * expected[0], abs=1e-7)
            assert report[iou_type][group]["APl"] == pytest.approx(100 * expected[5], abs=1e-7)
        for name, values in EXPECTED["per_category"][iou_type].items():
            measured = report["per_category"][iou_type][name]
            if values["AP"] < 0:
                assert measured == {"AP": None, "AP50": None}  # no ground truth: undefined, not zero
            else:
                assert measured["AP"] == pytest.approx(100 * values["AP"], abs=1e-7)
                assert measured["AP50"] == pytest.approx(100 * values["AP50"], abs=1e-7)


def test_no_detections_score_zero(ground_truth):
    statistics, _ = evaluation.coco_statistics(ground_truth, [], "segm")
    assert statistics["AP"] == 0 and not np.isnan(statistics["AR100"])


def test_input_records_are_left_alone(ground_truth, detections):
    before = json.dumps(detections[:5])
    evaluation.coco_statistics(ground_truth, detections, "segm")
    assert json.dumps(detections[:5]) == before
