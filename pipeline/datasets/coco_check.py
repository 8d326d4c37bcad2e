"""Check all of the content of a COCO instance annotation file, once, where it comes in.

Trainings and scoring rely on what is checked here: a mask whose run lengths do not add up is read from memory that was
never written, a vertex far outside crashes a data worker, an `area` of 0 leaves an object out without a word. Errors
refuse the file. What can be mended without a guess is mended in what readers get (docs/annotations.md), and what is
merely odd is reported. Everything found goes into one table of findings by kind.

The file is passed through once. Blocks of annotations are looked at with array operations; only those that are not
plainly in order are checked field by field.
"""

import json
import logging
import math
import re
import shutil
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryFile

import numpy as np
from PIL import Image
from PIL.ExifTags import Base
from pycocotools import mask as coco_mask

from pipeline.datasets.annotations import REMEDY, STREAMED, check_categories, read_instances, stream
from pipeline.datasets.streamed_json import MalformedJson, compact, fast_dumps, like_compact, without_repetition
from pipeline.errors import ExperimentError

logger = logging.getLogger("pipeline.coco_check")

LARGEST_ID = 1 << 53  # above, a number is no longer exact as a float; all readers take ids from 0 to here
LARGEST_SIDE = 100_000  # pixels
FAR = 1.0  # image sizes that a vertex may lie outside the image
SLACK = 1.0  # pixels that masks, boxes and images may differ by
LARGEST_BOX = 1e6  # pixels; coordinates of a box, which readers clip to the image
NORMALISED_SHARE = 0.05  # of the objects; a file with fewer in the first pixel is not one of normalised coordinates
ORIENTATION = Base.Orientation  # EXIF tag; 1 is upright
READERS = 8  # threads; headers on a network disk are latency, not computing
AGREEMENT = 0.5  # IoU of a box and the extent of its mask
REFUSED, MENDED, DROPPED, WARNED, NOTED = "refused", "mended", "dropped", "warned", "noted"
CORNERS_SHARE = 0.5  # of the objects with a mask; a file with more has corners in place of all boxes
FIRST_PIXEL = "coordinates within the first pixel"
CORNERS = "boxes that look like x1, y1, x2, y2 of their mask, valid: x, y, width, height"
HEADERS = ("Finding", "Count", "First example", "Done")
PLAIN_FIELDS = itemgetter("id", "image_id", "category_id", "iscrowd", "area", "bbox")
PLAIN_NAME = re.compile(r"\w[\w-]*(\.[a-z]+)?", re.ASCII)


@dataclass
class Finding:
    """What is to say about a kind of oddity: how often it was found, where first, what was done."""

    count: int
    example: str
    done: str


class Refused(Exception):
    """An entry has an error, which is reported; it is not looked at further."""


class Checker:
    """Check images, annotations and header of a file as `read_instances` passes them on, and mend what can be mended.

    Args:
        path: of the file.
        label_set: whose categories the file has to list.
        masks: ids of the categories whose masks and areas are looked at; `None` for all. A split looks at base
            categories only: nothing it does may depend on a novel mask.
        exact: hand on what the `json` module parses, also where integers have more than 64 bits.
        quiet: leave the table of what was found to the caller, also where the file is refused.

    Attributes:
        findings: {kind: Finding}, in the order in which they were found.
        renumber: the sections whose ids have to be replaced by 1, 2, ... for all readers to take them.
        mended: whether a copy has to be written for readers to get what was checked.
        images: {image id: (width, height)}.
        with_mask: number of annotations of the categories `masks` that are no crowd and whose mask has a pixel.
    """

    def __init__(self, path, label_set, masks=None, exact=False, quiet=False):
        self.path, self.label_set, self.masks, self.exact = Path(path), label_set, masks, exact
        self.quiet = quiet
        self._category_ids = frozenset(category.id for category in label_set.categories)
        self.findings, self.renumber, self.mended = {}, set(), False
        self.images, self.with_mask, self.objects, self.names = {}, 0, 0, {}
        self._shared, self._names, self._ids = {}, {}, {section: set() for section in STREAMED}
        self._index, self._sizes = {}, None  # rows of images, once all are there
        self._failed = self._listed = self._announced = False
        self._in_first_pixel = None  # the last annotation found there

    # What `read_instances` calls

    def add(self, section, position, entries, again):
        """Check entries; gives what readers get of them, mended, and a function that gives it as `again` would."""
        check = self._add_images if section == "images" else self._add_annotations
        entries, mended = check(position, entries, again)
        if self._failed:
            return [], again
        if mended:
            self.mended = True
            return entries, lambda: json.loads(json.dumps(entries))
        return entries, again

    def finish(self, header):
        """Say at the end of the file what is wrong with it. Raises ExperimentError if it is refused."""
        try:
            json.dumps(header, allow_nan=False)
        except ValueError:
            self._find(
                REFUSED,
                "NaN or Infinity outside images and annotations",
                "info, licenses or categories holds NaN or Infinity, which is not JSON",
            )
        self._finish_categories(header["categories"])
        with open(self.path, "rb") as file:
            if file.read(3) == b"\xef\xbb\xbf":
                self._find(MENDED, "the file begins with a byte order mark", "left out")
        finding = self.findings.get(FIRST_PIXEL)
        if finding and finding.count >= NORMALISED_SHARE * self.objects:
            finding.done = REFUSED
            finding.example += "; coordinates look normalised to 0..1, valid: pixels (multiply by width and height)"
        finding = self.findings.get(CORNERS)
        if finding and finding.count > CORNERS_SHARE * self.with_mask:
            finding.done = REFUSED
        self.mended |= any(finding.done in (MENDED, DROPPED) for finding in self.findings.values())
        self.refuse()

    def refuse(self):
        """Raise ExperimentError if there are findings that refuse the file; the table is logged unless `quiet`."""
        refused = {kind: each for kind, each in self.findings.items() if each.done == REFUSED}
        if refused:
            if not self.quiet:
                log(self.path.name, self.findings)
            first = next(iter(refused.values())).example
            counts = ", ".join(f"{kind}: {each.count}" for kind, each in refused.items())
            raise ExperimentError(f"{self.path}: {first} ({counts}); {REMEDY}")

    def rename(self, on_disk):
        """Let readers get other file names. `on_disk`: {listed name: path below the subset's folder}."""
        self.names = {name: path for name, path in on_disk.items() if name != path}
        for name, path in self.names.items():
            self._find(MENDED, "file names that are written otherwise on disk", f"{_text(name)} is {_text(path)}")
        self.mended |= bool(self.names)

    def check_images(self, folder, resolved=None):
        """Compare the sizes that are stored in the images with those that the file gives; only headers are read.

        Pixels are read as they are stored, everywhere: an EXIF orientation is ignored (docs/annotations.md).

        Args:
            folder: of the images.
            resolved: {name in the annotations: name below `folder`} where they differ.

        Raises:
            ExperimentError: an image of another size. One that cannot be read is left to those who read it.
        """
        resolved = resolved or {}
        with ThreadPoolExecutor(READERS) as readers:
            stored = readers.map(_stored, (Path(folder) / resolved.get(name, name) for name in self._names))
            for (name, number), found in zip(self._names.items(), stored, strict=True):
                if found is None:
                    continue
                size, orientation = found
                where = f"image {_text(number)} ({_text(name)})"
                turned = f" and to be turned by its EXIF orientation {orientation}, which is ignored"
                if size != self.images[number]:
                    self._find(
                        REFUSED,
                        "images that are stored in another size",
                        f"{where}: is stored {size[0]}x{size[1]}{turned * (orientation != 1)}, its annotations "
                        f"say {'x'.join(map(str, self.images[number]))}; save the pixels as they were annotated",
                    )
                elif orientation != 1:
                    self._find(
                        WARNED,
                        "images with an EXIF orientation, which is ignored",
                        f"{where}: orientation {orientation}",
                    )
        self.refuse()

    def image_ids(self):
        """New ids by old ones if they are to be replaced."""
        return {old: new for new, old in enumerate(self.images, 1)} if "images" in self.renumber else None

    # Findings

    def _find(self, done, kind, example):
        if finding := self.findings.get(kind):
            finding.count += 1
        else:
            self.findings[kind] = Finding(1, example, done)
        if done == REFUSED:
            self._failed = True

    def _refuse(self, kind, example):
        self._find(REFUSED, kind, example)
        raise Refused

    # Header

    def _finish_categories(self, categories):
        for position, category in enumerate(categories):
            if type(category["id"]) is float and category["id"].is_integer():
                category["id"] = int(category["id"])
                self._find(MENDED, "ids of categories that are written as decimals", f"categories[{position}]")
        ids = [category["id"] for category in categories]
        if len(set(map(repr, ids))) == len(ids) and all(type(number) is int for number in ids):
            in_order = sorted(categories, key=lambda category: category["id"])
            listed = [category[:2] for category in self.label_set.categories]
            if in_order != categories and [(c["id"], c["name"]) for c in in_order] == listed:
                categories[:] = in_order
                self._find(MENDED, "order of the categories", f"brought into {self.label_set.title}'s order")
        bad = next((c for c in categories if type(c["id"]) is not int), None)
        if bad:
            raise ExperimentError(
                f"{self.path}: category {_text(bad['name'])} has the id {_text(bad['id'])}, "
                f"valid: {self.label_set.title}'s; {REMEDY}"
            )
        check_categories(self.path, categories, self.label_set)

    # Images

    def _add_images(self, position, entries, again):
        if self._announced:  # read ahead, because annotations come first, and reported
            if self._failed:
                return entries, False
            findings, self.findings = self.findings, {}
            entries = self._unique_keys("images", position, entries, again, b'":')
            pairs = [self._mended_image(position + k, image) for k, image in enumerate(entries)]
            self.findings = findings
            return [image for image, _ in pairs], any(changed for _, changed in pairs)
        self._listed = True
        entries = self._unique_keys("images", position, entries, again, b'":')
        mended = False
        for offset, image in enumerate(entries):
            try:
                image, changed = self._mended_image(position + offset, image)
                self._take_image(position + offset, image, again.strict)
                mended |= changed
            except Refused:  # what refers to it is not to be reported too
                if isinstance(image, dict) and type(image.get("id")) in (int, str):
                    self.images.setdefault(image["id"], (LARGEST_SIDE, LARGEST_SIDE))
        return entries, mended

    def _mended_image(self, position, image):
        """Give an image with whole sizes, and whether it was changed."""
        where = f"images[{position}]"
        if not isinstance(image, dict):
            self._refuse("images that are no objects", f"{where} is {_text(image)}, valid: an object")
        changed = False
        for field in ("width", "height"):
            if field not in image:
                self._refuse("images without a field", f"{where} has no '{field}'")
            value = image[field]
            if type(value) is float and value.is_integer():
                image[field] = value = int(value)
                self._find(MENDED, "sizes of images that are written as decimals", f"{where}: {field}")
                changed = True
            if type(value) is not int or not 0 < value <= LARGEST_SIDE:
                self._refuse(
                    "sizes of images that are no whole positive numbers",
                    f"{where}: {field} is {_text(value)}, valid: a whole number from 1 to {LARGEST_SIDE}",
                )
        return image, changed

    def _take_image(self, position, image, strict):
        where = f"images[{position}]"
        for field in ("id", "file_name"):
            if field not in image:
                self._refuse("images without a field", f"{where} has no '{field}'")
        name, number = image["file_name"], image["id"]
        if problem := _name_problem(name):
            self._refuse(
                "file names that cannot be used",
                f"{where}: file_name is {_text(name)}, {problem}; valid: a relative path",
            )
        self._take_id("images", number, where)
        if name in self._names:
            self._refuse(
                "file names that stand twice",
                f"{where}: file_name {_text(name)} is also that of image {_text(self._names[name])}",
            )
        self._names[name] = number
        size = image["width"], image["height"]
        self.images[number] = self._shared.setdefault(size, size)
        if not strict and (field := _not_json(image)):
            self._refuse("NaN or Infinity", f"{where}: {field} is NaN or Infinity, which is not JSON")

    def _take_id(self, section, number, where):
        if (
            type(number) not in (int, str, float)
            or number == ""
            or (isinstance(number, float) and not math.isfinite(number))
        ):
            self._refuse("ids that are none", f"{where}: id is {_text(number)}, valid: a number or a text")
        if number in self._ids[section]:
            self._refuse("ids that stand twice", f"{section} has the id {_text(number)} twice")
        self._ids[section].add(number)
        if not (type(number) is int and 0 <= number <= LARGEST_ID):
            self.renumber.add(section)
            self._find(
                MENDED,
                f"ids of {section} that are no whole numbers from 0 to 2^53",
                f"{where}: id is {_text(number)}; {section} are numbered from 1, source_id keeps theirs",
            )

    # Annotations

    def _add_annotations(self, position, entries, again):
        if not self._listed:
            self._read_images_ahead()
        entries = self._unique_keys("annotations", position, entries, again, b":")
        self.objects += len(entries)
        closer = self._not_plain(entries, again.text()) if again.strict else None
        if closer is not None:
            self._take_ids(entries)
        mended = False
        for offset in range(len(entries)) if closer is None else sorted(closer):
            try:
                mended |= self._annotation(position + offset, entries, offset, new_id=closer is None)
            except Refused:
                continue
        return entries, mended

    def _read_images_ahead(self):
        def visit(section, position, entries, again):
            if section == "images":
                self._add_images(position, entries, again)

        stream(self.path, visit)
        self._listed = self._announced = True

    def _unique_keys(self, section, position, entries, again, colon):
        """Refuse objects with a name twice, which parsers pass over; gives the entries with whole numbers exact."""
        try:
            colons = again.text().count(colon) - sum(map(len, entries))
            if colons:  # of run lengths, or in texts and other objects, or of a name that stands twice
                colons -= sum(len(e["segmentation"]) for e in entries if type(e.get("segmentation")) is dict)
            inexact = {type(entry["id"]) for entry in entries} != {int} or (
                section == "annotations" and {type(entry["image_id"]) for entry in entries} != {int}
            )
        except (AttributeError, TypeError, KeyError):
            colons = inexact = True  # entries that are no objects, or without an id, are refused elsewhere
        if colons:
            try:
                again(object_pairs_hook=without_repetition)
            except MalformedJson as error:
                self._find(
                    REFUSED, "names that stand twice in an object", f"{section}[{position}] or soon after: {error}"
                )
        return again() if inexact or self.exact else entries

    def _take_ids(self, entries):
        """Take ids of annotations, which are whole numbers."""
        numbers, ids = [entry["id"] for entry in entries], self._ids["annotations"]
        if len(set(numbers)) == len(numbers) and ids.isdisjoint(numbers):
            ids.update(numbers)
            return
        for number in numbers:
            try:
                self._take_id("annotations", number, f"annotation {number}")
            except Refused:
                continue

    def _not_plain(self, entries, text):
        """Offsets of the annotations to look at closely; none of nearly every block, and `None` for all of them."""
        truths = b"true" in text or b"false" in text  # which arrays of numbers would take for 1 and 0
        try:
            ids, owners, categories, crowds, areas, boxes = zip(*map(PLAIN_FIELDS, entries), strict=True)
            if not (
                {int}.issuperset(map(type, chain(ids, owners, categories, crowds)))
                and {int, float}.issuperset(map(type, areas))
                and min(ids) >= 0
                and max(ids) <= LARGEST_ID
                and {0, 1}.issuperset(crowds)
                and self._category_ids.issuperset(categories)
                and {4}.issuperset(map(len, boxes))
                and not (truths and bool in set(map(type, chain.from_iterable(boxes))))
                and not any(["ignore" in entry for entry in entries])
            ):
                return None
            sizes = self._sizes_of(owners)
            corners = np.frombuffer(array("d", list(chain.from_iterable(boxes)))).reshape(-1, 4).copy()
            plain = (corners[:, 2:] >= 1).all(1) & (corners[:, :2] >= -SLACK).all(1)
            corners[:, 2:] += corners[:, :2]
            plain &= (corners[:, 2:] <= sizes + SLACK).all(1) & (corners[:, 2:] > 1).any(1)
            return self._masks_not_plain(entries, categories, crowds, areas, corners, sizes, plain, truths)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            return None

    def _sizes_of(self, owners):
        """Width and height [N, 2] of the images of annotations, as float64. Raises KeyError if one is unknown."""
        if len(self._index) != len(self.images):
            self._index = {number: row for row, number in enumerate(self.images)}
            self._sizes = np.array(list(self.images.values()), dtype=np.float64)
        return self._sizes[list(map(self._index.__getitem__, owners))]

    def _masks_not_plain(self, entries, categories, crowds, areas, corners, sizes, plain, truths):
        masks = [entry.get("segmentation") for entry in entries]
        polygons = np.array([type(mask) is list and len(mask) > 0 for mask in masks])
        areas = np.array(areas, dtype=np.float64)
        if self.masks is not None:
            wanted = np.array([category in self.masks for category in categories])
            plain &= polygons & (areas > 0) & (areas < math.inf) | ~wanted
            polygons &= wanted
        else:
            plain &= polygons & (areas > 0) & (areas < math.inf)
        looked_at = np.flatnonzero(polygons)
        if len(looked_at):
            masks = [masks[offset] for offset in looked_at]
            counts, polygons = np.array(list(map(len, masks))), list(chain.from_iterable(masks))
            lengths = np.array(list(map(len, polygons)))
            if lengths.min() < 6 or (lengths % 2).any() or not {list}.issuperset(map(type, polygons)):
                return None
            if truths and bool in set(map(type, chain.from_iterable(polygons))):
                return None
            coordinates = array("d")
            for polygon in polygons:
                coordinates.fromlist(polygon)
            points = np.frombuffer(coordinates).reshape(-1, 2)
            plain[looked_at] &= _plain_polygons(points, lengths // 2, counts, corners[looked_at], sizes[looked_at])
            self.with_mask += int((plain & (np.array(crowds) == 0))[looked_at].sum())
        return set(np.flatnonzero(~plain).tolist())

    def _annotation(self, position, entries, offset, new_id):
        """Check one annotation field by field and mend it in place. Returns whether it was mended."""
        entry, where = entries[offset], f"annotations[{position}]"
        if not isinstance(entry, dict):
            self._refuse("annotations that are no objects", f"{where} is {_text(entry)}, valid: an object")
        for field in ("id", "image_id", "category_id", "bbox"):
            if field not in entry:
                self._refuse(f"annotations without '{field}'", f"{where} has no '{field}'")
        before = len(self._mends()), sum(each.count for each in self._mends())
        where = f"annotation {_text(entry['id'])}"
        if new_id:
            self._take_id("annotations", entry["id"], where)
        size = self._image_of(entry, where)
        where_image = f"{where} of image {_text(entry['image_id'])}"
        self._category(entry, where)
        self._flag(entry, "iscrowd", where_image, absent=0)
        if "ignore" in entry:
            self._flag(entry, "ignore", where_image, absent=0)
        if field := _not_json(entry, skip=("bbox", "area", "segmentation")):
            self._refuse("NaN or Infinity", f"{where_image}: {field} is NaN or Infinity, which is not JSON")
        box = self._box(entry, where_image, size)
        if self.masks is None or entry["category_id"] in self.masks:
            mask = self._mask(entry, where_image, size)
            self._compare(entry, where_image, box, mask, size)
            self._area(entry, where_image, mask)
        return before != (len(self._mends()), sum(each.count for each in self._mends()))

    def _mends(self):
        return [each for each in self.findings.values() if each.done in (MENDED, DROPPED)]

    def _image_of(self, entry, where):
        owner = entry["image_id"]
        if type(owner) not in (int, str, float) or owner not in self.images:
            self._refuse(
                "annotations of unknown images",
                f"{where}: unknown image_id {_text(owner)}, valid: an id that `images` lists",
            )
        if type(owner) is float and abs(owner) <= LARGEST_ID and owner.is_integer():
            entry["image_id"] = int(owner)
            self._find(MENDED, "ids written as decimals", f"{where}: image_id is {_text(owner)}")
        return self.images[owner]

    def _category(self, entry, where):
        category = entry["category_id"]
        if type(category) is float and category in self._category_ids:
            entry["category_id"] = category = int(category)
            self._find(MENDED, "ids written as decimals", f"{where}: category_id")
        if type(category) is not int or category not in self._category_ids:
            self._refuse(
                "annotations of unknown categories",
                f"{where}: unknown category_id {_text(category)}, valid: an id that `categories` lists",
            )

    def _flag(self, entry, field, where, absent):
        value = entry.get(field)
        if value is None:
            how = "is null" if field in entry else "is missing"
            entry[field] = absent
            self._find(MENDED, f"'{field}' that {how}", f"{where}: taken for {absent}")
        elif type(value) in (bool, float) and value in (0, 1):
            entry[field] = int(value)
            self._find(MENDED, f"'{field}' that is true, false or a decimal", f"{where}: {_text(value)}")
        elif type(value) is not int or value not in (0, 1):
            self._refuse(
                f"'{field}' that is neither 0 nor 1",
                f"{where}: {field} is {_text(value)}, valid: 0, 1, true, false or absent",
            )

    def _box(self, entry, where, size):
        """Give x1, y1, x2, y2 of the box."""
        box = entry["bbox"]
        if not (isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)):
            self._refuse(
                "boxes that are not four numbers",
                f"{where}: bbox is {_text(box)}, valid: four numbers x, y, width, height",
            )
        if not all(-LARGEST_BOX <= value <= LARGEST_BOX for value in box):  # also NaN
            self._refuse(
                "boxes that are not finite or not on any image",
                f"{where}: bbox is {_text(box)}, valid: finite numbers of pixels",
            )
        x, y, width, height = box
        if width < 1 or height < 1:
            self._find(
                WARNED,
                "boxes below one pixel or of negative size, which training skips",
                f"{where}: bbox is {_text(box)}",
            )
        elif x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0:
            self._find(
                WARNED,
                "boxes outside the image, which training skips",
                f"{where}: bbox is {_text(box)}, the image {size[0]}x{size[1]}",
            )
        elif x < -SLACK or y < -SLACK or x + width > size[0] + SLACK or y + height > size[1] + SLACK:
            self._find(
                WARNED,
                "boxes that reach beyond the image (perhaps x1, y1, x2, y2), which are clipped",
                f"{where}: bbox is {_text(box)}, the image {size[0]}x{size[1]}",
            )
        if max(size) > 1 and min(x, y) >= 0 and 0 < x + width <= 1 and 0 < y + height <= 1:
            self._find_in_first_pixel(where, f"bbox is {_text(box)}")
        return x, y, x + width, y + height

    def _find_in_first_pixel(self, where, what):
        if where != self._in_first_pixel:
            self._in_first_pixel = where
            self._find(WARNED, FIRST_PIXEL, f"{where}: {what}")

    def _mask(self, entry, where, size):
        """Give (x1, y1, x2, y2, pixels) of the mask, None where there is none. Polygons of no point are dropped."""
        mask = entry.get("segmentation")
        if mask is None or mask == []:
            if "segmentation" in entry:
                del entry["segmentation"]
                self._find(MENDED, "empty segmentations, taken for objects without a mask", where)
            self._find(NOTED, "objects without a mask", where)
            return None
        if isinstance(mask, dict):
            return self._run_lengths(mask, where, size)
        if not isinstance(mask, list):
            self._refuse(
                "segmentations of another type",
                f"{where}: segmentation is {_text(mask)}, valid: a list of polygons, or run lengths {{size, counts}}",
            )
        return self._polygons(entry, mask, where, size)

    def _polygons(self, entry, polygons, where, size):
        if all(type(value) in (int, float) for value in polygons):
            self._refuse(
                "polygons that are not in a list of polygons",
                f"{where}: segmentation is a list of "
                f"{len(polygons)} numbers, valid: a list of polygons [[x1, y1, x2, y2, x3, y3, ...], ...]",
            )
        whole = []
        for polygon in polygons:
            if not isinstance(polygon, list) or not all(map(_is_number, polygon)):
                self._refuse(
                    "polygons that are no lists of numbers",
                    f"{where}: a polygon is {_text(polygon)}, valid: a list of numbers x1, y1, x2, y2, ...",
                )
            if len(polygon) % 2:
                self._refuse(
                    "polygons with an odd number of coordinates",
                    f"{where}: a polygon has {len(polygon)} numbers, valid: an even number, x and y of each point",
                )
            if len(polygon) >= 6:
                whole.append(polygon)
        if not whole:
            self._refuse(
                "polygons of fewer than three points",
                f"{where}: a polygon has {len(polygons[0])} numbers, valid: at least 6, x and y of three points",
            )
        points = np.array(list(chain.from_iterable(whole)), dtype=np.float64).reshape(-1, 2)
        image = np.array(size)
        if not (np.isfinite(points).all() and (points >= -FAR * image).all() and (points <= (1 + FAR) * image).all()):
            self._refuse(
                "polygons that are not finite or far outside the image",
                f"{where}: a polygon reaches from "
                f"{_point(points.min(0))} to {_point(points.max(0))}, the image is {size[0]}x{size[1]}",
            )
        if len(whole) < len(polygons):
            entry["segmentation"] = whole
            self._find(DROPPED, "parts of masks with fewer than three points", where)
        (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
        if x2 <= 0 or y2 <= 0 or x1 >= size[0] or y1 >= size[1]:
            self._refuse(
                "masks outside the image",
                f"{where}: its mask reaches from {_point((x1, y1))} to "
                f"{_point((x2, y2))}, the image is {size[0]}x{size[1]}",
            )
        if x1 < -SLACK or y1 < -SLACK or x2 > size[0] + SLACK or y2 > size[1] + SLACK:
            self._find(
                WARNED,
                "masks that reach beyond the image, which are clipped",
                f"{where}: to {_point((x2, y2))}, the image is {size[0]}x{size[1]}",
            )
        if max(size) > 1 and min(x1, y1) >= 0 and x2 <= 1 and y2 <= 1:
            self._find_in_first_pixel(where, f"its mask reaches from {_point((x1, y1))} to {_point((x2, y2))}")
        if len(whole) == 1 and len(points) in (4, 5) and _is_rectangle(points):
            self._find(WARNED, "masks that are rectangles", where)
        runs = coco_mask.merge(coco_mask.frPyObjects([[float(v) for v in p] for p in whole], size[1], size[0]))
        return x1, y1, x2, y2, int(coco_mask.area(runs))

    def _run_lengths(self, mask, where, size):
        width, height = size
        if mask.get("size") != [height, width] or not all(type(side) is int for side in mask["size"]):
            self._refuse(
                "run lengths of another size than the image",
                f"{where}: size of its run lengths is "
                f"{_text(mask.get('size'))}, valid: [height, width] = [{height}, {width}]",
            )
        counts = mask.get("counts")
        if isinstance(counts, str):
            counts = decoded_counts(counts)
            if counts is None:
                self._refuse(
                    "compressed run lengths that cannot be decoded",
                    f"{where}: counts is {_text(mask['counts'])}, valid: as pycocotools.mask.encode gives it",
                )
        if not isinstance(counts, list) or not {int}.issuperset(map(type, counts)):
            self._refuse(
                "run lengths that are no whole numbers",
                f"{where}: counts is {_text(counts)}, valid: a list of whole numbers, or a text",
            )
        if sum(counts) != height * width or min(counts) < 0:
            least = f", the least is {min(counts)}" if min(counts, default=0) < 0 else ""
            self._refuse(
                "run lengths that do not add up",
                f"{where}: counts of its run lengths sum to {sum(counts)}"
                f"{least}, valid: height*width = {height * width}, each at least 0",
            )
        counts = np.array(counts, dtype=np.int64)
        ends = np.cumsum(counts)
        starts, ends = (ends - counts)[1::2], ends[1::2]
        starts, ends = starts[ends > starts], ends[ends > starts]
        if not len(starts):
            return 0, 0, 0, 0, 0
        first, last = starts // height, (ends - 1) // height  # columns
        rows = np.where(first == last, starts % height, 0), np.where(first == last, (ends - 1) % height + 1, height)
        return int(first.min()), int(rows[0].min()), int(last.max()) + 1, int(rows[1].max()), int((ends - starts).sum())

    def _compare(self, entry, where, box, mask, size):
        if mask is None:
            return
        x1, y1, x2, y2, pixels = mask
        if pixels == 0:
            self._find(WARNED, "masks without a pixel", f"{where}: polygon or run lengths cover no pixel")
        elif not entry["iscrowd"]:
            self.with_mask += 1
        if (x1, y1, x2, y2) == (0, 0, 0, 0) or box[2] <= box[0] or box[3] <= box[1]:
            return
        if box[0] >= size[0] or box[1] >= size[1] or box[2] <= 0 or box[3] <= 0:  # reported, and skipped by training
            return
        across, down = min(x2, box[2]) - max(x1, box[0]), min(y2, box[3]) - max(y1, box[1])
        if across < -SLACK or down < -SLACK:
            self._refuse(
                "masks outside their box",
                f"{where}: its mask reaches from {_point((x1, y1))} to "
                f"{_point((x2, y2))}, bbox is {_text(entry['bbox'])}, valid: a box around the mask",
            )
        both = (x2 - x1) * (y2 - y1) + (box[2] - box[0]) * (box[3] - box[1])
        common = max(across, 0) * max(down, 0)
        x, y, width, height = entry["bbox"]
        if x1 > 2 * SLACK and max(abs(x - x1), abs(y - y1), abs(width - x2), abs(height - y2)) <= 2 * SLACK:
            self._find(
                WARNED,
                CORNERS,
                f"{where}: bbox is {_text(entry['bbox'])}",
            )
        elif common < AGREEMENT * (both - common) and max(x2 - x1, y2 - y1) > 4 * SLACK:
            self._find(
                WARNED,
                "boxes that differ from the extent of their mask",
                f"{where}: bbox is {_text(entry['bbox'])}, its mask reaches from {_point((x1, y1))} to "
                f"{_point((x2, y2))}",
            )

    def _area(self, entry, where, mask):
        area = entry.get("area")
        if area is not None and not _is_number(area):
            self._refuse("areas that are no numbers", f"{where}: area is {_text(area)}, valid: a number")
        if area is not None and math.isfinite(area) and area > 0:
            return
        _, _, width, height = entry["bbox"]
        measured = max(width, 0) * max(height, 0) if mask is None else mask[-1]
        if area == measured:
            return
        entry["area"] = measured
        self._find(
            MENDED,
            "areas that are missing, not positive or not finite, computed from the mask",
            f"{where}: area {'is ' + _text(area) if 'area' in entry else 'is missing'}, now {measured}",
        )


def _plain_polygons(points, lengths, counts, corners, sizes):
    """Whether masks are plainly in order: in the image, as large as their box, and thick enough to cover pixels.

    Args:
        points: [V, 2] vertices of all polygons.
        lengths: [P] numbers of vertices of the polygons.
        counts: [N] numbers of polygons of the masks.
        corners: [N, 4] of the boxes, x1, y1, x2, y2.
        sizes: [N, 2] width and height of the images.

    Returns:
        [N] bool.
    """
    ends = np.cumsum(lengths)
    starts = ends - lengths
    first = np.cumsum(counts) - counts  # polygon of each mask
    of_mask = starts[first]
    x, y = np.ascontiguousarray(points.T)
    low = np.stack([np.minimum.reduceat(x, of_mask), np.minimum.reduceat(y, of_mask)], axis=1)
    high = np.stack([np.maximum.reduceat(x, of_mask), np.maximum.reduceat(y, of_mask)], axis=1)
    following = np.arange(1, len(x) + 1)
    following[ends - 1] = starts
    areas = np.add.reduceat(np.abs(np.add.reduceat(x * y[following] - x[following] * y, starts)) / 2, first)
    sides = high - low
    plain = (low >= -SLACK).all(1) & (high <= sizes + SLACK).all(1)
    plain &= (np.abs(np.concatenate([low, high], axis=1) - corners) <= SLACK).all(1)
    plain &= (sides > 1).all(1) & (areas >= sides.max(1))  # on average at least a pixel thick
    return plain & (areas < 0.99 * sides.prod(1))  # no rectangle


def decoded_counts(text):
    """Decode the compressed run lengths of a mask, as rleFrString of pycocotools does but without trusting them.

    Returns:
        List of ints, which may be negative in a broken text; `None` if the text is no encoding.
    """
    if not text.isascii():
        return None
    counts, at, codes = [], 0, text.encode()
    if any(not 48 <= code < 112 for code in codes):
        return None
    while at < len(codes):
        value = shift = 0
        more = True
        while more:
            if at == len(codes) or shift > 60:
                return None
            code = codes[at] - 48
            value |= (code & 31) << shift
            more, shift, at = code & 32, shift + 5, at + 1
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def _is_number(value):
    return type(value) is float or type(value) is int and abs(value) < 1 << 1000  # larger ones are no float


def _is_rectangle(points):
    """Whether a closed outline of 4 points, or 5 of which the last repeats the first, is an upright rectangle."""
    if len(points) == 5 and (points[0] != points[4]).any():
        return False
    steps = np.diff(points[[0, 1, 2, 3, 0]], axis=0)
    return bool(((steps == 0).sum(1) == 1).all()) and bool((steps[0] * steps[1] == 0).all())


def _name_problem(name):
    """What is wrong with a file name, or `None`."""
    if type(name) is str and PLAIN_NAME.fullmatch(name):
        return None
    if type(name) is not str or not name.strip():
        return "no text"
    if "\0" in name or not _encodable(name):
        return "which no file can have"
    if name.startswith("/") or PureWindowsPath(name).drive:
        return "an absolute path"
    if ".." in PurePosixPath(name.replace("\\", "/")).parts:
        return "which leaves the folder"
    return None


def _encodable(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _not_json(entry, skip=()):
    """Name of a field that holds NaN or Infinity, or `None`."""
    for field, value in entry.items():
        if field in skip or type(value) in (int, str, bool):
            continue
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            return field
    return None


def _text(value):
    """A value as it stands in the file, short and on one line."""
    text = json.dumps(value, ensure_ascii=False)
    text = text if _encodable(text) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-10:]}"


def _point(point):
    return "({:.6g}, {:.6g})".format(*point)


def _stored(path):
    """Width and height of the pixels as an image file stores them and its EXIF orientation, or `None`."""
    try:
        with Image.open(path) as image:
            if image.format == "PNG" and "exif" not in image.info:  # else Pillow decodes it to look behind the pixels
                return image.size, 1
            return image.size, image.getexif().get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


# The copy that all later stages read


def copy(checker, target):
    """Write a checked file below another name: byte for byte if nothing was mended, else as mended.

    Ids that not every reader takes are replaced by 1, 2, ... in the order of the file.

    Args:
        checker: Checker of the file, which `read_instances` passed.
        target: path to write, which is whole only when this returns.
    """
    if checker.mended:
        with open(target, "wb", buffering=1 << 20) as file:
            _write_mended(checker, file)
    else:
        shutil.copyfile(checker.path, target)


def _write_mended(checker, file):
    new_images, numbers = checker.image_ids(), iter(range(1, 1 << 62))

    def images(entries):
        for image in entries:
            if image["file_name"] in checker.names:
                image = image | {"file_name": checker.names[image["file_name"]]}
            if new_images:
                image = image | {"id": new_images[image["id"]], "source_id": image["id"]}
            yield image

    def annotations(entries):
        for annotation in entries:
            if new_images:
                annotation["image_id"] = new_images[annotation["image_id"]]
            if "annotations" in checker.renumber:
                annotation = annotation | {"id": next(numbers), "source_id": annotation["id"]}
            yield annotation

    parts = {}
    with TemporaryFile(dir=Path(file.name).parent) as first, TemporaryFile(dir=Path(file.name).parent) as second:
        parts = {"images": first, "annotations": second}
        header = read_instances(
            checker.path,
            checker.label_set,
            lambda entries, _: _write(parts["images"], list(images(entries))),
            lambda entries, _: _write(parts["annotations"], list(annotations(entries))),
            checks=Checker(checker.path, checker.label_set, checker.masks, exact=True),
        )
        file.write(compact(header)[:-1])
        for name, part in parts.items():
            file.write(b',"%s":[' % name.encode())
            part.seek(1)  # behind the first comma
            shutil.copyfileobj(part, file, 1 << 20)
            file.write(b"]")
        file.write(b"}\n")


def _write(file, entries):
    try:
        text = b",\n".join(map(fast_dumps, entries))
        exact = like_compact(text)
    except TypeError:
        exact = False
    file.write(b",\n" + (text if exact else b",\n".join(map(compact, entries))))


def log(name, findings):
    """Log a table of findings, an entry a line."""
    for kind, each in findings.items():
        logger.info("%s: %s: %d %s, first: %s", name, kind, each.count, each.done, each.example)


def table(findings_by_file):
    """The findings of some files as Markdown, with a final newline.

    Args:
        findings_by_file: {file name: {kind: Finding}}.
    """
    lines = ["What was found when the annotations were checked ([kinds](../../../docs/annotations.md)).", ""]
    for name, findings in findings_by_file.items():
        lines += [f"## {name}", ""]
        if not findings:
            lines += ["Nothing.", ""]
            continue
        rows = [(kind, str(each.count), each.example, each.done) for kind, each in findings.items()]
        lines += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (HEADERS, [":--", "--:", ":--", ":--"], *rows)
        ]
        lines.append("")
    return "\n".join(lines)
