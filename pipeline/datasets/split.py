"""Write the training annotations of a split direction: novel objects keep their box and lose everything else.

What is not in the file cannot leak: an object of a novel category is rewritten from a list of allowed fields,
none of which derives from its mask. COCO's `area` does, so novel objects carry the area of their box. Nothing
else that is written or counted looks at a mask or an `area` of a novel object.

Objects that training skips (crowd, marked `ignore`, outside the image, below one pixel) stay in the file, so
that ids and order are those of the source; `PartialCocoDataset` skips them, `split.json` counts them.
"""

import json
import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from pipeline.datasets.annotations import read_instances
from pipeline.datasets.categories import base_and_novel
from pipeline.errors import ExperimentError

IMAGE_FIELDS = ("id", "file_name", "width", "height", "license")
NOVEL_FIELDS = ("id", "image_id", "category_id", "bbox", "iscrowd", "ignore")
GROUPS = ("base", "novel")
REASONS = ("crowd", "ignore", "outside_image", "too_small", "other_category")


def split(annotations_file, direction, out_dir):
    """Write `train.json` and its summary `split.json` for one direction.

    Args:
        annotations_file: COCO instance annotations with all masks.
        direction: `{"base": group, "novel": group}`, see `categories.base_and_novel`. Objects of other
            categories are dropped and counted.
        out_dir: created if missing.

    Raises:
        ExperimentError: bad direction or annotation file; then nothing is written.
    """
    base, novel = base_and_novel(direction)
    content = read_instances(annotations_file)
    groups = {}  # category id -> group; other categories are absent
    for category in content["categories"]:
        if category["name"] in base or category["name"] in novel:
            groups[category["id"]] = "novel" if category["name"] in novel else "base"
    tally = Tally(content["images"])
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    with replacing(out_dir / "train.json") as file:
        header = {key: content[key] for key in ("info", "licenses", "categories") if key in content}
        file.write(compact(header)[:-1] + ',"images":[')
        write_items(file, ({k: image[k] for k in IMAGE_FIELDS if k in image} for image in content["images"]))
        file.write('],"annotations":[')
        write_items(file, partial_annotations(annotations_file, content["annotations"], groups, tally))
        file.write("]}\n")
    categories = {
        group: {c["name"]: c["id"] for c in content["categories"] if groups.get(c["id"]) == group}
        for group in GROUPS
    }
    with replacing(out_dir / "split.json") as file:
        json.dump({"categories": categories, **tally.summary()}, file, indent=1)
        file.write("\n")


def partial_annotations(path, annotations, groups, tally):
    """Yield the annotations of base and novel categories as training may see them, one at a time.

    Args:
        path: of their file, for messages.
        annotations: iterable of COCO annotations.
        groups: `"base"` or `"novel"` by category id; annotations of other categories are dropped.
        tally: counts what passes by.
    """
    for annotation in annotations:
        group = groups.get(annotation["category_id"])
        if group == "novel":
            record = novel_record(annotation)
        elif group == "base":
            record = {**annotation, "novel": False}
            if not record.get("segmentation"):
                raise ExperimentError(
                    f"{path}: annotation {record['id']} is of a base category and has no segmentation; "
                    "use a file with masks, or a direction in which that category is novel"
                )
        tally.add(annotation if group is None else record, group)
        if group is not None:
            yield record


def novel_record(annotation):
    """What training may know of a novel object: box and category, `area` being that of the box."""
    _, _, width, height = annotation["bbox"]
    record = {key: annotation[key] for key in NOVEL_FIELDS if key in annotation}
    return {**record, "area": width * height, "novel": True}


class Tally:
    """Count the objects of each group, the images that show them, and what training will skip."""

    def __init__(self, images):
        self.sizes = {image["id"]: (image["width"], image["height"]) for image in images}
        self.instances, self.unused = Counter(), Counter()
        self.images = {group: set() for group in GROUPS}

    def add(self, annotation, group):
        reason = "other_category" if group is None else self.reason_to_skip(annotation)
        if reason:
            self.unused[reason] += 1
        else:
            self.instances[group] += 1
            self.images[group].add(annotation["image_id"])

    def reason_to_skip(self, annotation):
        """Why CocoDataset does not train on an object, or `None`: its conditions, in its order."""
        x, y, width, height = annotation["bbox"]
        image_width, image_height = self.sizes[annotation["image_id"]]
        if annotation.get("ignore"):
            return "ignore"
        if min(x + width, image_width) <= max(x, 0) or min(y + height, image_height) <= max(y, 0):
            return "outside_image"
        if annotation["area"] <= 0 or width < 1 or height < 1:
            return "too_small"
        return "crowd" if annotation.get("iscrowd") else None

    def summary(self):
        base, novel = self.images["base"], self.images["novel"]
        return {
            "images": {
                "total": len(self.sizes),
                "with_base": len(base),
                "with_novel": len(novel),
                "with_both": len(base & novel),
                "without_objects": len(self.sizes.keys() - base - novel),
            },
            "instances": {group: self.instances[group] for group in GROUPS},
            "not_used_in_training": {reason: self.unused[reason] for reason in REASONS},
        }


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def write_items(file, items):
    """Write an iterable as the elements of a JSON list, one per line, holding one at a time in memory."""
    separator = "\n"
    for item in items:
        file.write(separator + compact(item))
        separator = ",\n"


@contextmanager
def replacing(path):
    """Open a text file for writing that appears under its name only when it is complete."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
