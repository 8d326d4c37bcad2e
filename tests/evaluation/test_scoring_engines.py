"""One matching pass equals a restricted pycocotools run for each group, in the cases where implementations differ."""

import importlib.util
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO

from benchmarks import eval_scale
from pipeline.artifacts.results import Scores
from pipeline.errors import ExperimentError
from pipeline.tasks.instances import TASK, coco_engines, scoring

GROUPS = eval_scale.GROUPS | {"rare": [89, 90], "one": [1], "absent": [89]}


@pytest.fixture(params=coco_engines.ENGINES)
def engine(request, monkeypatch):
    if request.param == "hotcoco":
        pytest.importorskip("hotcoco")
    monkeypatch.setenv(coco_engines.VARIABLE, request.param)


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
    return {
        iou_type: eval_scale.reference(load(truth), json.loads(json.dumps(records)), iou_type, GROUPS)
        for iou_type in coco_engines.IOU_TYPES
    }


def assert_equal(truth, records, tmp_path):
    """Ours, from objects and from files, has the numbers of plain pycocotools."""
    expected = plain(truth, records)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(records))
    for source in ((load(truth), records), (tmp_path / "truth.json", tmp_path / "found.json")):
        matched = coco_engines.match(*source)
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
        height, width = next(
            (each["height"], each["width"]) for each in truth["images"] if each["id"] == annotation["image_id"]
        )
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


CHANGES = (
    ties,
    crowds,
    few_categories,
    images_without,
    one_category,
    areas_on_the_limit,
    unordered,
    empty_masks,
    unknown_category,
    odd_fields,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_groups_equal_restricted_runs(engine, tmp_path, change):
    truth, records = drawn(
        tmp_path, images=4 if change is one_category else 12, detections=150 if change is one_category else 60
    )
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
    assert [*scoring.statistics(coco_engines.match(used, records), "segm").values()] == pytest.approx(first["all"])


def renumbered_from_zero(truth, records):
    """pycocotools takes an object of id 0 for no match."""
    for annotation in truth["annotations"]:
        annotation["id"] -= 1


def other_object_ids(truth, records):
    for index, annotation in enumerate(truth["annotations"]):
        annotation["id"] = (-index - 1, f"object {index}", 2**70 + index, index + 0.5)[index % 4]


def without_object_ids(truth, records):
    for annotation in truth["annotations"]:
        del annotation["id"]


def image_ids(name):
    def change(truth, records):
        for each in truth["images"]:
            each["id"] = name(each["id"])
        for each in truth["annotations"] + records:
            each["image_id"] = name(each["image_id"])

    return change


def without_iscrowd(truth, records):
    for annotation in truth["annotations"]:
        if not annotation["iscrowd"]:
            del annotation["iscrowd"]


def boolean_iscrowd(truth, records):
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = bool(annotation["iscrowd"])


# What one engine or the other does not take, or takes for something else: the numbers are those of the plain file.
EQUIVALENT = {
    "ids from 0": renumbered_from_zero,
    "other ids of objects": other_object_ids,
    "no ids": without_object_ids,
    "text ids": image_ids(lambda number: f"{number:012d}"),
    "negative": image_ids(lambda number: number - 1000),
    "128 bits": image_ids(lambda number: 2**127 + number),
    "no iscrowd": without_iscrowd,
    "true": boolean_iscrowd,
}


@pytest.mark.parametrize("change", EQUIVALENT.values(), ids=EQUIVALENT)
def test_what_does_not_matter_changes_no_number(engine, tmp_path, change):
    truth, records = drawn(tmp_path)
    crowds(truth, records)
    expected = plain(truth, records)
    change(truth, records)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(records))
    sources = [(tmp_path / "truth.json", tmp_path / "found.json")]
    if change is not without_object_ids:  # pycocotools cannot index them
        sources.append((load(truth), records))
    for source in sources:
        matched = coco_engines.match(*source)
        for iou_type, groups in expected.items():
            for group, values in groups.items():
                measured = scoring.statistics(matched, iou_type, GROUPS[group])
                assert list(measured.values()) == pytest.approx(values, abs=1e-9, nan_ok=True), (iou_type, group)


def hand_made(objects):
    """A ground truth and detections that find all of it perfectly: (category, polygons or None) for each object."""
    truth = {
        "images": [{"id": 5, "width": 100, "height": 80}],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in ((1, "person"), (2, "car"), (3, "cat"))],
    }
    records = []
    for number, (category, mask) in enumerate(objects):
        x = 45 * number + 5
        corners = [[x, 10, x + 40, 10, x + 40, 50, x, 50]]
        runs = rle.merge(rle.frPyObjects(corners, 80, 100))
        annotation = {"id": number, "image_id": 5, "category_id": category, "bbox": [x, 10, 40, 40], "area": 1600.0}
        truth["annotations"].append(annotation | {"segmentation": corners if mask is None else mask})
        if mask == "absent":
            del truth["annotations"][-1]["segmentation"]
        records.append(
            {
                "image_id": 5,
                "category_id": category,
                "bbox": [x, 10, 40, 40],
                "score": 0.9,
                "segmentation": {"size": [80, 100], "counts": runs["counts"].decode()},
            }
        )
    return truth, records


@pytest.mark.parametrize("missing", ["absent", [], {}], ids=["absent", "empty list", "empty object"])
@pytest.mark.parametrize("from_file", [True, False], ids=["file", "object"])
def test_mask_ap_of_categories_without_masks_is_undefined(engine, tmp_path, missing, from_file):
    """Category 2 has no mask, category 1 all: the mean over a group is that of the categories that have one."""
    truth, records = hand_made([(1, None), (2, missing)])
    source = load(truth), records
    if from_file:
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        (tmp_path / "found.json").write_text(json.dumps(records))
        source = tmp_path / "truth.json", tmp_path / "found.json"
    scores = Scores(TASK, scoring.score(*source, {"base": [1], "novel": [2], "mixed": [1, 2], "none": [3]}))
    assert scores.undefined == {"segm": {"car": "1 of 1 validation objects have no mask"}}
    assert [scores.value(group, "segm", "mAP") for group in ("base", "novel", "mixed", "all", "none")] == [
        pytest.approx(100),
        None,
        pytest.approx(100),
        pytest.approx(100),
        None,
    ]
    assert all(scores.value(group, "bbox", "mAP") == pytest.approx(100) for group in ("base", "novel", "mixed", "all"))
    assert scores.per_category()["segm"]["car"] == {"AP": None, "AP50": None}
    assert scores.category("bbox", "car", "AP") == pytest.approx(100)


def test_one_object_without_a_mask_makes_its_category_undefined(engine):
    truth, records = hand_made([(1, None), (1, "absent")])
    scores = Scores(TASK, scoring.score(load(truth), records, {"novel": [1], "base": []}))
    assert scores.value("novel", "segm", "mAP") is None
    assert scores.value("novel", "bbox", "mAP") == pytest.approx(100)
    assert scores.undefined == {"segm": {"person": "1 of 2 validation objects have no mask"}}


def test_nothing_is_undefined_where_all_objects_have_masks(engine):
    truth, records = hand_made([(1, None), (2, None)])
    found = scoring.score(load(truth), records, {"novel": [1, 3], "base": []})
    assert "undefined" not in found
    scores = Scores(TASK, found)
    assert scores.value("novel", "segm", "mAP") == pytest.approx(100), "an object of id 0 counts"
    assert scores.category("segm", "cat", "AP") is None, "no ground truth"


@pytest.mark.parametrize("box", [[math.nan] * 4, [0, 0, math.inf, 5], [1, 2, 3], None, ["1", 2, 3, 4]])
def test_a_box_that_is_none_is_refused_by_both_engines(engine, tmp_path, box):
    truth, records = hand_made([(1, None)])
    truth["annotations"][0]["bbox"] = box
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(ExperimentError, match="annotation 0: bbox is .* valid: four finite numbers"):
        coco_engines.match(tmp_path / "truth.json", records)


@st.composite
def valid_files(draw):
    """A ground truth and detections of a few squares: any ids, crowds, objects without masks, perhaps nothing found."""
    numbers = draw(
        st.lists(
            st.one_of(st.integers(-3, 3), st.text("ab0", min_size=1, max_size=3), st.just(2**90)),
            min_size=1,
            max_size=3,
            unique_by=repr,
        )
    )
    images = [{"id": number, "width": 64, "height": 48} for number in numbers]
    side = st.integers(2, 30)

    def square():
        x, y, width, height = draw(st.integers(0, 30)), draw(st.integers(0, 15)), draw(side), draw(side)
        return [x, y, width, height], [[x, y, x + width, y, x + width, y + height, x, y + height]]

    annotations = []
    first = draw(st.sampled_from([0, 1, -2]))
    for index in range(draw(st.integers(0, 6))):
        box, polygons = square()
        annotation = {
            "id": first + index,
            "image_id": draw(st.sampled_from(numbers)),
            "bbox": box,
            "area": box[2] * box[3],
            "category_id": draw(st.integers(1, 2)),
            "iscrowd": draw(st.sampled_from([0, 0, 0, 1])),
        }
        if draw(st.integers(0, 9)):
            annotation["segmentation"] = polygons
        if not annotation["iscrowd"] and draw(st.booleans()):
            del annotation["iscrowd"]
        annotations.append(annotation)
    records = []
    for _ in range(draw(st.integers(0, 6))):
        box, polygons = square()
        if annotations and draw(st.booleans()):
            box = draw(st.sampled_from(annotations))["bbox"]
            x, y, width, height = box
            polygons = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        runs = rle.merge(rle.frPyObjects(polygons, 48, 64))
        records.append(
            {
                "image_id": draw(st.sampled_from(numbers)),
                "category_id": draw(st.integers(1, 2)),
                "bbox": box,
                "score": draw(st.sampled_from([0.1, 0.5, 0.5, 0.9])),
                "segmentation": {"size": [48, 64], "counts": runs["counts"].decode()},
            }
        )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }, records


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=valid_files())
def test_engines_agree_on_any_valid_file(monkeypatch, files):
    pytest.importorskip("hotcoco")
    truth, records = files
    found = []
    for name in coco_engines.ENGINES:
        monkeypatch.setenv(coco_engines.VARIABLE, name)
        matched = coco_engines.match(load(truth), records)
        found.append([*scoring.statistics(matched, "segm").values(), *scoring.statistics(matched, "bbox").values()])
    assert found[0] == pytest.approx(found[1], abs=1e-9, nan_ok=True)


def test_the_engine_is_a_setting_of_the_machine(monkeypatch):
    monkeypatch.setenv(coco_engines.VARIABLE, "pycocotools")
    assert coco_engines.chosen_engine() == "pycocotools"
    monkeypatch.setenv(coco_engines.VARIABLE, "fast")
    with pytest.raises(ExperimentError, match="'fast': no such engine; valid: hotcoco, pycocotools"):
        coco_engines.chosen_engine()


def test_pycocotools_stands_in_for_an_absent_engine(monkeypatch):
    monkeypatch.delenv(coco_engines.VARIABLE, raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "hotcoco" else find(name))
    assert coco_engines.chosen_engine() == "pycocotools"
    monkeypatch.setenv(coco_engines.VARIABLE, "hotcoco")
    with pytest.raises(ExperimentError, match="not installed"):
        coco_engines.chosen_engine()


def test_the_benchmark_measures_and_compares(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["eval_scale", "--images", "6", "--detections", "20", "--repeats", "1"])
    eval_scale.main()
    last = dict(pair.split("=") for pair in capsys.readouterr().out.splitlines()[-1].split())
    assert float(last["largest_difference"]) <= 1e-9 and float(last["faster"]) > 0 and float(last["memory"]) > 0
