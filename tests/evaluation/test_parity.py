"""The evaluation gives the numbers of plain pycocotools on real ground truth, whichever engine matches."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.artifacts.results import Scores
from pipeline.tasks.instances import TASK, scoring
from pipeline.tasks.instances.coco_engines import ENGINES, VARIABLE, match

CASE = Path(__file__).parent / "parity"
TRUTH = CASE / "instances_val2017.json"
EXPECTED = json.loads((CASE / "expected.json").read_text())


@pytest.fixture(scope="module")
def detections():
    """One list with mask and box in every record, as `predict` writes them."""
    masks = json.loads((CASE / "detections_segm.json").read_text())
    boxes = json.loads((CASE / "detections_bbox.json").read_text())
    return [mask | {"bbox": box["bbox"]} for mask, box in zip(masks, boxes, strict=True)]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    if request.param == "hotcoco":
        pytest.importorskip("hotcoco")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, request.param)
        yield request.param


@pytest.fixture(scope="module", params=["paths", "objects"])
def matched(request, engine, detections, tmp_path_factory):
    if request.param == "objects":
        return match(COCO(str(TRUTH)), detections)
    saved = tmp_path_factory.mktemp("predictions") / "seed0.json"
    saved.write_text(json.dumps(detections))
    return match(TRUTH, saved)


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("group", ["all", "voc", "nonvoc"])
def test_twelve_statistics(matched, iou_type, group):
    expected = dict(zip(EXPECTED["stat_names"], EXPECTED["stats"][iou_type][group], strict=True))
    assert scoring.statistics(matched, iou_type, EXPECTED["category_ids"][group]) == pytest.approx(expected, abs=1e-9)


def test_report_is_in_percent_by_group_and_category(matched):
    groups = {"novel": EXPECTED["category_ids"]["voc"], "base": EXPECTED["category_ids"]["nonvoc"]}
    report = scoring.report(matched, groups)
    assert list(report) == ["scores", "per_category"]
    assert [row["metric"] for row in report["scores"][: len(TASK.keys)]] == list(TASK.keys)
    scores = Scores(TASK, report)
    for iou_type in ("segm", "bbox"):
        for group, name in (("novel", "voc"), ("base", "nonvoc"), ("all", "all")):
            expected = EXPECTED["stats"][iou_type][name]
            assert scores.value(group, iou_type, "mAP") == pytest.approx(100 * expected[0], abs=1e-7)
            assert scores.value(group, iou_type, "APl") == pytest.approx(100 * expected[5], abs=1e-7)
        assert len(scores.categories(iou_type)) == len(EXPECTED["per_category"][iou_type]) == 80
        for name, values in EXPECTED["per_category"][iou_type].items():
            measured = scores.per_category()[iou_type][name]
            if values["AP"] < 0:
                assert measured == {"AP": None, "AP50": None}  # no ground truth: undefined, not zero
            else:
                assert measured["AP"] == pytest.approx(100 * values["AP"], abs=1e-7)
                assert measured["AP50"] == pytest.approx(100 * values["AP50"], abs=1e-7)


def test_no_detections_score_zero(engine, tmp_path):
    saved = tmp_path / "seed0.json"
    saved.write_text("[]\n")
    for found in ([], saved):
        matched = match(TRUTH, found)
        for iou_type in ("segm", "bbox"):
            statistics = scoring.statistics(matched, iou_type)
            assert statistics["AP"] == 0 and not np.isnan(statistics["AR100"])


def test_input_records_are_left_alone(engine, detections):
    before = json.dumps(detections[:50])
    match(TRUTH, detections[:50])
    assert json.dumps(detections[:50]) == before
