import csv
import errno
import json
import os
import random

import pytest

from benchmarks.split_scale import DIRECTIONS, straightforward, write_instances
from pipeline.datasets import streamed_json
from pipeline.errors import ExperimentError
from pipeline.tasks.instances.split import split

from .conftest import COCO_SET, NONVOC2VOC, VOC


def load(folder, name="train.json"):
    return json.loads((folder / name).read_text())


def category_names(content):
    return {category["id"]: category["name"] for category in content["categories"]}


def test_novel_objects_keep_box_and_category_only(train_annotations, nonvoc2voc):
    source, result = json.loads(train_annotations.read_text()), load(nonvoc2voc)
    names = category_names(source)
    assert [a["id"] for a in result["annotations"]] == [a["id"] for a in source["annotations"]]
    assert result["images"] == source["images"]
    assert result["categories"] == source["categories"]
    for before, after in zip(source["annotations"], result["annotations"], strict=True):
        if names[before["category_id"]] in VOC:
            _, _, width, height = before["bbox"]
            expected = {key: before[key] for key in ("id", "image_id", "category_id", "bbox", "iscrowd")}
            assert after == {**expected, "area": width * height, "novel": True}
        else:
            assert after == {**before, "novel": False}


@pytest.mark.parametrize(
    "direction", [NONVOC2VOC, {"base": "voc", "novel": "nonvoc"}, {"base": "none", "novel": "all"}]
)
def test_noise_in_novel_masks_changes_no_byte(train_annotations, edited, tmp_path, direction):
    noise = random.Random(0)

    def spoil(content):
        names = category_names(content)
        for annotation in content["annotations"]:
            if direction["novel"] == "all" or (names[annotation["category_id"]] in VOC) == (
                direction["novel"] == "voc"
            ):
                annotation["segmentation"] = [[noise.uniform(0, 128) for _ in range(2 * noise.randrange(3, 9))]]
                annotation["area"] = noise.uniform(-5, 1e5)
                annotation["mask_quality"] = noise.random()  # some field a file of another origin may have

    for path, folder in ((train_annotations, tmp_path / "clean"), (edited(spoil), tmp_path / "noised")):
        split(path, COCO_SET, direction, folder)
    for name in ("train.json", "split.json"):
        assert (tmp_path / "clean" / name).read_bytes() == (tmp_path / "noised" / name).read_bytes()


def awkward(content):
    """Numbers, names and fields that two JSON libraries may read or write differently."""
    first, second, third, *_ = content["annotations"]
    first["bbox"][0] += 1e-7
    x, y, width, height = second["bbox"]
    second["segmentation"] = [[x + 0.1 + 0.2, y, x + width, y, x + 1e-5, y + height, 0.0001 + x, y]]
    second["numbers"] = [1e22, -0.0, 1e-5, 0.0001, 5e-324, 123456789012345678901234567890, 1e16]
    third |= {"novel": "yes", "note": "\u00e9\u2028\x7f\n", "nothing": None}
    content["images"][0] |= {"file_name": "\u732b/na\u00efve 1e-5.png", "license": 128.0}
    content["licenses"] = [{"id": 1e16}]
    content["annotations"][4]["bbox"] = [-5.5, 57.9, 200, 0.3]
    content["annotations"][5]["bbox"] = [500.0, 3, 1e-14, 20]


def rearranged(content):
    return {key: content[key] for key in sorted(content, reverse=True)}


CHANGES = {
    "as drawn": lambda content: None,
    "awkward": awkward,
    "categories first": rearranged,
    "annotations first": lambda content: dict(sorted(content.items())),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("block", [100, 5000, 1 << 20])
def test_the_same_bytes_as_from_the_whole_file(edited, tmp_path, monkeypatch, change, direction, block):
    monkeypatch.setattr(streamed_json, "BLOCK", block)
    path = edited(CHANGES[change])
    split(path, COCO_SET, direction, tmp_path / "streamed")
    straightforward(path, direction, tmp_path / "whole")
    for name in ("train.json", "split.json"):
        assert (tmp_path / "streamed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "streamed").iterdir()) == ["split.json", "train.json"]


def test_the_same_bytes_from_a_file_laid_out_like_coco(tmp_path):
    write_instances(tmp_path / "coco.json", 300, 2000)
    for name in DIRECTIONS:
        split(tmp_path / "coco.json", COCO_SET, name, tmp_path / name)
        straightforward(tmp_path / "coco.json", name, tmp_path / f"{name}_whole", index=True)
        assert (tmp_path / name / "train.json").read_bytes() == (tmp_path / f"{name}_whole/train.json").read_bytes()


def test_statistics_agree_with_the_summary(train_annotations, tmp_path):
    for folder in ("first", "second"):
        out = tmp_path / folder
        split(train_annotations, COCO_SET, NONVOC2VOC, out, out / "statistics" / "table", ("mini", "nonvoc2voc"))
    for extension in ("csv", "md"):
        name = f"statistics/table.{extension}"
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    with open(tmp_path / "first" / "statistics" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    summary = load(tmp_path / "first", "split.json")
    assert [row["group"] for row in rows[:3]] == ["all", "base", "novel"] and len(rows) == 83
    for row in rows[1:3]:
        members = [member for member in rows[3:] if member["group"] == row["group"]]
        assert int(row["instances"]) == summary["instances"][row["group"]] == sum(int(m["instances"]) for m in members)
        assert int(row["images"]) == summary["images"][f"with_{row['group']}"]
        assert int(row["instances"]) == sum(int(row[size]) for size in ("small", "medium", "large"))
    assert int(rows[0]["images"]) == 12 and {row["dataset"] for row in rows} == {"mini"}
    table = (tmp_path / "first" / "statistics" / "table.md").read_text()
    assert table.startswith("Training annotations of mini, direction nonvoc2voc.") and table.count("\n") == 87


def test_summary(nonvoc2voc, train_annotations):
    summary, source = load(nonvoc2voc, "split.json"), json.loads(train_annotations.read_text())
    names = category_names(source)
    novel = [a for a in source["annotations"] if names[a["category_id"]] in VOC]
    assert summary["categories"]["novel"] == {name: i for i, name in names.items() if name in VOC}
    assert len(summary["categories"]["base"]) == 60
    assert summary["instances"] == {"base": len(source["annotations"]) - len(novel), "novel": len(novel)}
    assert summary["images"] == {"total": 12, "with_base": 12, "with_novel": 12, "with_both": 12, "without_objects": 0}
    assert set(summary["not_used_in_training"].values()) == {0}


def test_crowd_and_invalid_objects_stay_and_are_counted(edited, tmp_path):
    def spoil(content):
        names = category_names(content)
        base = [a for a in content["annotations"] if names[a["category_id"]] not in VOC]
        novel = [a for a in content["annotations"] if names[a["category_id"]] in VOC]
        crowd = {"size": [128, 128], "counts": [0, 128 * 128]}
        base[0] |= {"iscrowd": 1, "segmentation": crowd}
        novel[0] |= {"iscrowd": 1, "segmentation": crowd}
        base[1]["bbox"] = [300, 10, 20, 20]
        novel[1]["bbox"] = [10, 10, 0.5, 20]
        base[2]["area"] = 0  # computed from the mask
        novel[2]["area"] = 0  # mask-derived: means nothing, the box counts
        novel[3]["ignore"] = 1

    path = edited(spoil)
    split(path, COCO_SET, NONVOC2VOC, tmp_path / "out")
    source, result = json.loads(path.read_text()), load(tmp_path / "out")
    assert len(result["annotations"]) == len(source["annotations"])
    crowds = [a for a in result["annotations"] if a["iscrowd"]]
    assert sorted("segmentation" in a for a in crowds) == [False, True]
    summary = load(tmp_path / "out", "split.json")
    assert summary["not_used_in_training"] == {
        "crowd": 2,
        "ignore": 1,
        "outside_image": 1,
        "too_small": 1,
        "other_category": 0,
    }
    assert sum(summary["instances"].values()) == len(source["annotations"]) - 5


def test_other_categories_are_dropped_and_counted(train_annotations, tmp_path):
    split(train_annotations, COCO_SET, {"base": ["zebra"], "novel": ["cat"]}, tmp_path)
    content, summary = load(tmp_path), load(tmp_path, "split.json")
    names = category_names(content)
    assert {names[a["category_id"]] for a in content["annotations"]} == {"zebra", "cat"}
    total = len(json.loads(train_annotations.read_text())["annotations"])
    assert summary["not_used_in_training"]["other_category"] == total - len(content["annotations"]) > 0
    assert summary["images"]["total"] == 12


def test_another_direction_mends_a_split(edited, tmp_path):
    def spoil(content):
        names = category_names(content)
        for annotation in content["annotations"]:
            if names[annotation["category_id"]] not in VOC:
                del annotation["segmentation"]

    path = edited(spoil)
    with pytest.raises(ExperimentError, match="no base mask left to train on: .* or use another direction"):
        split(path, COCO_SET, NONVOC2VOC, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir()), "nothing half-written"
    split(path, COCO_SET, {"base": "voc", "novel": "nonvoc"}, tmp_path / "out")
    assert load(tmp_path / "out")["annotations"]


@pytest.mark.parametrize("none", [..., [], None])
def test_a_base_object_without_mask_is_written_like_a_novel_one(edited, tmp_path, none):
    """Nothing that may come from a mask is left of it, and nothing else changes."""
    spoiled = []

    def spoil(content):
        names = category_names(content)
        annotation = next(a for a in content["annotations"] if names[a["category_id"]] not in VOC)
        spoiled.append(annotation)
        annotation |= {"segmentation": none}
        if none is ...:
            del annotation["segmentation"]

    split(edited(lambda content: None), COCO_SET, NONVOC2VOC, tmp_path / "whole")
    split(edited(spoil), COCO_SET, NONVOC2VOC, tmp_path / "out")
    whole, out = (json.loads((tmp_path / name / "train.json").read_text()) for name in ("whole", "out"))
    (box,) = [a for a, b in zip(out["annotations"], whole["annotations"], strict=True) if a != b]
    (annotation,) = spoiled
    kept = {key: annotation[key] for key in ("id", "image_id", "category_id", "bbox", "iscrowd")}
    assert box == kept | {"area": box["bbox"][2] * box["bbox"][3], "novel": True}
    counted = [json.loads((tmp_path / name / "split.json").read_text()) for name in ("whole", "out")]
    assert counted[1] == counted[0] | {"base_without_mask": 1} and "base_without_mask" not in counted[0]


def test_bad_direction_writes_nothing(train_annotations, tmp_path):
    with pytest.raises(ExperimentError, match="categories in both base and novel: cat"):
        split(train_annotations, COCO_SET, {"base": ["cat"], "novel": "voc"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train.json", "split.json", "table.csv"])
def test_a_full_disk_names_the_file_and_keeps_the_old_one(train_annotations, tmp_path, monkeypatch, name):
    def write():
        split(train_annotations, COCO_SET, NONVOC2VOC, tmp_path, tmp_path / "table", ("a", "b"))

    write()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace = os.replace

    def refuse(source, target):
        if os.path.basename(target) == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ExperimentError, match=f"{name}: No space left on device; free some space"):
        write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
