"""What a split direction holds: images and objects of each category and group, by size, as a table.

Sizes are those of boxes, for base and novel objects alike: the area of a mask would tell about novel masks, and the
two sides could not be compared. So shares of small objects are lower than where COCO's `area` is counted.
"""

import csv
import io
from collections import Counter, defaultdict

from pipeline.datasets.categories import CATEGORIES

SMALL, MEDIUM = 32**2, 96**2  # square pixels; COCO's limits of small and of medium objects
SIZES = ("small", "medium", "large")
COLUMNS = ("group", "category", "images", "instances", *SIZES, "skipped")
HEADERS = ("Group", "Category", "Images", "Objects", "Small", "Medium", "Large", "Skipped")
NOTE = (
    "Objects are those that training uses; skipped are crowds and others it does not. Images are those with such an "
    "object. Small boxes are below 32², large ones from 96² pixels."
)


class Statistics:
    """Count objects as they pass by.

    Args:
        groups: `"base"` or `"novel"` by category id; categories that are not in it count as `other`.
    """

    def __init__(self, groups):
        self.groups = {category.id: groups.get(category.id, "other") for category in CATEGORIES}
        self.counts = defaultdict(Counter)
        self.images = defaultdict(set)

    def add(self, annotations, skipped):
        """Count objects; `skipped` says of each why training leaves it out. Neither mask nor `area` is looked at."""
        for annotation, reason in zip(annotations, skipped, strict=True):
            number = annotation["category_id"]
            if reason:
                self.counts[number]["skipped"] += 1
                continue
            _, _, width, height = annotation["bbox"]
            area = width * height
            self.counts[number]["small" if area < SMALL else "medium" if area < MEDIUM else "large"] += 1
            self.images[number].add(annotation["image_id"])

    def rows(self, images):
        """Rows of `COLUMNS`: all, each group, then each category in COCO's order.

        Args:
            images: number of images of the dataset, with or without objects.
        """
        rows = [self._row("all", "", list(self.groups), images)]
        for group in ("base", "novel", "other"):
            if members := [number for number in self.groups if self.groups[number] == group]:
                rows.append(self._row(group, "", members))
        return rows + [self._row(self.groups[c.id], c.name, [c.id]) for c in CATEGORIES]

    def _row(self, group, name, numbers, images=None):
        total = sum((self.counts[number] for number in numbers), Counter())
        if images is None:
            images = len(set().union(*(self.images[number] for number in numbers)))
        present = sum(bool(self.images[number]) for number in numbers)
        sizes = [total[size] for size in SIZES]
        return [group, name or f"{present} categories", images, sum(sizes), *sizes, total["skipped"]]

    def tables(self, dataset, direction, images):
        """Give the table as text by file extension, `csv` and `md`; both end in a newline."""
        rows = self.rows(images)
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("dataset", "direction", *COLUMNS))
        writer.writerows((dataset, direction, *row) for row in rows)
        align = [":--"] * 2 + ["--:"] * (len(HEADERS) - 2)
        lines = [f"Training annotations of {dataset}, direction {direction}. {NOTE}", ""]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in (HEADERS, align, *rows)]
        return {"csv": stream.getvalue(), "md": "\n".join(lines) + "\n"}
