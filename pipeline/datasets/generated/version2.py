"""Scenes of version 2: bodies of parts in many sizes, whose looks categories share, among clutter that resembles them.

What an individual has of its category's texture and hues is drawn anew each time, so that a category is told by the
combination of body, texture and hue, and foreground by what all of them share: an outline and strong colours.
"""

import math

import cv2
import numpy as np

from pipeline.datasets.generated import painting
from pipeline.datasets.generated.bodies import SKIN
from pipeline.datasets.generated.geometry import SUBPIXEL_BITS, Figure, bounding_box, cut, put_on_top
from pipeline.datasets.generated.looks import TEXTURES
from pipeline.datasets.generated.painting import REFERENCE_SIZE

OBJECTS = (2, 3)  # in an image
OBJECT_SIZE = (28, 110)  # pixels of a 128-pixel image, longer side of the box; drawn on a logarithmic scale
TURN = 35  # degrees, at most
OWN = 0.98  # probability that an individual has its category's texture, and that it has its hues
HUE_SPREAD = 12  # degrees, around the hues of a category
SATURATION = (0.5, 1.0)
OUTLINE = 0.6  # of the colour's value
CLUTTER = (1, 4)  # shapes in an image
CLUTTER_SIZE = (14, 50)
CLUTTER_CONTRAST = (0.3, 0.7)
CLUTTER_SATURATION = (0.1, 0.6)
NOISE = 5  # standard deviation, of 255


def arrange(rng, image_size, cast):
    """Draw the objects of one image, bottom first.

    Returns:
        List of `(class name, Figure)`, of at least two groups (voc and nonvoc) if the cast has them.
    """
    scale = image_size / REFERENCE_SIZE
    low, high = np.log(OBJECT_SIZE)
    while True:
        names = [
            list(cast.looks)[k] for k in rng.integers(len(cast.looks), size=rng.integers(OBJECTS[0], OBJECTS[1] + 1))
        ]
        if len({cast.groups[name] for name in names}) < cast.fewest_groups:
            continue
        placed, figures = [], []
        for name in names:
            size = math.exp(rng.uniform(low, high)) * scale
            for _ in range(25):
                body = cast.looks[name].body(rng)
                figure = Figure.at_random(rng, [polygon for polygon, _ in body], size, image_size, TURN)
                if put_on_top(figures, figure):
                    placed.append((name, figure, [paint for _, paint in body]))
                    break
            else:
                break  # too crowded: begin again
        if len(placed) == len(names):
            return placed


def palette(rng, category):
    """Texture of an individual and its three colours, BGR float32 [3] each."""
    texture, hues = category.texture, np.array(category.hues, float)
    if rng.random() >= OWN:
        texture = list(TEXTURES)[rng.integers(len(TEXTURES))]
    if rng.random() >= OWN:
        hues = rng.uniform(0, 360, size=3)
    hues = hues + rng.uniform(-HUE_SPREAD, HUE_SPREAD, size=3)
    values = (0.5, 0.75), (0.8, 1.0), (0.6, 1.0)
    colours = [painting.colour(h, rng.uniform(*SATURATION), rng.uniform(*v)) for h, v in zip(hues, values, strict=True)]
    return texture, colours


def _paint(rng, canvas, category, figure, paints):
    """Paint an individual part by part, each with an outline of its own; `paints` of its parts."""
    texture, (dark, light, trim) = palette(rng, category)
    crop = figure.crop()
    tone = TEXTURES[texture](*figure.unit_frame(*crop), rng.uniform(0, 6.3))[..., None]
    skin = dark + (light - dark) * tone
    region = canvas[crop]
    corner = np.array([crop[1].start, crop[0].start], np.int32) << SUBPIXEL_BITS
    pen = np.ones((max(2, round(len(canvas) / REFERENCE_SIZE)) + 1,) * 2, np.uint8)
    for polygon, paint in zip(figure.polygons, paints, strict=True):
        alpha = np.zeros(region.shape[:2], np.uint8)
        cv2.fillPoly(alpha, [polygon - corner], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        part = bounding_box(alpha)
        alpha = cut(alpha, part)
        inner = cv2.erode(alpha, pen, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(np.float32) / 255
        colour = (cut(skin, part) if paint == SKIN else trim) * (OUTLINE + (1 - OUTLINE) * inner)[..., None]
        below = cut(region, part)
        below += (alpha.astype(np.float32) / 255)[..., None] * (colour - below)


def draw(spec, cast, part, index):
    """As `version1.draw`."""
    rng = np.random.default_rng([spec["version"], spec["seed"], part, index])
    objects = arrange(rng, spec["image_size"], cast)
    canvas = painting.background(rng, spec["image_size"])
    for _ in range(rng.integers(CLUTTER[0], CLUTTER[1] + 1)):
        painting.distractor(rng, canvas, CLUTTER_SIZE, CLUTTER_CONTRAST, CLUTTER_SATURATION)
    for name, figure, paints in objects:
        _paint(rng, canvas, cast.looks[name], figure, paints)
    return painting.exposed(rng, canvas, NOISE), [(name, figure) for name, figure, _ in objects]


def portrait(rng, canvas, category, size):
    """As `version1.portrait`."""
    polygons, paints = zip(*category.body(rng), strict=True)
    _paint(rng, canvas, category, Figure(polygons, size, len(canvas)), paints)
