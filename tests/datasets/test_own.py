"""A user's own images and annotations: exports of five tools are read as one, and mistakes are told in a line."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from pipeline import own
from pipeline.datasets import exports, prepare
from pipeline.datasets import own as data
from pipeline.declaration import experiments, schema, strict
from pipeline.errors import ExperimentError
from pipeline.tasks.instances.split import split

from . import tools


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return tools.photographs(tmp_path_factory.mktemp("photos"))


def options(photos, path, **further):
    further = {"val_fraction": 0.34, "seed": 0} | further if "val_annotations" not in further else further
    return {"images": str(photos), "annotations": {"path": str(path)}} | further


@pytest.fixture
def gather(photos, tmp_path):
    """Give a function that writes an export and gathers it."""

    def call(content, **further):
        path = tools.write(content, tmp_path / "export.json")
        return data.gather(options(photos, path, **further))

    return call


def found(gathered):
    """{(file, class, box): whether it has a mask} of a side each."""
    sides = {}
    for side, content in gathered.subsets.items():
        files = {image["id"]: image["file_name"] for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        sides[side] = {
            (files[a["image_id"]], names[a["category_id"]], tuple(a["bbox"])): "segmentation" in a
            for a in content["annotations"]
        }
    return sides


@pytest.mark.parametrize("tool", tools.TOOLS)
def test_an_export_of_any_tool_is_the_same_data(gather, tool):
    gathered = gather(tools.TOOLS[tool]())
    expected = {
        (file, kind, tuple(map(float, box))): mask
        for file, objects in tools.SCENES.items()
        for kind, box, mask in objects
    }
    sides = found(gathered)
    assert sides["train"] | sides["val"] == expected
    assert {file for file, *_ in sides["train"]}.isdisjoint(file for file, *_ in sides["val"])
    assert gathered.labels.names == tools.CLASSES
    assert own.grouped(gathered) == {"bolt": "base", "nut": "novel", "washer": "base"}
    assert all(a["iscrowd"] == 0 and a["area"] > 1 for side in gathered.subsets.values() for a in side["annotations"])


def test_ids_of_the_file_are_kept_where_readers_take_them(gather):
    content = tools.coco(first_class=7)
    assert [category.id for category in gather(content).labels.categories] == [7, 8, 9]
    ids = {7: "a", 8: "b", 9: "c"}
    for category in content["categories"]:
        category["id"] = ids[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"]]
    assert [category.id for category in gather(content).labels.categories] == [1, 2, 3]


def test_images_stay_on_their_side_and_every_class_keeps_its_masks(gather):
    content = tools.coco()
    sides = [found(gather(content, val_fraction=share)) for share in (0.17, 0.34)]
    files = [{file for file, *_ in side["val"]} for side in sides]
    assert files[0] < files[1] and len(files[1]) == 2
    greedy = found(gather(content, val_fraction=0.9))["train"]
    kept = [kind for (_, kind, _), mask in greedy.items() if mask]
    assert {kind for _, kind, _ in greedy} == set(tools.CLASSES)
    assert kept.count("bolt") >= 2 and kept.count("washer") >= 2
    assert files[1] != {file for file, *_ in found(gather(content, val_fraction=0.34, seed=3))["val"]}


def test_an_object_without_the_mask_of_its_class_stays_in_training_if_others_are_enough(gather):
    for seed in range(6):
        held_out = found(gather(tools.coco(), val_fraction=0.34, seed=seed))["val"]
        assert len({file for file, *_ in held_out}) == 2
        assert all(mask for (_, kind, _), mask in held_out.items() if kind != "nut"), seed
    content = tools.coco()
    for annotation in content["annotations"][::2]:
        annotation["segmentation"] = []
    assert found(gather(content, val_fraction=0.34))["val"], "where no image is whole, others are taken"


def test_two_files_share_classes_by_name(gather, tmp_path):
    train, validation = tools.coco(), tools.coco(first_class=5, classes=("washer", "nut", "bolt", "extra"))
    for content, chosen in ((train, slice(0, 4)), (validation, slice(4, 6))):
        content["images"] = content["images"][chosen]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    validation["annotations"].append({**validation["annotations"][-1], "id": 99, "category_id": 8})
    path = tools.write(validation, tmp_path / "val.json")
    gathered = gather(train, val_annotations={"path": str(path)})
    assert sorted(kind for _, kind, _ in found(gathered)["val"]) == ["bolt", "nut", "washer", "washer"]
    assert [number for what, number in gathered.notes.items() if "left out" in what] == [1]


def test_rectangles_are_boxes_unless_they_are_asked_to_be_masks(gather):
    content = tools.labelme()
    assert own.grouped(gather(content))["nut"] == "novel"
    kept = gather(content, keep_rectangles=True)
    assert own.masks_of(kept.subsets["train"])[1].total() == own.masks_of(kept.subsets["train"])[0].total()


def test_an_object_without_a_mask_in_a_base_class_is_trained_as_a_box(gather, tmp_path):
    """What stage split writes of it is what it writes of a novel one, whatever the file says of an area."""
    written = []
    for area in (5.0, 700.0):
        gathered = gather(tools.coco(area=area, iscrowd=0))
        path = tools.write(gathered.subsets["train"], tmp_path / "train.json")
        split(path, gathered.labels, {"base": ["bolt", "washer"], "novel": ["nut"]}, tmp_path / "split")
        written.append(json.loads((tmp_path / "split" / "train.json").read_text())["annotations"])
    masked = {annotation["id"]: "segmentation" in annotation for annotation in written[0]}
    for annotation in (*written[0], *written[1]):
        assert (
            annotation["novel"] != masked[annotation["id"]]
            and ("segmentation" in annotation) == masked[annotation["id"]]
        )
        if annotation["novel"]:
            assert annotation["area"] == annotation["bbox"][2] * annotation["bbox"][3]
    base = [a for a in written[0] if a["category_id"] == 1]
    assert {annotation["novel"] for annotation in base} == {True, False}
    boxes = [[a for a in side if a["novel"]] for side in written]
    assert boxes[0] == boxes[1]
    counted = json.loads((tmp_path / "split" / "split.json").read_text())
    assert counted["base_without_mask"] == sum(annotation["novel"] for annotation in base)


def test_a_declared_set_is_prepared_in_place(photos, gather, tmp_path):
    """The images are linked, and a file that was changed since is not taken for the declared one."""
    from pipeline.datasets.contents import Source
    from pipeline.declaration.label_sets import LabelSet

    labels = gather(tools.cvat()).labels
    path = tmp_path / "export.json"
    entry = options(photos, path)
    entry["annotations"]["sha256"] = data.digest(path)
    source = Source("parts", entry, LabelSet("parts", "parts", labels.categories, labels.groups, {}), ("train", "val"))
    root = tmp_path / "images"
    filled = data.fill(source, root, None, None)
    filled.install()
    assert (root / "train").resolve() == photos.resolve() and not (root / "train" / "IMG_5.JPG").is_symlink()
    assert prepare.KINDS["own"].identify(source) == json.loads((root / "own.json").read_text())
    path.write_text(path.read_text() + " ")
    with pytest.raises(
        ExperimentError, match="was changed since parts was declared; run `python -m commands.own parts --fo"
    ):
        data.fill(source, root, None, None)


# Mistakes. Each changes the content of an export, or is a text that is written in its place; what the line says.


def edited(change):
    content = tools.coco(iscrowd=0, area=600.0)
    return change(content) or content


def at(section, position, **fields):
    return lambda content: content[section][position].update(fields)


def without(section, position, field):
    return lambda content: content[section][position].pop(field) and None


def all_masks(content):
    for annotation in content["annotations"]:
        annotation["segmentation"] = [tools.octagon(annotation["bbox"])]


def no_masks(content):
    for annotation in content["annotations"]:
        annotation["segmentation"] = []


def one_mask(content):
    no_masks(content)
    content["annotations"][0]["segmentation"] = [tools.octagon(content["annotations"][0]["bbox"])]


FILES = {
    "empty": ("", "is empty; export it again"),
    "blank": ("  \n", "is empty; export it again"),
    "Pascal VOC": ("<annotation><folder>x</folder></annotation>", "Pascal VOC's XML, not COCO's JSON; export in"),
    "CVAT": (
        '<?xml version="1.0"?>\n<annotations><version>1.1',
        "CVAT's XML, not COCO's JSON; export in the format COCO",
    ),
    "YOLO": ("0 0.5 0.5 0.2 0.1\n1 0.1 0.2 0.3 0.4\n", "labels of one image in YOLO's format, not COCO's JSON"),
    "cut": ('{"images": [{"id": 1', "not JSON \\("),
    "zip": ("PK\x03\x04rest", "a ZIP archive; unpack it"),
    "Labelme": ('{"shapes": [], "imagePath": "a.jpg"}', "an annotation of one image by Labelme; convert the folder"),
    "Label Studio": (
        '[{"id": 1, "annotations": [], "data": {}}]',
        "tasks in Label Studio's own JSON; export in the format",
    ),
    "detections": ('[{"image_id": 1, "score": 0.5, "bbox": []}]', "detections of a model"),
    "FiftyOne": ('{"samples": []}', "a data set in FiftyOne's own format"),
    "JSON lines": ('{"id": 1}\n{"id": 2}\n', "not JSON \\(Extra data.*\\); export it again"),
    "a record file": ("\n\0\0\0", "a binary file, not COCO's JSON; export in the format COCO"),
    "a number": ("3", "a int, not COCO's JSON"),
    "no section": ('{"images": []}', "has no list 'annotations', so it is not COCO"),
}


@pytest.mark.parametrize("text, message", FILES.values(), ids=FILES)
def test_a_file_that_is_none_says_what_it_is(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ExperimentError) as error:
        exports.read(path)
    assert re.match(f"{re.escape(str(path))}: {message}", str(error.value)) and "\n" not in str(error.value)


def test_what_lies_beside_annotations_says_what_it_is(tmp_path):
    image, folder = tmp_path / "a.jpg", tmp_path / "labels"
    image.write_bytes(b"\xff\xd8\xff\xe0")
    folder.mkdir()
    for path, said in ((image, "an image"), (folder / "a.xml", "a folder of Pascal VOC's XML")):
        if path != image:
            path.write_text("<annotation/>")
        with pytest.raises(ExperimentError, match=f"{said}, not COCO's JSON; export in the format COCO"):
            exports.read(image if path == image else folder)
    (folder / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(ExperimentError, match="labels: a folder of YOLO's labels, not COCO's JSON"):
        exports.read(folder)


def test_classes_of_validation_in_other_letters_are_not_left_out(gather, tmp_path):
    content = edited(lambda content: None)
    parts = {
        name: content
        | {
            "images": [image for image in content["images"] if (image["id"] > 4) == (name == "val")],
            "annotations": [each for each in content["annotations"] if (each["image_id"] > 4) == (name == "val")],
        }
        for name in ("train", "val")
    }
    parts["val"]["categories"] = [each | {"name": each["name"].title()} for each in content["categories"]]
    val = {"path": str(tools.write(parts["val"], tmp_path / "v.json"))}
    with pytest.raises(
        ExperimentError, match="v.json: class '[BNW].*' is '[bnw].*' in the training .*; spell it alike"
    ):
        gather(parts["train"], val_annotations=val)
    parts["val"]["categories"] = content["categories"]
    tools.write(parts["val"], tmp_path / "v.json")
    assert gather(parts["train"], val_annotations=val).subsets["val"]["annotations"]


def corners(content):
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [x, y, x + width, y + height]


CONTENTS = {
    "corners": (
        corners,
        "bbox is .* \\(boxes that look like x1, y1, x2, y2 of their mask, valid: x, y, ",
    ),
    "no images": (lambda c: c.update(images=[]), "`images` is empty: no image is annotated"),
    "no objects": (lambda c: c.update(annotations=[]), "`annotations` is empty: no object is annotated"),
    "no classes": (lambda c: c.update(categories=[]), "`categories` is empty: no class is annotated"),
    "captions": (
        lambda c: c.update(annotations=[{"id": 1, "image_id": 1, "caption": "x"}]),
        "no annotation has a 'bbox'",
    ),
    "id twice": (at("categories", 1, id=1), "id 1 is also that of 'bolt'; give each class its own id"),
    "name twice": (at("categories", 1, name="bolt"), r"2 classes are called 'bolt' \(ids 1, 2\) and all have objects"),
    "name missing": (without("categories", 0, "name"), "categories\\[0\\]: name is None"),
    "unknown class": (at("annotations", 0, category_id=42), "annotation 1: unknown category_id 42"),
    "image missing": (
        at("images", 0, file_name="front/IMG_9.JPG"),
        "of the 6 images that its annotations list 1 cannot be",
    ),
    "image twice": (at("images", 1, file_name="front/IMG_1.JPG"), "is also that of image 1"),
    "image id twice": (at("images", 1, id=1), "images has the id 1 twice"),
    "object twice": (at("annotations", 1, id=1), "annotations has the id 1 twice"),
    "unknown image": (at("annotations", 0, image_id=77), "annotation 1: unknown image_id 77"),
    "other size": (at("images", 0, width=640), "is stored 80x64, its annotations say 640x64"),
    "size missing": (without("images", 0, "width"), "images\\[0\\] has no 'width'"),
    "box missing": (without("annotations", 0, "bbox"), "annotations\\[0\\] has no 'bbox'"),
    "box of three": (at("annotations", 0, bbox=[1, 2, 3]), "bbox is \\[1, 2, 3\\], valid: four numbers"),
    "mask of two points": (
        at("annotations", 0, segmentation=[[1, 2, 3, 4]]),
        "a polygon has 4 numbers, valid: at least 6",
    ),
    "mask elsewhere": (
        at("annotations", 0, segmentation=[tools.octagon((60, 40, 9, 9))]),
        "valid: a box around the mask",
    ),
}


@pytest.mark.parametrize("change, message", CONTENTS.values(), ids=CONTENTS)
def test_a_mistake_in_a_file_is_told_with_the_file(gather, tmp_path, caplog, change, message):
    with pytest.raises(ExperimentError, match=message) as error:
        gather(edited(change))
    text = str(error.value)
    assert "\n" not in text and "stages.download" not in text
    assert text.startswith(str(tmp_path / "export.json")) or "cannot be" in message
    assert not caplog.records, "one line, and not a table beside it"


GROUPS = {
    "no masks": (no_masks, {}, "none of the .* training objects has a mask, so there is nothing to learn masks from"),
    "one mask": (one_mask, {}, "1 objects of base classes have a mask; at least 2 are needed"),
    "all masks": (all_masks, {}, "every object has a mask, .*--novel 'washer' .*--base 'bolt' 'nut' 'washer'"),
    "unknown base": (None, {"base": ["bolts"]}, "--base names the class 'bolts'; valid: .*did you mean 'bolt'"),
    "unknown novel": (None, {"novel": ["Nut"]}, "--novel names the class 'Nut'; valid: bolt, nut, washer"),
    "comma": (None, {"base": ["bolt,washer"]}, "--base names .*; put spaces between several: 'bolt' 'washer'"),
    "both": (None, {"base": ["bolt"], "novel": ["bolt"]}, "bolt: in --base and in --novel; leave it in one of them"),
    "base without masks": (None, {"base": ["nut"]}, "--base names 'nut', of which 0 of . training objects have a mask"),
    "all novel": (None, {"novel": ["bolt", "washer"]}, "0 objects of base classes have a mask"),
}


@pytest.mark.parametrize("change, chosen, message", GROUPS.values(), ids=GROUPS)
def test_a_mistake_in_groups_is_told(gather, change, chosen, message):
    gathered = gather(edited(change or (lambda content: None)))
    with pytest.raises(ExperimentError, match=message) as error:
        own.grouped(gathered, **chosen)
    assert "\n" not in str(error.value)


def test_all_masks_are_trained_or_hidden_where_that_is_asked_for(gather):
    gathered = gather(edited(all_masks))
    assert own.grouped(gathered, novel=["nut"]) == {"bolt": "base", "nut": "novel", "washer": "base"}
    assert set(own.grouped(gathered, base=tools.CLASSES).values()) == {"base"}


def test_what_is_right_and_perhaps_not_meant_is_noted(gather):
    def change(content):
        content["categories"].append({"id": 4, "name": "spring"})
        content["annotations"].append({"id": 90, "image_id": 1, "category_id": 4, "bbox": [300, 5, 9, 9], "iscrowd": 0})

    gathered = gather(edited(change))
    noted = " ".join(own.warnings(gathered, own.grouped(gathered)))
    assert "a single object, nothing to learn a class from: spring" in noted
    assert "so box AP and no mask AP: " in noted and "nut" in noted
    assert "export.json: 1 boxes outside the image, which training skips, first annotation 90 of image 1" in noted


def test_mistakes_in_options_are_mended_as_said(photos, tmp_path):
    path = tools.write(tools.coco(), tmp_path / "export.json")

    def refused(call, *args, **named):
        with pytest.raises(ExperimentError) as error:
            call(*args, **named)
        return str(error.value)

    assert "no such folder; mount the disk that it is on, or name the folder" in refused(
        data.gather, options(tmp_path / "none", path)
    )
    assert "is no folder" in refused(data.gather, options(path, path))
    (tmp_path / "bare").mkdir()
    assert "holds no image" in refused(data.gather, options(tmp_path / "bare", path))
    assert "no such file; name the JSON" in refused(data.gather, options(photos, tmp_path / "none.json"))
    shutil.copy(path, tmp_path / "bare" / "x.json")
    assert "a folder where a file is due; name the JSON file of annotations, such as x.json" in refused(
        data.gather, options(photos, tmp_path / "bare")
    )
    twice = options(photos, path, val_annotations={"path": str(path)})
    assert "named twice" in refused(data.gather, twice)
    copy = {"path": str(shutil.copy(path, tmp_path / "copy.json"))}
    assert "of its images are in export.json too" in refused(data.gather, options(photos, path, val_annotations=copy))
    given = {"images": photos, "annotations": path}
    assert "--val-fraction is 1.5; valid" in refused(own.options_of, "parts", fraction=1.5, **given)
    assert "leave it out beside" in refused(own.options_of, "parts", val_annotations=path, fraction=0.5, **given)
    assert "is not declared yet; give --images" in refused(own.options_of, "parts")
    assert "is no name; valid: lower-case" in refused(own.declare, "My Parts", {})
    assert "is the name of another data set" in refused(own.declare, "coco2017", {})
    assert "unknown profile 'fast'" in refused(own.declare, "parts", {}, profile="fast")
    (tmp_path / "latin.json").write_bytes(b'{"x": "\xff"}')
    assert "not UTF-8 text; save the JSON" in refused(exports.read, tmp_path / "latin.json")
    assert "put the annotations back" in refused(data.digest, tmp_path / "gone.json")
    half = {"kind": "own", "images": "x", "annotations": {"path": "x", "sha256": "0" * 64}}
    half |= {"label_set": "coco", "profile": "own", "train": "train", "validation": "val"}
    assert "val_annotations: is missing; give it, or val_fraction" in refused(strict.check, schema.Own, half, "f.yaml")
    strict.check(schema.Own, half | {"val_fraction": 0.2, "seed": 0}, "f.yaml")
    chosen = own.options_of("parts", **given)
    assert chosen["val_fraction"] == 0.2 and len(data.gather(chosen).subsets["val"]["images"]) == 1


def test_mistakes_in_files_are_mended_as_said(photos, gather, tmp_path):
    with pytest.raises(ExperimentError, match="give each class its own id"):
        gather(edited(at("categories", 1, id=1)))
    gather(edited(lambda content: None))
    single = edited(lambda content: content["images"].__delitem__(slice(1, None)))
    single["annotations"] = [a for a in single["annotations"] if a["image_id"] == 1]
    with pytest.raises(ExperimentError, match="0 images and no object are left for val; give more images"):
        gather(single)
    rest = edited(lambda content: content["images"].pop(0) and None)
    rest["annotations"] = [a for a in rest["annotations"] if a["image_id"] != 1]
    path = tools.write(rest, tmp_path / "rest.json")
    assert len(gather(single, val_annotations={"path": str(path)}).subsets["val"]["images"]) == 5


def test_groups_are_mended_as_said(gather):
    gathered = gather(edited(lambda content: None))
    for chosen in ({"novel": ["bolt", "washer"]}, {"base": ["nut"]}):
        with pytest.raises(ExperimentError, match="take classes off --novel|or leave it to be novel"):
            own.grouped(gathered, **chosen)
    assert own.grouped(gathered, novel=["bolt"])["washer"] == "base"
    assert own.grouped(gathered)["nut"] == "novel"


def test_length_and_batch_of_profile_own_follow_images_and_gpus():
    assert own.scale(300, 1) == {"batch_size": 8, "iterations": 2000}
    assert own.scale(50, 0) == {"batch_size": 8, "iterations": 625}, "no image more than 100 times"
    assert own.scale(3000, 8) == {"batch_size": 16, "iterations": 2250}, "at least 12 times"
    declared = experiments.load()
    entry = {"kind": "own", "profile": "own", **own.scale(50, 8)}
    fitted = replace(declared, datasets={"mine": entry}).profile("mine")
    assert fitted["training"]["batch_size"] == 16 and fitted["schedules"]["1x"]["iterations"] == 312
    assert fitted["schedules"]["1x"]["milestones"] == [208, 286] and fitted["schedules"]["3x"]["iterations"] == 936
    assert declared.profiles["own"]["training"]["batch_size"] == 8, "left alone"
    for name in ("generated", "coco2017"):
        assert declared.profile(name) == declared.profiles[declared.datasets[name]["profile"]]


def test_a_truncated_image_is_named(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    broken = tmp_path / "photos" / "IMG_5.JPG"
    broken.write_bytes(broken.read_bytes()[:300])
    path = tools.write(tools.coco(), tmp_path / "export.json")
    with pytest.raises(ExperimentError, match="IMG_5.JPG is truncated or not an image .* restore the file there"):
        data.gather(options(tmp_path / "photos", path))
