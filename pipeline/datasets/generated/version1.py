"""Scenes of version 1: ten categories, each with a silhouette, a texture and hues of its own."""

import cv2
import numpy as np

from pipeline.datasets.generated import painting
from pipeline.datasets.generated.geometry import Figure, put_on_top
from pipeline.datasets.generated.looks import TEXTURES
from pipeline.datasets.generated.painting import REFERENCE_SIZE

OBJECT_SIZE = (30, 64)  # pixels of a 128-pixel image, longer side of the box
DISTRACTOR_SIZE = (20, 50)
NOISE = 5  # standard deviation, of 255


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
                if put_on_top(figures, Figure.at_random(rng, [cast.looks[name].silhouette], size, image_size)):
                    break
            else:
                break  # too crowded: begin again
        if len(figures) == len(names):
            return list(zip(names, figures, strict=True))


def _paint(rng, canvas, look, figure):
    crop = figure.crop()
    tone = TEXTURES[look.texture](*figure.unit_frame(*crop), rng.uniform(0, 6.3))
    hues = np.array(look.hues) + rng.uniform(-12, 12, size=2)
    colours = (
        painting.colour(hues[0], 1.0, rng.uniform(0.6, 0.75)),
        painting.colour(hues[1], 0.85, rng.uniform(0.9, 1.0)),
    )
    inner = cv2.erode(figure.alpha, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    outline = 0.3 + 0.7 * (inner[crop].astype(np.float32) / 255)[..., None]
    painting.blend(canvas, figure, tone, colours, outline)


def draw(spec, cast, part, index):
    """Draw one image.

    Args:
        spec: see `scenes.generate`.
        cast: see `scenes.cast`.
        part: 0 for training, 1 for validation images.
        index: position in that part, from 0.

    Returns:
        `(image, objects)`: image uint8 BGR [image_size, image_size, 3]; objects as `arrange` returns them.
    """
    rng = np.random.default_rng([spec["version"], spec["seed"], part, index])
    objects = arrange(rng, spec["image_size"], cast)
    canvas = painting.background(rng, spec["image_size"])
    for _ in range(rng.integers(1, 5)):
        painting.distractor(rng, canvas, DISTRACTOR_SIZE, (0.3, 0.7), (0.1, 0.45))
    for name, figure in objects:
        _paint(rng, canvas, cast.looks[name], figure)
    return painting.exposed(rng, canvas, NOISE), objects


def portrait(rng, canvas, look, size):
    """Paint one object upright in the middle of float32 BGR `canvas` [H, H, 3], `size` pixels at its longer side."""
    _paint(rng, canvas, look, Figure([look.silhouette], size, len(canvas)))
