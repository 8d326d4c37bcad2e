"""Read COCO instance annotation files and say in one line what is wrong with one."""

import json
import os
from numbers import Real
from pathlib import Path

from pipeline.datasets.categories import CATEGORIES
from pipeline.errors import ExperimentError

REQUIRED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}
REMEDY = "restore the original file, or run stage download again"


def read_instances(path):
    """Parse and check an annotation file.

    Returns:
        The parsed dictionary with at least `images`, `annotations` and `categories`.

    Raises:
        ExperimentError: missing file, not JSON, not COCO format, repeated ids, an unknown image or category
            referred to, categories other than COCO's 80.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ExperimentError(f"annotation file {path} is missing; run stage download") from None
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ExperimentError(f"{path}: not a JSON file ({_first_line(error)}); {REMEDY}") from None
    _check_format(path, content)
    _check_categories(path, content["categories"])
    _check_references(path, content)
    return content


def listed_image_sizes(path, content, folder):
    """Look up the images that an annotation file lists.

    Args:
        path: of the annotation file, for messages.
        content: what `read_instances` gave for it.
        folder: of the images.

    Returns:
        Dictionary from file name to bytes, in the order of the file.

    Raises:
        ExperimentError: a listed image is missing or empty.
    """
    with os.scandir(folder) as entries:
        present = {entry.name: entry.stat().st_size for entry in entries}
    names = [image["file_name"] for image in content["images"]]
    for state, bad in (
        ("missing", [name for name in names if name not in present]),
        ("empty", [name for name in names if present.get(name) == 0]),
    ):
        if bad:
            raise ExperimentError(
                f"{path}: of the {len(names)} images it lists {len(bad)} are {state} in {folder} "
                f"(first: {bad[0]}); "
                "restore them, or delete that folder and run stage download again"
            )
    return {name: present[name] for name in names}


def _first_line(error):
    return str(error).splitlines()[0]


def _check_format(path, content):
    if not isinstance(content, dict):
        raise ExperimentError(
            f"{path}: not COCO format: a {type(content).__name__} where an object is due; {REMEDY}"
        )
    for section, fields in REQUIRED.items():
        if not isinstance(content.get(section), list):
            raise ExperimentError(f"{path}: not COCO format: no list '{section}'; {REMEDY}")
        for position, entry in enumerate(content[section]):
            for field in fields:
                if not isinstance(entry, dict) or field not in entry:
                    raise ExperimentError(
                        f"{path}: not COCO format: {section}[{position}] has no '{field}'; {REMEDY}"
                    )
    for annotation in content["annotations"]:
        box = annotation["bbox"]
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(v, Real) for v in box)):
            raise ExperimentError(
                f"{path}: annotation {annotation['id']}: bbox is {box!r}, "
                f"valid: four numbers x, y, width, height; {REMEDY}"
            )
        if not isinstance(annotation["area"], Real):
            raise ExperimentError(
                f"{path}: annotation {annotation['id']}: area is {annotation['area']!r}, "
                f"valid: a number; {REMEDY}"
            )


def _check_categories(path, categories):
    """Labels are positions in the list of categories, so that list has to be COCO's, in its order."""
    for expected, found in zip(CATEGORIES, categories, strict=False):
        if (found["id"], found["name"]) != expected[:2]:
            raise ExperimentError(
                f"{path}: category {found['id']!r} {found['name']!r} where COCO has "
                f"{expected.id} '{expected.name}'; the 80 categories have to be COCO's, in its order"
            )
    if len(categories) != len(CATEGORIES):
        raise ExperimentError(
            f"{path}: lists {len(categories)} categories; all of COCO's {len(CATEGORIES)} are needed"
        )


def _check_references(path, content):
    for section in ("images", "annotations"):
        seen = set()
        for entry in content[section]:
            if entry["id"] in seen:
                raise ExperimentError(f"{path}: {section} has the id {entry['id']} twice; {REMEDY}")
            seen.add(entry["id"])
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for annotation in content["annotations"]:
        for field, valid in (("image_id", images), ("category_id", categories)):
            if annotation[field] not in valid:
                raise ExperimentError(
                    f"{path}: annotation {annotation['id']}: unknown {field} {annotation[field]!r}; {REMEDY}"
                )
