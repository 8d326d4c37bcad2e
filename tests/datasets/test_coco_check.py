"""Each kind of oddity of an annotation file is refused in one line, mended to a known value, or reported."""

import copy
import errno
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from pycocotools import mask as rle

from pipeline.datasets import coco_check, contents, prepare
from pipeline.datasets.annotations import read_instances
from pipeline.datasets.contents import Filled
from pipeline.errors import ExperimentError, Refused
from pipeline.tasks.instances.packed_coco import PartialCocoDataset
from pipeline.tasks.instances.split import split

from .conftest import COCO_SET, LABELS, NONVOC2VOC, SUBSETS

WIDTH, HEIGHT = 60, 40
ZEBRA, CAT = 24, 17  # base and novel of NONVOC2VOC
OUTLINE = [10, 5, 30, 5, 35, 15, 20, 25, 10, 20]
BOX = [10, 5, 25, 20]
PIXELS = int(rle.area(rle.merge(rle.frPyObjects([[float(v) for v in OUTLINE]], HEIGHT, WIDTH))))


def runs(compressed=False):
    """The mask of OUTLINE as run lengths."""
    encoded = rle.merge(rle.frPyObjects([[float(v) for v in OUTLINE]], HEIGHT, WIDTH))
    if compressed:
        return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
    flat = rle.decode(encoded).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, flat.size]).tolist()}


def small():
    """Two images with a base and a novel object each."""
    images = [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in (1, 2)]
    annotations = [
        {
            "id": 10 * n + k,
            "image_id": n,
            "category_id": category,
            "bbox": list(BOX),
            "area": 350.5,
            "iscrowd": 0,
            "segmentation": [list(OUTLINE)],
        }
        for n in (1, 2)
        for k, category in enumerate((ZEBRA, CAT))
    ]
    return {"images": images, "annotations": annotations, "categories": [c._asdict() for c in COCO_SET.categories]}


@pytest.fixture
def written(tmp_path):
    """Give a function that writes a changed copy of `small` and returns its path."""

    def write(change=lambda content: None, name="instances_train2017.json"):
        content = small()
        content = change(content) or content
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write


def check(path, masks=None):
    """Check a file; gives the checker and what consumers got."""
    checker, got = coco_check.Checker(path, COCO_SET, masks), {"images": [], "annotations": []}
    read_instances(
        path,
        COCO_SET,
        lambda entries, _: got["images"].extend(entries),
        lambda entries, _: got["annotations"].extend(entries),
        checker,
    )
    return checker, got


def published(path):
    """The copy that later stages read."""
    checker = coco_check.Checker(path, COCO_SET)
    read_instances(path, COCO_SET, checks=checker)
    (path.parent / "published").mkdir()
    coco_check.copy(checker, path.parent / "published" / path.name)
    return checker, json.loads((path.parent / "published" / path.name).read_text())


def first(**fields):
    """Change fields of the first annotation, of id 10."""
    return lambda content: content["annotations"][0].update(copy.deepcopy(fields))


def image(**fields):
    return lambda content: content["images"][1].update(fields)


def everywhere(field, value):
    def change(content):
        for annotation in content["annotations"]:
            annotation[field] = value

    return change


def without(section, field, position=0):
    def change(content):
        del content[section][position][field]

    return change


def run_lengths(**fields):
    return first(segmentation=runs() | fields)


def normalised(content):
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[v / (HEIGHT if k % 2 else WIDTH) for k, v in enumerate(OUTLINE)]]


def normalised_boxes(content):
    normalised(content)
    everywhere("bbox", [10 / 60, 5 / 40, 25 / 60, 20 / 40])(content)


def polygon(*numbers):
    return first(segmentation=[list(numbers)])


def other_counts(change):
    counts = runs()["counts"]
    change(counts)
    return run_lengths(counts=counts)


LAST = OUTLINE[:-1]
AT_CORNER = [1, 0, 30, 0, 30, 15, 20, 20, 1, 20]
REFUSED = {
    # geometry
    "box of three": (first(bbox=[1, 2, 3]), "annotation 10 of image 1: bbox is [1, 2, 3], valid: four numbers"),
    "box of text": (first(bbox=["10", "5", "25", "20"]), 'bbox is ["10", "5", "25", "20"], valid: four numbers'),
    "box of null": (first(bbox=[10, 5, None, 20]), "bbox is [10, 5, null, 20]"),
    "box is null": (first(bbox=None), "bbox is null"),
    "box of true": (first(bbox=[10, 5, True, 20]), "bbox is [10, 5, true, 20]"),
    "box of true that fits": (first(bbox=[True, 0, 29, 20], segmentation=[AT_CORNER]), "bbox is [true, 0, 29, 20]"),
    "polygon of true": (first(bbox=[1, 0, 29, 20], segmentation=[[True, *AT_CORNER[1:]]]), "a polygon is [true, 0, 30"),
    "NaN box": (first(bbox=[math.nan, 5, 25, 20]), "bbox is [NaN, 5, 25, 20], valid: finite numbers"),
    "infinite box": (first(bbox=[10, 5, math.inf, 20]), "bbox is [10, 5, Infinity, 20], valid: finite"),
    "huge box": (first(bbox=[10, 5, 1e30, 20]), "bbox is [10, 5, 1e+30, 20], valid: finite"),
    "huge whole box": (first(bbox=[10, 5, 10**40, 20]), "valid: finite numbers of pixels"),
    "no box": (without("annotations", "bbox"), "annotations[0] has no 'bbox'"),
    "NaN vertex": (polygon(math.nan, *OUTLINE[1:]), "far outside the image"),
    "infinite vertex": (polygon(math.inf, *OUTLINE[1:]), "far outside the image"),
    "far vertex": (polygon(1e9, *OUTLINE[1:]), "a polygon reaches from (10, 5) to (1e+09, 25), the image is 60x40"),
    "vertex of text": (polygon("10", *OUTLINE[1:]), 'a polygon is ["10", 5, 30'),
    "vertex beyond floats": (polygon(10**400, *OUTLINE[1:]), "a polygon is [1000"),
    "area beyond floats": (first(area=10**400), "valid: a number"),
    "box beyond floats": (first(bbox=[10**400, 5, 25, 20]), "valid: finite numbers of pixels"),
    "vertex of null": (polygon(None, *OUTLINE[1:]), "a polygon is [null, 5"),
    "rectangle": (polygon(10, 5, 25, 20), "a polygon has 4 numbers, valid: at least 6"),
    "no point": (first(segmentation=[[]]), "a polygon has 0 numbers, valid: at least 6"),
    "two points only": (first(segmentation=[[1, 2, 3, 4], [5, 6]]), "a polygon has 4 numbers, valid: at least 6"),
    "odd": (polygon(*LAST), "a polygon has 9 numbers, valid: an even number"),
    "odd part": (first(segmentation=[OUTLINE, LAST]), "a polygon has 9 numbers"),
    "flat": (first(segmentation=OUTLINE), "segmentation is a list of 10 numbers, valid: a list of polygons"),
    "flat rectangle": (first(segmentation=BOX), "segmentation is a list of 4 numbers"),
    "nested points": (first(segmentation=[[[10, 5], [30, 5], [35, 15]]]), "a polygon is [[10, 5], [30, 5], [35, 15]]"),
    "objects": (first(segmentation=[{"x": 1}]), 'a polygon is {"x": 1}, valid: a list of numbers'),
    "text": (first(segmentation="10 5 30 5"), 'segmentation is "10 5 30 5", valid: a list of polygons, or run lengths'),
    "number": (first(segmentation=7), "segmentation is 7, valid"),
    "outside": (
        lambda c: (polygon(70, 50, 80, 50, 80, 60)(c), first(bbox=[50, 30, 30, 30])(c))[2:],
        "its mask reaches from (70, 50) to (80, 60), the image is 60x40",
    ),
    "beside its box": (first(bbox=[50, 30, 8, 8]), "its mask reaches from (10, 5) to (35, 25), bbox is [50, 30, 8, 8]"),
    "normalised": (normalised, "coordinates look normalised to 0..1, valid: pixels"),
    "normalised boxes": (normalised_boxes, "coordinates look normalised to 0..1, valid: pixels"),
    # run lengths
    "short": (other_counts(lambda c: c.pop()), f"valid: height*width = {WIDTH * HEIGHT}"),
    "long": (other_counts(lambda c: c.append(7)), f"counts of its run lengths sum to {WIDTH * HEIGHT + 7}"),
    "empty counts": (run_lengths(counts=[]), "counts of its run lengths sum to 0"),
    "negative": (other_counts(lambda c: c.extend([-5, 5])), "sum to 2400, the least is -5"),
    "decimals": (other_counts(lambda c: c.append(0.0)), "valid: a list of whole numbers, or a text"),
    "text in counts": (other_counts(lambda c: c.append("0")), "valid: a list of whole numbers, or a text"),
    "true in counts": (other_counts(lambda c: c.append(True)), "valid: a list of whole numbers, or a text"),
    "width first": (
        run_lengths(size=[WIDTH, HEIGHT]),
        "size of its run lengths is [60, 40], valid: [height, width] = [40, 60]",
    ),
    "size of text": (run_lengths(size=["40", "60"]), 'size of its run lengths is ["40", "60"]'),
    "no size": (first(segmentation={"counts": runs()["counts"]}), "size of its run lengths is null"),
    "no counts": (first(segmentation={"size": [HEIGHT, WIDTH]}), "counts is null, valid: a list of whole numbers"),
    "not compressed": (run_lengths(counts="\u00e9~~ 12"), "valid: as pycocotools.mask.encode gives it"),
    "cut text": (run_lengths(counts=runs(True)["counts"][:-1]), "counts"),
    "text that goes on": (run_lengths(counts="oooooo"), "valid: as pycocotools.mask.encode gives it"),
    "empty text": (run_lengths(counts=""), "counts of its run lengths sum to 0"),
    # flags and numbers
    "iscrowd text": (first(iscrowd="0"), 'iscrowd is "0", valid: 0, 1, true, false or absent'),
    "iscrowd 2": (first(iscrowd=2), "iscrowd is 2, valid"),
    "iscrowd -1": (first(iscrowd=-1), "iscrowd is -1, valid"),
    "iscrowd list": (first(iscrowd=[0]), "iscrowd is [0], valid"),
    "ignore text": (first(ignore="false"), 'ignore is "false", valid: 0, 1, true, false or absent'),
    "area text": (first(area="350.5"), 'area is "350.5", valid: a number'),
    "area true": (first(area=True), "area is true, valid: a number"),
    "NaN elsewhere": (first(score=math.nan), "score is NaN or Infinity, which is not JSON"),
    "NaN in an attribute": (first(attributes={"a": math.inf}), "attributes is NaN or Infinity"),
    # images
    "width text": (image(width="60"), 'images[1]: width is "60", valid: a whole number'),
    "width null": (image(width=None), "images[1]: width is null, valid"),
    "width 0": (image(width=0), "images[1]: width is 0, valid"),
    "width negative": (image(width=-60), "images[1]: width is -60, valid"),
    "width 60.5": (image(width=60.5), "images[1]: width is 60.5, valid"),
    "width true": (image(width=True), "images[1]: width is true, valid"),
    "width NaN": (image(width=math.nan), "images[1]: width is NaN, valid"),
    "height huge": (image(height=10**9), "images[1]: height is 1000000000, valid"),
    "no width": (without("images", "width"), "images[0] has no 'width'"),
    "no name": (without("images", "file_name"), "images[0] has no 'file_name'"),
    "name 7": (image(file_name=7), "images[1]: file_name is 7, no text"),
    "empty name": (image(file_name=""), 'images[1]: file_name is ""'),
    "null name": (image(file_name=None), "images[1]: file_name is null"),
    "absolute": (image(file_name="/etc/2.jpg"), 'file_name is "/etc/2.jpg", an absolute path'),
    "drive": (image(file_name="C:\\2.jpg"), "an absolute path"),
    "leaves": (image(file_name="a/../../2.jpg"), "which leaves the folder"),
    "zero byte": (image(file_name="2\0.jpg"), "which no file can have"),
    "half a character": (image(file_name="\ud800.jpg"), "which no file can have"),
    "same name": (image(file_name="1.jpg"), 'images[1]: file_name "1.jpg" is also that of image 1'),
    "image is a number": (lambda c: c["images"].append(7), "images[2] is 7, valid: an object"),
    # ids and references
    "same image id": (image(id=1), "images has the id 1 twice"),
    "same id": (lambda c: c["annotations"][3].update(id=10), "annotations has the id 10 twice"),
    "same large id": (lambda c: [a.update(id=2**100) for a in c["annotations"][:2]][2:], "twice"),
    "null id": (first(id=None), "id is null, valid: a number or a text"),
    "true id": (first(id=True), "id is true, valid: a number or a text"),
    "list id": (first(id=[1]), "id is [1], valid: a number or a text"),
    "NaN id": (first(id=math.nan), "id is NaN, valid"),
    "no id": (without("annotations", "id"), "annotations[0] has no 'id'"),
    "unknown image": (first(image_id=5), "annotation 10: unknown image_id 5, valid"),
    "text for a number": (first(image_id="1"), 'annotation 10: unknown image_id "1"'),
    "null image": (first(image_id=None), "annotation 10: unknown image_id null"),
    "unknown category": (first(category_id=12), "annotation 10: unknown category_id 12"),
    "category text": (first(category_id="24"), 'annotation 10: unknown category_id "24"'),
    "category true": (first(category_id=True), "annotation 10: unknown category_id true"),
    "annotation is null": (lambda c: c["annotations"].append(None), "annotations[4] is null, valid: an object"),
    "category id text": (lambda c: c["categories"][0].update(id="1"), 'category "person" has the id "1"'),
    "NaN in info": (lambda c: c.update(info={"version": math.nan}), "info, licenses or categories holds NaN"),
}


@pytest.mark.parametrize("seed", range(40))
def test_what_is_looked_at_in_blocks_is_judged_as_one_by_one(written, monkeypatch, seed):
    """Values put anywhere: the array operations pass nothing that the checks of a field refuse, mend or report."""
    draw, content = random.Random(seed), small()
    for annotation in draw.sample(content["annotations"], 2):
        if draw.random() < 0.3:
            del annotation["segmentation"]
        places = [(annotation["bbox"], k) for k in range(4)] + [(annotation, "ignore")] * 4
        places += [(annotation.get("segmentation", [{}])[0], k) for k in range(10)]
        place, key = draw.choice(places)
        place[key] = draw.choice([0, 1, -1, 0.5, 2, 35, 40, 59, 61, 1e-9, -61, 1e7, True, False, None, "1", math.nan])
    path, masks = written(lambda _: content), draw.choice([None, {ZEBRA}])

    def outcome():
        try:
            checker, got = check(path, masks)
        except ExperimentError as error:
            return str(error)
        return checker.findings, checker.with_mask, checker.mended, got

    in_blocks = outcome()
    monkeypatch.setattr(coco_check.Checker, "_not_plain", lambda *_: None)
    assert outcome() == in_blocks


def test_ignore_in_the_place_of_a_mask_is_looked_at(written):
    def change(content):
        del content["annotations"][1]["segmentation"]
        content["annotations"][1]["ignore"] = 2

    with pytest.raises(ExperimentError, match="annotation 11 of image 1: ignore is 2, valid: 0, 1"):
        check(written(change), {ZEBRA})


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(written, change, message):
    path = written(change)
    with pytest.raises(ExperimentError) as caught:
        check(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and message in line and "\n" not in line
    assert line.endswith("; correct the file, then run `python -m stages.download`")
    if "images[1]: " in message:
        assert "unknown images" not in line, "no complaint that follows from another one"


def test_a_category_that_stands_twice(written):
    with pytest.raises(ExperimentError, match="lists 81 categories; all of COCO's 80 are needed"):
        check(written(lambda content: content["categories"].append(content["categories"][0])))


def test_the_line_counts_every_kind_and_the_first_example_comes_first(written):
    def change(content):
        for annotation in content["annotations"][1:3]:
            annotation["iscrowd"] = "0"
        content["annotations"][3]["bbox"] = [1]

    with pytest.raises(ExperimentError) as caught:
        check(written(change))
    assert "annotation 11 of image 1: iscrowd" in str(caught.value)
    assert "('iscrowd' that is neither 0 nor 1: 2, boxes that are not four numbers: 1)" in str(caught.value)


def text_ids(content):
    image(id="b")(content)
    for annotation in content["annotations"][2:]:
        annotation["image_id"] = "b"


MENDED = {
    "no iscrowd": (without("annotations", "iscrowd"), "annotations", 0, {"iscrowd": 0}),
    "null iscrowd": (first(iscrowd=None), "annotations", 0, {"iscrowd": 0}),
    "false": (first(iscrowd=False), "annotations", 0, {"iscrowd": 0}),
    "true": (first(iscrowd=True), "annotations", 0, {"iscrowd": 1}),
    "1.0": (first(iscrowd=1.0), "annotations", 0, {"iscrowd": 1}),
    "ignore true": (first(ignore=True), "annotations", 0, {"ignore": 1}),
    "area 0": (everywhere("area", 0), "annotations", 3, {"area": PIXELS}),
    "negative area": (first(area=-7.5), "annotations", 0, {"area": PIXELS}),
    "NaN area": (first(area=math.nan), "annotations", 0, {"area": PIXELS}),
    "infinite area": (first(area=math.inf), "annotations", 0, {"area": PIXELS}),
    "null area": (first(area=None), "annotations", 0, {"area": PIXELS}),
    "no area": (without("annotations", "area"), "annotations", 0, {"area": PIXELS}),
    "area of run lengths": (first(area=0, segmentation=runs()), "annotations", 0, {"area": PIXELS}),
    "area of a text": (first(area=0, segmentation=runs(True)), "annotations", 0, {"area": PIXELS}),
    "area of a box": (first(area=0, segmentation=[]), "annotations", 0, {"area": 500, "segmentation": ...}),
    "empty mask": (first(segmentation=[]), "annotations", 0, {"segmentation": ...}),
    "null mask": (first(segmentation=None), "annotations", 0, {"segmentation": ...}),
    "empty part": (first(segmentation=[OUTLINE, []]), "annotations", 0, {"segmentation": [OUTLINE]}),
    "part of two points": (first(segmentation=[[1, 2, 3, 4], OUTLINE]), "annotations", 0, {"segmentation": [OUTLINE]}),
    "decimal size": (image(width=60.0, height=40.0), "images", 1, {"width": 60, "height": 40}),
    "decimal references": (first(image_id=1.0, category_id=24.0), "annotations", 0, {"image_id": 1, "category_id": 24}),
    "decimal category": (lambda c: c["categories"][2].update(id=3.0), "categories", 2, {"id": 3}),
    "order of categories": (lambda c: c["categories"].reverse(), "categories", 0, {"id": 1, "name": "person"}),
    "text ids": (text_ids, "annotations", 2, {"image_id": 2}),
    "the image of a text id": (text_ids, "images", 1, {"id": 2, "source_id": "b"}),
    "128 bits": (
        lambda c: (
            [i.update(id=2**127 + i["id"]) for i in c["images"]]
            and [a.update(image_id=2**127 + a["image_id"]) for a in c["annotations"]][9:]
        ),
        "images",
        1,
        {"id": 2, "source_id": 2**127 + 2},
    ),
    "negative id": (first(id=-1), "annotations", 0, {"id": 1, "source_id": -1}),
    "UUID": (first(id="5f0c-11"), "annotations", 1, {"id": 2, "source_id": 11}),
    "decimal id": (first(id=1.5), "annotations", 0, {"id": 1, "source_id": 1.5}),
}


@pytest.mark.parametrize("change, section, position, expected", MENDED.values(), ids=MENDED)
def test_mended_in_the_copy(written, change, section, position, expected):
    path = written(change)
    before = path.read_bytes()
    checker, content = published(path)
    entry = content[section][position]
    assert {field: entry.get(field, ...) for field in expected} == expected
    assert all(type(entry[field]) is type(value) for field, value in expected.items() if value is not ...)
    assert any(each.done in (coco_check.MENDED, coco_check.DROPPED) for each in checker.findings.values())
    assert path.read_bytes() == before, "the user's own file is left as it is"
    again, _ = check(path.parent / "published" / path.name)
    assert not again.mended, "a mended file needs no mending"


def test_what_is_not_mended_keeps_its_bytes(written):
    path = written(lambda c: c["annotations"][0].update(number=2**90, small=1e-7, id=0))
    checker, _ = published(path)
    assert not checker.mended and not checker.findings
    assert (path.parent / "published" / path.name).read_bytes() == path.read_bytes()


def test_other_entries_of_a_mended_file_keep_their_values(written):
    path = written(
        lambda c: (
            c["annotations"][0].update(number=2**90, small=1e-7, text="\u00e9 1e-5"),
            c["annotations"][1].pop("iscrowd"),
            c.update(info={"year": 2017}),
        )[9:]
    )
    source = json.loads(path.read_text())
    source["annotations"][1]["iscrowd"] = 0
    assert published(path)[1] == source


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda text: text.replace(b'"area": 350.5', b'"area": 350.5, "area": 7', 1),
            "'area' stands twice in an object",
        ),
        (lambda text: text.replace(b'"width": 60', b'"width": 60,"width": 61', 1), "'width' stands twice in an object"),
        (lambda text: text.replace(b'"images"', b'"annotations": [], "images"'), "'annotations' stands twice"),
        (lambda text: text.replace(b'"id": 1,', b'"id": 1, "id": 1,', 1), "'id' stands twice in an object"),
        (lambda text: text[:-200], "not a JSON file"),
        (lambda text: text.decode().encode("utf-16"), "not UTF-8"),
        (
            lambda text: text.replace(b"350.5", b"1e999", 1).replace(b"[10, 5, 25, 20]", b"[10, 5, 1e999, 20]", 1),
            "bbox is",
        ),
    ],
)
def test_text_that_is_not_good_json(written, change, message):
    path = written()
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ExperimentError) as caught:
        check(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_byte_order_mark_is_left_out(written):
    path = written()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    checker, content = published(path)
    assert content == small() and checker.findings["the file begins with a byte order mark"].done == "mended"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, kind):
    path = tmp_path / "instances_train2017.json"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda p: os.symlink("/dev/zero", p)}[kind](path)
    with pytest.raises(ExperimentError, match="instances_train2017.json: .*it is not a regular file"):
        check(path)


WARNED = {
    "no pixel": (polygon(10, 5, 20, 5, 30, 5), "masks without a pixel"),
    "no pixel in run lengths": (run_lengths(counts=[HEIGHT * WIDTH]), "masks without a pixel"),
    "corners for a box": (first(bbox=[10, 5, 35, 25]), "boxes that look like x1, y1, x2, y2 of their mask"),
    "corners without a mask": (first(bbox=[40, 30, 59, 39], segmentation=[]), "boxes that reach beyond the image"),
    "rectangle": (polygon(10, 5, 35, 5, 35, 25, 10, 25), "masks that are rectangles"),
    "closed rectangle": (polygon(10, 5, 10, 25, 35, 25, 35, 5, 10, 5), "masks that are rectangles"),
    "box outside": (first(bbox=[300, 5, 25, 20]), "boxes outside the image"),
    "box of no size": (first(bbox=[10, 5, 0, 20]), "boxes below one pixel or of negative size"),
    "negative box": (first(bbox=[35, 25, -25, -20]), "boxes below one pixel or of negative size"),
    "other box": (first(bbox=[10, 5, 45, 35]), "boxes that differ from the extent of their mask"),
    "beyond the image": (
        lambda c: (polygon(40, 5, 75, 5, 75, 25)(c), first(bbox=[40, 5, 35, 20])(c))[2:],
        "masks that reach beyond the image",
    ),
    "no mask": (without("annotations", "segmentation"), "objects without a mask"),
}


@pytest.mark.parametrize("change, kind", WARNED.values(), ids=WARNED)
def test_odd_is_reported(written, change, kind):
    checker, _ = check(written(change))
    finding = next(each for name, each in checker.findings.items() if name.startswith(kind))
    assert finding.count == 1 and "annotation 10 of image 1" in finding.example
    assert finding.done in (coco_check.WARNED, coco_check.NOTED)


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_are_measured_as_pycocotools_does(compressed):
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 30, 2).tolist()
        mask = rng.random((height, width)) < rng.choice([0.02, 0.5, 0.98])
        encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
        flat = mask.ravel(order="F").astype(np.uint8)
        edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
        counts = np.diff([0, *edges, flat.size]).tolist()
        assert coco_check.decoded_counts(encoded["counts"].decode()) == counts or sum(counts) == 0
        shape = {"size": [height, width], "counts": encoded["counts"].decode() if compressed else counts}
        x1, y1, x2, y2, pixels = coco_check.Checker("none", COCO_SET)._run_lengths(shape, "here", (width, height))
        x, y, across, down = rle.toBbox(encoded).tolist()
        assert pixels == mask.sum()
        if pixels:
            assert (x1, y1, x2, y2) == (x, y, x + across, y + down)


@pytest.mark.parametrize("annotations_first", [False, True])
def test_the_order_of_the_sections_does_not_matter(written, annotations_first):
    def change(content):
        content["annotations"][0]["area"] = 0
        content["images"][0]["width"] = 60.0
        return dict(sorted(content.items(), reverse=not annotations_first))

    checker, content = published(written(change))
    assert content["annotations"][0]["area"] == PIXELS and type(content["images"][0]["width"]) is int
    assert sum(each.count for each in checker.findings.values()) == 2


def annotations_first(content):
    return dict(sorted(content.items()))


def test_annotations_before_images_are_no_reason_to_write_the_file_anew(written):
    path = written(annotations_first)
    checker, _ = published(path)
    assert not checker.mended and (path.parent / "published" / path.name).read_bytes() == path.read_bytes()


def test_ids_of_images_beyond_64_bits_behind_the_annotations(written):
    def change(content):
        for entry, field in [(i, "id") for i in content["images"]] + [(a, "image_id") for a in content["annotations"]]:
            entry[field] += 1 << 90
        return annotations_first(content)

    _, content = published(written(change))
    assert [(each["id"], each["source_id"]) for each in content["images"]] == [(n, n + (1 << 90)) for n in (1, 2)]
    assert [each["image_id"] for each in content["annotations"]] == [1, 1, 2, 2]


def test_images_that_are_all_refused_are_counted_once(written):
    with pytest.raises(ExperimentError, match=r"images\[0\] has no 'id' \(images without a field: 2, annotations of"):
        check(written(lambda content: [image.pop("id") for image in content["images"]][2:]))


def test_the_table_names_file_annotation_image_and_what_was_done(written):
    path = written(lambda c: (without("annotations", "iscrowd")(c), first(bbox=[10, 5, 35, 25])(c))[9:])
    lines = coco_check.table({path.name: published(path)[0].findings}).splitlines()
    assert "## instances_train2017.json" in lines
    assert "| 'iscrowd' that is missing | 1 | annotation 10 of image 1: taken for 0 | mended |" in lines
    assert any(line.startswith("| boxes that look like") and line.endswith("| warned |") for line in lines)


def test_masks_of_other_categories_are_not_looked_at(written):
    """A split looks at base categories only."""
    path = written(lambda c: c["annotations"][1].update(segmentation=[[1e9] * 7], area=math.nan))
    checker, _ = check(path, {ZEBRA})
    assert not checker.findings and checker.with_mask == 2
    with pytest.raises(ExperimentError):
        check(path)


def picture(path, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_reported_and_ignored(written, tmp_path, orientation):
    checker, _ = check(written())
    for number in (1, 2):
        picture(tmp_path / f"{number}.jpg", (WIDTH, HEIGHT), orientation)
    checker.check_images(tmp_path)
    assert [each.count for each in checker.findings.values()] == ([] if orientation == 1 else [2])


def test_only_headers_of_pictures_are_read(written, tmp_path, monkeypatch):
    checker, _ = check(
        written(lambda content: [image.update(file_name=f"{image['id']}.png") for image in content["images"]][2:])
    )
    picture(tmp_path / "1.png", (WIDTH, HEIGHT), 6)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "2.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    checker.check_images(tmp_path)
    assert [each.example for each in checker.findings.values()] == ['image 1 ("1.png"): orientation 6']


@pytest.mark.parametrize("orientation", [1, 6])
def test_annotations_of_a_turned_picture_are_refused(written, tmp_path, orientation):
    checker, _ = check(written())
    picture(tmp_path / "1.jpg", (WIDTH, HEIGHT), 1)
    picture(tmp_path / "2.jpg", (HEIGHT, WIDTH), orientation)
    turned = " and to be turned by its EXIF orientation 6, which is ignored" * (orientation == 6)
    with pytest.raises(ExperimentError) as caught:
        checker.check_images(tmp_path)
    assert f'image 2 ("2.jpg"): is stored 40x60{turned}, its annotations say 60x40' in str(caught.value)


# Through download and split


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A COCO folder of `small` with images, used in place; gives it and a function that downloads it."""
    for subset in SUBSETS:
        (tmp_path / "coco" / subset).mkdir(parents=True)
        for number in (1, 2):
            picture(tmp_path / "coco" / subset / f"{number}.jpg", (WIDTH, HEIGHT), 1)
    (tmp_path / "coco" / "annotations").mkdir()
    in_place = prepare.Kind(lambda *_: {}, lambda _source, root, *_: Filled({}, root, lambda: None))
    monkeypatch.setitem(prepare.KINDS, "coco", in_place)

    def download(change):
        for subset in SUBSETS:
            content = small()
            change(content)
            (tmp_path / "coco" / "annotations" / f"instances_{subset}.json").write_text(json.dumps(content))
        prepare.prepare("mine", {"kind": "coco", **LABELS}, images_root=tmp_path / "coco", out_dir=tmp_path / "data")
        return tmp_path / "data"

    return download


def test_download_publishes_what_was_mended_and_says_so(folder, tmp_path):
    data = folder(everywhere("area", 0))
    content = json.loads((data / "annotations" / "instances_val2017.json").read_text())
    assert [annotation["area"] for annotation in content["annotations"]] == [PIXELS] * 4
    assert (data / "annotations" / "findings.md").read_text().count("| 4 | annotation 10 of image 1: area is 0") == 2
    split(data / "annotations" / "instances_train2017.json", COCO_SET, NONVOC2VOC, tmp_path / "split")
    dataset = PartialCocoDataset(str(tmp_path / "split" / "train.json"), [], label_set=COCO_SET)
    assert [each["is_novel"].tolist() for each in map(dataset.get_ann_info, range(2))] == [[False, True]] * 2


def test_download_of_what_is_refused_publishes_nothing(folder, tmp_path):
    with pytest.raises(ExperimentError, match="instances_train2017.json: annotation 10 of image 1: a polygon has 4"):
        folder(polygon(10, 5, 25, 20))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("field", ["iscrowd", "none"])
def test_a_disk_that_is_full_leaves_nothing_half_written(folder, tmp_path, monkeypatch, field):
    def refuse(source, target, *_):
        (target if isinstance(target, Path) else Path(target.name)).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(coco_check.shutil, "copyfileobj" if field == "iscrowd" else "copyfile", refuse)
    with pytest.raises(ExperimentError, match="No space left on device; free some space"):
        folder(lambda content: content["annotations"][0].pop(field, None) and None)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


@pytest.mark.parametrize("sections", [("annotations",), ("images", "annotations")])
def test_a_file_of_nothing_is_refused_before_anything_is_trained(folder, sections):
    with pytest.raises(ExperimentError, match="lists [02] images and 0 annotations: nothing to train or"):
        folder(lambda content: content.update(dict.fromkeys(sections, [])))


def test_a_folder_without_an_annotation_file_is_told_what_it_has_to_hold(folder, tmp_path):
    with pytest.raises(ExperimentError, match="instances_train2017.json: no such file; .* has to hold it too$"):
        prepare.prepare("mine", {"kind": "coco", **LABELS}, images_root=tmp_path / "coco", out_dir=tmp_path / "data")


def everything_tiny(content):
    for each in content["images"]:
        each |= {"width": 31}
    for annotation in content["annotations"]:
        annotation |= {"bbox": [10, 5, 20, 20], "segmentation": [[10, 5, 30, 5, 30, 25, 12, 20]]}


def base_only(**fields):
    def change(content):
        for annotation in content["annotations"]:
            if annotation["category_id"] == ZEBRA:
                annotation.update(copy.deepcopy(fields))

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (everything_tiny, "nothing to train on: of 2 images 2 are smaller than 32 pixels on a side"),
        (lambda c: c["annotations"].clear(), "nothing to train on: of 2 images 0 are smaller"),
        (everywhere("ignore", 1), "the others show no object that training uses (skipped: 0 crowd, 4 ignore"),
        (base_only(iscrowd=1), "no base mask left to train on: 2 objects are of base categories, skipped: 2 crowd"),
        (base_only(segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}), "masks with a pixel: 0"),
    ],
)
def test_a_split_that_leaves_nothing_to_train_on_says_which_filter(written, tmp_path, change, message):
    with pytest.raises(ExperimentError) as caught:
        split(written(change), COCO_SET, NONVOC2VOC, tmp_path / "out")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_what_is_mended_reaches_training(written, tmp_path):
    def change(content):
        everywhere("area", 0)(content)
        for position, annotation in enumerate(content["annotations"]):
            del annotation["iscrowd"]
            annotation["id"] = f"object {position}"
        content["images"][1]["width"] = 60.0

    path = written(change)
    published(path)
    split(path.parent / "published" / path.name, COCO_SET, NONVOC2VOC, tmp_path / "split")
    dataset = PartialCocoDataset(str(tmp_path / "split" / "train.json"), [], label_set=COCO_SET)
    parsed = [dataset.get_ann_info(index) for index in range(len(dataset))]
    assert [each["labels"].tolist() for each in parsed] == [[22, 15], [22, 15]]
    assert [each["is_novel"].tolist() for each in parsed] == [[False, True], [False, True]]
    assert [each["bboxes"].tolist() for each in parsed] == [[[10, 5, 35, 25]] * 2] * 2


def test_a_record_that_a_full_disk_cuts_short_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(Refused, match="No space"):
        contents.write_json(tmp_path / "contents.json", {})
    assert not list(tmp_path.iterdir())
