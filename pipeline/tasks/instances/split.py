"""Write the training annotations of a split direction: novel objects keep their box and lose everything else.

An object of a base category that has no mask to begin with is written like a novel one: whether a mask is trained is a
property of the object, and base categories are those whose masks may be seen.

What is not in the file cannot leak: an object of a novel category is rewritten from a list of allowed fields,
none of which derives from its mask. COCO's `area` does, so novel objects carry the area of their box. Nothing
else that is written or counted looks at a mask or an `area` of a novel object.

Objects that training skips (crowd, marked `ignore`, outside the image, below one pixel) stay in the file, so
that ids and order are those of the source; `PartialCocoDataset` skips them, `split.json` counts them.
"""

import json
import logging
import shutil
from pathlib import Path
from tempfile import TemporaryFile

from pipeline.artifacts.files import write_text, writing
from pipeline.datasets import coco_check
from pipeline.datasets.annotations import read_instances
from pipeline.datasets.streamed_json import compact, fast_dumps, like_compact
from pipeline.errors import ExperimentError
from pipeline.tasks.instances.statistics import SMALLEST_IMAGE, Statistics

logger = logging.getLogger("pipeline.split")

IMAGE_FIELDS = ("id", "file_name", "width", "height", "license")
NOVEL_FIELDS = ("id", "image_id", "category_id", "bbox", "iscrowd", "ignore")
BUFFER = 1 << 20  # bytes


def split(annotations_file, label_set, direction, out_dir, statistics_file=None, caption=("", "")):
    """Write `train.json` and its summary `split.json` for one direction.

    What is written is what `json.loads` and `json.dumps` of the whole file would give, byte for byte, but the file
    is never in memory as a whole.

    Args:
        annotations_file: COCO instance annotations with all masks.
        label_set: of the file.
        direction: a name or `{"base": group, "novel": group}`, see `LabelSet.base_and_novel`. Objects of other
            categories are dropped and counted.
        out_dir: created if missing.
        statistics_file: path, without extension, of the table that `Statistics` makes; `None` for no table.
        caption: names of dataset and direction, for that table.

    Raises:
        ExperimentError: bad direction or annotation file, or nothing to train on; then nothing is written.
    """
    base, novel = label_set.base_and_novel(direction)
    # by category id; other categories are absent. The file is checked to have these ids.
    groups = {
        c.id: "novel" if c.name in novel else "base" for c in label_set.categories if c.name in base or c.name in novel
    }
    out_dir = Path(out_dir)
    partial = PartialAnnotations(annotations_file, label_set, groups)
    try:
        with writing(out_dir / "train.json") as file:
            partial.write(file)
    except UnknownSizes:  # images stand behind annotations
        partial = PartialAnnotations(annotations_file, label_set, groups)
        partial.read(partial.statistics.add_images)
        with writing(out_dir / "train.json") as file:
            partial.write(file)
    coco_check.log(Path(annotations_file).name, partial.findings)
    summary = partial.statistics.summary()
    if partial.without_mask:
        summary["base_without_mask"] = partial.without_mask
        logger.info("%d objects of base categories have no mask: they train boxes alone", partial.without_mask)
    write_text(out_dir / "split.json", json.dumps(summary, indent=1) + "\n")
    if statistics_file:
        for extension, text in partial.statistics.tables(*caption).items():
            write_text(Path(f"{statistics_file}.{extension}"), text)


class UnknownSizes(Exception):
    """An annotation came by before the images."""


class PartialAnnotations:
    """Rewrite an annotation file as training may see it.

    Args:
        path: of the annotation file. label_set: whose categories it lists.
        groups: `"base"` or `"novel"` by category id; annotations of other categories are dropped.

    Attributes:
        statistics: of what came by.
        findings: of the checks, see `coco_check.Checker`.
        without_mask: number of objects of base categories that have none.
    """

    def __init__(self, path, label_set, groups):
        self.path, self.label_set, self.groups = path, label_set, groups
        self.statistics, self.findings, self.without_mask = Statistics(label_set, groups), {}, 0

    def read(self, on_images, on_annotations=None):
        """Pass the file by, checked again; masks of base objects only. Returns the header and the checker."""
        base = {category for category, group in self.groups.items() if group == "base"}
        checker = coco_check.Checker(self.path, self.label_set, base)
        header = read_instances(self.path, self.label_set, on_images, on_annotations, checker)
        self.findings = checker.findings
        return header, checker

    def write(self, file):
        """Write everything to an open binary file.

        The parts are gathered in temporary files: `info`, `licenses` and `categories`, which go first, may be last
        in the source.
        """
        with TemporaryFile(dir=Path(file.name).parent) as images, TemporaryFile(dir=Path(file.name).parent) as objects:
            header, checker = self.read(
                lambda entries, again: self._write_images(images, entries, again),
                lambda entries, again: self._write_objects(objects, entries, again),
            )
            self._require_something_to_train_on(checker.with_mask)
            file.write(compact(header)[:-1])
            for name, part in (("images", images), ("annotations", objects)):
                file.write(b',"%s":[' % name.encode())
                part.seek(1)  # behind the first comma
                shutil.copyfileobj(part, file, BUFFER)
                file.write(b"]")
            file.write(b"}\n")

    def _require_something_to_train_on(self, with_mask):
        """Raise ExperimentError if filters leave no image, or no mask of a base object, and say which."""
        statistics = self.statistics
        if not statistics.trainable_images():
            raise ExperimentError(
                f"{self.path}: nothing to train on: of {len(statistics.sizes)} images "
                f"{statistics.small_images()} are smaller than {SMALLEST_IMAGE} pixels on a side, "
                "the others show no object that training uses "
                f"({statistics.skipped('base', 'novel')}); use other images or another direction"
            )
        if "base" not in self.groups.values() or (with_mask and statistics.total("base")):
            return
        if not statistics.total("base", also_skipped=True):
            logger.warning("%s: no object is of a base category, so no mask is trained", self.path)
            return
        count = statistics.total("base", also_skipped=True)
        raise ExperimentError(
            f"{self.path}: no base mask left to train on: {count} objects are of base categories, "
            f"{statistics.skipped('base')}, masks with a pixel: {with_mask}; correct your file and "
            "run `python -m stages.download`, or use another direction"
        )

    def _write_images(self, file, images, again):
        self.statistics.add_images(images, again)
        write_items(file, image_records(images), lambda: image_records(again()))

    def _write_objects(self, file, annotations, again):
        if not self.statistics.sizes:
            raise UnknownSizes
        groups = [self.groups.get(annotation["category_id"]) for annotation in annotations]
        self.without_mask += sum(map(_lacks_its_mask, annotations, groups))
        self.statistics.add(annotations, groups)
        write_items(file, self._records(annotations, groups), lambda: self._records(again(), groups))

    def _records(self, annotations, groups):
        for annotation, group in zip(annotations, groups, strict=True):
            if group == "novel" or _lacks_its_mask(annotation, group):
                yield novel_record(annotation)
            elif group == "base":
                annotation["novel"] = False
                yield annotation


def _lacks_its_mask(annotation, group):
    return group == "base" and not annotation.get("segmentation")


def image_records(images):
    for image in images:
        yield {key: image[key] for key in IMAGE_FIELDS if key in image}


def novel_record(annotation):
    """What training may know of a novel object: box and category, `area` being that of the box."""
    _, _, width, height = annotation["bbox"]
    record = {key: annotation[key] for key in NOVEL_FIELDS if key in annotation}
    record["area"], record["novel"] = width * height, True
    return record


def write_items(file, items, again):
    """Write items as elements of a JSON list, each on a line of its own, after a comma.

    Args:
        file: open binary file.
        items: iterable of them.
        again: gives the same items as the `json` module parses them, for the case that the fast way is not exact.
    """
    try:
        text = b",\n".join(map(fast_dumps, items))
        exact = like_compact(text)
    except TypeError:
        exact = False
    if not exact:
        text = b",\n".join(map(compact, again()))
    if text:
        file.write(b",\n" + text)
