"""Draw the scenes of the generated dataset and write them in COCO's layout and format.

Everything is drawn from a numpy Generator seeded by (version, seed, subset, index): an image does not depend
on how many others are drawn, nor on which process draws it. Sizes are for 128-pixel images and scale with `image_size`.
"""

import concurrent.futures
import difflib
import functools
import hashlib
import json
import multiprocessing
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from pipeline.datasets.generated import bodies, looks, version1, version2
from pipeline.datasets.generated.geometry import outlines
from pipeline.errors import ExperimentError

SPEC_KEYS = ("version", "seed", "train_images", "val_images", "image_size")
IMAGES_PER_SUBSET = 1_000_000  # image ids of a subset start at its index times this
OBJECTS_PER_IMAGE = 10  # annotation id = image id times this + position, larger than any number of objects
PORTRAIT = 0.9  # of a portrait's side that its object takes
ALONE = 50  # up to so many images, processes take longer to start than to draw


class Version(NamedTuple):
    """A way of drawing.

    Attributes:
        looks: {category name: what makes it}.
        draw: (spec, cast, part, index) -> image and objects, see `version1.draw`.
        portrait: (rng, canvas, what makes a category, size) paints one object, see `version1.portrait`.
        suffix: of image files.
        encoding: parameters of `cv2.imencode`.
    """

    looks: dict
    draw: object
    portrait: object
    suffix: str
    encoding: tuple


VERSIONS = {
    1: Version(looks.LOOKS, version1.draw, version1.portrait, ".png", (cv2.IMWRITE_PNG_COMPRESSION, 1)),
    2: Version(bodies.CATEGORIES, version2.draw, version2.portrait, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, 92)),
}


class Cast(NamedTuple):
    """The classes that scenes show."""

    looks: dict  # class name -> Look
    groups: dict  # class name -> the groups of its label set that it is in

    @property
    def fewest_groups(self):
        """Of how many groups an image shows objects, at least."""
        return min(2, len(set(self.groups.values())))


def cast(label_set, looks=None, version=1):
    """The classes of a label set that have a look.

    Args:
        looks: {class name: name of a look}; by default every class of a look's name has that look.
        version: key of VERSIONS.

    Raises:
        ExperimentError: an unknown class or look, or a look that is no class.
    """
    known = VERSIONS[version].looks
    looks = dict(zip(known, known, strict=True)) if looks is None else looks
    if not isinstance(looks, dict) or not looks:
        raise ExperimentError(f"generated dataset: looks is {looks!r}; valid: {{class: look}}")
    for name, look in looks.items():
        for value, valid, what in ((name, label_set.names, "class"), (look, known, "look")):
            if value not in valid:
                near = difflib.get_close_matches(str(value), valid, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ExperimentError(
                    f"generated dataset: looks names the {what} {value!r}; valid with label set {label_set.name!r}: "
                    f"{', '.join(valid)}{hint}"
                )
    members = label_set.declared_groups.items()
    groups = {name: frozenset(group for group, names in members if name in names) for name in looks}
    return Cast({name: known[look] for name, look in looks.items()}, groups)


class _Typical:
    """In the place of a Generator: every draw is the middle of its range, every chance is taken."""

    def uniform(self, low, high, size=None):
        return np.full(size, (low + high) / 2) if size else (low + high) / 2

    def random(self):
        return 0.0


def portrait(version, look, side, rng=None):
    """Draw one object upright on white.

    Args:
        version: key of VERSIONS.
        look: what makes its category, a value of `Version.looks`.
        side: of the image, in pixels.
        rng: numpy Generator that draws the individual; by default it is a typical one.

    Returns:
        uint8 RGB [side, side, 3].
    """
    canvas = np.full((side, side, 3), 255, np.float32)
    VERSIONS[version].portrait(rng or _Typical(), canvas, look, round(PORTRAIT * side))
    return canvas.astype(np.uint8)[..., ::-1]


def generate(spec, label_set, subsets, images_dir, annotations_dir):
    """Draw a dataset and write it in COCO's layout and format.

    Writes `images_dir/<subset>/` and `annotations_dir/instances_<subset>.json`. The same spec gives the same
    bytes. Nothing marks the result as complete; that is up to the caller.

    Args:
        spec: `version` (key of VERSIONS), `seed`, `train_images`, `val_images`, `image_size` (pixels); `looks`, if
            its classes are not called as their looks, see `cast`.
        label_set: what the annotations list as categories.
        subsets: names of the training and of the validation images' folder.
        images_dir, annotations_dir: created if missing.

    Returns:
        SHA-256 (hex) over all image files.
    """
    ids = {category.name: category.id for category in label_set.categories}
    members = cast(label_set, spec.get("looks"), spec["version"])
    images_dir, annotations_dir = Path(images_dir), Path(annotations_dir)
    annotations_dir.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for part, (subset, count) in enumerate(zip(subsets, (spec["train_images"], spec["val_images"]), strict=True)):
        folder = images_dir / subset
        folder.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        draw = functools.partial(_write, spec, members, part, folder)
        for image, objects, content in tqdm(
            _in_order(draw, count), total=count, desc=f"drawing {subset}", unit="image", mininterval=1
        ):
            digest.update(content)
            images.append(image)
            annotations += [
                {
                    "id": image["id"] * OBJECTS_PER_IMAGE + position,
                    "image_id": image["id"],
                    "category_id": ids[found.pop("category")],
                    **found,
                    "iscrowd": 0,
                }
                for position, found in enumerate(objects)
            ]
        content = {
            "info": {"description": "generated by pipeline.datasets.generated", **spec},
            "images": images,
            "annotations": annotations,
            "categories": [category._asdict() for category in label_set.categories],
        }
        text = json.dumps(content, separators=(",", ":"))
        (annotations_dir / f"instances_{subset}.json").write_text(text, encoding="utf-8")
    return digest.hexdigest()


def _in_order(draw, count):
    """Yield `draw(index)` for every index, drawn by a process for each core."""
    if count <= ALONE:
        yield from map(draw, range(count))
        return
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, range(count), chunksize=16)


def _write(spec, members, part, folder, index):
    """Draw an image and write its file.

    Returns:
        Its record, its objects (category, segmentation, area, bbox), and the content of its file.
    """
    version = VERSIONS[spec["version"]]
    image, objects = version.draw(spec, members, part, index)
    image_id = part * IMAGES_PER_SUBSET + index + 1
    name = f"{image_id:012d}{version.suffix}"
    content = cv2.imencode(version.suffix, image, version.encoding)[1].tobytes()
    (folder / name).write_bytes(content)
    record = {"id": image_id, "file_name": name, "width": image.shape[1], "height": image.shape[0]}
    found = [
        {
            "category": category,
            "segmentation": outlines(figure.visible),
            "area": cv2.countNonZero(figure.visible),
            "bbox": list(figure.box),
        }
        for category, figure in objects
    ]
    return record, found, content
