"""Draw the scenes of the generated dataset and write them in COCO's layout and format.

Everything is drawn from a numpy Generator seeded by (version, seed, subset, index): an image does not depend
on how many others are drawn. Sizes are for 128-pixel images and scale with `image_size`.

Coordinates: x right, y down. The unit frame is that of pipeline.datasets.generated.looks.
"""

import difflib
import hashlib
import json
import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from pipeline.datasets.generated.looks import LOOKS, TEXTURES, polar
from pipeline.errors import ExperimentError

VERSION = 1
SPEC_KEYS = ("version", "seed", "train_images", "val_images", "image_size")
IMAGES_PER_SUBSET = 1_000_000  # image ids of a subset start at its index times this
OBJECTS_PER_IMAGE = 10  # annotation id = image id times this + position, larger than any number of objects

REFERENCE_SIZE = 128  # the image size for which the following lengths are given
OBJECT_SIZE = (30, 64)  # pixels, longer side of the box
DISTRACTOR_SIZE = (20, 50)
MAX_BOX_IOU = 0.3
MAX_COVERED = 0.4  # share of an object that others may hide
SUBPIXEL_BITS = 4


class Cast(NamedTuple):
    """The classes that scenes show."""

    looks: dict  # class name -> Look
    groups: dict  # class name -> the groups of its label set that it is in

    @property
    def fewest_groups(self):
        """Of how many groups an image shows objects, at least."""
        return min(2, len(set(self.groups.values())))


def cast(label_set, looks=None):
    """The classes of a label set that have a look.

    Args:
        looks: {class name: name of a look}; by default every class of a look's name has that look.

    Raises:
        ExperimentError: an unknown class or look, or a look that is no class.
    """
    looks = dict(zip(LOOKS, LOOKS, strict=True)) if looks is None else looks
    if not isinstance(looks, dict) or not looks:
        raise ExperimentError(f"generated dataset: looks is {looks!r}; valid: {{class: look}}")
    for name, look in looks.items():
        for value, valid, what in ((name, label_set.names, "class"), (look, LOOKS, "look")):
            if value not in valid:
                near = difflib.get_close_matches(str(value), valid, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ExperimentError(
                    f"generated dataset: looks names the {what} {value!r}; valid with label set {label_set.name!r}: "
                    f"{', '.join(valid)}{hint}"
                )
    members = label_set.declared_groups.items()
    groups = {name: frozenset(group for group, names in members if name in names) for name in looks}
    return Cast({name: LOOKS[look] for name, look in looks.items()}, groups)


def outlines(mask):
    """Trace a mask along its pixel edges, so that the polygons rasterise to exactly the same mask.

    The contour of the mask at twice its size has one vertex on either side of every pixel edge; both map to
    that edge.

    Args:
        mask: uint8 [H, W], nonzero inside, without holes.

    Returns:
        One flat COCO polygon `[x0, y0, x1, y1, ...]` of ints per connected part; pixel i covers [i, i + 1].
    """
    twice = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        points = (contour[:, 0] + 1) // 2
        points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
        polygons.append(points.ravel().tolist())
    return polygons


def bounding_box(mask):
    """Box `(x, y, width, height)` in pixels around the nonzero cells of uint8 `mask` [H, W]."""
    return cv2.boundingRect(mask)


def box_iou(a, b):
    """IoU of two boxes `(x, y, width, height)`."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)


class Figure:
    """A placed shape: what is drawn, and which pixels of it are visible.

    Attributes:
        alpha: uint8 [H, W], coverage of each pixel, 0 to 255.
        mask: uint8 [H, W] of 0 and 1, all pixels of the shape.
        visible: like mask, without the pixels that later figures hide.
        box: of `visible`, `(x, y, width, height)` in pixels.
    """

    def __init__(self, rng, polygon, size, image_size):
        """Put `polygon` (unit frame) at a random angle and place; `size` is the longer box side in pixels."""
        angle = rng.uniform(0, 2 * np.pi)
        self.rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = polygon @ self.rotation.T
        low, extent = points.min(axis=0), np.ptp(points, axis=0)
        self.scale = size / extent.max()
        corner = rng.uniform(0, image_size - extent * self.scale)
        self.centre = corner - low * self.scale
        # cv2 puts pixel centres at whole numbers
        points = (points * self.scale + self.centre - 0.5) * (1 << SUBPIXEL_BITS)
        self.alpha = np.zeros((image_size, image_size), np.uint8)
        cv2.fillPoly(self.alpha, [np.round(points).astype(np.int32)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        self.mask = (self.alpha > 127).astype(np.uint8)
        self.visible = self.mask
        self.box = bounding_box(self.mask)

    def crop(self):
        """Slices of the image that hold all of `alpha`."""
        x, y, width, height = bounding_box(self.alpha)
        return slice(y, y + height), slice(x, x + width)

    def unit_frame(self, rows, columns):
        """Coordinates x, y in the unit frame of the pixel centres in a crop, float32 [h, w] each."""
        x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + 0.5 - np.float32(self.centre[0])
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5 - np.float32(self.centre[1])
        (cos, _), (sin, _) = self.rotation.astype(np.float32) / np.float32(self.scale)
        return x * cos + y * sin, y * cos - x * sin


def _whole(visible):
    """Whether a mask has no hole: COCO polygons cannot express one."""
    _, hierarchy = cv2.findContours(visible, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return np.all(hierarchy[0, :, 3] < 0)


def _put_on_top(figures, new):
    """Put `new` on top of `figures` if that keeps all bounds and makes no hole. Gives success."""
    if not _whole(new.mask):  # the gap of a small ring may close
        return False
    changes = []
    for figure in figures:
        visible, box = figure.visible, figure.box
        if box_iou(figure.box, new.box) > 0:
            visible = figure.visible & ~new.mask
            if cv2.countNonZero(visible) < (1 - MAX_COVERED) * cv2.countNonZero(figure.mask) or not _whole(visible):
                return False
            box = bounding_box(visible)
        changes.append((visible, box))
    boxes = [box for _, box in changes] + [new.box]
    if any(box_iou(a, b) > MAX_BOX_IOU for i, a in enumerate(boxes) for b in boxes[:i]):
        return False
    for figure, (visible, box) in zip(figures, changes, strict=True):
        figure.visible, figure.box = visible, box
    figures.append(new)
    return True


def arrange(rng, image_size, cast):
    """Draw the objects of one image, bottom first.

    Returns:
        List of `(class name, Figure)`: 4 to 6 of them, of at least two groups (voc and nonvoc) if the cast has them.
    """
    scale = image_size / REFERENCE_SIZE
    while True:
        names = [list(cast.looks)[k] for k in rng.integers(len(cast.looks), size=rng.integers(4, 7))]
        if len({cast.groups[name] for name in names}) < cast.fewest_groups:
            continue
        figures = []
        for name in names:
            size = rng.uniform(*OBJECT_SIZE) * scale
            for _ in range(25):
                if _put_on_top(figures, Figure(rng, cast.looks[name].silhouette, size, image_size)):
                    break
            else:
                break  # too crowded: begin again
        if len(figures) == len(names):
            return list(zip(names, figures, strict=True))


def _colour(hue, saturation, value):
    """BGR float32 [3] in 0 to 255 from hue in degrees, saturation and value in [0, 1]."""
    pixel = np.array([[[hue % 360, saturation, value]]], np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0] * 255


def _blend(canvas, figure, tone, colours, shade=1.0):
    """Draw a figure onto float32 `canvas` [H, W, 3]; `tone` [h, w] in [0, 1] mixes the colours."""
    crop = figure.crop()
    paint = colours[0] + (colours[1] - colours[0]) * tone[..., None]
    alpha = (figure.alpha[crop].astype(np.float32) / 255)[..., None]
    region = canvas[crop]
    region += alpha * (paint * shade - region)


def _dull_pair(rng, contrast, saturation):
    """Two dull colours whose values differ by about `contrast` of full scale."""
    hue, value = rng.uniform(0, 360), rng.uniform(0.4, 0.75)
    low, high = max(value - contrast / 2, 0.1), min(value + contrast / 2, 0.95)
    return _colour(hue, saturation, low), _colour(hue + rng.uniform(-60, 60), saturation, high)


def _draw_background(rng, image_size):
    period = rng.uniform(0.35, 1.2) * image_size / 2  # pixels per unit of the texture frame
    angle, centre = rng.uniform(0, 2 * np.pi), rng.uniform(0, image_size, size=2).astype(np.float32)
    pixels = np.arange(image_size, dtype=np.float32)
    x, y = (pixels[None, :] - centre[0]) / period, (pixels[:, None] - centre[1]) / period
    cos, sin = math.cos(angle), math.sin(angle)
    texture = TEXTURES[list(TEXTURES)[rng.integers(len(TEXTURES))]]
    tone = texture(x * cos + y * sin, y * cos - x * sin, rng.uniform(0, 6.3))
    low, high = _dull_pair(rng, rng.uniform(0.2, 0.6), rng.uniform(0.05, 0.35))
    return low + (high - low) * tone[..., None]


def _draw_distractor(rng, canvas):
    angle = np.arange(36) * 2 * np.pi / 36
    radius = 1 + sum(rng.uniform(0, 0.35) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5))
    size = rng.uniform(*DISTRACTOR_SIZE) * len(canvas) / REFERENCE_SIZE
    figure = Figure(rng, polar(np.maximum(radius, 0.25), angle), size, len(canvas))
    texture = TEXTURES[list(TEXTURES)[rng.integers(len(TEXTURES))]]
    tone = texture(*figure.unit_frame(*figure.crop()), rng.uniform(0, 6.3))
    _blend(canvas, figure, tone, _dull_pair(rng, rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.45)))


def _draw_object(rng, canvas, look, figure):
    crop = figure.crop()
    tone = TEXTURES[look.texture](*figure.unit_frame(*crop), rng.uniform(0, 6.3))
    hues = np.array(look.hues) + rng.uniform(-12, 12, size=2)
    colours = _colour(hues[0], 1.0, rng.uniform(0.6, 0.75)), _colour(hues[1], 0.85, rng.uniform(0.9, 1.0))
    inner = cv2.erode(figure.alpha, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    outline = 0.3 + 0.7 * (inner[crop].astype(np.float32) / 255)[..., None]
    _blend(canvas, figure, tone, colours, outline)


def draw(spec, cast, part, index):
    """Draw one image.

    Args:
        spec: see `generate`.
        cast: see `cast`.
        part: 0 for training, 1 for validation images.
        index: position in that part, from 0.

    Returns:
        `(image, objects)`: image uint8 BGR [image_size, image_size, 3]; objects as from `arrange`.
    """
    rng = np.random.default_rng([spec["version"], spec["seed"], part, index])
    objects = arrange(rng, spec["image_size"], cast)
    canvas = _draw_background(rng, spec["image_size"])
    for _ in range(rng.integers(1, 5)):
        _draw_distractor(rng, canvas)
    for name, figure in objects:
        _draw_object(rng, canvas, cast.looks[name], figure)
    canvas += 5 * rng.standard_normal(size=canvas.shape[:2], dtype=np.float32)[..., None]
    return np.clip(canvas, 0, 255).astype(np.uint8), objects


def generate(spec, label_set, subsets, images_dir, annotations_dir):
    """Draw a dataset and write it in COCO's layout and format.

    Writes `images_dir/<subset>/*.png` and `annotations_dir/instances_<subset>.json`. The same spec gives the same
    bytes. Nothing marks the result as complete; that is up to the caller.

    Args:
        spec: `version` (of this generator), `seed`, `train_images`, `val_images`, `image_size` (pixels); `looks`, if
            its classes are not called as their looks, see `cast`.
        label_set: what the annotations list as categories.
        subsets: names of the training and of the validation images' folder.
        images_dir, annotations_dir: created if missing.

    Returns:
        SHA-256 (hex) over all image files.
    """
    shown = cast(label_set, spec.get("looks"))
    ids = {category.name: category.id for category in label_set.categories}
    images_dir, annotations_dir = Path(images_dir), Path(annotations_dir)
    annotations_dir.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for part, (subset, count) in enumerate(zip(subsets, (spec["train_images"], spec["val_images"]), strict=True)):
        folder = images_dir / subset
        folder.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for index in tqdm(range(count), desc=f"drawing {subset}", unit="image", mininterval=1):
            image, objects = draw(spec, shown, part, index)
            image_id = part * IMAGES_PER_SUBSET + index + 1
            name = f"{image_id:012d}.png"
            content = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
            (folder / name).write_bytes(content)
            digest.update(content)
            images.append({"id": image_id, "file_name": name, "width": image.shape[1], "height": image.shape[0]})
            annotations += [
                {
                    "id": image_id * OBJECTS_PER_IMAGE + position,
                    "image_id": image_id,
                    "category_id": ids[category],
                    "segmentation": outlines(figure.visible),
                    "area": int(figure.visible.sum()),
                    "bbox": list(figure.box),
                    "iscrowd": 0,
                }
                for position, (category, figure) in enumerate(objects)
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
