"""What a split direction holds: images and objects of each category and group, by size, as a table.

Sizes are those of boxes, for base and novel objects alike: the area of a mask would tell about novel masks, and the
two sides could not be compared. So shares of small objects are lower than where COCO's `area` is counted.
"""

import csv
import io
from collections import defaultdict
from itertools import chain

SMALL, MEDIUM = 32**2, 96**2  # square pixels; COCO's limits of small and of medium objects
SMALLEST_IMAGE = 32  # pixels; CocoDataset leaves out images with a shorter side
SIZES = ("small", "medium", "large")
REASONS = ("crowd", "ignore", "outside_image", "too_small")  # why training skips an object
GROUPS = ("base", "novel", "other")
COLUMNS = ("group", "category", "images", "instances", *SIZES, "skipped")
HEADERS = ("Group", "Category", "Images", "Objects", "Small", "Medium", "Large", "Skipped")
NOTE = (
    "Objects are those that training uses; skipped are crowds and others it does not. Images are those with such an "
    "object. Small boxes are below 32², large ones from 96² pixels."
)


class Statistics:
    """Count objects as they pass by. Images have to come first.

    Args:
        label_set: of the annotations.
        groups: `"base"` or `"novel"` by category id; categories that are not in it count as `other`.

    Attributes:
        sizes: `(width, height)` by image id.
    """

    def __init__(self, label_set, groups):
        self.categories = label_set.categories
        self.members = {group: [] for group in GROUPS}
        for category in self.categories:
            self.members[groups.get(category.id, "other")].append(category.id)
        self.sizes = {}
        self._shared = {}  # many images have the same size: one tuple for all of them
        # By category id, also of ids that the file turns out not to list.
        self._counts = defaultdict(lambda: dict.fromkeys((*SIZES, *REASONS), 0))
        self._images = defaultdict(set)

    def add_images(self, images, _=None):
        for image in images:
            size = image["width"], image["height"]
            self.sizes[image["id"]] = self._shared.setdefault(size, size)

    def add(self, annotations, groups):
        """Count objects, a list of them, each of the group `"base"`, `"novel"` or `None`.

        Masks are not looked at, and `area`, which derives from them, for base objects only.
        """
        sizes, counts, images = self.sizes, self._counts, self._images
        for annotation, group in zip(annotations, groups, strict=True):
            image, category = annotation["image_id"], annotation["category_id"]
            x, y, width, height = annotation["bbox"]
            image_width, image_height = sizes.get(image, (0, 0))  # an unknown image is an error when all is read
            box_area = width * height
            # What is right with nearly every object, before the conditions one by one.
            if (
                0 <= x < x + width <= image_width
                and 0 <= y < y + height <= image_height
                and width >= 1 <= height
                and (group != "base" or annotation["area"] > 0)
                and not annotation.get("iscrowd")
                and not annotation.get("ignore")
            ) or not (reason := self._reason_to_skip(annotation, group, image_width, image_height)):
                counts[category]["small" if box_area < SMALL else "medium" if box_area < MEDIUM else "large"] += 1
                images[category].add(image)
            else:
                counts[category][reason] += 1

    def _reason_to_skip(self, annotation, group, image_width, image_height):
        """Why CocoDataset does not train on an object, or `None`: its conditions, in its order."""
        x, y, width, height = annotation["bbox"]
        if annotation.get("ignore"):
            return "ignore"
        if min(x + width, image_width) <= max(x, 0) or min(y + height, image_height) <= max(y, 0):
            return "outside_image"
        if (annotation["area"] if group == "base" else width * height) <= 0 or width < 1 or height < 1:
            return "too_small"
        return "crowd" if annotation.get("iscrowd") else None

    def summary(self):
        """What `split.json` says."""
        base, novel = (self._images_of(self.members[group]) for group in ("base", "novel"))
        used = self.members["base"] + self.members["novel"]
        return {
            "categories": {
                group: {c.name: c.id for c in self.categories if c.id in self.members[group]}
                for group in ("base", "novel")
            },
            "images": {
                "total": len(self.sizes),
                "with_base": len(base),
                "with_novel": len(novel),
                "with_both": len(base & novel),
                "without_objects": len(self.sizes.keys() - base - novel),
            },
            "instances": {group: self._total(self.members[group], SIZES) for group in ("base", "novel")},
            "not_used_in_training": {reason: self._total(used, [reason]) for reason in REASONS}
            | {"other_category": self._total(self.members["other"], SIZES + REASONS)},
        }

    def small_images(self):
        """How many images training leaves out for their size."""
        return sum(min(size) < SMALLEST_IMAGE for size in self.sizes.values())

    def trainable_images(self):
        """How many images are large enough and show an object that training uses."""
        shown = self._images_of(self.members["base"] + self.members["novel"])
        return sum(min(self.sizes.get(image, (0,))) >= SMALLEST_IMAGE for image in shown)

    def total(self, group, also_skipped=False):
        """How many objects of a group training uses, or how many there are."""
        return self._total(self.members[group], SIZES + REASONS * also_skipped)

    def skipped(self, *groups):
        """How many objects of some groups training does not use and why, in words."""
        counts = {reason: sum(self._total(self.members[group], [reason]) for group in groups) for reason in REASONS}
        return "skipped: " + ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items())

    def _total(self, categories, keys):
        return sum(self._counts[category][key] for category in categories for key in keys)

    def _images_of(self, categories):
        return set().union(*(self._images[category] for category in categories))

    def rows(self):
        """Rows of `COLUMNS`: all, each group that has categories, then each category in the label set's order."""
        rows = [self._row("all", "", list(chain(*self.members.values())))]
        rows[0][2] = len(self.sizes)
        rows += [self._row(group, "", members) for group, members in self.members.items() if members]
        group_of = {category: group for group, members in self.members.items() for category in members}
        return rows + [self._row(group_of[c.id], c.name, [c.id]) for c in self.categories]

    def _row(self, group, name, categories):
        present = sum(bool(self._images[category]) for category in categories)
        images, sizes = len(self._images_of(categories)), [self._total(categories, [size]) for size in SIZES]
        skipped = self._total(categories, REASONS)
        return [group, name or f"{present} categories", images, sum(sizes), *sizes, skipped]

    def tables(self, dataset, direction):
        """Give the table as text by file extension, `csv` and `md`; both end in a newline."""
        rows = self.rows()
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("dataset", "direction", *COLUMNS))
        writer.writerows((dataset, direction, *row) for row in rows)
        align = [":--"] * 2 + ["--:"] * (len(HEADERS) - 2)
        lines = [f"Training annotations of {dataset}, direction {direction}. {NOTE}", ""]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in (HEADERS, align, *rows)]
        return {"csv": stream.getvalue(), "md": "\n".join(lines) + "\n"}
