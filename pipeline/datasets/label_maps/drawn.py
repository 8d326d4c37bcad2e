"""Drawn stuff and things: 64 x 64 scenes with a class for every pixel, for semantic segmentation on a laptop.

An image shows two or three wavy bands of stuff, one to three things on them, and in 30 of 100 images a square without
label. Stuff is a texture with a hue of its own; a thing is a shape, whose hue a stuff may have as well: neither
colour nor texture alone tells classes apart. Two kinds of stuff that the default direction has as novel
show up together more often than alone: image-level labels do not tell which of their pixels are which.

Everything is drawn from a numpy Generator seeded by (version, seed, subset, index): an image does not depend on how
many others are drawn. Sizes are for 64 pixels and scale with `image_size`.
"""

import colorsys

import cv2
import numpy as np
from tqdm import tqdm

from pipeline.datasets import coco, contents
from pipeline.datasets.contents import Filled
from pipeline.datasets.label_maps import IGNORE
from pipeline.errors import ExperimentError

SPEC_KEYS = ("version", "seed", "train_images", "val_images", "image_size")
REFERENCE_SIZE = 64
# Stuff: hue in turns, texture. The first four pair up with a thing of about the same hue.
STUFF = {
    "green stripes": (0.33, "stripes"),
    "blue waves": (0.58, "waves"),
    "red bricks": (0.01, "bricks"),
    "yellow grain": (0.13, "grain"),
    "violet checks": (0.76, "checks"),
    "teal dots": (0.47, "dots"),
    "orange hatching": (0.07, "hatching"),
    "pink marble": (0.90, "marble"),
}
# Things: shape, hue in turns.
THINGS = {
    "disc": (0.02, 0.08),
    "square": (0.55, 0.62),
    "diamond": (0.30, 0.38),
    "triangle": (0.12, 0.18),
    "bar": (0.72, 0.80),
    "ring": (0.88, 0.95),
    "cross": (0.44, 0.50),
    "star": (0.20, 0.26),
}
CLASSES = (*STUFF, *THINGS)
THING_SIZE = (14, 24)  # pixels of a 64-pixel image
UNLABELLED_SIZE, UNLABELLED_SHARE = 8, 0.3
# The first two of these are drawn together, or one of them alone: shares of all images.
COMPANIONS = ("blue waves", "violet checks")
TOGETHER, ALONE = 0.35, 0.10
NOISE = 6  # standard deviation, of 255


def identify(source):
    """What identifies a drawn dataset, for the manifest. Raises ExperimentError for a label set of other classes."""
    if source.label_set.names != CLASSES:
        raise ExperimentError(
            f"datasets.{source.name}.label_set: {source.label_set.name!r} has other classes than are drawn "
            f"({', '.join(CLASSES)}); valid: stuff_and_things"
        )
    return {"scenes": {key: source.options[key] for key in SPEC_KEYS}}


def fill(source, root, _downloads, _check):
    """Draw a dataset for `root`, unless it is there as it was drawn. See `contents.Filled`."""
    identity, marker = identify(source), contents.MARKERS["drawn_maps"]
    drawn = contents.recorded(root).get(marker)
    if drawn and contents.read_json(root / marker) == identity and not contents.differing(root, drawn):
        return Filled(identity, root, lambda: None)
    coco.refuse_others_files(root, coco.folders_of(source))
    staging = contents.beside(root)
    contents.discard(staging)
    try:
        write(source.options, source.subsets, staging)
    except BaseException:  # what is half drawn is of no use
        contents.discard(staging)
        raise
    files = [str(path.relative_to(staging)) for path in sorted(staging.rglob("*")) if path.is_file()]
    contents.record(staging, {marker: contents.found(staging, files)})
    contents.write_json(staging / marker, identity)
    return Filled(identity, staging, lambda: contents.swap(staging, root))


def write(spec, subsets, folder):
    """Draw all images of a spec into `folder/<subset>/`, their maps into `folder/annotations/<subset>/`, as PNG."""
    for part, (subset, count) in enumerate(zip(subsets, (spec["train_images"], spec["val_images"]), strict=True)):
        for each in (folder / subset, folder / "annotations" / subset):
            each.mkdir(parents=True, exist_ok=True)
        for index in tqdm(range(count), desc=f"drawing {subset}", unit="image", mininterval=1):
            image, labels = draw(spec, part, index)
            name = f"{index + 1:06d}.png"
            cv2.imwrite(str(folder / subset / name), image[..., ::-1])
            cv2.imwrite(str(folder / "annotations" / subset / name), labels)


def draw(spec, part, index):
    """Draw one image.

    Args:
        spec: {version, seed, image_size}.
        part: 0 for training, 1 for validation images.
        index: position in that part, from 0.

    Returns:
        RGB uint8 [size, size, 3], and its map uint8 [size, size] of positions in `CLASSES`, or `IGNORE`.
    """
    rng, size = np.random.default_rng([spec["version"], spec["seed"], part, index]), spec["image_size"]
    canvas, labels = np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.uint8)
    for name, region in _bands(rng, size, _stuff_of(rng)):
        labels[region] = CLASSES.index(name)
        canvas[region] = _texture(rng, size, *STUFF[name])[region]
    for name in rng.choice(list(THINGS), rng.integers(1, 4), replace=False):
        region, paint = _thing(rng, size, name)
        labels[region] = CLASSES.index(name)
        canvas[region] = paint
    if rng.random() < UNLABELLED_SHARE:
        side = round(UNLABELLED_SIZE * size / REFERENCE_SIZE)
        top, left = rng.integers(0, size - side + 1, 2)
        labels[top : top + side, left : left + side] = IGNORE
    canvas = 255 * canvas * rng.uniform(0.85, 1.1) + rng.normal(0, NOISE, canvas.shape)
    return np.clip(canvas, 0, 255).astype(np.uint8), labels


def _stuff_of(rng):
    """Names of the two or three kinds of stuff of an image, in random order."""
    others = [name for name in STUFF if name not in COMPANIONS]
    chance = rng.random()
    if chance < TOGETHER:
        chosen = list(COMPANIONS)
    elif chance < TOGETHER + 2 * ALONE:
        chosen = [COMPANIONS[int(chance >= TOGETHER + ALONE)]]
    else:
        chosen = []
    count = rng.integers(2, 4)
    chosen += list(rng.choice(others, max(count - len(chosen), 0), replace=False))
    return [chosen[k] for k in rng.permutation(len(chosen))]


def _bands(rng, size, names):
    """(name, region bool [size, size]) of wavy bands that cover the image, level or upright."""
    along = np.arange(size) / size
    edges = (np.arange(1, len(names)) + rng.uniform(-0.2, 0.2, len(names) - 1)) / len(names)
    waves = [
        edge + rng.uniform(0.02, 0.07) * np.sin(2 * np.pi * (rng.uniform(0.8, 2.2) * along + rng.random()))
        for edge in edges
    ]
    across = np.broadcast_to(((np.arange(size) + 0.5) / size)[:, None], (size, size))
    number = sum((across > wave[None, :]).astype(int) for wave in waves) if waves else np.zeros((size, size), int)
    if rng.random() < 0.5:
        number = number.T
    return [(name, number == k) for k, name in enumerate(names)]


def _texture(rng, size, hue, kind):
    """A texture, float32 RGB [size, size, 3] of 0 to 1."""
    scale = REFERENCE_SIZE / size
    y, x = np.mgrid[:size, :size] * scale
    angle, phase, period = rng.uniform(0, np.pi), rng.uniform(0, 6.3), rng.uniform(5, 8)
    turned, other = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    waves, crossed = (np.sin(2 * np.pi * value / period + phase) for value in (turned, other))
    tone = {
        "stripes": waves > 0,
        "waves": np.sin(2 * np.pi * (turned + 1.5 * np.sin(other / 3)) / period + phase) > 0,
        "bricks": (waves > -0.75) & (np.sin(2 * np.pi * other / (2 * period) + np.pi * (turned // period)) > -0.9),
        "grain": rng.random((size, size)) > 0.5,
        "checks": (waves > 0) ^ (crossed > 0),
        "dots": (waves > 0.2) & (crossed > 0.2),
        "hatching": (waves > 0.55) | (crossed > 0.55),
        "marble": cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), 2 / scale) > 0,
    }[kind].astype(np.float32)[..., None]
    hue += rng.uniform(-0.03, 0.03)
    light = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.45, 0.65), rng.uniform(0.8, 0.95)))
    dark = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.6, 0.8), rng.uniform(0.45, 0.6)))
    return (tone * light + (1 - tone) * dark).astype(np.float32)


def _thing(rng, size, name):
    """A thing somewhere: region bool [size, size], and its colour, float32 [3]."""
    scale = size / REFERENCE_SIZE
    extent = rng.uniform(*THING_SIZE) * scale / 2
    row, column = rng.uniform(0.6 * extent, size - 0.6 * extent, 2)
    angle = rng.uniform(-0.35, 0.35)
    y, x = np.mgrid[:size, :size] + 0.5
    u = ((x - column) * np.cos(angle) + (y - row) * np.sin(angle)) / extent
    v = ((y - row) * np.cos(angle) - (x - column) * np.sin(angle)) / extent
    radius, turn = np.hypot(u, v), np.arctan2(v, u)
    region = {
        "disc": radius < 0.95,
        "square": np.maximum(abs(u), abs(v)) < 0.8,
        "diamond": abs(u) + abs(v) < 1,
        "triangle": (v < 0.75) & (v > 2.1 * abs(u) - 0.95),
        "bar": (abs(u) < 1) & (abs(v) < 0.35),
        "ring": (radius < 1) & (radius > 0.5),
        "cross": ((abs(u) < 0.3) | (abs(v) < 0.3)) & (np.maximum(abs(u), abs(v)) < 0.95),
        "star": radius < 0.66 + 0.34 * np.cos(5 * turn + np.pi / 2),
    }[name]
    hue = rng.uniform(*THINGS[name])
    return region, np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 0.95), rng.uniform(0.75, 1.0)), np.float32)
