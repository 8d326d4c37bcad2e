"""`commands.complete`: boxes get masks, everything else stays, and what is killed goes on."""

import json
import sys
import types
from argparse import Namespace

import cv2
import numpy as np
import pytest

from pipeline.errors import ExperimentError
from pipeline.inference import completing, fillers, masks, quality
from pipeline.inference.complete import Annotations, complete
from tests.reporting.test_page import CHROMIUM

from .looking import look

RING = {"size": [60, 80], "counts": "oh;1o1O"}


class Half:
    """A filler that gives the left half of each box, and less confidence to wider ones."""

    source, identity = "half", {"version": 1}

    def __init__(self):
        self.seen = []

    def __call__(self, image, boxes, names):
        self.seen.append(names)
        found = []
        for box in boxes:
            half = np.array([box[0], box[1], (box[0] + box[2]) / 2, box[3]])
            found.append((fillers.filled(image.shape, half), 1 - (box[2] - box[0]) / 200))
        return found


@pytest.fixture
def given(tmp_path):
    """Two pictures of discs on noise, an annotation file as a tool exports it, and what it holds."""
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    (images / "b").mkdir(parents=True)
    for name in ("1.png", "b/2.png"):
        picture = rng.integers(90, 130, (60, 80, 3), dtype=np.uint8)
        cv2.circle(picture, (40, 30), 15, (20, 30, 220), -1)
        cv2.imwrite(str(images / name), picture)
    content = {
        "info": {"année": 2026, "version": 1.10},
        "images": [
            {"id": 7, "file_name": "1.png", "width": 80, "height": 60, "flickr": None},
            {"id": 9, "file_name": "b/2.png", "width": 80, "height": 60},
        ],
        "categories": [{"id": 3, "name": "disc"}, {"id": 5, "name": "bolt"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [25, 15, 31, 31], "segmentation": []},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": [[1.5, 2, 4, 2, 4, 6.25]]},
            {"id": 3, "image_id": 9, "category_id": 5, "bbox": [25, 15, 51, 31], "attributes": {"occluded": False}},
            {"id": 4, "image_id": 9, "category_id": 5, "bbox": [0, 0, 9, 9], "segmentation": RING, "iscrowd": 0},
            {"id": 5, "image_id": 9, "category_id": 5, "bbox": [0, 0, 0, 9]},
        ],
        "videos": [{"id": 1e22}],
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    return images, path, content


def test_objects_without_a_mask_get_one_and_everything_else_stays(given, tmp_path):
    images, path, content = given
    out = tmp_path / "new" / "complete.json"
    said = complete(Annotations(path), images, Half(), out)
    done = json.loads(out.read_text())
    assert {key: done[key] for key in done if key != "annotations"} == {
        key: content[key] for key in content if key != "annotations"
    }
    before, after = content["annotations"], done["annotations"]
    for same in (1, 3, 4):
        assert json.dumps(after[same]) == json.dumps(before[same])
    for at, score in ((0, 0.845), (2, 0.745)):
        added = {key: value for key, value in after[at].items() if before[at].get(key) != value}
        assert added.keys() == {"segmentation", "area", "score", "source"}
        assert added["score"] == score and added["source"] == "half"
        mask = masks.decoded(added["segmentation"], 60, 80)
        assert mask.sum() == added["area"] and mask[20, 27] and not mask[20, 52]
    assert "2 masks added, 1 objects left as they were" in said and "disc" in said
    assert {entry.name for entry in out.parent.iterdir()} == {"complete.html", "complete.json", ".complete.json.lock"}
    page = out.with_suffix(".html").read_text()
    assert page.index("id 3") < page.index("id 1"), "the most doubtful one comes first"
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_looked_through_by_keys(given, tmp_path, width):
    images, path, content = given
    content["annotations"].append({"id": 6, "image_id": 7, "category_id": 3, "bbox": [20, 10, 40, 40]})
    path.write_text(json.dumps(content))
    complete(Annotations(path), images, Half(), tmp_path / "o.json")
    seen = look(tmp_path / "o.html", width)
    assert seen["places"] == [0, 1, 2, 1, 3]
    assert seen["loaded"] and seen["document"] <= width and not seen["blocked"]


def test_file_names_of_another_machine_and_boxes_as_polygons_are_completed(given, tmp_path):
    """As labelme2coco, Label Studio and LVIS export them."""
    images, path, content = given
    rectangle = [25.0, 15, 56, 15, 56, 46, 25, 46]
    content["images"][0]["file_name"] = "C:\\Users\\me\\1.png"
    del content["images"][1]["file_name"]
    content["images"][1]["coco_url"] = "http://somewhere/val/2.png"
    content["annotations"][0]["segmentation"] = [rectangle]
    path.write_text(json.dumps(content))
    complete(Annotations(path), images, Half(), tmp_path / "o.json")
    done = json.loads((tmp_path / "o.json").read_text())
    assert done["images"] == content["images"]
    assert [a["id"] for a in done["annotations"] if "source" in a] == [1, 3]
    complete(Annotations(path, keep_rectangles=True), images, Half(), tmp_path / "kept.json")
    assert json.loads((tmp_path / "kept.json").read_text())["annotations"][0]["segmentation"] == [rectangle]


def test_classes_that_are_not_asked_for_are_left(given, tmp_path):
    images, path, content = given
    complete(Annotations(path), images, Half(), tmp_path / "out.json", classes=["disc"], form="rle")
    after = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert after[0]["segmentation"]["size"] == [60, 80] and after[2] == content["annotations"][2]


def test_what_is_killed_goes_on(given, tmp_path):
    images, path, _ = given
    out = tmp_path / "out.json"

    class Killed(BaseException):
        pass

    class Dies(Half):
        def __call__(self, image, boxes, names):
            if self.seen:
                raise Killed
            return super().__call__(image, boxes, names)

    with pytest.raises(Killed):
        complete(Annotations(path), images, Dies(), out)
    assert not out.exists()
    again = Half()
    complete(Annotations(path), images, again, out)
    assert again.seen == [["bolt"]], "the first image is not done twice"
    whole = tmp_path / "whole.json"
    complete(Annotations(path), images, Half(), whole)
    assert out.read_bytes() == whole.read_bytes()


def test_an_unreadable_image_is_skipped_and_named(given, tmp_path, caplog):
    images, path, content = given
    (images / "1.png").write_bytes(b"no picture")
    said = complete(Annotations(path), images, Half(), tmp_path / "out.json")
    assert "1 masks added, 2 objects left" in said
    assert json.loads((tmp_path / "out.json").read_text())["annotations"][0] == content["annotations"][0]
    assert "1.png is truncated or not an image" in (tmp_path / "out.html").read_text()


def test_grabcut_is_deterministic_and_finds_a_disc_in_noise(given):
    images, _, _ = given
    picture = cv2.imread(str(images / "1.png"))
    box = np.array([[24.0, 14.0, 57.0, 47.0]])
    ((mask, score),) = fillers.GrabCut()(picture, box, ["disc"])
    ((again, _),) = fillers.GrabCut()(picture, box, ["disc"])
    disc = np.zeros((60, 80), np.uint8)
    cv2.circle(disc, (40, 30), 15, 1, -1)
    assert score is None and (mask == again).all()
    assert (mask & (disc > 0)).sum() / (mask | (disc > 0)).sum() > 0.9
    ((whole, _),) = fillers.GrabCut()(picture, np.array([[0.0, 0.0, 80.0, 60.0]]), ["disc"])
    assert whole.all(), "without a background it gives the box"


def test_refining_keeps_to_the_object_that_the_model_means(given):
    """Two discs in a box: GrabCut alone takes both, with the model's mask of one that one, and more exactly."""
    picture = np.random.default_rng(0).integers(90, 110, (60, 80, 3)).astype(np.uint8)
    for x, colour in ((25, (20, 20, 230)), (55, (230, 20, 20))):
        cv2.circle(picture, (x, 30), 12, colour, -1)
    box, discs = np.array([10.0, 15.0, 70.0, 46.0]), np.zeros((2, 60, 80), np.uint8)
    for disc, x in zip(discs, (25, 55), strict=True):
        cv2.circle(disc, (x, 30), 12, 1, -1)
    coarse = np.zeros((60, 80), bool)
    coarse[22:40, 16:33] = True

    class Coarse:
        source, identity = "coarse", {"weights": "0" * 64}

        def __call__(self, image, boxes, names):
            return [(coarse, 0.7)]

    ((alone, _),) = fillers.GrabCut()(picture, box[None], ["disc"])
    ((refined, sure),) = fillers.Refined(Coarse())(picture, box[None], ["disc"])
    meant = discs[0] > 0
    assert sure == 0.7
    assert (alone & (discs[1] > 0)).sum() > 0.9 * discs[1].sum()
    assert (refined & meant).sum() / (refined | meant).sum() > 0.9 > (coarse & meant).sum() / (coarse | meant).sum()


def test_fillers_are_compared_on_known_masks(given):
    images, path, content = given
    disc = np.zeros((60, 80), np.uint8)
    cv2.circle(disc, (40, 30), 15, 1, -1)
    content["annotations"] = [
        {"id": n, "image_id": image, "category_id": 3, "bbox": [25, 15, 31, 31], "segmentation": masks.polygons(disc)}
        for n, image in enumerate((7, 9))
    ]
    path.write_text(json.dumps(content))
    found = quality.overlaps(
        Annotations(path), images, {"filled_box": fillers.FilledBox(), "grabcut": fillers.GrabCut()}, {"disc"}
    )
    table = quality.table(found).set_index("by")
    assert list(table.index) == ["grabcut", "filled_box"] and list(table["objects"]) == [2, 2]
    assert table["mean IoU"]["filled_box"] == pytest.approx(disc.sum() / 31**2, abs=0.02)
    assert table["sd"]["filled_box"] == pytest.approx(0, abs=1e-9)


def arguments(**given):
    options = dict.fromkeys(
        ("model", "images", "annotations", "out", "by", "segmenter", "classes", "most", "seed", "dataset")
    )
    return Namespace(
        **options | {"compare": False, "form": "polygons", "force": False, "keep_rectangles": False} | given
    )


MISTAKES = {
    "no_images": ({"images": None}, "--images is missing"),
    "no_out": ({"out": None}, "--out is missing"),
    "no_model": ({"by": None}, "name a run or a checkpoint, or choose what needs none: --by filled_box"),
    "two_rows": ({"by": ["filled_box", "grabcut"]}, "a file is completed by one of them; compare several: --compare"),
    "sam_alone": ({"by": ["sam"]}, "--by sam: name the ONNX file of a segmenter"),
    "class": ({"classes": ["dics"]}, "unknown class 'dics'; valid: disc, bolt"),
    "same_file": ({"out": "boxes.json"}, "is what is read; name another file: --out FILE"),
    "folder": ({"out": "images"}, "is a folder; name another file: --out FILE"),
    "images_gone": ({"images": "gone"}, "no such folder; name that of the images: --images DIR"),
    "images_file": ({"images": "boxes.json"}, "is a file; name that of the images: --images DIR"),
    "annotations_gone": ({"annotations": "gone.json"}, "no such file; name the JSON file"),
    "class_letters": ({"classes": ["Disc"]}, "unknown class 'Disc'; valid: disc, bolt; did you mean 'disc'?"),
    "class_comma": ({"classes": ["disc,bolt"]}, "unknown class 'disc,bolt'; put spaces between several: 'disc' 'bolt'"),
    "page": ({"out": "out.html"}, "is the name of the page beside it; name a file that ends in .json: --out FILE"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, given, tmp_path):
    images, path, _ = given
    change, said = MISTAKES[name]
    change = {key: tmp_path / value if isinstance(value, str) else value for key, value in change.items()}
    right = {"images": images, "annotations": path, "out": tmp_path / "out.json", "by": ["filled_box"]}
    with pytest.raises(ExperimentError) as error:
        completing.completed(arguments(**right | change))
    assert said in str(error.value) and "\n" not in str(error.value)
    completing.completed(arguments(**right))  # as it is told
    assert (tmp_path / "out.json").exists()


def test_a_comparison_without_known_masks_is_mended_as_told(given, tmp_path):
    images, path, _ = given
    asked = {"compare": True, "by": ["filled_box"], "classes": ["disc"]}
    with pytest.raises(ExperimentError, match="--compare: name the file and the folder of its images"):
        completing.compared(arguments(**asked))
    content = json.loads(path.read_text())
    del content["annotations"][1]
    path.write_text(json.dumps(content))
    with pytest.raises(ExperimentError, match="no object of disc has a mask; name a file that has some"):
        completing.compared(arguments(**asked, annotations=path, images=images))
    content["annotations"][0]["segmentation"] = [[25, 15, 56, 15, 56, 46, 25, 46]]
    path.write_text(json.dumps(content))
    said = completing.compared(arguments(**asked, annotations=path, images=images, keep_rectangles=True))
    assert "filled_box" in said and "1.000" in said


def edit(section, position, **fields):
    return lambda content: content[section][position].update(fields)


def numbered_twice(section):
    return lambda content: content[section][1].update(id=content[section][0]["id"])


def normalised(content):
    for each in content["annotations"]:
        each["bbox"] = [value / 100 for value in each["bbox"]]


def as_text(content):
    for each in content["annotations"]:
        each["bbox"] = [str(value) for value in each["bbox"]]


CONTENT = {  # what is changed in a file that is right, or written in its place, and what the line says
    "a list": ("[]", "a list, not COCO's JSON; export"),
    "detections": ('[{"image_id": 1, "score": 0.5, "bbox": []}]', "detections of a model (COCO results), not annotat"),
    "XML": ("<annotation/>", "Pascal VOC's XML, not COCO's JSON"),
    "cut": ("{", "not JSON ("),
    "no objects": (lambda content: content["annotations"].clear(), "`annotations` is empty: no object is annotated"),
    "no file name": (lambda content: content["images"][0].pop("file_name"), "images[0] has no 'file_name'"),
    "unknown image": (edit("annotations", 0, image_id=1), "annotations[0] has the unknown image_id 1; correct"),
    "id as text": (edit("annotations", 0, image_id="7"), "unknown image_id '7', which is listed as 7; correct"),
    "class twice": (numbered_twice("categories"), "categories has the id 3 twice; give each class its own id"),
    "image twice": (numbered_twice("images"), "images has the id 7 twice; correct the file"),
    "class a number": (edit("categories", 0, name=4), "category 3: name is 4, valid: a text; correct the file"),
    "size as text": (edit("images", 0, width="80"), "images[0]: width is '80', valid: a number of pixels"),
    "mask in a file": (
        edit("annotations", 1, segmentation="1.png"),
        "annotations[1]: segmentation is '1.png', valid: ",
    ),
    "boxes as text": (as_text, "annotations[0]: bbox is ['25', '15', '31', '31'], valid: four numbers x, y, width"),
    "normalised": (normalised, "coordinates look normalised to 0..1, valid: pixels; multiply them by width and height"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_mistake_in_a_file_is_one_line_and_nothing_is_written(name, given, tmp_path):
    images, path, content = given
    change, said = CONTENT[name]
    if callable(change):
        change(content)
    path.write_text(json.dumps(content) if callable(change) else change)
    with pytest.raises(ExperimentError) as error:
        complete(Annotations(path), images, Half(), tmp_path / "out.json")
    assert said in str(error.value) and str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert not list(tmp_path.glob("*out.*"))


UNREADABLE = {
    "one polygon without a list": ([25, 15, 56, 15, 40, 40], "segmentation cannot be read ("),
    "two points": ([[25, 15, 56, 15]], "segmentation cannot be read ("),
    "no run lengths": ({"size": [60, 80], "counts": "zz!"}, "segmentation cannot be read ("),
    "too few": ({"size": [60, 80], "counts": [9, 9]}, "(run lengths add up to 18 pixels, its image has 4800)"),
    "turned": ({"size": [80, 60], "counts": [4800]}, "(its size is [80, 60], that of its image, height and width, ["),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_known_mask_that_cannot_be_read_is_one_line(name, given):
    images, path, content = given
    mask, said = UNREADABLE[name]
    content["annotations"][1]["segmentation"] = mask
    path.write_text(json.dumps(content))
    with pytest.raises(ExperimentError) as error:
        quality.overlaps(Annotations(path), images, {"filled_box": fillers.FilledBox()}, {"disc"})
    assert f"{path}: annotations[1]: " in str(error.value) and said in str(error.value) and "\n" not in str(error.value)


def test_run_lengths_of_any_form_are_known_masks(given):
    images, path, content = given
    content["annotations"][1] |= {"bbox": [0, 0, 1, 60], "segmentation": {"size": [60, 80], "counts": [0, 60, 4740]}}
    path.write_text(json.dumps(content))
    found = quality.overlaps(Annotations(path), images, {"filled_box": fillers.FilledBox()}, {"disc"})
    assert found["iou"].tolist() == [1.0]


def test_a_result_that_exists_is_kept_or_replaced_as_told(given, tmp_path):
    images, path, _ = given
    right = {"images": images, "annotations": path, "out": tmp_path / "out.json", "by": ["filled_box"]}
    (tmp_path / "out.json").write_text("mine")
    with pytest.raises(ExperimentError, match="exists; name another file, or replace it: --force"):
        completing.completed(arguments(**right))
    assert (tmp_path / "out.json").read_text() == "mine"
    completing.completed(arguments(**right, force=True))
    assert json.loads((tmp_path / "out.json").read_text())["annotations"][0]["source"] == "filled_box"


class Prompted:
    """Stands for onnxruntime with a segmenter that fills boxes."""

    __version__ = "0"

    def __init__(self, content, providers):
        if content != b"model":
            raise RuntimeError("no model")

    @staticmethod
    def get_available_providers():
        return ["CPUExecutionProvider"]

    def get_inputs(self):
        return [Namespace(name="boxes", shape=["n", 4]), Namespace(name="image", shape=[1, 3, "h", "w"])]

    def run(self, _, fed):
        assert fed["image"].dtype == np.float32 and fed["image"].shape == (1, 3, 60, 80)
        found = [np.where(fillers.filled((60, 80), box), 3.0, -3.0) for box in fed["boxes"]]
        return [np.stack(found)[None], np.full((len(found), 1), 0.9)]


def test_a_segmenter_is_prompted_with_the_boxes(given, tmp_path, monkeypatch):
    images, path, _ = given
    module = types.ModuleType("onnxruntime")
    module.InferenceSession, module.get_available_providers = Prompted, Prompted.get_available_providers
    module.__version__ = "0"
    right = {"images": images, "annotations": path, "out": tmp_path / "out.json", "by": ["sam"]}
    model, other = tmp_path / "sam.onnx", tmp_path / "other.onnx"
    model.write_bytes(b"model")
    other.write_bytes(b"else")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExperimentError, match="onnxruntime is not installed; install it with"):
        completing.completed(arguments(**right, segmenter=[model]))
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    for file, said in ((other, "not an ONNX model that onnxruntime loads"), (tmp_path / "gone", "no such file")):
        with pytest.raises(ExperimentError, match=said):
            completing.completed(arguments(**right, segmenter=[file]))
    completing.completed(arguments(**right, segmenter=[model]))
    first = json.loads((tmp_path / "out.json").read_text())["annotations"][0]
    assert first["score"] == 0.9 and first["source"].startswith("sam.onnx (") and first["area"] == 31 * 31
