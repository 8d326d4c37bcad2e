"""Read COCO instance annotation files and say in one line what is wrong with one.

The file of train2017 has 470 MB and, parsed as a whole, takes 2.6 GB. So it is passed through and checked in pieces.
What is checked here is what a reader cannot do without; `coco_check` looks at all of the content.
"""

import math
import os
from itertools import chain
from pathlib import Path

from pipeline.datasets.streamed_json import StreamedObject
from pipeline.errors import ExperimentError

REQUIRED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}
STREAMED = ("images", "annotations")
NUMBERS = {int, float, bool}  # what a JSON parser gives for a number; `true` passes for 1
# Not `dvc repro download`: DVC does not see the source, and skips where an earlier version of it was fine.
REMEDY = "correct the file, then run `python -m stages.download`"


def read_instances(path, label_set, on_images=None, on_annotations=None, checks=None):
    """Check an annotation file, and show its images and annotations in the order of the file.

    What the file says about categories and what annotations refer to is certain only when this returns; what is
    shown before has the required fields of the right types, and ids that are not repeated.

    Args:
        path: of the file.
        label_set: whose categories the file has to list.
        on_images, on_annotations: called with lists of successive entries, and a function that gives the same
            entries as the `json` module parses them, see `StreamedObject`.
        checks: what looks at everything first and may mend it, such as `coco_check.Checker`; the few checks of this
            module if `None`.

    Returns:
        The members `info`, `licenses` and `categories`, as far as present.

    Raises:
        ExperimentError: missing file, no regular one, not JSON, not COCO format, repeated ids, an unknown image or
            category referred to, categories other than those of the label set; what `checks` raises.
    """
    path = Path(path)
    checks = checks or Checks(path, label_set)
    consumers = {"images": on_images, "annotations": on_annotations}

    def visit(section, position, entries, again):
        entries, again = checks.add(section, position, entries, again)
        if entries and consumers[section]:
            consumers[section](entries, again)

    content = stream(path, visit)
    _check_sections(path, content)
    header = {key: content.members[key] for key in ("info", "licenses", "categories") if key in content.members}
    checks.finish(header)
    return header


def stream(path, visit, sections=STREAMED):
    """`StreamedObject` of an annotation file; what cannot be read or parsed is an ExperimentError."""
    try:
        return StreamedObject(path, sections, visit)
    except OSError as error:
        if error.filename is None or Path(error.filename) != Path(path):  # of another file, such as a full disk
            raise
        if isinstance(error, FileNotFoundError):
            raise ExperimentError(f"annotation file {path} is missing; run `python -m stages.download`") from None
        raise ExperimentError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from None
    except UnicodeDecodeError as error:
        raise ExperimentError(
            f"{path}: not UTF-8 ({_first_line(error)}); save it in that encoding, then run `python -m stages.download`"
        ) from None
    except (ValueError, RecursionError) as error:  # MalformedJson is a ValueError
        raise ExperimentError(f"{path}: not a JSON file ({_first_line(error)}); {REMEDY}") from None


def listed_image_sizes(path, names, folder):
    """Look up the images that an annotation file lists.

    Args:
        path: of the annotation file, for messages.
        names: file names it lists, as paths below `folder`.
        folder: of the images.

    Returns:
        Dictionary from file name to bytes, in the order of the file.

    Raises:
        ExperimentError: a listed image is missing or empty.
    """
    files = {name: os.path.join(folder, name) for name in names}
    present = {name: os.path.getsize(file) for name, file in files.items() if os.path.isfile(file)}
    for state, bad in (
        ("missing", [name for name in names if name not in present]),
        ("empty", [name for name in names if present.get(name) == 0]),
    ):
        if bad:
            raise ExperimentError(
                f"{path}: of the {len(names)} images it lists {len(bad)} are {state} in {folder} "
                f"(first: {bad[0]}); bring whole ones, or take them out of the annotations"
            )
    return {name: present[name] for name in names}


def _first_line(error):
    return str(error).splitlines()[0]


class Checks:
    """Check images and annotations as they pass by, and at the end whom the annotations refer to."""

    def __init__(self, path, label_set):
        self.path, self.label_set = path, label_set
        self.ids = {section: set() for section in STREAMED}
        self.referred = {"image_id": set(), "category_id": set()}

    def add(self, section, position, entries, again):
        try:
            columns = {field: [entry[field] for entry in entries] for field in REQUIRED[section]}
        except (KeyError, TypeError):
            for offset, entry in enumerate(entries):
                _check_fields(self.path, section, position + offset, entry)
            raise
        try:
            self._add_ids(section, columns["id"])
            if section == "annotations":
                _check_shapes(self.path, columns)
                for field, values in self.referred.items():
                    values.update(columns[field])
        except TypeError:
            raise ExperimentError(
                f"{self.path}: {section}[{position}] or soon after: an id is a list or an object, "
                f"valid: a number or a text; {REMEDY}"
            ) from None
        return entries, again

    def _add_ids(self, section, numbers):
        ids = self.ids[section]
        due = len(ids) + len(numbers)
        before = set() if ids.isdisjoint(numbers) else set(ids)
        ids.update(numbers)
        if len(ids) < due:
            for number in numbers:
                if number in before:
                    raise ExperimentError(f"{self.path}: {section} has the id {number} twice; {REMEDY}")
                before.add(number)

    def finish(self, header):
        check_categories(self.path, header["categories"], self.label_set)
        valid = {"image_id": self.ids["images"], "category_id": {category["id"] for category in header["categories"]}}

        def find(_section, _position, entries, _again):
            for entry in entries:
                for field in valid:
                    if entry[field] not in valid[field]:
                        raise ExperimentError(
                            f"{self.path}: annotation {entry['id']}: unknown {field} {entry[field]!r}; {REMEDY}"
                        )

        if any(self.referred[field] - valid[field] for field in valid):
            StreamedObject(self.path, ("annotations",), find)


def _check_fields(path, section, position, entry):
    for field in REQUIRED[section]:
        if not isinstance(entry, dict) or field not in entry:
            raise ExperimentError(f"{path}: not COCO format: {section}[{position}] has no '{field}'; {REMEDY}")


def _check_shapes(path, columns):
    """Check boxes and areas; all at once if they are fine."""
    boxes, areas = columns["bbox"], columns["area"]
    if (
        set(map(type, boxes)) <= {list}
        and set(map(len, boxes)) <= {4}
        and NUMBERS.issuperset(map(type, chain.from_iterable(boxes)))
        and NUMBERS.issuperset(map(type, areas))
        and math.isfinite(sum(areas) + sum(chain.from_iterable(boxes)))
    ):
        return
    for number, box, area in zip(columns["id"], boxes, areas, strict=True):
        if not (
            isinstance(box, list)
            and len(box) == 4
            and NUMBERS.issuperset(map(type, box))
            and all(map(math.isfinite, box))
        ):
            raise ExperimentError(
                f"{path}: annotation {number}: bbox is {box!r}, valid: four numbers x, y, width, height; {REMEDY}"
            )
        if type(area) not in NUMBERS or not math.isfinite(area):
            raise ExperimentError(f"{path}: annotation {number}: area is {area!r}, valid: a number; {REMEDY}")


def _check_sections(path, content):
    if content.kind is not dict:
        raise ExperimentError(f"{path}: not COCO format: a {content.kind.__name__} where an object is due; {REMEDY}")
    for section in REQUIRED:
        if not (content.members.get(section) is ... or isinstance(content.members.get(section), list)):
            raise ExperimentError(f"{path}: not COCO format: no list '{section}'; {REMEDY}")
    for position, entry in enumerate(content.members["categories"]):
        _check_fields(path, "categories", position, entry)


def check_categories(path, categories, label_set):
    """Labels are positions in the list of categories, so that list has to be the label set's, in its order."""
    title = label_set.title
    for expected, found in zip(label_set.categories, categories, strict=False):
        if (found["id"], found["name"]) != expected[:2]:
            raise ExperimentError(
                f"{path}: category {found['id']!r} {found['name']!r} where {title} has "
                f"{expected.id} '{expected.name}'; the {len(label_set)} categories have to be {title}'s, in its order"
            )
    if len(categories) != len(label_set):
        raise ExperimentError(
            f"{path}: lists {len(categories)} categories; all of {title}'s {len(label_set)} are needed"
        )
