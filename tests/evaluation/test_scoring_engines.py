"""One matching pass equals a restricted pycocotools run for each group, in the cases where implementations differ."""

import importlib.util
import json
import math

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from benchmarks import eval_scale
from pipeline import scoring, scoring_engines
from pipeline.errors import ExperimentError

GROUPS = eval_scale.GROUPS | {"rare": [89, 90], "one": [1], "absent": [89]}


@pytest.fixture(params=scoring_engines.ENGINES)
def engine(request, monkeypatch):
    if request.param == "hotcoco":
        pytest.importorskip("hotcoco")
    monkeypatch.setenv(scoring_engines.VARIABLE, request.param)


def drawn(tmp_path, images=12, detections=60, seed=0):
    """A ground truth and detections: (instances dict, records)."""
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    eval_scale.draw(truth, found, images, detections, seed)
    return json.loads(truth.read_text()), json.loads(found.read_text())


def load(truth):
    loaded = COCO()
    loaded.dataset = json.loads(json.dumps(truth))
    loaded.createIndex()
    return loaded


def plain(truth, records):
    """What restricted pycocotools runs give: {iou type: {group: 12 numbers}}."""
    return {iou_type: eval_scale.reference(load(truth), json.loads(json.dumps(records)), iou_type, GROUPS)
            for iou_type in scoring_engines.IOU_TYPES}  # fmt: skip


def assert_equal(truth, records, tmp_path):
    """Ours, from objects and from files, has the numbers of plain pycocotools."""
    expected = plain(truth, records)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(records))
    for source in ((load(truth), records), (tmp_path / "truth.json", tmp_path / "found.json")):
        matched = scoring_engines.match(*source)
        for iou_type, groups in expected.items():
            for group, values in groups.items():
                measured = scoring.statistics(matched, iou_type, GROUPS[group])
                assert list(measured.values()) == pytest.approx(values, abs=1e-9, nan_ok=True), (iou_type, group)
    return expected


def ties(truth, records):
    for record in records:
        record["score"] = round(record["score"], 1)


def crowds(truth, records):
    for annotation in truth["annotations"][::3]:
        height, width = next((each["height"], each["width"]) for each in truth["images"]
                             if each["id"] == annotation["image_id"])  # fmt: skip
        shape = annotation["segmentation"]
        if annotation["iscrowd"] == 0:
            pixels = rle.decode(rle.merge(rle.frPyObjects(shape, height, width))).ravel(order="F")
            edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
            annotation["segmentation"] = {"counts": np.diff([0, *edges, pixels.size]).tolist(), "size": [height, width]}
            annotation["iscrowd"] = 1


def few_categories(truth, records):
    truth["annotations"] = [each for each in truth["annotations"] if each["category_id"] in (1, 3, 17)]


def images_without(truth, records):
    truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] % 3]
    records[:] = [each for each in records if each["image_id"] % 4]


def one_category(truth, records):
    """More than 100 detections of a category in an image."""
    for record in truth["annotations"] + records:
        record["category_id"] = 1


def object_zero(truth, records):
    """pycocotools takes the id 0 for no match."""
    for annotation in truth["annotations"]:
        annotation["id"] -= 1


def areas_on_the_limit(truth, records):
    for index, annotation in enumerate(truth["annotations"]):
        annotation["area"] = (32**2, 96**2, 32**2 - 0.5)[index % 3]


def unordered(truth, records):
    """Ids of images that do not ascend; detections of images mixed."""
    ids = {image["id"]: 7919 * image["id"] % 1009 for image in truth["images"]}
    for each in truth["images"]:
        each["id"] = ids[each["id"]]
    for each in truth["annotations"] + records:
        each["image_id"] = ids[each["image_id"]]
    ties(truth, records)
    np.random.default_rng(0).shuffle(records)
    truth["categories"].reverse()


def empty_masks(truth, records):
    for record in records[::5]:
        nothing = rle.encode(np.zeros(record["segmentation"]["size"], np.uint8, order="F"))
        record["segmentation"]["counts"] = nothing["counts"].decode()


def unknown_category(truth, records):
    for record in records[::7]:
        record["category_id"] = 999


def odd_fields(truth, records):
    """Types outside the format in fields that nothing is scored with."""
    truth |= {"info": {"version": 1, "year": "2017"}, "licenses": None}
    for image in truth["images"]:
        image |= {"license": "none", "file_name": 7}


CHANGES = (ties, crowds, few_categories, images_without, one_category, object_zero, areas_on_the_limit, unordered,
           empty_masks, unknown_category, odd_fields)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_groups_equal_restricted_runs(engine, tmp_path, change):
    truth, records = drawn(tmp_path, images=4 if change is one_category else 12,
                           detections=150 if change is one_category else 60)  # fmt: skip
    change(truth, records)
    expected = assert_equal(truth, records, tmp_path)
    assert expected["segm"]["all"][0] > 0.01
    if change is few_categories:
        assert all(math.isnan(value) for value in expected["segm"]["absent"])


@pytest.mark.parametrize("seed", range(3))
def test_everything_at_once(engine, tmp_path, seed):
    truth, records = drawn(tmp_path, seed=seed)
    for change in (crowds, ties, images_without, empty_masks, unordered):
        change(truth, records)
    assert_equal(truth, records, tmp_path)


def test_a_ground_truth_that_pycocotools_has_used(engine, tmp_path):
    """It leaves masks as compressed bytes in the annotations."""
    truth, records = drawn(tmp_path)
    used = load(truth)
    first = eval_scale.reference(used, json.loads(json.dumps(records)), "segm", {"all": None})
    assert [*scoring.statistics(scoring_engines.match(used, records), "segm").values()] == pytest.approx(first["all"])


def test_the_engine_is_a_setting_of_the_machine(monkeypatch):
    monkeypatch.setenv(scoring_engines.VARIABLE, "pycocotools")
    assert scoring_engines.chosen_engine() == "pycocotools"
    monkeypatch.setenv(scoring_engines.VARIABLE, "fast")
    with pytest.raises(ExperimentError, match="'fast': no such engine; valid: hotcoco, pycocotools"):
        scoring_engines.chosen_engine()


def test_pycocotools_stands_in_for_an_absent_engine(monkeypatch):
    monkeypatch.delenv(scoring_engines.VARIABLE, raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "hotcoco" else find(name))
    assert scoring_engines.chosen_engine() == "pycocotools"
    monkeypatch.setenv(scoring_engines.VARIABLE, "hotcoco")
    with pytest.raises(ExperimentError, match="not installed"):
        scoring_engines.chosen_engine()


def test_the_benchmark_measures_and_compares(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["eval_scale", "--images", "6", "--detections", "20", "--repeats", "1"])
    eval_scale.main()
    last = dict(pair.split("=") for pair in capsys.readouterr().out.splitlines()[-1].split())
    assert float(last["largest_difference"]) <= 1e-9 and float(last["faster"]) > 0 and float(last["memory"]) > 0
